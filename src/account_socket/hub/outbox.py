"""
What one client is still to be sent.

A client that keeps up is written everything at the end of each loop turn. When its transport is above high water,
or more waits than one turn may write, the rest goes to the backlog: the newest message per account (a replaced one
moves to the end, so that ids leave in order) and every answer. The backlog holds references to shared frames, so
a stalled client costs its dictionary, not copies.
"""

from __future__ import annotations

from collections.abc import Callable

from account_socket.hub.frames import Message

TURN_BYTES = 256 * 1024
"""The most that one client is written in one loop turn, so that no client delays the others."""


class Outbox:
    """
    Attributes:
        pending: what was published since the last flush; the hub appends to it directly.
        pubkeys: what this client is subscribed to, in the order of subscribing.
        flush: tells the client's connection that something is pending; called once per loop turn.
        conflated: how many messages were replaced by a newer one of the same account.
        sent: how many messages were taken.
    """

    __slots__ = (
        "__weakref__",
        "_backlog",
        "_next_answer",
        "conflated",
        "flush",
        "pending",
        "pubkeys",
        "sent",
    )

    def __init__(self, flush: Callable[[], None]) -> None:
        self.flush = flush
        self.pending: list[Message] = []
        self.pubkeys: dict[str, None] = {}
        self.conflated = 0
        self.sent = 0
        self._backlog: dict[str | int, Message] = {}
        self._next_answer = 0

    @property
    def backlog(self) -> int:
        """How many messages wait for the transport to fall below low water."""
        return len(self._backlog)

    def take(self, *, writable: bool) -> list[bytes]:
        """
        Return the frames to write now: all that is pending, or, after congestion, up to TURN_BYTES of the backlog.

        Args:
            writable: whether the transport is below its high-water mark; if not, nothing is returned.
        """
        pending = self.pending
        if writable and not self._backlog:
            frames = [message.frame for message in pending]
            if sum(map(len, frames)) <= TURN_BYTES:
                pending.clear()
                self.sent += len(frames)
                return frames
        self._conflate()
        return self._drain() if writable else []

    def _conflate(self) -> None:
        backlog = self._backlog
        for message in self.pending:
            key: str | int
            if message.pubkey is None:
                key = self._next_answer
                self._next_answer += 1
            else:
                key = message.pubkey
                if backlog.pop(key, None) is not None:
                    self.conflated += 1
            backlog[key] = message
        self.pending.clear()

    def _drain(self) -> list[bytes]:
        frames: list[bytes] = []
        size = 0
        backlog = self._backlog
        while backlog and size < TURN_BYTES:
            message = backlog.pop(next(iter(backlog)))
            frames.append(message.frame)
            size += len(message.frame)
        self.sent += len(frames)
        return frames
