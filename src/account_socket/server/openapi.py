"""What HTTP offers, for programs: /openapi.json, made of the types of its answers. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from account_socket import __version__
from account_socket.protocol.messages import MAX_PUBKEYS
from account_socket.server.json_schemas import NUMBER, PUBKEY, Json, components, reference
from account_socket.server.rest_parameters import (
    DEFAULT_LIMIT,
    MAX_CONDITIONS,
    MAX_LIMIT,
    MAX_STREAM_PUBKEYS,
    MAX_VALUE_CHARACTERS,
    WHERE,
    Fields,
)
from account_socket.server.wire_types import Account, Pubkey, Update


class State(Update, forbid_unknown_fields=True):
    """The newest state of an account, or that of a past slot; `derived` where it was asked for."""

    derived: dict[str, Any] | None = None


class History(msgspec.Struct, forbid_unknown_fields=True):
    """A page of an account's updates, newest first; `next` is the next page's `before_id`."""

    pubkey: Pubkey
    epoch: str
    updates: list[Account]
    next: int | None


class Accounts(msgspec.Struct, forbid_unknown_fields=True):
    """A page of states by pubkey; `next` is the next page's `after`."""

    epoch: str
    accounts: list[Account]
    next: Pubkey | None
    stale: bool = False


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """Which accounts to read."""

    pubkeys: Annotated[list[Pubkey], msgspec.Meta(min_length=1, max_length=MAX_PUBKEYS)]


class States(msgspec.Struct, forbid_unknown_fields=True):
    """What was found of a batch."""

    epoch: str
    accounts: list[State]
    missing: list[Pubkey]
    foreign: list[Pubkey]
    stale: bool = False


class _Reason(msgspec.Struct, forbid_unknown_fields=True):
    code: str
    message: str


class Reset(msgspec.Struct, forbid_unknown_fields=True):
    """The stream is not resumed: states follow."""

    reason: str


class Stale(msgspec.Struct, forbid_unknown_fields=True):
    """A state of a stream that was resumed may not be the newest."""

    stale: Literal[True]


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    """The stream ends; code and reason as a WebSocket's."""

    code: int
    reason: str


class Health(msgspec.Struct, forbid_unknown_fields=True):
    """The process is alive."""

    status: Literal["ok"]


class Readiness(msgspec.Struct):
    """Whether clients are served well, and each part: `upstream`, `database`, `cache` …"""

    status: Literal["ok", "degraded", "starting", "stale", "draining"]
    upstream: dict[str, Any]


class Error(msgspec.Struct, forbid_unknown_fields=True):
    """Why a request was refused."""

    error: _Reason


class RpcRequest(msgspec.Struct):
    """A JSON-RPC 2.0 call as Solana's nodes take it; one without `id` is taken too, and not answered."""

    jsonrpc: Literal["2.0"]
    method: str
    id: str | Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
    params: list[Any] = []


class RpcReason(msgspec.Struct, forbid_unknown_fields=True):
    """Why a call failed: the codes of JSON-RPC and of Solana's nodes; 429: too many requests."""

    code: int
    message: str
    data: Any = None


class RpcResult(msgspec.Struct, forbid_unknown_fields=True):
    """What a call returned."""

    jsonrpc: Literal["2.0"]
    result: Any
    id: Any


class RpcError(msgspec.Struct, forbid_unknown_fields=True):
    """That a call failed; `id` is null where the call could not be read."""

    jsonrpc: Literal["2.0"]
    error: RpcReason
    id: Any


_EVENTS: dict[str, type[msgspec.Struct]] = {"update": Update, "reset": Reset, "stale": Stale, "close": Closed}
_TYPES: tuple[type[msgspec.Struct], ...] = (
    State,
    History,
    Accounts,
    Batch,
    States,
    *_EVENTS.values(),
    RpcRequest,
    RpcResult,
    RpcError,
    Error,
    Health,
    Readiness,
)

MAX_CALLS = 100
"""Of one batch; a test holds it against what is served."""

_LIMIT: Json = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
_RETRY_AFTER: Json = {
    "Retry-After": {"description": "in how many seconds to try again", "required": True, "schema": NUMBER}
}
_ETAG: Json = {"ETag": {"description": 'W/"epoch-id", of a committed state', "schema": {"type": "string"}}}
_REFUSALS = {
    400: "the request cannot be meant",
    403: "the page's origin may not",
    404: "there is no such account or past state",
    408: "the body did not come within 10 seconds",
    413: "the body is over 64 KiB, or the answer over 16 MiB",
    431: "the head is over 16 KiB",
    429: "too many requests",
    503: "cannot be told now",
}


def describe(fields: Fields) -> bytes:
    """Return the document as JSON; a list may ask for these fields."""
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "account-socket",
            "version": __version__,
            "description": "Decoded Solana accounts, live. The WebSocket on this port: /asyncapi.json.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "components": {"schemas": components(_TYPES)},
        "paths": _accounts(fields) | _solana() | _service(),
    }
    return msgspec.json.encode(document)


def _accounts(fields: Fields) -> Json:
    pubkey = _parameter("pubkey", PUBKEY, place="path")
    batch = _operation("readAccounts", "the newest states of up to 1,000 accounts", "States", refusals=(408, 413))
    return {
        "/v1/accounts": {
            "get": _operation(
                "findAccounts",
                "the newest states that fit, a page of them",
                "Accounts",
                _parameter("account_type", {"type": "string", "enum": list(fields.types)}),
                _parameter("owner", PUBKEY),
                _parameter("after", PUBKEY),
                _parameter("limit", _LIMIT),
                _where(fields),
                refusals=(413,),
            ),
            "post": batch | {"requestBody": {"required": True, "content": _content("Batch")}},
        },
        "/v1/accounts/{pubkey}": {"get": _read_account(pubkey)},
        "/v1/accounts/{pubkey}/history": {
            "get": _operation(
                "readHistory",
                "updates, newest first, a page of them",
                "History",
                pubkey,
                _parameter("before_id", NUMBER),
                _parameter("limit", _LIMIT),
                refusals=(413,),
            )
        },
        "/v1/stream": {"get": _stream()},
    }


def _solana() -> Json:
    asked, told = reference("RpcRequest"), {"oneOf": [reference("RpcResult"), reference("RpcError")]}
    calls = {"oneOf": [asked, {"type": "array", "items": asked, "minItems": 1, "maxItems": MAX_CALLS}]}
    answers = {"application/json": {"schema": {"oneOf": [*told["oneOf"], {"type": "array", "items": told}]}}}
    # What cannot be read is answered by an error in 200.
    said = {"200": {"description": "an answer to every call that has an `id`", "content": answers}}
    limited = {"429": {"description": "too many requests", "headers": _RETRY_AFTER, "content": answers}}
    return {
        "/": {
            "post": {
                "operationId": "solanaRpc",
                "summary": "Solana's JSON-RPC, one call or a batch",
                "requestBody": {"required": True, "content": {"application/json": {"schema": calls}}},
                "responses": said | _refusals((400, 408, 413, 431)) | limited,
            }
        }
    }


def _read_account(pubkey: Json) -> Json:
    operation = _operation(
        "readAccount",
        "the newest state, or that of a past slot",
        "State",
        pubkey,
        _parameter("slot", NUMBER),
        _parameter("derived", {"type": "integer", "enum": [0, 1]}),
        _parameter("If-None-Match", {"type": "string"}, place="header"),
        refusals=(404,),
    )
    operation["responses"]["200"]["headers"] = _ETAG
    operation["responses"]["304"] = {"description": "the client has it", "headers": _ETAG}
    return operation


def _stream() -> Json:
    keys = {"type": "array", "items": PUBKEY, "minItems": 1, "maxItems": MAX_STREAM_PUBKEYS}
    event = {"oneOf": [_event(name, kind) for name, kind in _EVENTS.items()]}
    events = {"description": "Server-Sent Events", "content": {"text/event-stream": {"schema": event}}}
    return {
        "operationId": "stream",
        "summary": "updates as Server-Sent Events",
        "parameters": [
            _parameter("pubkey", keys) | {"required": True},
            _parameter("Last-Event-ID", {"type": "string"}, place="header"),
        ],
        "responses": {"200": events} | _refusals((400, 403, 429, 431, 503)),
    }


def _event(name: str, kind: type[msgspec.Struct]) -> Json:
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": reference(kind.__name__)}
    properties = {"event": {"const": name}, "data": data, "id": {"type": "string"}, "retry": NUMBER}
    return {"type": "object", "properties": properties, "required": ["event", "data"]}


def _where(fields: Fields) -> Json:
    """Return the parameters `where.FIELD`, which OpenAPI can only tell as the properties of one object."""
    names = {"enum": [WHERE + path for path in fields.paths]}
    blocks = [{"pattern": f"^{re.escape(WHERE + path)}\\.[A-Za-z_][A-Za-z0-9_]{{0,63}}$"} for path in fields.blocks]
    return _parameter(
        "where",
        {
            "type": "object",
            "additionalProperties": {"type": "string", "maxLength": MAX_VALUE_CHARACTERS},
            "propertyNames": {"anyOf": [names, *blocks]},
            "maxProperties": MAX_CONDITIONS,
        },
    ) | {
        "style": "form",
        "explode": True,
        "description": "equality on decoded fields: `where.pool_fees.base_fee.mode=RateLimiter`",
    }


def _service() -> Json:
    ready = _operation("readiness", "whether clients are served well", "Readiness", refusals=None)
    ready["responses"]["503"] = {"description": "not now", "content": _content("Readiness")}
    metrics = {"200": {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    return {
        "/healthz": {"get": _operation("health", "the process is alive", "Health", refusals=None)},
        "/readyz": {"get": ready},
        "/metrics": {"get": {"operationId": "metrics", "summary": "metrics", "responses": metrics}},
        "/openapi.json": {"get": _document("openapi", "what HTTP offers")},
        "/asyncapi.json": {"get": _document("asyncapi", "what the WebSocket offers")},
    }


def _document(name: str, summary: str) -> Json:
    content = {"application/json": {"schema": {"type": "object", "required": [name]}}}
    responses = {"200": {"description": summary, "content": content}} | _refusals((429, 503))
    return {"operationId": name, "summary": summary, "responses": responses}


def _operation(name: str, summary: str, answer: str, *parameters: Json, refusals: tuple[int, ...] | None = ()) -> Json:
    """Return an operation; its refusals are those that every one has, and these, or None at all."""
    responses: Json = {"200": {"description": summary, "content": _content(answer)}}
    if refusals is not None:
        responses |= _refusals((400, *refusals, 429, 431, 503))
    return {"operationId": name, "summary": summary, "parameters": list(parameters), "responses": responses}


def _refusals(statuses: tuple[int, ...]) -> Json:
    return {
        str(status): {"description": _REFUSALS[status], "content": _content("Error")}
        | ({"headers": _RETRY_AFTER} if status in {429, 503} else {})
        for status in statuses
    }


def _content(name: str) -> Json:
    return {"application/json": {"schema": reference(name)}}


def _parameter(name: str, schema: Json, *, place: str = "query") -> Json:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}
