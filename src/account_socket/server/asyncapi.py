"""What the WebSocket offers, for programs: /asyncapi.json, made of the types of its messages. Pure."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

import msgspec

from account_socket import __version__
from account_socket.protocol import messages, status
from account_socket.protocol.codes import Close
from account_socket.protocol.messages import MAX_ID_CHARACTERS, MAX_PUBKEYS
from account_socket.protocol.resume import MAX_EPOCH_CHARACTERS
from account_socket.protocol.selection import (
    MAX_CONDITIONS,
    MAX_FIELDS,
    MAX_PATH_CHARACTERS,
    MAX_RATE_MS,
    MAX_VALUE_CHARACTERS,
    MAX_VALUES,
)
from account_socket.server.json_schemas import Json, components, reference
from account_socket.server.wire_types import DiffUpdate, FieldsUpdate, Number, Pubkey, Update

_BITS_64: Json = {"minimum": -(2**63), "maximum": 2**64 - 1}  # msgspec's own bounds end at 63 bits
RequestId = (
    Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARACTERS)]
    | Annotated[int, msgspec.Meta(extra_json_schema=_BITS_64)]
)
Epoch = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_EPOCH_CHARACTERS)]
Path = Annotated[str, msgspec.Meta(max_length=MAX_PATH_CHARACTERS)]
Paths = Annotated[list[Path], msgspec.Meta(min_length=1, max_length=MAX_FIELDS)]
Value = Annotated[str, msgspec.Meta(max_length=MAX_VALUE_CHARACTERS)] | int | bool | None
Values = Value | Annotated[list[Value], msgspec.Meta(min_length=1, max_length=MAX_VALUES)]
Where = Annotated[dict[Path, Values], msgspec.Meta(min_length=1, max_length=MAX_CONDITIONS)]
Pubkeys = Annotated[list[Pubkey], msgspec.Meta(min_length=1, max_length=MAX_PUBKEYS)]


class _Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    id: RequestId | msgspec.UnsetType = msgspec.UNSET


class _OfAccounts(_Request, forbid_unknown_fields=True, kw_only=True):
    pubkey: Pubkey | msgspec.UnsetType = msgspec.UNSET
    pubkeys: Pubkeys | msgspec.UnsetType = msgspec.UNSET


class SubscribeRequest(_OfAccounts, forbid_unknown_fields=True, kw_only=True):
    """Send the states of these accounts, then every update; with `after`, what came after these ids."""

    action: Literal["subscribe"]
    after: dict[str, Number] | msgspec.UnsetType = msgspec.UNSET
    epoch: Epoch | msgspec.UnsetType = msgspec.UNSET


class SelectRequest(_OfAccounts, forbid_unknown_fields=True, kw_only=True):
    """The same with a number of its own: by keys or by type, program and decoded fields; in a shape."""

    action: Literal["subscribe"]
    account_type: str | msgspec.UnsetType = msgspec.UNSET
    program: Pubkey | msgspec.UnsetType = msgspec.UNSET
    where: Where | msgspec.UnsetType = msgspec.UNSET
    fields: Paths | msgspec.UnsetType = msgspec.UNSET
    mode: Literal["full", "diff"] = "full"
    max_rate_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_RATE_MS)] | msgspec.UnsetType = msgspec.UNSET
    delivery: Literal["latest", "every"] = "latest"
    snapshot: bool = True
    after: dict[str, Number] | msgspec.UnsetType = msgspec.UNSET
    after_id: Number | msgspec.UnsetType = msgspec.UNSET
    epoch: Epoch | msgspec.UnsetType = msgspec.UNSET


class UnsubscribeRequest(_OfAccounts, forbid_unknown_fields=True, kw_only=True):
    """Stop sending these accounts."""

    action: Literal["unsubscribe"]


class DeselectRequest(_Request, forbid_unknown_fields=True, kw_only=True):
    """End a numbered subscription."""

    action: Literal["unsubscribe"]
    sub: int


class PingRequest(_Request, forbid_unknown_fields=True, kw_only=True):
    """Answer with a pong."""

    action: Literal["ping"]


class ListRequest(_Request, forbid_unknown_fields=True, kw_only=True):
    """Answer with what the client is subscribed to."""

    action: Literal["list"]


_REQUESTS: dict[str, type[msgspec.Struct]] = {
    "subscribe": SubscribeRequest,
    "select": SelectRequest,
    "unsubscribe": UnsubscribeRequest,
    "deselect": DeselectRequest,
    "ping": PingRequest,
    "list": ListRequest,
}
_ANSWERS: dict[str, tuple[str, ...]] = {
    "subscribe": ("ack", "error"),
    "select": ("ack", "select_ack", "error"),
    "unsubscribe": ("unsubscribe_ack", "error"),
    "deselect": ("unsubscribe_ack", "error"),
    "ping": ("pong", "error"),
    "list": ("subscriptions", "error"),
}
_TOLD: dict[str, type[msgspec.Struct]] = {
    "update": Update,
    "fields_update": FieldsUpdate,
    "diff_update": DiffUpdate,
    **messages.ANSWERS,
    **status.NOTICES,
}


def _needs(*names: str) -> Json:
    """Return the rule that one of these is given, and one only."""
    return {"oneOf": [{"required": [name]} for name in names]}


_BY_FILTER: Json = {"anyOf": [{"required": [name]} for name in ("account_type", "program", "where")]}
_BY_AFTER: Json = {
    "required": ["after"],
    "not": {"anyOf": [{"required": ["pubkey"]}, {"required": ["pubkeys"]}]},
}
"""The accounts are those of `after`: a thousand would not fit a message twice."""
_NUMBERED = ("account_type", "program", "where", "fields", "mode", "max_rate_ms", "delivery")
_RULES: dict[str, Json] = {
    "SubscribeRequest": {
        "oneOf": [{"required": ["pubkey"]}, {"required": ["pubkeys"]}, _BY_AFTER],
        "dependencies": {"after": ["epoch"], "epoch": ["after"]},
    },
    "SelectRequest": {
        "oneOf": [{"required": ["pubkey"]}, {"required": ["pubkeys"]}, _BY_FILTER, _BY_AFTER],
        "anyOf": [{"required": [name]} for name in _NUMBERED],
        "dependencies": {
            "after": {"required": ["epoch"], "not": _BY_FILTER},
            "after_id": {"required": ["epoch"], **_BY_FILTER},
            "epoch": {"anyOf": [{"required": ["after"]}, {"required": ["after_id"]}]},
        },
    },
    "UnsubscribeRequest": _needs("pubkey", "pubkeys"),
}
"""What goes together in a request, which its type does not say."""


@cache
def describe() -> bytes:
    """Return the document as JSON."""
    sent = {name: _message(kind) for name, kind in _TOLD.items()}
    received = {name: _message(kind) for name, kind in _REQUESTS.items()}
    schemas = components((*_REQUESTS.values(), *_TOLD.values()))
    for name, rules in _RULES.items():
        schemas[name] |= rules
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "account-socket",
            "version": __version__,
            "description": "Decoded Solana accounts, live. HTTP on this port: /openapi.json.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {"ws": _channel([*received, *sent])},
        "operations": {name: _operation(name) for name in received} | {"tell": _telling(list(sent))},
        "components": {"messages": received | sent, "schemas": schemas},
    }
    return msgspec.json.encode(document)


def _message(kind: type[msgspec.Struct]) -> Json:
    return {"payload": reference(kind.__name__.lstrip("_"))}


def _channel(names: list[str]) -> Json:
    closes = "; ".join(f"{close.code}: {close.reason}" for close in Close)
    query = {"type": "object", "properties": {"status": {"type": "string", "enum": ["1"]}}}
    return {
        "address": "/ws",
        "description": f"One JSON object per text message, each way. Close codes: {closes}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {"ws": {"method": "GET", "query": query, "bindingVersion": "0.1.0"}},
    }


def _operation(name: str) -> Json:
    return {
        "action": "receive",
        "channel": {"$ref": "#/channels/ws"},
        "messages": _among_channel([name]),
        "reply": {"channel": {"$ref": "#/channels/ws"}, "messages": _among_channel(_ANSWERS[name])},
    }


def _telling(names: list[str]) -> Json:
    return {"action": "send", "channel": {"$ref": "#/channels/ws"}, "messages": _among_channel(names)}


def _among_channel(names: Any) -> list[Json]:
    return [{"$ref": f"#/channels/ws/messages/{name}"} for name in names]
