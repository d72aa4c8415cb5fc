"""Who subscribed to what, and what they are told: PubSub's registry and its notifications."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from account_socket.devnode import params as p
from account_socket.devnode.encodings import Encoding, encode_account
from account_socket.devnode.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RpcFault
from account_socket.devnode.ledger import get_version

if TYPE_CHECKING:
    from account_socket.model import RawAccount

ROOT_DISTANCE = 32
"""Slots from the tip back to the newest root, as on mainnet when all is well."""

_MAX_SHORT, _MAX_MEDIUM = 125, 65_535
_FINAL_TEXT = 0x81


class Subscriber(Protocol):
    """A connection, as seen from here."""

    def send(self, frame: bytes) -> None:
        """Queue one complete WebSocket frame; never blocks, never raises."""


class Params(msgspec.Struct, frozen=True):
    """
    What makes two subscriptions the same: equal params share one id on the whole node.

    Attributes:
        kind: account, program, slot or root.
        key: The account or program, or "".
    """

    kind: str
    key: str = ""
    encoding: Encoding = Encoding.BINARY
    commitment: str = "finalized"
    filters: tuple[p.Filter, ...] = ()


class _Subscription:
    def __init__(self, number: int, params: Params) -> None:
        self.number = number
        self.params = params
        self.subscribers: dict[Subscriber, None] = {}

    def send(self, notification: bytes) -> None:
        frame = text_frame(notification)
        for subscriber in self.subscribers:
            subscriber.send(frame)


class Subscriptions:
    """
    All subscriptions of the node. Each notification is encoded once for all who asked the same.

    Attributes:
        on_program_subscribe: Called after each programSubscribe.
        notifications: How many notifications were queued to subscribers.
    """

    def __init__(self, *, limit: int = 1_000_000) -> None:
        self._limit = limit
        self._next_number = 0
        self._by_params: dict[Params, _Subscription] = {}
        self._by_number: dict[int, _Subscription] = {}
        self._by_target: dict[tuple[str, str], list[_Subscription]] = {}
        self.on_program_subscribe: Callable[[], None] = lambda: None
        self.notifications = 0

    def __len__(self) -> int:
        return len(self._by_number)

    def call(self, subscriber: Subscriber, method: str, params: list[Any]) -> bytes:
        """Return the result of a PubSub method, as JSON. Raises RpcFault."""
        match method:
            case "accountSubscribe" | "programSubscribe":
                parse = _parse_account if method == "accountSubscribe" else _parse_program
                number = self._subscribe(subscriber, parse(params))
                if method == "programSubscribe":
                    self.on_program_subscribe()
                return b"%d" % number
            case "slotSubscribe" | "rootSubscribe":
                if params:
                    raise RpcFault(INVALID_PARAMS, "Invalid parameters: No parameters were expected")
                return b"%d" % self._subscribe(subscriber, Params(method.removesuffix("Subscribe")))
            case "accountUnsubscribe" | "programUnsubscribe" | "slotUnsubscribe" | "rootUnsubscribe":
                self._unsubscribe(subscriber, params)
                return b"true"
            case "getVersion":
                return get_version()
        raise RpcFault(METHOD_NOT_FOUND, "Method not found")

    def drop(self, subscriber: Subscriber) -> None:
        """Forget a subscriber that is gone."""
        for subscription in [each for each in self._by_number.values() if subscriber in each.subscribers]:
            self._remove(subscriber, subscription)

    def notify_account(self, account: RawAccount, *, was_open: bool) -> None:
        """
        Tell who asked for this account or for its program.

        As on Agave a closed account belongs to the system program, so that program subscribers hear nothing, and
        account subscribers hear of the close only if the account was open.
        """
        if account.lamports:
            for subscription in self._by_target.get(("program", account.owner), ()):
                if all(each.matches(account.data) for each in subscription.params.filters):
                    self._send(subscription, program_notification(account, subscription))
        if account.lamports or was_open:
            for subscription in self._by_target.get(("account", account.pubkey), ()):
                self._send(subscription, account_notification(account, subscription))

    def notify_slot(self, *, slot: int, parent: int) -> None:
        """Announce a slot."""
        root = max(0, slot - ROOT_DISTANCE)
        for subscription in self._by_target.get(("slot", ""), ()):
            self._send(
                subscription,
                b'{"jsonrpc":"2.0","method":"slotNotification","params":{"result":'
                b'{"parent":%d,"root":%d,"slot":%d},"subscription":%d}}' % (parent, root, slot, subscription.number),
            )
        for subscription in self._by_target.get(("root", ""), ()):
            self._send(
                subscription,
                b'{"jsonrpc":"2.0","method":"rootNotification","params":{"result":%d,"subscription":%d}}'
                % (root, subscription.number),
            )

    def _send(self, subscription: _Subscription, notification: bytes) -> None:
        self.notifications += len(subscription.subscribers)
        subscription.send(notification)

    def _subscribe(self, subscriber: Subscriber, params: Params) -> int:
        if (subscription := self._by_params.get(params)) is None:
            if len(self._by_number) >= self._limit:
                raise RpcFault(INTERNAL_ERROR, "Internal Error: Subscription refused. Node subscription limit reached")
            subscription = _Subscription(self._next_number, params)
            self._next_number += 1
            self._by_params[params] = self._by_number[subscription.number] = subscription
            self._by_target.setdefault((params.kind, params.key), []).append(subscription)
        subscription.subscribers[subscriber] = None
        return subscription.number

    def _unsubscribe(self, subscriber: Subscriber, params: list[Any]) -> None:
        p.expect(params, least=1, most=1)
        number = params[0]
        if type(number) is not int or number < 0:
            raise p.invalid_params("invalid type, expected u64")
        subscription = self._by_number.get(number)
        if subscription is None or subscriber not in subscription.subscribers:
            raise RpcFault(INVALID_PARAMS, "Invalid subscription id.")
        self._remove(subscriber, subscription)

    def _remove(self, subscriber: Subscriber, subscription: _Subscription) -> None:
        del subscription.subscribers[subscriber]
        if subscription.subscribers:
            return
        params = subscription.params
        del self._by_params[params], self._by_number[subscription.number]
        self._by_target[params.kind, params.key].remove(subscription)
        if not self._by_target[params.kind, params.key]:
            del self._by_target[params.kind, params.key]


def _parse_account(params: list[Any]) -> Params:
    p.expect(params, least=1, most=2)
    config = p.parse_config(params, 1)
    return Params(
        "account",
        p.parse_subscription_pubkey(params[0]),
        config.encoding or Encoding.BINARY,
        config.commitment or "finalized",
    )


def _parse_program(params: list[Any]) -> Params:
    p.expect(params, least=1, most=2)
    config = p.parse_config(params, 1)
    try:
        filters = p.parse_filters(config.filters)
    except RpcFault as fault:
        # PubSub passes the fault's own text on, with the name of its code in front.
        if fault.message.startswith("Invalid params"):
            raise
        raise RpcFault(fault.code, f"Invalid params: {fault.message}") from fault
    return Params(
        "program",
        p.parse_subscription_pubkey(params[0]),
        config.encoding or Encoding.BINARY,
        config.commitment or "finalized",
        filters,
    )


def program_notification(account: RawAccount, subscription: _Subscription) -> bytes:
    """Return a programNotification, as JSON."""
    return (
        b'{"jsonrpc":"2.0","method":"programNotification","params":{"result":{"context":{"slot":%d},'
        b'"value":{"pubkey":"%b","account":%b}},"subscription":%d}}'
    ) % (
        account.slot,
        account.pubkey.encode(),
        encode_account(account, subscription.params.encoding),
        subscription.number,
    )


def account_notification(account: RawAccount, subscription: _Subscription) -> bytes:
    """Return an accountNotification, as JSON."""
    return (
        b'{"jsonrpc":"2.0","method":"accountNotification","params":{"result":{"context":{"slot":%d},'
        b'"value":%b},"subscription":%d}}'
    ) % (account.slot, encode_account(account, subscription.params.encoding), subscription.number)


def text_frame(payload: bytes) -> bytes:
    """Return `payload` as one unmasked WebSocket text frame (RFC 6455, 5.2)."""
    size = len(payload)
    if size <= _MAX_SHORT:
        return struct.pack("!BB", _FINAL_TEXT, size) + payload
    if size <= _MAX_MEDIUM:
        return struct.pack("!BBH", _FINAL_TEXT, 126, size) + payload
    return struct.pack("!BBQ", _FINAL_TEXT, 127, size) + payload
