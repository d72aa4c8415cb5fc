"""Accounts by HTTP: the newest state, a past one, history, lists (docs/protocol.md)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import msgspec
from aiohttp import web

from account_socket.hub.hub import Hub
from account_socket.metrics import Metrics
from account_socket.model import MAX_I64
from account_socket.server import asyncapi, openapi
from account_socket.server import rest_parameters as parameters
from account_socket.server.catching_up import Past
from account_socket.server.clients import Clients
from account_socket.server.http import read_body
from account_socket.server.rest_answers import Answers
from account_socket.server.rest_derived import Decimals, Derived
from account_socket.server.rest_parameters import RefusedError
from account_socket.server.rest_reading import Reads, StoreReading, read_states
from account_socket.server.sse_route import Streams, TakeOver
from account_socket.store.base import StoredUpdate

_encode = msgspec.json.Encoder().encode


class Rest:
    """The handlers of the routes under /v1/accounts."""

    def __init__(self, hub: Hub, epoch: str, reads: Reads, answers: Answers, reading: StoreReading) -> None:
        self._hub = hub
        self._epoch = epoch
        self._reads = reads
        self._answers = answers
        self._reading = reading
        self._derived = Derived(Decimals(reads.look), reads.tip_slot, self._read_newest)

    async def _read_newest(self, pubkey: str) -> bytes | None:
        return (await read_states(self._hub, [pubkey])).told.get(pubkey)

    def add_routes(self, app: web.Application) -> None:
        """Add the routes to an application."""
        app.router.add_get("/v1/accounts", self.find)
        app.router.add_post("/v1/accounts", self.read_batch)
        app.router.add_get("/v1/accounts/{pubkey}", self.read_account)
        app.router.add_get("/v1/accounts/{pubkey}/history", self.read_history)
        app.router.add_get("/openapi.json", self.describe)
        app.router.add_get("/asyncapi.json", self.describe_websocket)

    async def read_account(self, request: web.Request) -> web.StreamResponse:
        """Answer with the newest state of an account, or that at a past slot."""
        asked = parameters.read_pairs(request.query.items(), {"slot", "derived"})
        pubkey = parameters.read_pubkey(request.match_info["pubkey"])
        slot = parameters.read_integer(asked, "slot")
        derives = parameters.read_integer(asked, "derived", most=1)
        if slot is not None and derives:
            raise RefusedError(400, "invalid_parameter", "derived is of the newest state only; leave slot out")
        if slot is not None:
            return await self._read_past(request, pubkey, slot)
        states = await read_states(self._hub, [pubkey])
        told = states.told.get(pubkey)
        if told is None and pubkey in states.foreign:
            raise RefusedError(404, "foreign", "the account belongs to another program")
        if told is None:
            raise RefusedError(404, "not_found", "nobody knows the account")
        if derives:  # without a tag: time passes, and fees change
            return await self._answers.send(request, [await self._derived.add(told)])
        return await self._answers.send(request, [told], tag=self._tag(told))

    def _tag(self, told: bytes) -> str | None:
        """Return the entity tag of a state: its id, and whether it may be old, since a client must learn that."""
        state = _decode_state(told)
        if state.account.id is None:
            return None
        return f'W/"{self._epoch}-{state.account.id}{"-stale" if state.stale else ""}"'

    async def _read_past(self, request: web.Request, pubkey: str, slot: int) -> web.StreamResponse:
        tip = self._reads.tip_slot()
        if tip is None or slot > tip:
            raise RefusedError(404, "not_found", f"slot {slot} has not come; the newest known is {tip}")
        past = await self._reading(lambda: self._reads.store.state_at(pubkey, slot))
        if past is None:
            message = f"there is no state of slot {slot}, or history does not reach back to it without a hole"
            raise RefusedError(404, "not_found", message)
        beside = b',"stale":true' if slot >= past.slot and self._doubts([past]) else b""
        body = b'{"pubkey":"%b","source":"database"%b,"account":%b}' % (pubkey.encode(), beside, past.account_json)
        return await self._answers.send(request, [body], tag=self._tag(body))

    async def read_history(self, request: web.Request) -> web.StreamResponse:
        """Answer with a page of an account's updates, newest first."""
        asked = parameters.read_pairs(request.query.items(), {"before_id", "limit"})
        pubkey = parameters.read_pubkey(request.match_info["pubkey"])
        before = parameters.read_integer(asked, "before_id")
        limit = parameters.read_limit(asked)
        page, more = await self._reading(
            lambda: self._reads.store.history(pubkey, before=MAX_I64 if before is None else before, limit=limit)
        )
        head = b'{"pubkey":"%b","epoch":%b,"updates":[' % (pubkey.encode(), _encode(self._epoch))
        tail = b'],"next":%b}' % _encode(page[-1].id if more else None)
        return await self._answers.send(request, [head, _listed(page), tail])

    async def find(self, request: web.Request) -> web.StreamResponse:
        """Answer with a page of the newest states of all accounts that fit."""
        known = {"account_type", "owner", "after", "limit", parameters.WHERE}
        asked = parameters.read_pairs(request.query.items(), known)
        selection = parameters.read_selection(asked, self._reads.fields)
        after, limit = parameters.read_after(asked), parameters.read_limit(asked)
        found = await self._reading(lambda: self._reads.store.find(selection, after=after, limit=limit))
        stale = b',"stale":true' if self._doubts(found.states) else b""
        head = b'{"epoch":%b%b,"accounts":[' % (_encode(self._epoch), stale)
        tail = b'],"next":%b}' % _encode(found.next)
        return await self._answers.send(request, [head, _listed(found.states), tail])

    async def read_batch(self, request: web.Request) -> web.StreamResponse:
        """Answer with the newest states of the accounts that the body names."""
        parameters.read_pairs(request.query.items(), ())
        pubkeys = parameters.read_batch(await read_body(request))
        states = await read_states(self._hub, pubkeys)
        told = b",".join([states.told[pubkey] for pubkey in pubkeys if pubkey in states.told])
        foreign = set(states.foreign)
        missing = [pubkey for pubkey in pubkeys if pubkey not in states.told and pubkey not in foreign]
        head = b'{"epoch":%b%b,"accounts":[' % (_encode(self._epoch), b',"stale":true' if states.stale else b"")
        tail = b'],"missing":%b,"foreign":%b}' % (_encode(missing), _encode(states.foreign))
        return await self._answers.send(request, [head, told, tail])

    async def describe(self, request: web.Request) -> web.StreamResponse:
        """Answer with what HTTP offers."""
        return await self._answers.send(request, [self._openapi])

    @cached_property
    def _openapi(self) -> bytes:
        return openapi.describe(self._reads.fields)

    async def describe_websocket(self, request: web.Request) -> web.StreamResponse:
        """Answer with what the WebSocket offers."""
        return await self._answers.send(request, [asyncapi.describe()])

    def _doubts(self, states: Sequence[StoredUpdate]) -> bool:
        trusts = self._reads.trusts
        return bool(states) and (self._hub.stale or not all(trusts(state.pubkey, state.slot) for state in states))


class _Account(msgspec.Struct, gc=False):
    id: int | None


class _State(msgspec.Struct, gc=False):
    account: _Account
    stale: bool = False


_decode_state = msgspec.json.Decoder(_State).decode


def _listed(states: Sequence[StoredUpdate]) -> bytes:
    return b",".join([state.account_json for state in states])


def add_rest(app: web.Application, clients: Clients, past: Past, metrics: Metrics, take_over: TakeOver) -> None:
    """Have an application that has not started serve accounts."""
    answers = Answers(clients.limits)
    app.middlewares.append(answers.middleware)
    Rest(clients.hub, clients.epoch, past.reads, answers, past.reading).add_routes(app)
    Streams(clients, past, answers, take_over).add_routes(app)
    add = metrics.add
    add("account_socket_http_requests", "Requests for accounts by HTTP", "counter", lambda: answers.requests)
    add("account_socket_http_refused", "Of these, answered with an error", "counter", lambda: answers.refused)
    add("account_socket_http_answer_bytes", "Large answers on their way", "gauge", lambda: answers.bytes)
