"""Yellowstone gRPC as the local node serves it, and the faults that a test may ask for."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from account_socket.devnode.geyser_feed import Feed, ReplayFaultError
from account_socket.devnode.geyser_filters import MAX_ACCOUNTS, FilterFaultError, Filters, parse_filters
from account_socket.devnode.geyser_relay import Relay
from account_socket.sources.geyser_proto import geyser_pb2 as pb

PING_SECONDS = 10.0
CHANNEL_CAPACITY = 250_000
"""Messages that one stream may hold back before it is ended."""
MAX_REQUEST_BYTES = 4 * 1024 * 1024
VERSION = "15.1.2"

_Context = grpc.aio.ServicerContext[Any, Any]
_PING = pb.SubscribeUpdate(ping=pb.UpdatePing()).SerializeToString()


class Stream:
    """
    One subscriber.

    Attributes:
        filters: what it asked for, or None before it asked.
        fault: the gRPC status name and text that end the stream once the queue is drained.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting = asyncio.Event()
        self.filters: Filters | None = None
        self.queue: deque[bytes] = deque()
        self.fault: tuple[str, str] | None = None

    def send(self, message: bytes) -> None:
        """Queue one SubscribeUpdate; never blocks, never raises."""
        if self.fault is not None:
            return
        if len(self.queue) >= self._capacity:
            self.end("INTERNAL", "lagged to send an update")
            return
        self.queue.append(message)
        self._waiting.set()

    def end(self, code: str, text: str) -> None:
        """Take nothing more, and end once what is queued was sent."""
        self.fault = self.fault or (code, text)
        self._waiting.set()

    async def run(self, context: _Context) -> None:
        """Send until the stream is to end; then abort the call."""
        while True:
            if self.queue:
                await context.write(self.queue.popleft())
            elif self.fault is not None:
                code, text = self.fault
                await context.abort(grpc.StatusCode[code], text)
            else:
                self._waiting.clear()
                await self._waiting.wait()


class GeyserServer:
    """
    Serves Subscribe, SubscribeReplayInfo, GetSlot, GetVersion and Ping.

    Args:
        token: the `x-token` that calls must carry, or "" for none.
        capacity: see CHANNEL_CAPACITY.
        max_accounts: how many accounts one filter may name.

    Attributes:
        port: where clients connect, once started.
        relay: the network in front of it.
        unary: whether the unary methods are served.
        subscribed: called at each Subscribe that asked for accounts.
    """

    def __init__(
        self, feed: Feed, *, token: str = "", capacity: int = CHANNEL_CAPACITY, max_accounts: int = MAX_ACCOUNTS
    ) -> None:
        self.feed = feed
        self.token = token
        self.unary = True
        self.subscribed: Callable[[], None] = lambda: None
        self.relay = Relay(("127.0.0.1", 0))
        self._capacity = capacity
        self._max_accounts = max_accounts
        self._server: grpc.aio.Server | None = None
        self._streams: set[Stream] = set()

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self.relay.port

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    async def start(self, host: str, port: int) -> int:
        """Serve; port 0 picks a free one. Return the port. Raises OSError."""
        await self._start_server()
        await self.relay.start(host, port)
        return self.port

    async def _start_server(self) -> None:
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
                ("grpc.max_send_message_length", -1),
                # Yellowstone's server takes any number of HTTP/2 pings.
                ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
                ("grpc.http2.max_ping_strikes", 0),
            ]
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("geyser.Geyser", self._methods()),))
        self.relay.target = ("127.0.0.1", server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """End every stream and stop."""
        await self.relay.stop()
        if self._server is not None:
            await self._server.stop(None)

    async def restart(self, grace: float = 0.0) -> None:
        """Say goodbye as a node that restarts (GOAWAY, then the streams end), and serve again."""
        assert self._server is not None
        await self._server.stop(grace)
        await self._start_server()

    def fail(self, code: str, text: str) -> None:
        """End every stream with a gRPC status."""
        for stream in self._streams:
            stream.end(code, text)

    def say(self, message: bytes) -> None:
        """Send every stream one message as it is."""
        for stream in self._streams:
            stream.send(message)

    # ---- methods -------------------------------------------------------------------------------------------

    def _methods(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {
            "Subscribe": grpc.stream_stream_rpc_method_handler(self._subscribe),
            "SubscribeReplayInfo": self._unary(lambda _: self._replay_info()),
            "GetSlot": self._unary(self._get_slot),
            "GetVersion": self._unary(lambda _: pb.GetVersionResponse(version=json.dumps({"version": VERSION}))),
            "Ping": self._unary(lambda body: pb.PongResponse(count=pb.PingRequest.FromString(body).count)),
        }

    def _unary(self, answer: Callable[[bytes], Message | None]) -> grpc.RpcMethodHandler[Any, Any]:
        async def serve(body: bytes, context: _Context) -> bytes:
            await self._authorize(context)
            if not self.unary:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "method disabled")
            found = answer(body)
            if found is None:
                await context.abort(grpc.StatusCode.INTERNAL, "block is not available yet")
            return found.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(serve)

    def _replay_info(self) -> Message:
        return pb.SubscribeReplayInfoResponse(first_available=self.feed.first_available)

    def _get_slot(self, body: bytes) -> Message | None:
        slot = self.feed.newest(pb.GetSlotRequest.FromString(body).commitment)
        return None if slot is None else pb.GetSlotResponse(slot=slot)

    async def _authorize(self, context: _Context) -> None:
        given = dict(context.invocation_metadata() or ()).get("x-token", "")
        if self.token and given != self.token:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "No valid auth token")

    # ---- streams -------------------------------------------------------------------------------------------

    async def _subscribe(self, requests: AsyncIterator[bytes], context: _Context) -> None:
        await self._authorize(context)
        stream = Stream(self._capacity)
        self._streams.add(stream)
        helpers = [asyncio.create_task(self._take(requests, stream)), asyncio.create_task(_ping(stream))]
        try:
            await stream.run(context)
        finally:
            self._streams.discard(stream)
            self.feed.subscribers.pop(stream, None)
            for helper in helpers:
                helper.cancel()

    async def _take(self, requests: AsyncIterator[bytes], stream: Stream) -> None:
        # A client that goes away ends the iteration with an error of its own; the stream ends by itself.
        with suppress(grpc.aio.BaseError, grpc.RpcError):
            async for body in requests:
                self._take_request(body, stream)

    def _take_request(self, body: bytes, stream: Stream) -> None:
        try:
            request = pb.SubscribeRequest.FromString(body)
            if request.HasField("ping"):
                stream.send(pb.SubscribeUpdate(pong=pb.UpdatePong(id=request.ping.id)).SerializeToString())
                return
            filters = parse_filters(request, max_accounts=self._max_accounts)
            if request.HasField("from_slot"):
                self.feed.replay(stream, filters, request.from_slot)
        except DecodeError:
            stream.end("INTERNAL", "failed to decode Protobuf message")
        except FilterFaultError as fault:
            stream.end("INVALID_ARGUMENT", f"failed to create filter: {fault}")
        except ReplayFaultError as fault:
            stream.end(fault.code, str(fault))
        else:
            stream.filters = filters
            self.feed.subscribers[stream] = None
            if filters.accounts:
                self.subscribed()


async def _ping(stream: Stream) -> None:
    while True:
        stream.send(_PING)
        await asyncio.sleep(PING_SECONDS)
