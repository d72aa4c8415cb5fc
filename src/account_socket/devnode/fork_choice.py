"""Which slot the next one descends from, and what accounts were before the newest slots. Pure."""

from __future__ import annotations

from account_socket.model import RawAccount

KEPT_SLOTS = 512


class ForkChoice:
    """
    Attributes:
        head: the newest slot that is not abandoned; what comes next descends from it.
    """

    def __init__(self, head: int) -> None:
        self.head = head
        self._parents: dict[int, int] = {}
        self._before: dict[int, dict[str, RawAccount | None]] = {}

    def begin(self, slot: int) -> int:
        """Take a new slot and return its parent."""
        parent, self.head = self.head, slot
        self._parents[slot] = parent
        while len(self._parents) > KEPT_SLOTS:
            del self._parents[min(self._parents)]
        return parent

    def wrote(self, slot: int, pubkey: str, before: RawAccount | None) -> None:
        """Take what an account was before a write."""
        self._before.setdefault(slot, {}).setdefault(pubkey, before)
        while len(self._before) > KEPT_SLOTS:
            del self._before[min(self._before)]

    def abandon(self, slot: int) -> dict[str, RawAccount | None]:
        """Let a slot die; return what each account that it wrote was before."""
        if self.head == slot:
            self.head = self._parents.pop(slot, slot - 1)
        return self._before.pop(slot, {})
