"""GET /v1/stream: a request becomes a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import hdrs, web

from account_socket.protocol.codes import Close, ErrorCode
from account_socket.server.catching_up import Past
from account_socket.server.clients import Clients
from account_socket.server.rest_answers import Answers
from account_socket.server.rest_parameters import RefusedError, read_pairs, read_pubkeys
from account_socket.server.sse import EventStream
from account_socket.server.sse_events import EventMaker
from account_socket.server.sse_resume import Resumption

TakeOver = Callable[[web.Request], tuple[asyncio.Transport, int] | None]
"""Takes the transport of a request away from HTTP, and names the connection; None: the client is gone."""

_REFUSALS = {
    Close.ORIGIN_REFUSED: (403, "origin_refused"),
    Close.SERVER_FULL: (503, "unavailable"),
    Close.ADDRESS_FULL: (429, "rate_limited"),
}


class Streams:
    """The handler of /v1/stream."""

    def __init__(self, clients: Clients, past: Past, answers: Answers, take_over: TakeOver) -> None:
        self._clients = clients
        self._past = past
        self._answers = answers
        self._take_over = take_over
        self._events = EventMaker(clients.epoch)
        self._tasks: set[asyncio.Task[None]] = set()

    def add_routes(self, app: web.Application) -> None:
        """Add the route to an application."""
        app.router.add_get("/v1/stream", self.open)

    async def open(self, request: web.Request) -> web.StreamResponse:
        """Make the connection a stream."""
        pubkeys = self._read_pubkeys(request)
        address = request.remote or ""
        refusal = self._clients.judge(request.headers.get(hdrs.ORIGIN), address)
        if refusal is not None:
            status, code = _REFUSALS[refusal]
            raise RefusedError(status, code, refusal.reason, {"Retry-After": "10"} if status != 403 else None)
        if request.method == hdrs.METH_HEAD:
            return web.Response(content_type="text/event-stream")
        taken = self._take_over(request)
        if taken is not None:
            stream = EventStream(self._clients, self._events, taken[1], pubkeys)
            stream.open(taken[0], address, self._answers.sharing(request))
            self._begin(stream, request.headers.get("Last-Event-ID", ""))
        return web.Response()  # goes nowhere: the transport is a stream's now

    def _read_pubkeys(self, request: web.Request) -> tuple[str, ...]:
        given = [value for name, value in request.query.items() if name == "pubkey"]
        read_pairs([pair for pair in request.query.items() if pair[0] != "pubkey"], {"pubkey"})
        pubkeys = read_pubkeys(given)
        limit = self._clients.limits.max_subscriptions
        if len(pubkeys) > limit:
            raise RefusedError(400, ErrorCode.TOO_MANY_SUBSCRIPTIONS, f"more than {limit} accounts; ask for fewer")
        return pubkeys

    def _begin(self, stream: EventStream, last_event_id: str) -> None:
        if not last_event_id:
            stream.start()
            return
        after = self._events.read_position(last_event_id)
        if after is None:
            stream.start_over("the id is of another epoch")
            return
        max_bytes = self._clients.limits.outbox_max_bytes
        resumption = Resumption(stream, self._events, self._past, max_bytes=max_bytes, after=after)
        task = asyncio.get_running_loop().create_task(resumption.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
