"""What HTTP offers, for programs: /openapi.json, made of the types of its answers. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from account_socket import __version__
from account_socket.protocol.messages import MAX_PUBKEYS
from account_socket.server.rest_parameters import DEFAULT_LIMIT, MAX_CONDITIONS, MAX_LIMIT

_PUBKEY_PATTERN = "^[1-9A-HJ-NP-Za-km-z]{32,44}$"
Pubkey = Annotated[str, msgspec.Meta(pattern=_PUBKEY_PATTERN, description="base58 of 32 bytes")]
Number = Annotated[int, msgspec.Meta(ge=0)]


class Account(msgspec.Struct, forbid_unknown_fields=True):
    """An account's state, as in docs/protocol.md."""

    id: int | None
    pubkey: Pubkey
    slot: Number
    account_type: str
    owner: Pubkey
    lamports: Number
    data_json: dict[str, Any] | None
    created_at: str
    prev_id: int | None
    closed: bool = False
    signature: str = ""


class State(msgspec.Struct, forbid_unknown_fields=True):
    """An account's state and where it came from; `stale` where it may not be the newest."""

    pubkey: Pubkey
    source: Literal["realtime", "cache", "database", "rpc"]
    account: Account
    event: str = ""
    stale: bool = False
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


class Error(msgspec.Struct, forbid_unknown_fields=True):
    """Why a request was refused."""

    error: _Reason


_TYPES = (State, History, Accounts, Batch, States, Error)
_Json = dict[str, Any]

_INTEGER: _Json = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_KEY: _Json = {"type": "string", "pattern": _PUBKEY_PATTERN}
_LIMIT: _Json = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
_WHERE: _Json = {
    "name": "where",
    "in": "query",
    "style": "form",
    "explode": True,
    "description": "equality on decoded fields: `where.pool_fees.base_fee.mode=RateLimiter`",
    "schema": {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "propertyNames": {"pattern": "^where\\."},
        "maxProperties": MAX_CONDITIONS,
    },
}


def describe(account_types: tuple[str, ...]) -> bytes:
    """Return the document as JSON; a list may ask for `account_types`."""
    _, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    account_type = {"type": "string", "enum": list(account_types)}
    pubkey = _parameter("pubkey", _KEY, place="path")
    document = {
        "openapi": "3.1.0",
        "info": {"title": "account-socket", "version": __version__, "description": "Decoded Solana accounts."},
        "components": {"schemas": components},
        "paths": {
            "/v1/accounts": {
                "get": _operation(
                    "the newest states that fit",
                    "Accounts",
                    _parameter("account_type", account_type),
                    _parameter("owner", _KEY),
                    _parameter("after", _KEY),
                    _parameter("limit", _LIMIT),
                    _WHERE,
                ),
                "post": {
                    **_operation("the newest states of up to 1,000 accounts", "States", refusals=(400, 413, 429, 503)),
                    "requestBody": {"required": True, "content": _content("Batch")},
                },
            },
            "/v1/accounts/{pubkey}": {
                "get": _operation(
                    "the newest state, or that of a past slot",
                    "State",
                    pubkey,
                    _parameter("slot", _INTEGER),
                    _parameter("derived", {"type": "integer", "enum": [0, 1]}),
                    _parameter("If-None-Match", {"type": "string"}, place="header"),
                    refusals=(400, 404, 429, 503),
                    unchanged=True,
                )
            },
            "/v1/accounts/{pubkey}/history": {
                "get": _operation(
                    "updates, newest first",
                    "History",
                    pubkey,
                    _parameter("before_id", _INTEGER),
                    _parameter("limit", _LIMIT),
                )
            },
            "/v1/stream": {"get": _stream()},
        },
    }
    return msgspec.json.encode(document)


def _operation(
    summary: str,
    answer: str,
    *parameters: _Json,
    refusals: tuple[int, ...] = (400, 429, 503),
    unchanged: bool = False,
) -> _Json:
    responses: _Json = {"200": {"description": summary, "content": _content(answer)}}
    if unchanged:
        responses["304"] = {"description": "the client has it"}
    return {"summary": summary, "parameters": list(parameters), "responses": responses | _refusals(refusals)}


def _stream() -> _Json:
    keys = {"type": "array", "items": _KEY, "minItems": 1, "maxItems": MAX_PUBKEYS}
    events = {"description": "Server-Sent Events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    return {
        "summary": "updates as Server-Sent Events",
        "parameters": [
            _parameter("pubkey", keys) | {"required": True},
            _parameter("Last-Event-ID", {"type": "string"}, place="header"),
        ],
        "responses": {"200": events} | _refusals((400, 403, 429, 503)),
    }


def _refusals(statuses: tuple[int, ...]) -> _Json:
    return {str(status): {"description": "refused", "content": _content("Error")} for status in statuses}


def _content(name: str) -> _Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _parameter(name: str, schema: _Json, *, place: str = "query") -> _Json:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}
