"""
Solana PubSub messages: requests as bytes, and frames read into events. Pure.

Every frame becomes events; a fault of the node is an `Odd` event, never an exception. The frequent frame, a
programNotification, is decoded typed in one step; whatever does not fit goes the slow way, which takes any JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from account_socket.model import MAX_I64, Origin, RawAccount
from account_socket.sources.account_json import (
    MAX_U64,
    AccountReader,
    OddAccountError,
    clamp_rent_epoch,
    harmless,
    show,
)

_Bounded = Annotated[int, msgspec.Meta(ge=0, le=MAX_I64)]


class AccountNotification(msgspec.Struct, gc=False):
    """One account state of a program subscription."""

    subscription: int
    account: RawAccount


class WatchNotification(msgspec.Struct, gc=False):
    """The state of the account of an account subscription, which the frame does not name."""

    subscription: int
    slot: int
    value: WatchedAccount


class SlotNotification(msgspec.Struct, gc=False):
    """The node began a slot; `parent` and `root` are None where it does not say them."""

    subscription: int
    slot: int
    parent: int | None = None
    root: int | None = None


class Reply(msgspec.Struct, gc=False):
    """
    The answer to one of our requests.

    Attributes:
        id: of the request.
        result: any JSON value; None beside an error.
        code: of the JSON-RPC error, or None for a result.
        message: of the JSON-RPC error, as the node wrote it.
    """

    id: int
    result: Any = None
    code: int | None = None
    message: str = ""


class Odd(msgspec.Struct, gc=False):
    """
    Something that should not have come.

    Attributes:
        kind: a short snake_case word, one of a fixed set.
        detail: at most 200 characters of what it was, as the node wrote it.
    """

    kind: str
    detail: str = ""


Event = AccountNotification | WatchNotification | SlotNotification | Reply | Odd


class WatchedAccount(msgspec.Struct, gc=False):
    """An account object as the node wrote it."""

    lamports: _Bounded
    data: tuple[str, str]
    owner: str
    executable: bool
    rentEpoch: int | float = -1  # noqa: N815  (the node's name)
    space: int = -1


class _Value(msgspec.Struct, gc=False):
    pubkey: str
    account: WatchedAccount


class _Context(msgspec.Struct, gc=False):
    slot: _Bounded


class _Result(msgspec.Struct, gc=False):
    context: _Context
    value: _Value


class _Params(msgspec.Struct, gc=False):
    result: _Result
    subscription: int


class _ProgramNotification(msgspec.Struct, gc=False):
    method: Literal["programNotification"]
    params: _Params


class _WatchResult(msgspec.Struct, gc=False):
    context: _Context
    value: WatchedAccount


class _WatchParams(msgspec.Struct, gc=False):
    result: _WatchResult
    subscription: int


class _WatchNotification(msgspec.Struct, gc=False):
    method: Literal["accountNotification"]
    params: _WatchParams


MAX_BATCH_ITEMS = 10_000
MAX_BATCH_DATA_BYTES = 32 * 1024 * 1024
"""What one JSON batch may hold; the rest of a larger one is refused (compressed, it could hold 300 GB)."""

_decode_program = msgspec.json.Decoder(_ProgramNotification).decode
_decode_watch = msgspec.json.Decoder(_WatchNotification).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def program_subscribe(request_id: int, program: str, *, encoding: str, commitment: str) -> bytes:
    """Return the request for every account that `program` owns."""
    return request(request_id, "programSubscribe", [program, {"encoding": encoding, "commitment": commitment}])


def account_subscribe(request_id: int, pubkey: str, *, encoding: str, commitment: str) -> bytes:
    """Return the request for one account, whoever owns it."""
    return request(request_id, "accountSubscribe", [pubkey, {"encoding": encoding, "commitment": commitment}])


def account_unsubscribe(request_id: int, subscription: int) -> bytes:
    """Return the request that ends an account subscription."""
    return request(request_id, "accountUnsubscribe", [subscription])


def request(request_id: int, method: str, params: list[Any] | None = None) -> bytes:
    """Return a JSON-RPC 2.0 request; an Agave node takes at most 4,096 bytes."""
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if params is not None:
        body["params"] = params
    return _encode(body)


class FrameReader:
    """
    Turns the frames of one datasource into events.

    Args:
        source: name of the datasource, goes into each RawAccount.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._accounts = AccountReader(source)
        self._readers: dict[str, Callable[[int, object, float], list[Event]]] = {
            "programNotification": self._read_account,
            "accountNotification": _read_watch,
            "slotNotification": _read_slot,
        }

    def read(self, message: bytes, received_at: float) -> list[Event]:
        """
        Read one message, text or binary, a single object or a batch.

        Args:
            message: the whole payload; whatever bytes.
            received_at: monotonic seconds, goes into the RawAccount.
        Returns:
            What it holds, in its order; never empty.
        """
        try:
            params = _decode_program(message).params
        except (ValueError, RecursionError):
            return self._read_any(message, received_at)
        value = params.result.value
        sent = value.account
        space, rent_epoch = sent.space, sent.rentEpoch
        accounts = self._accounts
        known = accounts.known.get
        usual = type(rent_epoch) is int and 0 <= rent_epoch <= MAX_U64
        try:
            data = accounts.data(sent.data[0], sent.data[1], space)
            account = RawAccount(
                known(value.pubkey) or accounts.pubkey(value.pubkey),
                params.result.context.slot,
                known(sent.owner) or accounts.pubkey(sent.owner, "bad_owner"),
                sent.lamports,
                data,
                sent.executable,
                int(rent_epoch) if usual else clamp_rent_epoch(rent_epoch),
                0,
                self._source,
                Origin.LIVE,
                received_at,
            )
        except OddAccountError as odd:
            return [Odd(odd.kind, odd.detail)]
        notification = AccountNotification(params.subscription, account)
        if usual and space == len(data):
            return [notification]
        return [*map(Odd, harmless(len(data), space, account.rent_epoch, rent_epoch)), notification]

    def watched(self, pubkey: str, notification: WatchNotification, received_at: float) -> AccountNotification | Odd:
        """Return the state that a WatchNotification tells of `pubkey`."""
        value = msgspec.to_builtins(notification.value)
        try:
            account, _ = self._accounts.account(
                pubkey, value, notification.slot, origin=Origin.LIVE, received_at=received_at
            )
        except OddAccountError as odd:
            return Odd(odd.kind, odd.detail)
        return AccountNotification(notification.subscription, account)

    def _read_any(self, message: bytes, received_at: float) -> list[Event]:
        try:
            watch = _decode_watch(message).params
        except (ValueError, RecursionError):
            pass
        else:
            return [WatchNotification(watch.subscription, watch.result.context.slot, watch.result.value)]
        try:
            value = _decode_any(message)
        except (ValueError, RecursionError):
            return [Odd("not_json", repr(message[:100]))]
        if not isinstance(value, list):
            return self._read_object(value, received_at)
        if not value:
            return [Odd("not_object", "an empty batch")]
        return self._read_batch(value, received_at)

    def _read_batch(self, items: list[Any], received_at: float) -> list[Event]:
        events: list[Event] = []
        room = MAX_BATCH_DATA_BYTES
        for number, item in enumerate(items):
            if number >= MAX_BATCH_ITEMS or room < 0:
                events.append(Odd("batch_oversize", f"{len(items)} items"))
                break
            read = self._read_object(item, received_at)
            room -= sum(len(event.account.data) for event in read if isinstance(event, AccountNotification))
            events += read
        return events

    def _read_object(self, item: object, received_at: float) -> list[Event]:
        if not isinstance(item, dict):
            return [Odd("not_object", show(item))]
        method = item.get("method")
        if method is None:
            return [_read_reply(item)]
        params = item.get("params")
        subscription = params.get("subscription") if isinstance(params, dict) else None
        read = self._readers.get(method) if isinstance(method, str) else None
        if read is None:
            return [Odd("unknown_method", show(method))]
        if not isinstance(params, dict) or type(subscription) is not int:
            return [Odd("bad_notification", f"{method} without a subscription")]
        return read(subscription, params.get("result"), received_at)

    def _read_account(self, subscription: int, result: object, received_at: float) -> list[Event]:
        match result:
            case {"context": {"slot": slot}, "value": {"pubkey": pubkey, "account": value}}:
                pass
            case _:
                return [Odd("bad_notification", "programNotification")]
        try:
            account, kinds = self._accounts.account(pubkey, value, slot, origin=Origin.LIVE, received_at=received_at)
        except OddAccountError as odd:
            return [Odd(odd.kind, odd.detail)]
        return [*map(Odd, kinds), AccountNotification(subscription, account)]


def _read_slot(subscription: int, result: object, received_at: float) -> list[Event]:
    del received_at
    fields = result if isinstance(result, dict) else {}
    slot, parent, root = fields.get("slot"), fields.get("parent"), fields.get("root")
    if type(slot) is not int or not 0 <= slot <= MAX_I64:
        return [Odd("bad_slot", show(slot))]
    parent, root = (number if type(number) is int else None for number in (parent, root))
    return [SlotNotification(subscription, slot, parent, root)]


def _read_watch(subscription: int, result: object, received_at: float) -> list[Event]:
    del received_at
    try:
        read = msgspec.convert(result, _WatchResult)
    except (ValueError, RecursionError):
        return [Odd("bad_notification", "accountNotification")]
    return [WatchNotification(subscription, read.context.slot, read.value)]


def _read_reply(item: dict[str, Any]) -> Event:
    request_id, error = item.get("id"), item.get("error")
    if error is None and "result" not in item:
        return Odd("unknown_frame", f"{len(item)} keys")
    if error is None:
        return Reply(request_id, item["result"]) if type(request_id) is int else Odd("unknown_reply", show(request_id))
    code, message = (error.get("code"), error.get("message")) if isinstance(error, dict) else (0, error)
    text = message[:200] if isinstance(message, str) else show(message)
    if type(request_id) is not int:
        return Odd("error_frame", f"{show(code)} {text}")
    return Reply(request_id, None, code if type(code) is int else 0, text)
