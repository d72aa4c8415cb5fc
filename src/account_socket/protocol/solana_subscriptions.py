"""Who subscribed to what, and what they are told: PubSub's registry and its notifications. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from account_socket.protocol import solana_params as p
from account_socket.protocol.solana_encodings import Encoding, Parsed, encode_account
from account_socket.protocol.solana_jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RpcFault

if TYPE_CHECKING:
    from account_socket.model import RawAccount

SUBSCRIBE_METHODS = frozenset(f"{kind}Subscribe" for kind in ("account", "program", "slot", "root"))
UNSUBSCRIBE_METHODS = frozenset(f"{kind}Unsubscribe" for kind in ("account", "program", "slot", "root"))

ROOT_DISTANCE = 32
"""Slots from the tip back to the newest root, as on mainnet when all is well."""

Subscriber = TypeVar("Subscriber", bound=Hashable)


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
    commitment: str | None = None
    filters: tuple[p.Filter, ...] = ()
    data_slice: p.DataSlice | None = None


class Subscription(Generic[Subscriber]):
    """All who asked the same, under one number."""

    __slots__ = ("number", "params", "subscribers")

    def __init__(self, number: int, params: Params) -> None:
        self.number = number
        self.params = params
        self.subscribers: dict[Subscriber, None] = {}


Deliver = Callable[[Collection[Any], bytes, str], None]
"""Told subscribers, a notification for them (JSON), and its topic: subscription and account; a newer one of the same
topic makes it needless. Nobody joins or leaves before it returns."""


def refused_at_limit() -> RpcFault:
    """Return the fault of a subscription too many."""
    return RpcFault(INTERNAL_ERROR, "Internal Error: Subscription refused. Node subscription limit reached")


class Registry(Generic[Subscriber]):
    """
    All subscriptions. Each notification is encoded once for all who asked the same.

    Args:
        deliver: see `Deliver`.
        limit: of distinct subscriptions.
    """

    def __init__(self, deliver: Deliver, *, limit: int = 1_000_000) -> None:
        self._deliver = deliver
        self._limit = limit
        self._next_number = 0
        self._by_params: dict[Params, Subscription[Subscriber]] = {}
        self._by_number: dict[int, Subscription[Subscriber]] = {}
        self._by_target: dict[tuple[str, str], dict[int, Subscription[Subscriber]]] = {}
        self._of: dict[Subscriber, dict[int, Subscription[Subscriber]]] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def wants(self, kind: str, key: str = "") -> bool:
        """Return whether anybody subscribed to this account, program, or to slots."""
        return (kind, key) in self._by_target

    def numbers_of(self, subscriber: Subscriber) -> Collection[int]:
        """Return the numbers of what `subscriber` is subscribed to."""
        return self._of.get(subscriber, {})

    def holds(self, subscriber: Subscriber, params: Params) -> bool:
        """Return whether `subscriber` is subscribed to just this."""
        subscription = self._by_params.get(params)
        return subscription is not None and subscriber in subscription.subscribers

    def subscribe(self, subscriber: Subscriber, params: Params) -> int:
        """Return the subscription's number; the same for the same params. Raises RpcFault."""
        if (subscription := self._by_params.get(params)) is None:
            if len(self._by_number) >= self._limit:
                raise refused_at_limit()
            subscription = Subscription(self._next_number, params)
            self._next_number += 1
            self._by_params[params] = self._by_number[subscription.number] = subscription
            self._by_target.setdefault((params.kind, params.key), {})[subscription.number] = subscription
        subscription.subscribers[subscriber] = None
        self._of.setdefault(subscriber, {})[subscription.number] = subscription
        return subscription.number

    def unsubscribe(self, subscriber: Subscriber, params: list[Any]) -> Params:
        """End what the params of an unsubscribe method name; return what it was. Raises RpcFault."""
        p.expect(params, least=1, most=1)
        number = params[0]
        if type(number) is not int or number < 0:
            raise p.invalid_params("invalid type, expected u64")
        subscription = self._of.get(subscriber, {}).get(number)
        if subscription is None:
            raise RpcFault(INVALID_PARAMS, "Invalid subscription id.")
        self._remove(subscriber, subscription)
        return subscription.params

    def drop(self, subscriber: Subscriber) -> list[Params]:
        """Forget a subscriber that is gone; return what it was subscribed to."""
        subscriptions = list(self._of.get(subscriber, {}).values())
        for subscription in subscriptions:
            self._remove(subscriber, subscription)
        return [subscription.params for subscription in subscriptions]

    def _remove(self, subscriber: Subscriber, subscription: Subscription[Subscriber]) -> None:
        del subscription.subscribers[subscriber]
        del self._of[subscriber][subscription.number]
        if not self._of[subscriber]:
            del self._of[subscriber]
        if subscription.subscribers:
            return
        params = subscription.params
        del self._by_params[params], self._by_number[subscription.number]
        target = self._by_target[params.kind, params.key]
        del target[subscription.number]
        if not target:
            del self._by_target[params.kind, params.key]

    def notify_account(self, account: RawAccount, *, was_open: bool, parsed: Parsed | None = None) -> None:
        """
        Tell who asked for this account or for its program.

        As on Agave a closed account belongs to the system program, so that program subscribers hear nothing, and
        account subscribers hear of the close only if the account was open.

        Args:
            parsed: what jsonParsed shows; None: there is no parser for it.
        """
        if account.lamports:
            for subscription in self._targeted("program", account.owner):
                if all(each.matches(account.data) for each in subscription.params.filters):
                    self._send(subscription, _program_notification(account, subscription, parsed), account.pubkey)
        if account.lamports or was_open:
            for subscription in self._targeted("account", account.pubkey):
                self._send(subscription, _account_notification(account, subscription, parsed), account.pubkey)

    def notify_slot(self, *, slot: int, parent: int) -> None:
        """Announce a slot, and the root that follows from it."""
        root = max(0, slot - ROOT_DISTANCE)
        for subscription in self._targeted("slot", ""):
            notification = (
                b'{"jsonrpc":"2.0","method":"slotNotification","params":{"result":'
                b'{"parent":%d,"root":%d,"slot":%d},"subscription":%d}}' % (parent, root, slot, subscription.number)
            )
            self._send(subscription, notification, "")
        for subscription in self._targeted("root", ""):
            notification = (
                b'{"jsonrpc":"2.0","method":"rootNotification","params":{"result":%d,"subscription":%d}}'
                % (root, subscription.number)
            )
            self._send(subscription, notification, "")

    def _targeted(self, kind: str, key: str) -> Iterable[Subscription[Subscriber]]:
        return self._by_target.get((kind, key), {}).values()

    def _send(self, subscription: Subscription[Subscriber], notification: bytes, pubkey: str) -> None:
        self._deliver(subscription.subscribers, notification, f"{subscription.number} {pubkey}")


def parse_subscription(method: str, params: list[Any]) -> Params:
    """Return what a subscribe method with these params asks for; commitment as it was given. Raises RpcFault."""
    match method:
        case "accountSubscribe":
            p.expect(params, least=1, most=2)
            config = p.parse_config(params, 1)
            pubkey = p.parse_subscription_pubkey(params[0])
            encoding = config.encoding or Encoding.BINARY
            return Params("account", pubkey, encoding, config.commitment, data_slice=config.data_slice)
        case "programSubscribe":
            return _parse_program(params)
        case "slotSubscribe" | "rootSubscribe":
            if params:
                raise RpcFault(INVALID_PARAMS, "Invalid parameters: No parameters were expected")
            return Params(method.removesuffix("Subscribe"))
    raise RpcFault(METHOD_NOT_FOUND, "Method not found")


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
        config.commitment,
        filters,
        config.data_slice,
    )


def _program_notification(account: RawAccount, subscription: Subscription[Any], parsed: Parsed | None) -> bytes:
    return (
        b'{"jsonrpc":"2.0","method":"programNotification","params":{"result":{"context":{"slot":%d},'
        b'"value":{"pubkey":"%b","account":%b}},"subscription":%d}}'
    ) % (
        account.slot,
        account.pubkey.encode(),
        _encode(account, subscription.params, parsed),
        subscription.number,
    )


def _account_notification(account: RawAccount, subscription: Subscription[Any], parsed: Parsed | None) -> bytes:
    return (
        b'{"jsonrpc":"2.0","method":"accountNotification","params":{"result":{"context":{"slot":%d},'
        b'"value":%b},"subscription":%d}}'
    ) % (account.slot, _encode(account, subscription.params, parsed), subscription.number)


def _encode(account: RawAccount, params: Params, parsed: Parsed | None) -> bytes:
    data = params.data_slice.cut(account.data) if params.data_slice else None
    return encode_account(account, params.encoding, data, parsed)
