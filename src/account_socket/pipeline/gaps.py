"""
The spans of slots in which writes may have been missed, and which states are to be doubted because of them.

A state is trusted while its account was written or re-read at or after the end of every gap that concerns it. So
there is one slot, `floor`: below it a state is doubtful and is read from the node before it is told to anybody, or
told with `"stale":true` where the node cannot be asked.

A gap of one source is none where another source read without interruption all the while.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec

from account_socket.model import Gap


@dataclass(eq=False)
class OpenGap:
    """
    A gap that is not healed.

    Attributes:
        attempts: how often healing was tried.
        error: why the last try failed, or "".
        subscribed_healed: whether the accounts with subscribers were re-read.
    """

    gap: Gap
    attempts: int = 0
    error: str = ""
    subscribed_healed: bool = False


@dataclass
class Gaps:
    """
    Attributes:
        floor: states older than this slot are doubtful.
        end: where the newest gap ended, healed or not; 0 before the first.
        opened: how many gaps had to be healed so far.
        open: gaps not healed, oldest first.
        healed, covered: how many were healed; how many another source covered.
    """

    floor: int = 0
    end: int = 0
    opened: int = 0
    open: list[OpenGap] = field(default_factory=list)
    healed: int = 0
    covered: int = 0
    _unbroken_since: dict[str, int] = field(default_factory=dict)
    _lost_since: dict[str, int] = field(default_factory=dict)

    def report(self, gap: Gap) -> OpenGap | None:
        """Take a gap that a source tells of; return it if it has to be healed."""
        covered = any(
            # Where nothing is known of before, what was missed until the other one began is in the other one's gap.
            gap.from_slot is None or since <= gap.from_slot
            for source, since in self._unbroken_since.items()
            if source != gap.source
        )
        self._unbroken_since[gap.source] = gap.to_slot
        self._lost_since.pop(gap.source, None)
        if covered:
            self.covered += 1
            return None
        opened = OpenGap(gap)
        for before in [each for each in self.open if each.gap.source == gap.source]:
            # One span per source, however often it flaps before anybody can ask the node.
            self.open.remove(before)
            opened.attempts += before.attempts
            opened.gap = msgspec.structs.replace(gap, from_slot=before.gap.from_slot)
        self.open.append(opened)
        self.opened += 1
        self.floor = max(self.floor, gap.to_slot)
        self.end = max(self.end, gap.to_slot)
        return opened

    def lost(self, source: str) -> None:
        """Take that a source broke off: it covers no other's gap until it reports its own, or `resumed`."""
        since = self._unbroken_since.pop(source, None)
        if since is not None:
            self._lost_since[source] = since

    def resumed(self, source: str) -> None:
        """Take that a source is back and what it missed is replayed to it: as if it had not broken off."""
        since = self._lost_since.pop(source, None)
        if since is not None:
            self._unbroken_since[source] = since

    def close(self, opened: OpenGap, *, everything: bool) -> None:
        """
        Take that a gap was healed.

        Args:
            everything: every account was re-read, not only those with subscribers; then `floor` sinks again.
        """
        if opened in self.open:  # else a later gap has taken it in
            self.open.remove(opened)
        self.healed += 1
        if everything:
            self.trust_all()

    def trust_all(self) -> None:
        """Take that no state from before is wrong, after all that is not open still: `floor` sinks."""
        if not self.open:
            self.floor = 0

    def trusts(self, slot: int) -> bool:
        """Whether a state written or re-read at `slot` is the newest as far as anybody knows."""
        return slot >= self.floor

    def names(self) -> Collection[str]:
        """Return the sources that read without interruption now."""
        return self._unbroken_since.keys()
