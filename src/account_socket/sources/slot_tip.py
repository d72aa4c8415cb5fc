"""The newest slot that the node confirmed, and which slots are believed beside it. Pure."""

from __future__ import annotations

ACCOUNT_AHEAD_SLOTS = 150
"""How far before the tip an account's slot may lie (a minute of the chain): one lie would freeze an account."""

TIP_AHEAD_SLOTS = 1_000_000
"""How far a slotNotification may jump unasked (five days of the chain)."""

STRICT_AHEAD_SLOTS = 150
"""The same of one upstream among several: beyond, getSlot must name that slot, or one not further behind it."""

_SLOTS_PER_SECOND = 10
"""Four times what the chain makes: what the tip may have moved while nobody looked."""


class SlotTip:
    """
    The tip of one datasource over all its connections.

    A new connection starts without a tip, so that a node of another chain, or one that was restarted, is not
    judged by the last one's. What it may say unasked is counted from the last slot that getSlot confirmed: a node
    whose slots run away is asked again and again.

    Args:
        strict: there are other upstreams, which a lie must not harm; else there are no slots but this node's.

    Attributes:
        tip: the newest confirmed slot of this connection, or None before the first.
        tip_at: seconds on the caller's clock when `tip` last grew, or None.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._ahead = STRICT_AHEAD_SLOTS if strict else TIP_AHEAD_SLOTS
        self.tip: int | None = None
        self.tip_at: float | None = None
        self._anchor: int | None = None
        self._anchor_at = 0.0

    @property
    def known(self) -> bool:
        """Whether any connection of this source ever had a tip."""
        return self._anchor is not None

    @property
    def limit(self) -> int:
        """The newest slot an account may have; -1 before the first tip."""
        return -1 if self.tip is None else self.tip + ACCOUNT_AHEAD_SLOTS

    def new_connection(self) -> None:
        """Forget the tip, but not what was known."""
        self.tip = None

    def believes(self, slot: int, now: float) -> bool:
        """Return whether a slotNotification of `slot` needs no confirmation."""
        if self._anchor is None:
            return False
        return slot <= self._anchor + self._ahead + int(_SLOTS_PER_SECOND * (now - self._anchor_at))

    def confirm(self, slot: int, now: float, *, asked: bool = False) -> None:
        """
        Take `slot` as confirmed; an older one than the tip changes nothing.

        Args:
            asked: getSlot named it.
        """
        if self._anchor is None or (asked and slot > self._anchor):
            self._anchor, self._anchor_at = slot, now
        if self.tip is None or slot > self.tip:
            self.tip, self.tip_at = slot, now
