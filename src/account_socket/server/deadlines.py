"""Many things that are each due the same time after they began; one timer looks after all of them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Deadlines(Generic[Item]):
    """
    A queue in the order of becoming due: each step costs O(1), and looking for what is due costs nothing else.

    Args:
        seconds: how long after `start` an item is due.
    """

    __slots__ = ("_due", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._due: dict[Item, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, item: Item) -> bool:
        return item in self._due

    def start(self, item: Item, *, now: float) -> None:
        """Have `item` become due, counted from `now`, which never goes back; anew if it was counted already."""
        self._due.pop(item, None)
        self._due[item] = now + self.seconds

    def stop(self, item: Item) -> None:
        """Forget `item`; without effect if it is not counted."""
        self._due.pop(item, None)

    def postpone(self, seconds: float) -> None:
        """Have everything become due so much later."""
        self._due = {item: at + seconds for item, at in self._due.items()}

    def take_due(self, *, now: float, limit: int) -> list[Item]:
        """Return, and forget, at most `limit` items that are due, the longest due first."""
        due: list[Item] = []
        for item, at in self._due.items():
            if at > now or len(due) == limit:
                break
            due.append(item)
        for item in due:
            del self._due[item]
        return due
