"""
Which account states are news, and the id each of them gets.

Order is (slot, write_version) per account, and one source per slot:

- Older than what was admitted: dropped. The same content again in the same slot: a repeat, dropped.
- The first source that delivers an account in a slot owns it for that slot, unless that source is lost.
- `write_version` compares only inside one slot of one source; where a source has none (0), arrival order counts.
- A re-read carries the state *at* its context slot: unchanged content raises the mark and is not published.
- Unchanged content that was pushed in a later slot is published: the account was written. Not so if it is closed.
- A state that a dead fork gives back is admitted although it is older, if the dead slot's state is the newest.
- What another source told in a slot that it does not own is remembered: it counts when the owner is lost.
- A source without `write_version` tells what a slot ended with: another's numbered write of that slot is not newer.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

import msgspec

from account_socket.model import Mark, Origin, RawAccount

MAX_MARKS = 500_000
"""Accounts whose newest place is in memory, 330 bytes each; others are read from the store when they come again."""

MAX_ABSENT = 100_000

MAX_CONTESTED = 10_000
"""Accounts of which it is remembered that sources told different states in one slot."""


class Place(msgspec.Struct, frozen=True, gc=False):
    """
    The place of one admitted state in the order of all updates.

    Attributes:
        id, prev_id, content_hash: as in `AccountUpdate`.
        account_type: the type the account had before, or None where it was not known.
    """

    id: int
    prev_id: int | None
    content_hash: bytes
    account_type: str | None


class Ordering:
    """
    Args:
        programs: the program ids that we decode; an account of another owner is closed to us, or foreign.
        next_id: the first id to give.
        stored: whether a store remembers accounts: what is not in memory must be looked for there (`unread`).

    Attributes:
        dropped: how many states were no news, by reason.
        duplicates: how many of these a source pushed after another, or twice, by source.
    """

    def __init__(
        self, programs: Collection[str], next_id: int, *, stored: bool = False, max_marks: int = MAX_MARKS
    ) -> None:
        self._programs = frozenset(programs)
        self._stored = stored
        self._max_marks = max_marks
        self._marks: dict[str, Mark] = {}
        self._absent: set[str] = set()
        self._lost: set[str] = set()
        self._newest: dict[str, int] = {}
        self._disowned_to: dict[str, int] = {}
        self._contested: OrderedDict[str, None] = OrderedDict()
        self._unsettled: set[str] = set()
        self.next_id = next_id
        self.dropped: Counter[str] = Counter()
        self.duplicates: Counter[str] = Counter()

    def unread(self, pubkeys: Iterable[str]) -> list[str]:
        """Return the accounts that only the store can tell of; `load` them before anything else is asked of them."""
        if not self._stored:
            return []
        marks, absent = self._marks, self._absent
        return list({pubkey: None for pubkey in pubkeys if pubkey not in marks and pubkey not in absent})

    def load(self, pubkeys: Iterable[str], marks: Mapping[str, Mark]) -> None:
        """Take over what the store remembers of `pubkeys`: nothing, where `marks` has none."""
        if len(self._absent) > MAX_ABSENT:
            self._absent.clear()
        for pubkey in pubkeys:
            if pubkey not in marks:
                self._absent.add(pubkey)
            elif pubkey not in self._marks:  # else it was admitted while the store was read
                self._marks[pubkey] = marks[pubkey]

    def trim(self, committed_id: int) -> None:
        """Forget the accounts longest unchanged beyond the bound, as far as the store has them."""
        excess = len(self._marks) - self._max_marks
        if excess <= 0:
            return
        oldest = [pubkey for pubkey, mark in islice(self._marks.items(), 2 * excess) if mark.id <= committed_id]
        for pubkey in oldest[:excess]:
            del self._marks[pubkey]
            self._contested.pop(pubkey, None)
        self._stored = True

    @property
    def knows_any(self) -> bool:
        """Whether any account was ever admitted, in this run or an earlier one."""
        return self._stored or bool(self._marks)

    def __len__(self) -> int:
        """Return how many accounts are in memory."""
        return len(self._marks)

    def mark(self, pubkey: str) -> Mark | None:
        """Return what is remembered of `pubkey`, or None when it was never admitted."""
        return self._marks.get(pubkey)

    def newest_id(self, pubkey: str) -> int | None:
        """Return the id of the last update of `pubkey`, or None when it was never admitted."""
        mark = self._marks.get(pubkey)
        return None if mark is None else mark.id

    def typed(self, pubkey: str, account_type: str) -> None:
        """Keep the decoded type of an account that was just admitted; a closed account keeps its last one."""
        self._marks[pubkey] = msgspec.structs.replace(self._marks[pubkey], account_type=account_type)

    def forget_content(self, pubkey: str) -> None:
        """Make the next re-read of `pubkey` news, whatever it says."""
        mark = self._marks.get(pubkey)
        if mark is not None:
            self._marks[pubkey] = msgspec.structs.replace(mark, content_hash=b"")

    def lose(self, source: str) -> list[str]:
        """
        Take from a source that broke off the slots that it owns, for good: of the last one it may miss the end.

        Returns:
            The accounts of which others told something else in such a slot: only the node knows which is newer.
        """
        self._lost.add(source)
        self._disowned_to[source] = self._newest.get(source, -1)
        contested = [pubkey for pubkey in self._contested if self._marks[pubkey].source == source]
        for pubkey in contested:
            del self._contested[pubkey]
        return contested

    def regain(self, source: str) -> None:
        """Let a source own slots again, later ones."""
        self._lost.discard(source)

    def unsettled(self) -> list[str]:
        """Return, once, the accounts of which a state was dropped that might be newer: only the node knows."""
        unsettled, self._unsettled = self._unsettled, set()
        return list(unsettled)

    def disagrees(self, raw: RawAccount) -> bool:
        """Whether this state is another than the newest one of its account."""
        mark = self._marks.get(raw.pubkey)
        return mark is not None and raw.content_hash() != mark.content_hash

    def is_closed(self, raw: RawAccount) -> bool:
        """Whether this state means that the program has no such account (any more)."""
        return raw.lamports == 0 or raw.owner not in self._programs

    def admit(self, batch: Iterable[RawAccount]) -> Iterator[tuple[RawAccount, Place]]:
        """Yield what is news of `batch`, each with its place."""
        for arrived in batch:
            raw = arrived
            if raw.data and self.is_closed(raw):
                # Another program's data is not ours to tell, and its changes are no news.
                raw = msgspec.structs.replace(raw, data=b"")
            place = self._place(raw) if raw.retracts is None else self._place_restored(raw, raw.retracts)
            if place is not None:
                yield raw, place

    def _place(self, raw: RawAccount) -> Place | None:
        mark = self._marks.get(raw.pubkey)
        if mark is None and self.is_closed(raw):
            return self._drop("never_known", raw)
        if mark is not None and raw.slot < mark.slot:
            return self._drop("older", raw)
        content_hash = raw.content_hash()
        if mark is not None:
            reason = self._same_slot(raw, mark, content_hash) if raw.slot == mark.slot else ""
            if reason:
                return self._drop(reason, raw)
            if content_hash == mark.content_hash and (raw.origin is Origin.REREAD or mark.closed):
                self._marks[raw.pubkey] = msgspec.structs.replace(mark, slot=raw.slot, write_version=0, source="")
                return self._drop("unchanged", raw)
        return self._admitted(raw, mark, content_hash)

    def _place_restored(self, raw: RawAccount, dead_slot: int) -> Place | None:
        mark = self._marks.get(raw.pubkey)
        if mark is None or mark.slot != dead_slot:
            return self._drop("not_retracted", raw)  # a newer state has come already, from a living slot
        content_hash = raw.content_hash()
        if content_hash == mark.content_hash and raw.slot >= mark.slot:
            return self._drop("unchanged", raw)
        # An older slot is told although its content is the same: the dead slot would hide what its siblings write.
        return self._admitted(raw, mark, content_hash)

    def _admitted(self, raw: RawAccount, mark: Mark | None, content_hash: bytes) -> Place:
        if mark is None:
            self._absent.discard(raw.pubkey)
        place = Place(self.next_id, mark.id if mark else None, content_hash, mark.account_type if mark else None)
        self.next_id += 1
        source = raw.source if raw.origin is Origin.LIVE else ""
        if raw.slot > self._newest.get(source, -1):
            self._newest[source] = raw.slot
        account_type = mark.account_type if mark else ""
        self._marks.pop(raw.pubkey, None)  # to the end: `trim` takes from the front
        self._marks[raw.pubkey] = Mark(
            place.id, raw.slot, raw.write_version, content_hash, account_type, source, self.is_closed(raw)
        )
        return place

    def _same_slot(self, raw: RawAccount, mark: Mark, content_hash: bytes) -> str:
        """Return why a state of the slot last admitted is not news, or ""."""
        same = content_hash == mark.content_hash
        if raw.origin is Origin.REREAD or not mark.source:
            return _beside_whole(raw, mark, same=same)
        if raw.source != mark.source:
            # write_version does not compare between sources.
            if same or self._owns(mark.source, mark.slot):
                return "repeat" if same else "not_owner"
            return "ended" if raw.write_version and not mark.write_version else ""
        if raw.write_version < mark.write_version:
            return "older"
        if same and raw.write_version == mark.write_version:
            return "repeat"
        return ""

    def _owns(self, source: str, slot: int) -> bool:
        return source not in self._lost and slot > self._disowned_to.get(source, -1)

    def _drop(self, reason: str, raw: RawAccount) -> Place | None:
        self.dropped[reason] += 1
        if raw.origin is Origin.LIVE:
            self.duplicates[raw.source] += 1
            if reason == "ended" and len(self._unsettled) < MAX_CONTESTED:
                self._unsettled.add(raw.pubkey)
            if reason == "not_owner":
                self._contested[raw.pubkey] = None
                if len(self._contested) > MAX_CONTESTED:
                    self._contested.popitem(last=False)
        return None


def _beside_whole(raw: RawAccount, mark: Mark, *, same: bool) -> str:
    """Return why a state is not news in a slot of which one of the two is the end, or that a store remembers."""
    if raw.write_version and mark.write_version and raw.write_version > mark.write_version:
        return ""
    # A numbered write came before the end of its slot.
    return "repeat" if same else "older" if raw.write_version else ""
