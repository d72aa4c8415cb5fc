"""The bounded queue between decoding and the database."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from account_socket.model import AccountUpdate

MAX_UPDATES = 20_000
MAX_BYTES = 128 * 1024 * 1024
CALM_UPDATES = 64
"""Below this many, work that nobody waits for may be added; an update that comes then is committed soon."""
GROUP_UPDATES = 2_000
GROUP_BYTES = 8 * 1024 * 1024


class CommitQueue:
    """
    Updates in the order of their ids; the first `_published` of them were published already (without ids).

    A full queue makes whoever fills it wait, so that upstream feels it. While the database is away there is no
    waiting: `shed` drops the oldest updates that have a newer one of the same account, then the oldest.

    Attributes:
        shed_id: no update with a higher id was dropped.
    """

    def __init__(self, max_updates: int = MAX_UPDATES, max_bytes: int = MAX_BYTES) -> None:
        self._updates: deque[AccountUpdate] = deque()
        self._sizes: deque[int] = deque()
        self._max_updates = max_updates
        self._max_bytes = max_bytes
        self._published = 0
        self._committing = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._calm = asyncio.Event()
        self._calm.set()
        self.bytes = 0
        self.shed_total = 0
        self.shed_id = 0

    def __len__(self) -> int:
        return len(self._updates)

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be committed."""
        return not self._updates

    def extend(self, updates: list[AccountUpdate]) -> None:
        """Put `updates` behind all others."""
        sizes = [len(update.data) + len(update.data_json) + len(update.account_json) for update in updates]
        self._updates.extend(updates)
        self._sizes.extend(sizes)
        self.bytes += sum(sizes)
        self._arrived.set()
        self._judge_room()

    async def arrived(self) -> None:
        """Return when something waits to be committed."""
        await self._arrived.wait()

    async def room(self) -> None:
        """Return when the queue is below its bounds."""
        await self._room.wait()

    async def calm(self) -> None:
        """Return when hardly anything waits."""
        await self._calm.wait()

    def group(self) -> list[AccountUpdate]:
        """Return the oldest updates that fit one commit; they stay until `done`."""
        group: list[AccountUpdate] = []
        size = 0
        for update, each in zip(self._updates, self._sizes, strict=True):
            if len(group) == GROUP_UPDATES or size > GROUP_BYTES:
                break
            group.append(update)
            size += each
        self._committing = len(group)
        return group

    def done(self, group: list[AccountUpdate]) -> int:
        """Let go of a committed group; return how many of its first updates were published already."""
        for _ in group:
            self._updates.popleft()
            self.bytes -= self._sizes.popleft()
        published = min(self._published, len(group))
        self._published -= published
        self._committing = 0
        if not self._updates:
            self._arrived.clear()
        self._judge_room()
        return published

    def unpublished(self) -> Iterator[AccountUpdate]:
        """Yield what was not published yet, and count it as published."""
        updates = list(self._updates)[self._published :] if self._published else list(self._updates)
        self._published = len(self._updates)
        return iter(updates)

    def shed(self) -> None:
        """Fall below the bounds again by dropping published updates; the group being committed stays."""
        if not self._over():
            return
        entries = list(zip(self._updates, self._sizes, strict=True))
        kept, rest = entries[: self._committing], entries[self._committing :]
        newest = {update.pubkey: update.id for update, _ in rest}
        rest = [(update, size) for update, size in rest if newest[update.pubkey] == update.id]
        size = sum(size for _, size in (*kept, *rest))
        drop = 0
        # Down to half, so that shedding, which reads the whole queue, is rare.
        while drop < len(rest) and (
            len(kept) + len(rest) - drop > self._max_updates // 2 or size > self._max_bytes // 2
        ):
            size -= rest[drop][1]
            drop += 1
        stay = kept + rest[drop:]
        self.shed_total += len(entries) - len(stay)
        ids = {update.id for update, _ in stay}
        self.shed_id = max([self.shed_id, *(update.id for update, _ in entries if update.id not in ids)])
        self._updates = deque(update for update, _ in stay)
        self._sizes = deque(size for _, size in stay)
        self._published = len(self._updates)
        self.bytes = size
        self._judge_room()

    def _over(self) -> bool:
        return len(self._updates) > self._max_updates or self.bytes > self._max_bytes

    def _judge_room(self) -> None:
        if len(self._updates) < CALM_UPDATES:
            self._calm.set()
        else:
            self._calm.clear()
        if self._over():
            self._room.clear()
        else:
            self._room.set()
