"""PubSub's methods on the local node, and how its connections are told."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

import msgspec

from account_socket.devnode.ledger import get_version
from account_socket.hub.frames import text_frame
from account_socket.protocol.solana_subscriptions import UNSUBSCRIBE_METHODS, Registry, parse_subscription


class Subscriber(Protocol):
    """A connection, as seen from here."""

    def send(self, frame: bytes) -> None:
        """Queue one complete WebSocket frame; never blocks, never raises."""

    def __hash__(self) -> int: ...


class Subscriptions(Registry[Subscriber]):
    """
    All subscriptions of the node.

    Attributes:
        on_program_subscribe: Called after each programSubscribe.
        notifications: How many notifications were queued to subscribers.
    """

    def __init__(self, *, limit: int = 1_000_000) -> None:
        super().__init__(self._queue, limit=limit)
        self.on_program_subscribe: Callable[[], None] = lambda: None
        self.notifications = 0

    def call(self, subscriber: Subscriber, method: str, params: list[Any]) -> bytes:
        """Return the result of a PubSub method, as JSON. Raises RpcFault."""
        if method in UNSUBSCRIBE_METHODS:
            self.unsubscribe(subscriber, params)
            return b"true"
        if method == "getVersion":
            return get_version()
        asked = parse_subscription(method, params)
        # Agave's PubSub takes a dataSlice, and ignores it.
        asked = msgspec.structs.replace(asked, commitment=asked.commitment or "finalized", data_slice=None)
        number = self.subscribe(subscriber, asked)
        if asked.kind == "program":
            self.on_program_subscribe()
        return b"%d" % number

    def _queue(self, subscribers: Collection[Subscriber], notification: bytes, _topic: str) -> None:
        self.notifications += len(subscribers)
        frame = text_frame(notification)
        for subscriber in subscribers:
            subscriber.send(frame)
