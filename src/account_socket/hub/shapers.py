"""
Where the states of one client's numbered subscriptions are put, to be told in their form.

A shaper stands in the client's place at the hub; what it is sent goes on to the client's outbox at once, in its form,
which is made once for all who take it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from heapq import heappop, heappush
from itertools import count, takewhile
from typing import Protocol

from account_socket.hub.frames import Message, id_of
from account_socket.hub.outbox import Outbox
from account_socket.hub.shapes import Form, Shape, Shapes

TICK_SECONDS = 0.01
"""How exact those times are; only while somebody waits."""

KEPT_BYTES = 256 * 1024
"""The most that is kept for a subscription that another one keeps silent, beyond the newest state of each account."""

Later = Callable[[float, Callable[[], None]], object]

Brings = Callable[[str, Message], bool]
"""Whether a subscription that goes on brought a state of an account as well."""


class Sends(Protocol):
    """What a shaper needs of the hub."""

    shapes: Shapes

    def put(self, outbox: Outbox, message: Message) -> None:
        """Send one client one message, behind everything it was sent before."""


class Shaper:
    """
    Tells states as they are.

    Attributes:
        client: whose messages these are.
        pubkeys: the accounts that come here by name.
    """

    __slots__ = ("_form", "_hub", "client", "pubkeys")

    def __init__(self, hub: Sends, client: Outbox, shape: Shape) -> None:
        self.client = client
        self.pubkeys: dict[str, None] = {}
        self._hub = hub
        self._form: Form = hub.shapes.form(shape)

    @property
    def pending(self) -> Shaper:
        """As an outbox's: the hub appends states to it, and finds it never empty."""
        return self

    def append(self, message: Message) -> None:
        """Put one state into the client's outbox, in this form."""
        if message.key not in self.client.pubkeys:  # what it is subscribed to without a number, it has so
            self._hub.put(self.client, message)
        elif (kept := self.client.resuming.get(message.key)) is not None:
            self._keep(kept, message)

    def _keep(self, kept: list[Message], message: Message) -> None:
        client = self.client
        if kept and sum(len(each.frame) for each in kept) + len(message.frame) > KEPT_BYTES // len(client.resuming):
            client.conflated += len(kept)
            client.lost |= bool(client.every)
            kept.clear()
        kept.append(message)

    def past(self, message: Message) -> Message:
        """Return an update from history in this form; nothing replaces it."""
        return Message(message.frame)

    def begin(self, pubkeys: Collection[str]) -> None:
        """Take that a subscription names these accounts: what it is told first of each stands alone."""

    def leave(self, pubkey: str) -> bool:
        """Let go of an account that left; return whether the client was told of it since it came."""
        if (kept := self.client.resuming.get(pubkey)) is not None:
            kept.clear()
        return True

    def stay(self, pubkey: str) -> None:
        """Take that the client was told in another form of an account, which left that one and is still told here."""

    def end(self, gone: Collection[str] | None, brings: Brings) -> None:
        """
        Let go of what a subscription that ended brought alone.

        Args:
            gone: the accounts that do not come here by name any more; None: it was by filter.
        """
        for pubkey in gone or ():
            kept = self.client.resuming.get(pubkey)
            if kept and not brings(pubkey, kept[-1]):
                kept.clear()

    def clear(self) -> None:
        """Let go of everything."""
        for kept in self.client.resuming.values():
            kept.clear()

    def flush(self) -> None:
        """Nothing ever waits here."""


class FieldsShaper(Shaper):
    """Tells some fields."""

    __slots__ = ()

    def append(self, message: Message) -> None:
        """As `Shaper`."""
        self._hub.put(self.client, self._hub.shapes.fields(message, self._form))

    def past(self, message: Message) -> Message:
        """As `Shaper`."""
        return Message(self._hub.shapes.fields(message, self._form).frame)

    def leave(self, pubkey: str) -> bool:  # noqa: ARG002  (nothing is kept of it)
        """As `Shaper`."""
        return True

    def end(self, gone: Collection[str] | None, brings: Brings) -> None:
        """As `Shaper`."""

    def clear(self) -> None:
        """As `Shaper`."""


class DiffShaper(Shaper):
    """Tells what changed since the state that was put into the client's outbox before."""

    __slots__ = ("_told",)

    def __init__(self, hub: Sends, client: Outbox, shape: Shape) -> None:
        super().__init__(hub, client, shape)
        self._told: dict[str, Message] = {}

    def append(self, message: Message) -> None:
        """As `Shaper`."""
        self._hub.put(self.client, self._next(message))

    def past(self, message: Message) -> Message:
        """As `Shaper`; the first one is whole."""
        return Message(self._next(message).frame)

    def _next(self, message: Message) -> Message:
        shapes, form, pubkey = self._hub.shapes, self._form, message.key or ""
        old = self._told.pop(pubkey, None)
        if not shapes.is_closed(message):
            self._told[pubkey] = message
        return shapes.whole(message, form) if old is None else shapes.diff(old, message, form)

    def begin(self, pubkeys: Collection[str]) -> None:
        """As `Shaper`."""
        for pubkey in pubkeys:
            self._told.pop(pubkey, None)

    def leave(self, pubkey: str) -> bool:
        """As `Shaper`; its next state is told whole."""
        self._told.pop(pubkey, None)
        return True

    def end(self, gone: Collection[str] | None, brings: Brings) -> None:  # noqa: ARG002  (see below)
        """As `Shaper`; of what the others bring the next state is told whole too, rather than looked up one by one."""
        if gone is None:
            self._told = {pubkey: self._told[pubkey] for pubkey in self.pubkeys if pubkey in self._told}
        self.begin(gone or ())

    def clear(self) -> None:
        """As `Shaper`."""
        self._told.clear()


class RatedShaper(Shaper):
    """Tells an account's newest state at most once in so long."""

    __slots__ = ("_gone", "_had", "_held", "_rates", "_seconds")

    def __init__(self, hub: Sends, client: Outbox, shape: Shape, rates: Rates) -> None:
        super().__init__(hub, client, shape)
        self._rates = rates
        self._seconds = shape.max_rate_ms / 1000
        self._held: dict[str, Message | None] = {}
        self._had: dict[str, int] = {}
        self._gone: set[str] = set()  # of those held: what left or closed, and was not told since

    def resume(self, after: Mapping[str, int]) -> None:
        """Take that the client has these accounts' states up to an id: their first one is told only above it."""
        self._had.update(after)

    def append(self, message: Message) -> None:
        """As `Shaper`, or keep it until the account's time has come; what answers a subscription goes at once."""
        pubkey = message.key or ""
        if self._had and (had := self._had.pop(pubkey, None)) is not None and (id_of(message.frame) or had + 1) <= had:
            return
        if pubkey in self._held and not message.answers:
            unseen = pubkey in self._gone and self._hub.shapes.is_closed(message)
            self._held[pubkey] = None if unseen else message
            return
        held = self._held.get(pubkey)
        self._held[pubkey] = held if held is not None and _is_newer(held, message) else None
        self._send(pubkey, message)

    def _send(self, pubkey: str, message: Message) -> None:
        self._hub.put(self.client, self._hub.shapes.whole(message, self._form))
        if self._hub.shapes.is_closed(message):
            self._gone.add(pubkey)
        else:
            self._gone.discard(pubkey)
        self._rates.start(self, pubkey, self._seconds)

    def release(self, pubkey: str) -> None:
        """Send what is held of an account, or let its next state go at once."""
        message = self._held.pop(pubkey, None)
        if message is not None:
            self._held[pubkey] = None
            self._send(pubkey, message)
        else:
            self._gone.discard(pubkey)

    def leave(self, pubkey: str) -> bool:
        """As `Shaper`; what is held of it is old."""
        if pubkey not in self._held:  # nothing of it was held back
            return True
        self._held[pubkey] = None
        was_told = pubkey not in self._gone
        self._gone.add(pubkey)
        return was_told

    def stay(self, pubkey: str) -> None:
        """As `Shaper`."""
        self._gone.discard(pubkey)

    def end(self, gone: Collection[str] | None, brings: Brings) -> None:
        """As `Shaper`."""
        for pubkey in gone or ():
            self._had.pop(pubkey, None)
        for pubkey in self._held if gone is None else gone:
            held = self._held.get(pubkey)
            if held is not None and not brings(pubkey, held):
                self._held[pubkey] = None

    def clear(self) -> None:
        """As `Shaper`."""
        self._held.clear()
        self._had.clear()
        self._gone.clear()
        self._rates.stop(self)


def _is_newer(held: Message, answer: Message) -> bool:
    """Whether a live update is newer than a state that answers a subscription."""
    live, told = id_of(held.frame), id_of(answer.frame)
    return live is not None and told is not None and live > told


class Rates:
    """
    One timer for all accounts of all clients that are told at most so often.

    Args:
        later: runs a callable in so many seconds (`loop.call_later`).
        clock: seconds, never going back.
    """

    def __init__(self, later: Later, clock: Callable[[], float]) -> None:
        self._later = later
        self._clock = clock
        self._due: dict[RatedShaper, dict[str, float]] = {}
        self._next: list[tuple[float, int, RatedShaper]] = []
        self._entries = count()
        self._running = False

    def start(self, shaper: RatedShaper, pubkey: str, seconds: float) -> None:
        """Have `shaper.release(pubkey)` called in so many seconds, counted from now; always so many of a shaper."""
        due = self._due.get(shaper)
        if due is None:
            due = self._due[shaper] = {}
        due.pop(pubkey, None)  # as all of a shaper wait equally long, they stand in the order of their times
        due[pubkey] = self._clock() + seconds
        if len(due) == 1:
            self._queue(shaper, due[pubkey])

    def _queue(self, shaper: RatedShaper, at: float) -> None:
        heappush(self._next, (at, next(self._entries), shaper))
        if not self._running:
            self._running = True
            self._later(TICK_SECONDS, self._tick)

    def stop(self, shaper: RatedShaper) -> None:
        """Forget a shaper."""
        self._due.pop(shaper, None)

    def _tick(self) -> None:
        now = self._clock()
        while self._next and self._next[0][0] <= now:
            _, _, shaper = heappop(self._next)
            due = self._due.pop(shaper, {})
            waiting = [pubkey for pubkey, _ in takewhile(lambda each: each[1] <= now, due.items())]
            for pubkey in waiting:
                del due[pubkey]
            if due:
                self._due[shaper] = due
                self._queue(shaper, next(iter(due.values())))
            for pubkey in waiting:
                shaper.release(pubkey)
        self._running = bool(self._next)
        if self._running:
            self._later(TICK_SECONDS, self._tick)
