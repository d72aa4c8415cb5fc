"""
Which accounts were written in slots that a fork left behind, as far as slotSubscribe shows it. Pure.

At `processed` PubSub streams writes before anybody voted on their slot, and says nothing when a fork dies. But each
slot names its parent: slots above the parent of the newest one are not its ancestors, so the node builds on without
them. Their accounts are doubtful; again when the root passes those slots, for until then the node may come back.
"""

from __future__ import annotations

MAX_SLOTS = 512
"""Slots whose root never comes, as from a node that names none: the oldest are forgotten."""


class ForkWatch:
    """
    Attributes:
        doubtful: accounts written in slots left behind; the caller empties it.
    """

    def __init__(self) -> None:
        self.doubtful: set[str] = set()
        self._parents: dict[int, int] = {}
        self._writes: dict[int, set[str]] = {}
        self._left: set[int] = set()
        self._newest = -1
        self._interrupted = False

    def wrote(self, slot: int, pubkey: str) -> None:
        """Take a write that was streamed."""
        if slot in self._left:
            self.doubtful.add(pubkey)
        writes = self._writes.get(slot)
        if writes is None:
            writes = self._writes[slot] = set()
            self._bound()
        writes.add(pubkey)

    def interrupted(self) -> None:
        """Take that slots may be missed before the next one: what was written, and is not rooted, may be dead."""
        self._interrupted = True

    def began(self, slot: int, parent: int | None, root: int | None) -> None:
        """Take that the node began a slot on top of `parent`."""
        if parent is None or not parent < slot:
            return
        if self._interrupted:
            self._interrupted = False
            self.doubtful.update(*self._writes.values())
        self._parents[slot] = parent
        if parent != self._newest:
            self._switch(slot)
        self._newest = slot
        if root is not None and root < slot:
            self._forget_below(root)
        self._bound()

    def _switch(self, slot: int) -> None:
        ancestors = self._ancestors(slot)
        lowest = min(ancestors)
        known = {number for number in (*self._parents, *self._writes) if lowest < number < slot}
        left = known - ancestors
        for number in left ^ self._left:  # those that are on the node's fork again are as doubtful
            self.doubtful |= self._writes.get(number, set())
        self._left = left

    def _ancestors(self, slot: int) -> set[int]:
        found = {slot}
        while slot in self._parents:
            slot = self._parents[slot]
            found.add(slot)
        return found

    def _forget_below(self, root: int) -> None:
        for number in [number for number in self._writes if number <= root]:
            writes = self._writes.pop(number)
            if number in self._left:
                self.doubtful |= writes
        self._left = {number for number in self._left if number > root}
        self._parents = {number: parent for number, parent in self._parents.items() if number > root}

    def _bound(self) -> None:
        if len(self._writes) + len(self._parents) > 2 * MAX_SLOTS:
            newest = max((*self._writes, *self._parents))
            self._forget_below(newest - MAX_SLOTS)
