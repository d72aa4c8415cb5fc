"""What comes live of accounts of which a client is still told what it missed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from account_socket.hub.frames import Message, id_of


class Held:
    """
    Messages that wait; above `max_bytes` they are dropped, since history has what is committed.

    Attributes:
        dropped: account → the highest id that was dropped.
        overflowed: whether anything was dropped for its size since the last `drop`.
        uncommitted: accounts of which something was dropped that history may not have.
    """

    def __init__(self, max_bytes: int) -> None:
        self.dropped: dict[str, int] = {}
        self.overflowed = False
        self.uncommitted: set[str] = set()
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
            if message.key is None:
                continue
            id_ = id_of(message.frame)
            if id_ is None:
                self.uncommitted.add(message.key)
            else:
                self.dropped[message.key] = max(id_, self.dropped.get(message.key, 0))
        self._messages.clear()
        self._bytes = 0
        self.overflowed = False

    def untold(self, reached: Mapping[str, int]) -> dict[str, int]:
        """Return account → the newest id dropped, where that is above what was reached; others are left out."""
        return {pubkey: newest for pubkey, newest in self.dropped.items() if newest > reached.get(pubkey, newest)}

    def behind(self, reached: Mapping[str, int]) -> list[Message]:
        """Return what is held of the accounts in `reached`, above the id there or without one."""
        return [
            message
            for message in self._messages
            if message.key is not None
            and message.key in reached
            and ((id_ := id_of(message.frame)) is None or id_ > reached[message.key])
        ]
