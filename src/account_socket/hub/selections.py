"""
What clients select by filter: who takes which selection, and which accounts are in it.

All clients with the same filter share a selection. Of each account it is known which selections it was in at its last
update, as far as a client was told of it: so whoever was told of it learns that it left or closed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from account_socket.hub.filters import Filter, Filtered, FilterIndex
from account_socket.hub.frames import Message
from account_socket.hub.outbox import Outbox
from account_socket.hub.shapers import Shaper
from account_socket.model import AccountUpdate

SWEEP_ABOVE = 1_000
"""So many selections that ended, and more than there are: then what is known of their accounts is looked through."""
SWEEP_AT_ONCE = 64


class Selection(Filtered):
    """
    Attributes:
        members: who is sent it, and how many subscriptions each has.
        paging: those that are still told what was there before.
        bare: those that are not told what was there before.
        silent: who is still told what it missed, and how many subscriptions each has that are no members yet.
        holding: those of them for which what comes is held.
        known: whether of every account it is known whether it is in this selection.
        number: by which selections are put in order.
    """

    __slots__ = ("bare", "filter", "holding", "known", "members", "number", "paging", "silent")

    def __init__(self, filter: Filter, number: int) -> None:
        self.filter = filter
        self.number = number
        self.members: dict[Shaper, int] = {}
        self.paging: dict[Shaper, list[Paging]] = {}
        self.bare: dict[Shaper, list[Paging]] = {}
        self.silent: dict[Shaper, int] = {}
        self.holding: dict[Paging, None] = {}
        self.known = False

    @property
    def taken(self) -> bool:
        """Whether anybody takes it."""
        return bool(self.members or self.silent)


@dataclass(eq=False, slots=True)
class Paging:
    """
    One subscription that is told, page by page, what was there before, while updates go on.

    Or one that is told what it missed: until `Selections.follow` it is sent nothing, and from `Selections.hold` on
    what comes is held.

    Attributes:
        sent: the accounts that an update told it of.
        resumes: it is told what it missed.
        told: account → the id up to which its client was told what it missed; pages do not tell that again.
        from_id: what came up to this id it is not told at all.
        after: up to which account the pages have come.
        ended: no more pages are to come.
        held: what is to be told behind what it missed; none of it where it was too much.
        room: how many bytes more may be held; negative: it was too much.
    """

    selection: Selection
    target: Shaper
    resumes: bool = False
    sent: set[str] = field(default_factory=set)
    told: dict[str, int] = field(default_factory=dict)
    after: str = ""
    ended: bool = False
    held: list[tuple[Shaper | Outbox, Message]] = field(default_factory=list)
    room: int = 0
    from_id: int = 0

    def hold(self, target: Shaper | Outbox, message: Message) -> None:
        """Keep a state until it can be told, if there is room."""
        self.room -= len(message.frame)
        if self.room < 0:
            self.held.clear()
        else:
            self.held.append((target, message))

    @property
    def follows(self) -> bool:
        """Whether it is told every update as it comes, and was told what was there before."""
        return not self.resumes and self not in self.selection.paging.get(self.target, ())


class PageRead:
    """A page that is read: `seen` are the accounts that had an update meanwhile."""

    def __init__(self) -> None:
        self.seen: set[str] = set()


@dataclass(slots=True)
class Concern:
    """
    Whom an update concerns.

    Attributes:
        told: who is sent it.
        left: who was sent the account before, and is told that it is not selected any more.
        held: for whom it is held, and whether the account left.
        later: who will be told it, as it is still told what it missed.
    """

    told: Collection[Shaper]
    left: Collection[Shaper]
    held: Collection[tuple[Paging, bool]] = ()
    later: Collection[Shaper] = ()


class Selections:
    """
    Attributes:
        active: whether any update has to be looked at.
    """

    def __init__(self) -> None:
        self.active = False
        self._by_filter: dict[Filter, Selection] = {}
        self._index: FilterIndex[Selection] = FilterIndex()
        self._last_number = 0
        self._in: dict[str, tuple[Selection, ...]] = {}
        self._tuples: dict[tuple[Selection, ...], tuple[Selection, ...]] = {}
        self._reads: list[PageRead] = []
        self._ended = 0
        self._sweep: list[str] = []
        self._holding = 0

    def __len__(self) -> int:
        return len(self._by_filter)

    # ---- taking ----------------------------------------------------------------------------------------------

    def join(
        self, filter: Filter, target: Shaper, *, from_id: int = 0, pages: bool = False, resumes: bool = False
    ) -> Paging:
        """
        Have `target` sent every update that fits.

        Args:
            from_id: the newest id that was published.
            pages: until `settle` it is told what was there.
            resumes: nothing is sent until `follow`, or `begin_anew`.
        """
        selection = self._by_filter.get(filter)
        if selection is None:
            self._last_number += 1
            selection = self._by_filter[filter] = Selection(filter, self._last_number)
            self._index.add(selection)
            self.active = True
        paging = Paging(selection, target, resumes)
        if resumes:
            _count(selection.silent, target, 1)
        else:
            _add(paging, from_id, pages=pages)
        return paging

    def hold(self, paging: Paging, max_bytes: int) -> None:
        """Have what comes for a subscription that resumes held from now on, instead of what was held before."""
        if paging not in paging.selection.holding:
            paging.selection.holding[paging] = None
            self._holding += 1
        paging.held, paging.room = [], max_bytes

    def follow(self, paging: Paging) -> None:
        """Have a subscription that was told what it missed sent what comes from now on."""
        if paging.resumes:
            self._end_silence(paging)
            _count(paging.selection.members, paging.target, 1)

    def begin_anew(self, paging: Paging, *, from_id: int, pages: bool) -> None:
        """The same for one that was not; `from_id` and `pages` as in `join`."""
        if paging.resumes:
            self._end_silence(paging)
            _add(paging, from_id, pages=pages)

    def _end_silence(self, paging: Paging) -> None:
        paging.resumes = False
        _count(paging.selection.silent, paging.target, -1)
        paging.held = []
        if paging in paging.selection.holding:
            del paging.selection.holding[paging]
            self._holding -= 1

    def settle(self, paging: Paging) -> None:
        """Note that a subscription was told all that was there before; without effect the second time."""
        if _remove(paging.selection.paging, paging):
            paging.ended = True
            paging.sent.clear()

    def leave(self, paging: Paging) -> None:
        """End a subscription that joined."""
        self.settle(paging)
        paging.ended = True
        _remove(paging.selection.bare, paging)
        selection = paging.selection
        if paging.resumes:
            self._end_silence(paging)
        else:
            _count(selection.members, paging.target, -1)
        if selection.taken:
            return
        del self._by_filter[selection.filter]
        self._index.discard(selection)
        self._ended += 1
        if not self._by_filter:
            self._in.clear()
            self._tuples.clear()
            self._sweep.clear()
            self._ended = 0
            self.active = bool(self._reads)
        elif self._ended > SWEEP_ABOVE + len(self._by_filter) and not self._sweep:
            self._sweep = list(self._in)
            self._ended = 0

    # ---- pages -----------------------------------------------------------------------------------------------

    def begin_read(self) -> PageRead:
        """Note from now on which accounts have an update."""
        read = PageRead()
        self._reads.append(read)
        self.active = True
        return read

    def end_read(self, read: PageRead) -> None:
        """End what `begin_read` began."""
        self._reads.remove(read)
        self.active = bool(self._by_filter or self._reads)

    def fitting(self, account_type: str, program: str, data_json: bytes) -> list[Selection]:
        """Return the selections that an open account with these decoded fields is in."""
        return self._index.find(account_type, program, data_json)

    def selects(self, selection: Selection, pubkey: str) -> bool:
        """Whether an account is known to be in a selection."""
        return selection in self._in.get(pubkey, ())

    def tell(self, paging: Paging, pubkey: str) -> None:
        """Note that a page tells of an account that is selected."""
        before = self._in.get(pubkey, ())
        if paging.selection not in before:
            self._keep(pubkey, tuple(sorted((*before, paging.selection), key=lambda selection: selection.number)))

    # ---- updates ---------------------------------------------------------------------------------------------

    def concern(self, update: AccountUpdate) -> Concern | None:
        """Return whom an update concerns, if anybody, and note what its account is in from now on."""
        pubkey = update.pubkey
        for read in self._reads:
            read.seen.add(pubkey)
        if self._sweep:
            self._sweep_some()
        before = self._in.get(pubkey, ())
        after = () if update.closed else self._find(update)
        if not before and not after:
            return None
        told = _members(after)
        held: Collection[tuple[Paging, bool]] = ()
        if self._holding:
            held = _to_hold(before, after, told, closed=update.closed)
        gone = _gone(update, before, after, told) if before and before != after else ()
        for selection in after:
            for paging in (each for several in selection.paging.values() for each in several):
                paging.sent.add(pubkey)
        if before != after:
            self._keep(pubkey, after)
        if update.closed:
            return Concern(gone, (), held)
        later = [target for selection in after for target in selection.silent] if gone or held else ()
        return Concern(told, gone, held, later)

    def _find(self, update: AccountUpdate) -> tuple[Selection, ...]:
        found = self._index.find(update.account_type, update.owner, update.data_json)
        return tuple(found) if len(found) < 2 else tuple(sorted(found, key=lambda selection: selection.number))

    def _keep(self, pubkey: str, selections: tuple[Selection, ...]) -> None:
        if not selections:
            self._in.pop(pubkey, None)
            return
        if len(self._tuples) > 2 * len(self._by_filter) + SWEEP_ABOVE:
            self._tuples.clear()
        self._in[pubkey] = self._tuples.setdefault(selections, selections)

    def _sweep_some(self) -> None:
        for _ in range(min(SWEEP_AT_ONCE, len(self._sweep))):
            pubkey = self._sweep.pop()
            kept = self._in.get(pubkey, ())
            alive = tuple(selection for selection in kept if selection.taken)
            if len(alive) != len(kept):
                self._keep(pubkey, alive)


def _members(selections: Sequence[Selection]) -> Collection[Shaper]:
    if len(selections) == 1:
        return selections[0].members
    return dict.fromkeys(target for selection in selections for target in selection.members)


def _add(paging: Paging, from_id: int, *, pages: bool) -> None:
    selection, target = paging.selection, paging.target
    _count(selection.members, target, 1)
    if not pages:
        paging.from_id = from_id
    (selection.paging if pages else selection.bare).setdefault(target, []).append(paging)


def _remove(kept: dict[Shaper, list[Paging]], paging: Paging) -> bool:
    """Take a subscription out of those kept by target; return whether it was there."""
    several = kept.get(paging.target, [])
    if paging not in several:
        return False
    several.remove(paging)
    if not several:
        del kept[paging.target]
    return True


def _count(counts: dict[Shaper, int], target: Shaper, more: int) -> None:
    counts[target] = counts.get(target, 0) + more
    if not counts[target]:
        del counts[target]


def _gone(
    update: AccountUpdate, before: Iterable[Selection], after: Iterable[Selection], told: Collection[Shaper]
) -> Collection[Shaper]:
    """Return who was told of an account in one of the selections it is no more in, and is not told of it now."""
    still = set(after)
    return dict.fromkeys(
        target
        for selection in before
        if selection not in still
        for target, count in selection.members.items()
        if target not in told and _was_told(selection, target, count, update)
    )


def _was_told(selection: Selection, target: Shaper, count: int, update: AccountUpdate) -> bool:
    """Return whether a member was told of an account by its update before this one, when it was selected."""
    paging, bare = selection.paging.get(target, ()), selection.bare.get(target, ())
    return (
        count > len(paging) + len(bare)
        or any(
            update.pubkey in each.sent or update.pubkey in each.told or update.pubkey <= each.after for each in paging
        )
        or any((update.prev_id or 0) > each.from_id for each in bare)
    )


def _to_hold(
    before: Iterable[Selection], after: Collection[Selection], told: Collection[Shaper], *, closed: bool
) -> list[tuple[Paging, bool]]:
    """Return who is told of an update later, and whether its account left; not those who are told now."""
    held = {paging: False for selection in after for paging in selection.holding}
    for selection in before:
        if selection not in after:
            for paging in selection.holding:
                held[paging] = not closed
    return [(paging, left) for paging, left in held.items() if paging.target not in told]
