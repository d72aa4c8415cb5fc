"""One WebSocket connection to a server: everything about it ends in bounded time, a dead line too."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
)

from account_socket.client.address import Address
from account_socket.client.errors import ClosedError, NoAnswerError, NotAServerError, ServerError

MAX_MESSAGE_BYTES = 64 * 2**20
"""Above the JSON of the largest account, 10 MiB."""
MAX_WAITING_MESSAGES = 16
"""Where so many wait for their reader the socket is read no further; the server keeps what follows, bounded too."""
PLAIN_REASONS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""What OpenSSL 3 says where what answers is no TLS."""
TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)
REFUSING_STATUSES = (401, 403, 407)
"""Nothing in them says who refuses: the server, or a proxy ahead of it."""
ABNORMAL_CLOSURE = 1006
"""No close frame came (RFC 6455, 7.4.1)."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """
    How long a client waits for each thing, in seconds.

    Attributes:
        open: TCP, TLS and the handshake.
        answer: a request's answer, while nothing else comes; the server itself waits 25 seconds for its node.
        heartbeat: silence before a ping, and then the pong: a dead line is found within twice as long.
        close: the other side's close frame.
        retry, retry_most: before trying again: drawn from 0 … `retry`, twice as much each time, up to `retry_most`.
    """

    open: float = 10.0
    answer: float = 30.0
    heartbeat: float = 15.0
    close: float = 1.0
    retry: float = 0.5
    retry_most: float = 10.0


class Connection:
    """An open connection; made by `open_connection`."""

    def __init__(self, socket: ClientConnection, address: Address, patience: Patience) -> None:
        self._socket = socket
        self._address = address
        self._patience = patience
        self._sending: asyncio.Task[None] | None = None
        self._receiving: asyncio.Task[bytes] | None = None

    def send(self, requests: Sequence[dict[str, Any]]) -> None:
        """
        Send requests while answers are received; called once.

        A server that waits for its answers to be read takes no further request. What goes wrong `receive` tells.
        """
        self._sending = asyncio.create_task(self._send([msgspec.json.encode(request) for request in requests]))

    async def _send(self, messages: Sequence[bytes]) -> None:
        with suppress(ConnectionClosed):
            for message in messages:
                await self._socket.send(message, text=True)

    async def receive(self, *, answer_due: bool) -> bytes:
        """
        Return the next message; one that is cancelled loses none.

        Args:
            answer_due: silence is no answer; else it is looked whether the line is dead.
        Raises:
            ServerError: the connection ended; NoAnswerError: it was silent for too long.
        """
        seconds = self._patience.answer if answer_due else self._patience.heartbeat
        try:
            if self._receiving is None:
                try:
                    async with asyncio.timeout(seconds):
                        return await self._socket.recv(decode=False)
                except TimeoutError:
                    if answer_due:
                        raise self._no_answer(seconds) from None
            return await self._receive_or_pong()
        except ConnectionClosed as error:
            raise closed(error) from error

    async def _receive_or_pong(self) -> bytes:
        # The task outlives a cancelled call, which else would lose the message that it holds.
        receiving = self._receiving = self._receiving or asyncio.create_task(self._socket.recv(decode=False))
        while not receiving.done():
            pong = asyncio.ensure_future(await self._socket.ping())
            await asyncio.wait(
                {receiving, pong}, timeout=self._patience.heartbeat, return_when=asyncio.FIRST_COMPLETED
            )
            if not receiving.done() and not pong.done():
                raise self._no_answer(self._patience.heartbeat)
            await asyncio.wait({receiving}, timeout=self._patience.heartbeat)
        self._receiving = None
        return receiving.result()

    def _no_answer(self, seconds: float) -> NoAnswerError:
        return NoAnswerError(f"{self._address}: no answer for {seconds:.0f} seconds", retryable=True)

    async def close(self) -> None:
        """Say goodbye; cut off where that takes too long, or is cancelled."""
        try:
            if self._sending is None or self._sending.done():  # behind requests that are not taken it would wait
                await self._socket.close()
        finally:
            self.abort()
            for task in (self._sending, self._receiving):
                if task is not None:
                    with suppress(ConnectionClosed, asyncio.CancelledError):
                        await task

    def abort(self) -> None:
        """Cut the connection off."""
        self._socket.transport.abort()


async def open_connection(address: Address, patience: Patience, *, status: bool) -> Connection:
    """
    Open a connection.

    Args:
        status: status and gap frames come on it as well.
    Raises:
        ServerError: it could not be made.
    """
    try:
        socket = await connect(
            address.with_status if status else address.url,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=MAX_WAITING_MESSAGES,
            open_timeout=patience.open,
            close_timeout=patience.close,
            # Its pings would cut off a reader that is slow: `receive` has a heartbeat of its own.
            ping_interval=None,
            proxy=None if address.direct else True,
        )
    except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, InvalidURI) as error:
        raise _unreachable(address, error) from error
    return Connection(socket, address, patience)


def closed(error: ConnectionClosed) -> ClosedError:
    """Return what a connection ended with; a close that this side began, as for a message too large, counts too."""
    frame = error.rcvd or error.sent
    return ClosedError(frame.code, frame.reason) if frame else ClosedError(ABNORMAL_CLOSURE, "no close frame came")


def _unreachable(address: Address, error: Exception) -> ServerError:
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        told = f"HTTP {status} instead of a WebSocket"
        if status in (*TRANSIENT_STATUSES, *REFUSING_STATUSES):
            return ServerError(f"{address}: {told}", retryable=status in TRANSIENT_STATUSES)
        return NotAServerError(address.label, told)
    cut = isinstance(error.__cause__, EOFError)
    if isinstance(error, InvalidHeader | InvalidURI) or (isinstance(error, InvalidMessage) and not cut):
        return NotAServerError(address.label, "no WebSocket")
    if isinstance(error, ConnectionClosed):
        return closed(error)
    if isinstance(error, ssl.SSLError) and error.reason in PLAIN_REASONS:
        return ServerError(f"{address}: does not speak TLS", hint=f"without TLS: {address.without_tls}")
    return ServerError(f"{address}: {address.scrub(words(error))}", retryable=True)


def words(error: Exception) -> str:
    """Return what an error says, in the operating system's words where it has some."""
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return str(error) or type(error).__name__
