"""The newest slot that the node confirmed, and which slots are believed beside it. Pure."""

from __future__ import annotations

ACCOUNT_AHEAD_SLOTS = 150
"""How far before the tip an account's slot may lie (a minute of the chain): one lie would freeze an account."""

TIP_AHEAD_SLOTS = 1_000_000
"""How far a slotNotification may jump unasked (five days of the chain)."""

_SLOTS_PER_SECOND = 10
"""Four times what the chain makes: what the tip may have moved while nobody looked."""


class SlotTip:
    """
    The tip of one datasource over all its connections.

    A new connection starts without a tip, so that a node of another chain, or one that was restarted, is not
    judged by the last one's; the last tip remains as what its first slot is compared with.

    Attributes:
        tip: the newest confirmed slot of this connection, or None before the first.
        tip_at: seconds on the caller's clock when `tip` last grew, or None.
    """

    def __init__(self) -> None:
        self.tip: int | None = None
        self.tip_at: float | None = None
        self._known: int | None = None
        self._known_at = 0.0

    @property
    def known(self) -> bool:
        """Whether any connection of this source ever had a tip."""
        return self._known is not None

    @property
    def limit(self) -> int:
        """The newest slot an account may have; -1 before the first tip."""
        return -1 if self.tip is None else self.tip + ACCOUNT_AHEAD_SLOTS

    def new_connection(self) -> None:
        """Forget the tip, but not what was known."""
        self.tip = None

    def believes(self, slot: int, now: float) -> bool:
        """Return whether a slotNotification of `slot` needs no confirmation."""
        if self._known is None:
            return False
        return slot <= self._known + TIP_AHEAD_SLOTS + int(_SLOTS_PER_SECOND * (now - self._known_at))

    def confirm(self, slot: int, now: float) -> None:
        """Take `slot` as confirmed; an older one than the tip changes nothing."""
        if self.tip is None or slot > self.tip:
            self.tip = self._known = slot
            self.tip_at = self._known_at = now
