"""What a client may say, and our answers (docs/protocol.md, native dialect)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import msgspec
from solders.pubkey import Pubkey

from account_socket.protocol.codes import ErrorCode
from account_socket.protocol.refusals import RefusedError, name_type, quote, refuse_unknown_keys
from account_socket.protocol.resume import Resume, check_covered, take_resume
from account_socket.protocol.selection import SHAPING, Select, is_numbered, read_select

MAX_PUBKEYS = 1_000
"""The most accounts that one request may name."""
MAX_ID_CHARACTERS = 128
MAX_PUBKEY_CHARACTERS = 44
"""32 bytes are never longer in base58."""
MAX_BRACES = 256
"""No request needs so many, and each object costs a call of Python code."""

Id = str | int
"""What a client may put into `id`: at most 128 characters, or an integer of 64 bits."""


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """
    Send the states of these accounts, then every update.

    Attributes:
        pubkeys: valid, each once, 1 … 1,000 of them.
        resume: of some of these, send what came after an id in place of the state.
    """

    action: ClassVar[str] = "subscribe"
    id: Id | None
    pubkeys: tuple[str, ...]
    resume: Resume | None = None


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    """Stop sending these accounts; `pubkeys` as in `Subscribe`."""

    action: ClassVar[str] = "unsubscribe"
    id: Id | None
    pubkeys: tuple[str, ...]


class Deselect(msgspec.Struct, frozen=True, gc=False):
    """End the numbered subscription `sub`."""

    action: ClassVar[str] = "unsubscribe"
    id: Id | None
    sub: int


class Ping(msgspec.Struct, frozen=True, gc=False):
    """Answer with a pong."""

    action: ClassVar[str] = "ping"
    id: Id | None


class ListSubscriptions(msgspec.Struct, frozen=True, gc=False):
    """Answer with what the client is subscribed to."""

    action: ClassVar[str] = "list"
    id: Id | None


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A message that is refused: the error to answer with; `id` only if it could be read."""

    id: Id | None
    code: ErrorCode
    message: str


Request = Subscribe | Select | Unsubscribe | Deselect | Ping | ListSubscriptions


# ---- reading -----------------------------------------------------------------------------------------------


def parse(text: str) -> Request | Refusal:
    """
    Read one text message of a client.

    Args:
        text: at most 64 KiB; anything else about it may be wrong.
    Returns:
        The request, or why it is refused.
    Raises:
        Nothing, whatever the text.
    """
    request_id: Id | None = None
    try:
        fields = _read_object(text)
        request_id = _read_id(fields)
        return _read_request(fields, request_id)
    except RefusedError as refused:
        return Refusal(request_id, refused.code, refused.message)


class _Repeating(dict[str, Any]):
    """An object in which a key appears twice: harmless inside what is ignored."""


def _note_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else _Repeating(fields)


def _refuse_constant(name: str) -> NoReturn:
    raise RefusedError(ErrorCode.INVALID_JSON, f"{name} is not JSON; send a number, a string or null")


# The standard library's decoder, as it alone lets a repeated key be seen.
_decode_json = json.JSONDecoder(object_pairs_hook=_note_repeats, parse_constant=_refuse_constant).decode


def _read_object(text: str) -> dict[str, Any]:
    if text.count("{") > MAX_BRACES:
        raise RefusedError(ErrorCode.INVALID_MESSAGE, "too many objects in one message; send one flat JSON object")
    try:
        value = _decode_json(text)
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} at character {error.pos}; send one JSON object"
        raise RefusedError(ErrorCode.INVALID_JSON, message) from None
    except RecursionError:
        raise RefusedError(ErrorCode.INVALID_JSON, "nested too deeply; send one flat JSON object") from None
    except ValueError:  # CPython refuses to read integers of more than 4,300 digits
        raise RefusedError(ErrorCode.INVALID_JSON, "a number has too many digits") from None
    if not isinstance(value, dict):
        message = f"a message is one JSON object, not {name_type(value)}"
        raise RefusedError(ErrorCode.INVALID_MESSAGE, message)
    if isinstance(value, _Repeating):
        raise RefusedError(ErrorCode.INVALID_MESSAGE, "a key appears twice in one object; send each key once")
    return value


def _read_id(fields: dict[str, Any]) -> Id | None:
    if "id" not in fields:
        return None
    value = fields["id"]
    if isinstance(value, str):
        if len(value) > MAX_ID_CHARACTERS:
            message = f"id is longer than {MAX_ID_CHARACTERS} characters; send a shorter one"
            raise RefusedError(ErrorCode.INVALID_MESSAGE, message)
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise RefusedError(ErrorCode.INVALID_MESSAGE, "id holds half a surrogate pair; send valid Unicode")
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**64:
            raise RefusedError(ErrorCode.INVALID_MESSAGE, "id does not fit 64 bits; send a string instead")
        return value
    raise RefusedError(ErrorCode.INVALID_MESSAGE, f"id must be a string or an integer, not {name_type(value)}")


def _read_request(fields: dict[str, Any], id: Id | None) -> Request:
    action = fields.get("action")
    if not isinstance(action, str):
        found = name_type(action) if "action" in fields else "missing"
        message = f"action must be one of {_ACTIONS}, not {found}"
        raise RefusedError(ErrorCode.INVALID_MESSAGE, message)
    match action:
        case "subscribe":
            return _read_subscribe(fields, id)
        case "unsubscribe":
            return _read_unsubscribe(fields, id)
        case "ping":
            refuse_unknown_keys(fields, {"action", "id"})
            return Ping(id)
        case "list":
            refuse_unknown_keys(fields, {"action", "id"})
            return ListSubscriptions(id)
    raise RefusedError(ErrorCode.UNKNOWN_ACTION, f"unknown action {quote(action)}; send one of {_ACTIONS}")


def _read_unsubscribe(fields: dict[str, Any], id: Id | None) -> Unsubscribe | Deselect:
    if "sub" not in fields or ("pubkey" in fields and "id" not in fields):
        return Unsubscribe(id, _read_pubkeys(fields))
    refuse_unknown_keys(fields, {"action", "id", "sub"})
    sub = fields["sub"]
    if type(sub) is not int:
        message = f"sub must be the number of a subscription, not {name_type(sub)}"
        raise RefusedError(ErrorCode.INVALID_MESSAGE, message)
    return Deselect(id, sub)


def _read_subscribe(fields: dict[str, Any], id: Id | None) -> Subscribe | Select:
    if "pubkey" in fields and "id" not in fields:  # the oldest form, whose other keys were never looked at
        return Subscribe(id, _read_pubkeys(fields))
    resume = take_resume(fields)
    if is_numbered(fields):
        named: dict[str, Any] = {key: fields[key] for key in ("id", "pubkey", "pubkeys") if key in fields}
        pubkeys = _read_pubkeys(named) if named.keys() & {"pubkey", "pubkeys"} else ()
        select = read_select(fields, id, pubkeys)
        if resume is None:
            return select
        check_covered(resume, pubkeys)
        return msgspec.structs.replace(select, resume=resume)
    pubkeys = _read_pubkeys(fields, SHAPING | {"after", "epoch"})
    if resume is not None:
        check_covered(resume, pubkeys)
    return Subscribe(id, pubkeys, resume)


_ACTIONS = "subscribe, unsubscribe, ping, list"


def _read_pubkeys(fields: dict[str, Any], beside: frozenset[str] = frozenset()) -> tuple[str, ...]:
    if "pubkeys" in fields:
        if "pubkey" in fields:
            raise RefusedError(ErrorCode.INVALID_MESSAGE, "send either pubkey or pubkeys, not both")
        refuse_unknown_keys(fields, {"action", "id", "pubkeys"}, beside)
        return _read_pubkey_list(fields["pubkeys"])
    if "pubkey" not in fields:
        raise RefusedError(ErrorCode.INVALID_MESSAGE, "name the account in pubkey, or several in pubkeys")
    if "id" in fields:  # without it this is the oldest form of a request, whose other keys were never looked at
        refuse_unknown_keys(fields, {"action", "id", "pubkey"}, beside)
    pubkey = fields["pubkey"]
    _check_pubkey(pubkey, "pubkey")
    return (pubkey,)


def _read_pubkey_list(pubkeys: Any) -> tuple[str, ...]:
    if not isinstance(pubkeys, list):
        message = f"pubkeys must be an array of strings, not {name_type(pubkeys)}"
        raise RefusedError(ErrorCode.INVALID_MESSAGE, message)
    if not pubkeys:
        raise RefusedError(ErrorCode.INVALID_MESSAGE, "pubkeys is empty; name at least one account")
    if len(pubkeys) > MAX_PUBKEYS:
        message = f"pubkeys holds {len(pubkeys)} keys; send at most {MAX_PUBKEYS} a request"
        raise RefusedError(ErrorCode.INVALID_MESSAGE, message)
    for index, pubkey in enumerate(pubkeys):
        _check_pubkey(pubkey, f"pubkeys[{index}]")
    return tuple(dict.fromkeys(pubkeys))


def _check_pubkey(pubkey: Any, where: str) -> None:
    if not isinstance(pubkey, str):
        raise RefusedError(ErrorCode.INVALID_MESSAGE, f"{where} must be a string, not {name_type(pubkey)}")
    if not is_pubkey(pubkey):
        message = f"{quote(pubkey)} is not a base58 public key of 32 bytes"
        raise RefusedError(ErrorCode.INVALID_PUBKEY, message)


def is_pubkey(text: str) -> bool:
    """Return whether `text` is the base58 form of exactly 32 bytes; each such value has one form only."""
    if not 32 <= len(text) <= MAX_PUBKEY_CHARACTERS or not text.isascii():
        return False
    try:
        Pubkey.from_string(text)
    except ValueError:
        return False
    return True


# ---- answering ---------------------------------------------------------------------------------------------

_MaybeId = Id | msgspec.UnsetType


class _Ack(msgspec.Struct, tag="ack", tag_field="type", gc=False):
    id: Id
    action: str
    epoch: str
    found: Sequence[str]
    foreign: Sequence[str]
    stale: bool | msgspec.UnsetType = msgspec.UNSET
    recovered: bool | msgspec.UnsetType = msgspec.UNSET
    unrecovered: Sequence[str] | msgspec.UnsetType = msgspec.UNSET
    sub: int | msgspec.UnsetType = msgspec.UNSET


class _SelectAck(msgspec.Struct, tag="ack", tag_field="type", gc=False):
    id: Id
    action: str
    epoch: str
    sub: int


class _SnapshotEnd(msgspec.Struct, tag="snapshot_end", tag_field="type", gc=False):
    sub: int
    count: int
    recovered: bool | msgspec.UnsetType = msgspec.UNSET


class _UnsubscribeAck(msgspec.Struct, tag="ack", tag_field="type", gc=False):
    id: Id
    action: str
    epoch: str


class _Error(msgspec.Struct, tag="error", tag_field="type", gc=False):
    id: _MaybeId
    code: ErrorCode
    message: str


class _Pong(msgspec.Struct, tag="pong", tag_field="type", gc=False):
    id: _MaybeId


class _Subscriptions(msgspec.Struct, tag="subscriptions", tag_field="type", gc=False):
    id: _MaybeId
    pubkeys: Sequence[str]
    subs: Sequence[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


ANSWERS: dict[str, type[msgspec.Struct]] = {
    "ack": _Ack,
    "select_ack": _SelectAck,
    "snapshot_end": _SnapshotEnd,
    "unsubscribe_ack": _UnsubscribeAck,
    "error": _Error,
    "pong": _Pong,
    "subscriptions": _Subscriptions,
}
"""The types of all answers, for /asyncapi.json."""

_encode = msgspec.json.Encoder().encode


def _maybe(id: Id | None) -> _MaybeId:
    return msgspec.UNSET if id is None else id


def subscribe_ack(
    id: Id,
    epoch: str,
    found: Sequence[str],
    foreign: Sequence[str],
    *,
    stale: bool = False,
    unrecovered: Sequence[str] | None = None,
    sub: int | None = None,
) -> bytes:
    """
    Return the ack of a subscribe request.

    Args:
        found: the accounts that have a state.
        foreign: those that belong to another program.
        stale: a state that was sent may not be the newest.
        unrecovered: of a client that resumes, the accounts of which it could not; None: it does not resume.
        sub: the number of the subscription, if it has one.
    """
    recovered = msgspec.UNSET if unrecovered is None else not unrecovered
    return _encode(
        _Ack(
            id,
            Subscribe.action,
            epoch,
            found,
            foreign,
            stale or msgspec.UNSET,
            recovered,
            unrecovered or msgspec.UNSET,
            msgspec.UNSET if sub is None else sub,
        )
    )


def select_ack(id: Id, epoch: str, sub: int) -> bytes:
    """Return the ack of a subscription by filter."""
    return _encode(_SelectAck(id, Select.action, epoch, sub))


def snapshot_end(sub: int, count: int, *, recovered: bool | None = None) -> bytes:
    """
    Return what follows the last of the `count` states that a subscription by filter is told first.

    Args:
        recovered: whether these are what the client missed; None where it did not say what it has.
    """
    return _encode(_SnapshotEnd(sub, count, msgspec.UNSET if recovered is None else recovered))


def unsubscribe_ack(id: Id, epoch: str) -> bytes:
    """Return the ack of an unsubscribe request."""
    return _encode(_UnsubscribeAck(id, Unsubscribe.action, epoch))


def error(id: Id | None, code: ErrorCode, message: str) -> bytes:
    """Return an error answer."""
    return _encode(_Error(_maybe(id), code, message))


def pong(id: Id | None) -> bytes:
    """Return the answer to a ping request."""
    return _encode(_Pong(_maybe(id)))


def subscriptions(id: Id | None, pubkeys: Sequence[str], subs: Sequence[dict[str, Any]] = ()) -> bytes:
    """Return the answer to a list request; `subs` are the numbered ones."""
    return _encode(_Subscriptions(_maybe(id), pubkeys, subs or msgspec.UNSET))
