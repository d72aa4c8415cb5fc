"""
What one client is still to be sent.

A client that keeps up is written everything, in order, TURN_BYTES in a loop turn. When its transport is above high
water, or more waits than a client may have waiting, it is behind: then the backlog keeps the newest message of each
account (a replaced one moves to the end, so that ids leave in order), the newest notice of each topic, and every
answer. The backlog holds references to shared frames, so a stalled client costs its dictionary, not copies.
"""

from __future__ import annotations

from collections.abc import Callable

from account_socket.hub.compression import Compressor
from account_socket.hub.frames import Message

TURN_BYTES = 256 * 1024
"""The most that one client is written in one loop turn, so that no client delays the others."""


class Batch:
    """
    The bytes of the messages that several clients are written in one turn, joined once.

    One client's list is like the last one's wherever both are subscribed to the same accounts: then the second and
    all later ones share one buffer, which costs the kernel and the loop less than many.

    Args:
        compressor: of clients that take compressed frames; None for the others.
    """

    __slots__ = ("_joined", "_messages", "compressor")

    def __init__(self, compressor: Compressor | None = None) -> None:
        self.compressor = compressor
        self._messages: list[Message] = []
        self._joined = b""

    def join(self, messages: list[Message]) -> bytes:
        """Return the frames of `messages` as one, if the call before had the same ones; else nothing."""
        if messages != self._messages:  # by identity: messages have no equality of their own
            self._messages = messages[:]
            self._joined = b""
            return b""
        if not self._joined:
            self._joined = b"".join(self.frames(messages))
        return self._joined

    def frames(self, messages: list[Message]) -> list[bytes]:
        """Return the frames of `messages` in the form that these clients take."""
        if self.compressor is None:
            return [message.frame for message in messages]
        return [self.compressor.frame(message) for message in messages]


class Outbox:
    """
    Args:
        flush: tells the client's connection that something is pending; called once per loop turn.
        batch: shared by all clients that take frames in the same form.
        max_bytes: the most that may wait before the client is behind.

    Attributes:
        pending: what was published since the last flush, and what that left over; the hub appends to it directly.
        pubkeys: what this client is subscribed to, in the order of subscribing.
        conflated: how many messages were replaced by a newer one of the same key.
        sent: how many messages were taken.
        every: how many subscriptions of this client ask for every update: then nothing of any account is conflated.
        resuming: accounts of `pubkeys` of which what was missed is still told → what a numbered subscription, which
            they keep silent (hub/shapers.py), is to be told should they end before that.
        lost: such a client is so far behind that something was; it has to go, and resume.
    """

    __slots__ = (
        "__weakref__",
        "_backlog",
        "_batch",
        "_fences",
        "_forms",
        "_left_over",
        "_max_bytes",
        "_next_answer",
        "conflated",
        "every",
        "flush",
        "lost",
        "pending",
        "pubkeys",
        "resuming",
        "sent",
    )

    def __init__(self, flush: Callable[[], None], batch: Batch, max_bytes: int = 1 << 20) -> None:
        self.flush = flush
        self._batch = batch
        self.pending: list[Message] = []
        self.pubkeys: dict[str, None] = {}
        self.resuming: dict[str, list[Message]] = {}
        self.conflated = 0
        self.sent = 0
        self.every = 0
        self.lost = False
        self._max_bytes = max_bytes
        self._left_over = False
        self._backlog: dict[str | int, Message] = {}
        self._fences = 0
        self._forms: set[str] = set()
        self._next_answer = 0

    @property
    def client(self) -> Outbox:
        """Whose messages these are; as in `Shaper`."""
        return self

    @property
    def waiting(self) -> bool:
        """Whether the last flush could not write everything."""
        return self._left_over or bool(self._backlog)

    @property
    def backlog(self) -> int:
        """How many messages wait for a client that is behind."""
        return len(self._backlog)

    def take_at_once(self) -> bytes:
        """Return all that is pending as one buffer where that is cheap, else nothing; only of a client not behind."""
        pending = self.pending
        count = len(pending)
        if self._backlog or not count:
            return b""
        batch = self._batch
        if count == 1:
            compressor = batch.compressor
            data = pending[0].frame if compressor is None else compressor.frame(pending[0])
        else:
            data = batch.join(pending)
        if not data or (len(data) > TURN_BYTES and count > 1):
            return b""
        self._left_over = False
        pending.clear()
        self.sent += count
        return data

    def take(self, *, writable: bool) -> list[bytes]:
        """
        Return the frames to write now: all that is pending, or, after congestion, up to TURN_BYTES of the backlog.

        Args:
            writable: whether the transport is below its high-water mark; if not, nothing is returned.
        """
        self._left_over = False
        pending = self.pending
        if writable and not self._backlog:
            frames = self._batch.frames(pending)
            size = sum(map(len, frames))
            if size <= TURN_BYTES:
                pending.clear()
                self.sent += len(frames)
                return frames
            if size <= self._max_bytes:
                return self._take_first(frames)
        self._conflate()
        return self._drain() if writable else []

    def _take_first(self, frames: list[bytes]) -> list[bytes]:
        size = count = 0
        while size < TURN_BYTES:
            size += len(frames[count])
            count += 1
        del self.pending[:count]
        self._left_over = bool(self.pending)
        self.sent += count
        return frames[:count]

    def _conflate(self) -> None:
        backlog = self._backlog
        for message in self.pending:
            key = message.key
            if key is None:
                backlog[self._next_answer] = message
                self._next_answer += 1
                self._fences += 1
                continue
            if message.left:
                self._drop_forms(key)
            elif "/" in key:
                self._forms.add(key[key.index("/") :])
            if key in backlog:
                self.conflated += 1
                self.lost |= bool(self.every) and " " not in key  # topics of notices have two words
                message = message.whole or message  # noqa: PLW2901  (the difference is against what is lost here)
                if message.answers or not self._fences:
                    del backlog[key]
                # Where a fence waits, the newer state takes the older one's place: a state comes before its ack.
            else:
                self._fences += message.fence
            backlog[key] = message
        self.pending.clear()

    def _drop_forms(self, pubkey: str) -> None:
        # Behind a fence the account's next state would take the place of what waits here, before what tells it left.
        if self.every:  # nothing is lost yet
            return
        for form in self._forms:
            self.conflated += self._backlog.pop(pubkey + form, None) is not None

    def _drain(self) -> list[bytes]:
        frames: list[bytes] = []
        size = 0
        backlog = self._backlog
        while backlog and size < TURN_BYTES:
            message = backlog.pop(next(iter(backlog)))
            frames += self._batch.frames([message])
            size += len(frames[-1])
            self._fences -= message.fence or message.key is None
        if not backlog:
            self._forms.clear()
        self.sent += len(frames)
        return frames
