"""What comes live for a stream while it is still written what it missed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from account_socket.hub.frames import Message
from account_socket.server.sse_events import id_of


class Held:
    """
    Messages that wait; above `max_bytes` they are dropped, since history has what is committed.

    Attributes:
        dropped: account → the highest id that was dropped.
        overflowed: whether anything was dropped for its size since the last `drop`.
        uncommitted: whether anything was dropped that history may not have.
    """

    def __init__(self, max_bytes: int) -> None:
        self.dropped: dict[str, int] = {}
        self.overflowed = False
        self.uncommitted = False
        self._max_bytes = max_bytes
        self._messages: list[Message] = []
        self._bytes = 0

    def add(self, messages: Iterable[Message]) -> None:
        """Hold states behind those held already."""
        for message in messages:
            self._messages.append(message)
            self._bytes += len(message.frame)
        if self._bytes > self._max_bytes:
            self.drop()
            self.overflowed = True

    def drop(self) -> None:
        """Forget everything held, but for what the newest ids were."""
        for message in self._messages:
            id_ = id_of(message.frame)
            if id_ is None:
                self.uncommitted = True
            elif message.key is not None:
                self.dropped[message.key] = max(id_, self.dropped.get(message.key, 0))
        self._messages.clear()
        self._bytes = 0
        self.overflowed = False

    def behind(self, told: Mapping[str, int], after: int) -> list[Message]:
        """Return what is not told yet: `told` is the newest id by account, `after` that of all others."""
        return [
            message
            for message in self._messages
            if (id_ := id_of(message.frame)) is None or id_ > told.get(message.key or "", after)
        ]

    def is_told(self, told: Mapping[str, int], after: int) -> bool:
        """Whether of everything that was dropped, the newest was told."""
        return all(newest <= told.get(pubkey, after) for pubkey, newest in self.dropped.items())
