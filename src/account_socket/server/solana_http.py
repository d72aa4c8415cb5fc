"""POST /: Solana's JSON-RPC over HTTP."""

from __future__ import annotations

from time import monotonic

from aiohttp import web

from account_socket.metrics import Metrics
from account_socket.protocol.solana_jsonrpc import INTERNAL_ERROR, Message, Request, RpcFault, read
from account_socket.server.clients import Clients
from account_socket.server.http import HttpProtocol, read_body
from account_socket.server.limits import Limits
from account_socket.server.rest_answers import MAX_ANSWER_BYTES, PREFLIGHT_SECONDS, Answers
from account_socket.server.rest_parameters import RefusedError
from account_socket.server.rest_reading import StoreReading
from account_socket.server.solana_connection import MAX_BATCH
from account_socket.server.solana_feed import SolanaFeed
from account_socket.server.solana_reads import Known, SolanaReads

ALLOW_HEADERS = "Content-Type, solana-client"
"""web3.js names itself in a header of its own, which browsers ask about first."""


class Solana:
    """
    The dialect as a whole, as the listener serves it.

    Attributes:
        feed: who is subscribed.
        known: what is answered from.
    """

    def __init__(self, known: Known) -> None:
        self.known = known
        self.feed = SolanaFeed(known)
        self._requests = 0
        self._refused = 0

    def add_to(self, app: web.Application, clients: Clients, metrics: Metrics, reading: StoreReading) -> None:
        """Have an application that has not started answer POST /."""
        self._reads = SolanaReads(self.known, reading)
        self._limits: Limits = clients.limits
        self._answers = Answers(clients.limits)
        app.router.add_post("/", self._post)
        app.router.add_options("/", self._preflight)
        add = metrics.add
        add("account_socket_solana_requests", "JSON-RPC requests by HTTP", "counter", lambda: self._requests)
        add("account_socket_solana_refused", "Of these, answered with an error", "counter", lambda: self._refused)
        registry = self.feed.registry
        add("account_socket_solana_subscriptions", "Distinct JSON-RPC subscriptions", "gauge", lambda: len(registry))
        proxy = self.known.proxy
        if proxy is not None:
            add("account_socket_solana_forwarded", "Passed on to the node", "counter", lambda: proxy.forwarded)

    async def _preflight(self, request: web.Request) -> web.StreamResponse:
        headers = {
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": ALLOW_HEADERS,
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }
        return web.Response(status=204, headers=headers | self._answers.sharing(request))

    async def _post(self, request: web.Request) -> web.StreamResponse:
        message = read(await read_body(request), MAX_BATCH)
        if not self._may_ask(request, len(message.entries)):
            fault = RpcFault(429, f"more than {self._limits.max_requests_per_second:g} requests a second; wait")
            return self._whole(request, _told(message, fault), status=429)
        reply = message.join(await self._answer_all(request, message))
        try:
            response = await self._answers.send(request, [reply or b""])
        except RefusedError as refused:
            return self._whole(request, _told(message, RpcFault(INTERNAL_ERROR, f"Internal error: {refused}")))
        if not response.prepared:
            response.headers.update(self._answers.sharing(request))
        return response

    def _whole(self, request: web.Request, body: bytes, status: int = 200) -> web.Response:
        self._refused += 1
        headers = self._answers.sharing(request) | ({"Retry-After": "1"} if status != 200 else {})
        return web.Response(status=status, body=body, content_type="application/json", headers=headers)

    @staticmethod
    def _may_ask(request: web.Request, count: int) -> bool:
        protocol = request.protocol
        if not isinstance(protocol, HttpProtocol):
            return True
        now = monotonic()
        return all(protocol.budget.take(now) for _ in range(max(1, count)))

    async def _answer_all(self, request: web.Request, message: Message) -> list[bytes | None]:
        """Answer in turn, until the client leaves: a batch may ask for the largest list a hundred times."""
        answers: list[bytes | None] = []
        size = 0
        for entry in message.entries:
            if request.transport is None:
                break
            if size > MAX_ANSWER_BYTES and isinstance(entry, Request):
                answers.append(entry.refuse(_too_large()))
            else:
                answers.append(await self._answer_one(entry))
            size += len(answers[-1] or b"")
        return answers

    async def _answer_one(self, entry: Request | bytes | None) -> bytes | None:
        if not isinstance(entry, Request):
            self._refused += entry is not None
            return entry
        self._requests += 1
        try:
            return entry.answer(await self._reads.call(entry.method, entry.params))
        except RpcFault as fault:
            self._refused += 1
            return entry.refuse(fault)


def _too_large() -> RpcFault:
    return RpcFault(INTERNAL_ERROR, f"Internal error: the answer is over {MAX_ANSWER_BYTES} bytes; ask for less")


def _told(message: Message, fault: RpcFault) -> bytes:
    """Return `fault` as the answer to the whole message."""
    entries = [entry.refuse(fault) if isinstance(entry, Request) else entry for entry in message.entries]
    return message.join(entries) or b""
