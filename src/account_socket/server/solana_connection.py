"""One WebSocket client that speaks Solana's PubSub: JSON-RPC in, answers and notifications out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic

import msgspec
from websockets.server import ServerProtocol

from account_socket.protocol.codes import Close
from account_socket.protocol.session import Disconnect
from account_socket.protocol.solana_jsonrpc import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    Message,
    Request,
    RpcFault,
    read,
)
from account_socket.protocol.solana_subscriptions import (
    SUBSCRIBE_METHODS,
    UNSUBSCRIBE_METHODS,
    Params,
    parse_subscription,
    refused_at_limit,
)
from account_socket.server.clients import Clients
from account_socket.server.connection import Connection
from account_socket.server.solana_feed import SolanaFeed
from account_socket.server.solana_reads import Known, Unable, check_commitment, get_version

MAX_BATCH = 100

Commit = Callable[[], bytes]
"""Does what a request asks for and returns the result as JSON. Raises RpcFault."""


class _Exchange:
    """One text and its answers, which leave together once every account it asks for was looked up."""

    __slots__ = ("commits", "message", "waiting")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.commits: list[Commit | None] = [None] * len(message.entries)
        self.waiting = 1


class SolanaConnection(Connection):
    """
    Args:
        feed: tells the updates.
        known: what is answered from.
    """

    __slots__ = ("_feed", "_known", "_lookups")

    def __init__(
        self, clients: Clients, protocol: ServerProtocol, number: int, *, feed: SolanaFeed, known: Known
    ) -> None:
        super().__init__(clients, protocol, number)
        self._feed = feed
        self._known = known
        self._lookups: dict[tuple[_Exchange, int], str] = {}

    def _take_text(self, data: bytes | bytearray | memoryview) -> None:
        try:
            text = str(data, "utf-8").encode()
        except UnicodeDecodeError:
            self.close(Close.BAD_UTF8)
            return
        self._session.requests += 1
        exchange = _Exchange(read(text, MAX_BATCH))
        for at, entry in enumerate(exchange.message.entries):
            allowed = self._take_token()
            if self._closing:
                return
            if isinstance(entry, Request):
                exchange.commits[at] = self._prepare(exchange, at, entry) if allowed else partial(_fail, _too_many())
        self._settle(exchange)

    def _take_token(self) -> bool:
        """Return whether the client may ask once more; close it if it has asked too much for long."""
        judged = self._session.receive_call(now=monotonic())
        if isinstance(judged, Disconnect):
            self.close(judged.close)
            return False
        return judged

    def _prepare(self, exchange: _Exchange, at: int, request: Request) -> Commit | None:
        """Return what to do for a request, None where an account must be looked up first."""
        method, params = request.method, request.params
        if method in UNSUBSCRIBE_METHODS:
            return partial(self._unsubscribe, params)
        if method == "getVersion":
            return get_version
        if method not in SUBSCRIBE_METHODS:
            return partial(_fail, RpcFault(METHOD_NOT_FOUND, "Method not found"))
        try:
            asked = self._parse(method, params)
            if asked.kind != "account":
                return partial(self._subscribe, asked)
            self._check_room(asked)
        except RpcFault as fault:
            return partial(_fail, fault)
        exchange.waiting += 1
        self._lookups[exchange, at] = asked.key
        self._feed.watch(asked.key, partial(self._looked_up, exchange, at, asked))
        return exchange.commits[at]

    def _parse(self, method: str, params: list[object]) -> Params:
        """Return what is subscribed to, at our commitment. Raises RpcFault."""
        asked = parse_subscription(method, params)
        try:
            check_commitment(asked.commitment, self._known.commitment)
        except Unable as unable:
            raise unable.fault from None
        if asked.kind == "program" and asked.key not in self._known.programs:
            raise self._known.not_served.fault
        return msgspec.structs.replace(asked, commitment=self._known.commitment)

    def _check_room(self, asked: Params) -> None:
        """Check that the client may have one more subscription, those that are looked up included. Raises RpcFault."""
        held = len(self._feed.registry.numbers_of(self.outbox)) + len(self._lookups)
        if held >= self._clients.limits.max_subscriptions and not self._feed.registry.holds(self.outbox, asked):
            raise refused_at_limit()

    def _looked_up(self, exchange: _Exchange, at: int, asked: Params, is_ours: bool) -> None:
        if self._closing:
            return  # what is looked up was let go
        if is_ours:
            exchange.commits[at] = partial(self._subscribe_account, exchange, at, asked)
        else:
            self._feed.release(self._lookups.pop((exchange, at)))
            exchange.commits[at] = partial(_fail, self._known.not_served.fault)
        self._settle(exchange)

    def _settle(self, exchange: _Exchange) -> None:
        """Answer, once nothing is waited for; only then are subscriptions made: none is told before its result."""
        exchange.waiting -= 1
        if exchange.waiting:
            return
        pairs = zip(exchange.message.entries, exchange.commits, strict=True)
        reply = exchange.message.join([_answer(entry, commit) for entry, commit in pairs])
        if reply is not None and not self._closing:
            self._room -= len(reply)
            self._clients.hub.answer(self.outbox, reply)

    def _subscribe_account(self, exchange: _Exchange, at: int, asked: Params) -> bytes:
        del self._lookups[exchange, at]  # had room from the start
        return b"%d" % self._feed.subscribe(self.outbox, asked)

    def _subscribe(self, asked: Params) -> bytes:
        self._check_room(asked)
        return b"%d" % self._feed.subscribe(self.outbox, asked)

    def _unsubscribe(self, params: list[object]) -> bytes:
        self._feed.unsubscribe(self.outbox, params)
        return b"true"

    def _conclude(self, *, slow: bool = False) -> None:
        super()._conclude(slow=slow)
        self._leave_feed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take that the connection is gone (asyncio)."""
        super().connection_lost(exc)
        self._leave_feed()

    def _leave_feed(self) -> None:
        self._feed.drop(self.outbox)
        lookups, self._lookups = self._lookups, {}
        for pubkey in lookups.values():
            self._feed.release(pubkey)


def _answer(entry: Request | bytes | None, commit: Commit | None) -> bytes | None:
    if not isinstance(entry, Request):
        return entry
    assert commit is not None  # every request was prepared
    try:
        return entry.answer(commit())
    except RpcFault as fault:
        return entry.refuse(fault)


def _fail(fault: RpcFault) -> bytes:
    raise fault


def _too_many() -> RpcFault:
    return RpcFault(INTERNAL_ERROR, "Internal error: too many requests a second; wait a second")
