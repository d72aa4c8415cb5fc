"""
The loop: what arrived is ordered, decoded once, committed in groups, then published.

    admit ──► ordering ──► decode, encode ──► queue ──► commit ──► publish
                                               ▲  a group is what has arrived since the last commit

Durable first: an update with a number as its id was committed before it was published. A database that cannot
commit for longer than `patience` seconds makes the pipeline degraded: updates go on with `"id":null`, stay in the
bounded queue and are committed, with the ids they were given, as soon as a commit succeeds.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import msgspec
import structlog

from account_socket.decode.registry import Registry
from account_socket.errors import StoreError
from account_socket.logs import Seldom
from account_socket.metrics import SIZES, Histogram
from account_socket.model import AccountUpdate, Origin, RawAccount, encode_account
from account_socket.pipeline.ordering import Ordering, Place
from account_socket.pipeline.queue import CommitQueue
from account_socket.store.base import Store

PATIENCE_SECONDS = 5.0
PATIENCE_TICKS = 10
ADMIT_AT_ONCE = 50
"""States decoded at a stretch (some 2 ms), then everybody else has a turn of the loop."""
LEISURE_ADMIT = 64
SETTLED_SECONDS = 0.02
TURN_SECONDS = 0.004
"""Publishing gives the loop back after this long, so that no connection waits for a large group."""
LINGER_SECONDS = 0.001
LINGER_ABOVE = 500.0
"""Updates per second above which a group waits LINGER_SECONDS: at group size one the WAL takes 30 KB a row."""
LINGER_BELOW = 64
FLOOD_ABOVE = 6_000.0
"""Updates per second above which a group waits FLOOD_SECONDS for more: in groups of 500 an update costs a quarter less
than in groups of 100, and only so are there ten thousand a second."""
FLOOD_SECONDS = 0.02
FLOOD_GROUP = 500
RETRY_SECONDS = (0.05, 1.0)

log = structlog.get_logger("account_socket.pipeline")
failures_log = structlog.get_logger("account_socket.database")


class Pipeline:
    """
    Args:
        publish: sends an update to who asked for it; never awaits.
        keep: takes a group of committed updates into the cache; never awaits.
        amend: told of an update that was published without its id and is committed now.
        last_created_at: the newest `created_at` in the store; ours never go below it.

    Attributes:
        committed_id: no update with a higher id is committed.
    """

    def __init__(
        self,
        *,
        ordering: Ordering,
        registry: Registry,
        store: Store,
        publish: Callable[[AccountUpdate], None],
        keep: Callable[[Iterable[AccountUpdate]], None],
        amend: Callable[[AccountUpdate], None],
        last_created_at: str = "",
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._ordering = ordering
        self._registry = registry
        self._store = store
        self._publish = publish
        self._keep = keep
        self._amend = amend
        self._created_at = last_created_at
        self._patience = patience
        self._queue = CommitQueue()
        self._stuck_since: float | None = None
        self._recall_after = 0.0
        self.committed_id = ordering.next_id - 1
        self._lost_id = 0
        self._last_group = (0.0, 0)
        self._idle = asyncio.Event()
        self._idle.set()
        self._tries = Seldom(failures_log)
        self._kinds_logged: set[tuple[str, str]] = set()
        self.history = True
        self.degraded = False
        self.decode_failures: Counter[str] = Counter()
        self.refused = 0
        self.latency = Histogram()
        self.group_size = Histogram(SIZES)
        self.commit_seconds = Histogram()

    # ---- in ------------------------------------------------------------------------------------------------

    async def admit(self, batch: list[RawAccount]) -> None:
        """Take what arrived, in arrival order; return when there is room for more."""
        for at in range(0, len(batch), ADMIT_AT_ONCE):
            if at:
                await asyncio.sleep(0)
            some = batch[at : at + ADMIT_AT_ONCE]
            await self.recall([raw.pubkey for raw in some])  # and no turn of the loop before they are admitted
            created_at = self._now()
            news = self._ordering.admit(some)
            updates = [self._update(raw, place, created_at) for raw, place in news]
            if updates:
                self._idle.clear()
                self._queue.extend(updates)
                if self.degraded:
                    self._publish_without_ids()
                    self._queue.shed()
        await self._queue.room()

    async def admit_at_leisure(self, batch: list[RawAccount]) -> None:
        """Take what nobody waits for, once hardly anything is before it: live updates do not queue behind it."""
        for at in range(0, len(batch), LEISURE_ADMIT):
            await self._queue.calm()
            began = time.monotonic()
            await self.admit(batch[at : at + LEISURE_ADMIT])
            await asyncio.sleep(time.monotonic() - began)  # the loop is others' as long as it was this one's

    async def settled(self) -> None:
        """Return when all that was admitted until now is in the store."""
        last = self._ordering.next_id - 1
        while self.committed_id < last:  # noqa: ASYNC110  (rare, and nobody waits for it)
            await asyncio.sleep(SETTLED_SECONDS)

    async def recall(self, pubkeys: Sequence[str]) -> None:
        """
        Have the order of these accounts in memory: what the store remembers of them is read.

        A store that cannot even be read is not asked again for a while; until then its accounts count as new.
        """
        while unread := self._ordering.unread(pubkeys):
            if time.monotonic() < self._recall_after:
                return
            try:
                async with asyncio.timeout(self._patience):
                    marks = await self._store.marks_of(unread)
            except (StoreError, TimeoutError) as error:
                self._recall_after = time.monotonic() + self._patience
                self._tries.warning("accounts not recalled", accounts=len(unread), error=str(error) or "timed out")
            else:
                self._ordering.load(unread, marks)

    def _now(self) -> str:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self._created_at = max(self._created_at, now)
        return self._created_at

    def _update(self, raw: RawAccount, place: Place, created_at: str) -> AccountUpdate:
        closed = self._ordering.is_closed(raw)
        if closed:
            account_type, data_json = place.account_type or "Unknown", b"null"
        else:
            decoded = self._registry.decode(raw.owner, raw.data)
            account_type, data_json = decoded.account_type, decoded.data_json
            if decoded.error is not None:
                self._note_failure(raw, decoded.failure or "other", decoded.error)
        if account_type != place.account_type:
            self._ordering.typed(raw.pubkey, account_type)
        return AccountUpdate(
            id=place.id,
            prev_id=place.prev_id,
            pubkey=raw.pubkey,
            slot=raw.slot,
            write_version=raw.write_version,
            content_hash=place.content_hash,
            account_type=account_type,
            owner=raw.owner,
            lamports=raw.lamports,
            executable=raw.executable,
            rent_epoch=raw.rent_epoch,
            data=raw.data,
            data_json=data_json,
            created_at=created_at,
            closed=closed,
            origin=raw.origin,
            received_at=raw.received_at,
            signature=raw.signature,
            event="" if raw.retracts is None else "retracted",
            account_json=encode_account(
                id=place.id,
                pubkey=raw.pubkey,
                slot=raw.slot,
                account_type=account_type,
                owner=raw.owner,
                lamports=raw.lamports,
                data_json=data_json,
                created_at=created_at,
                prev_id=place.prev_id,
                closed=closed,
                signature=raw.signature,
            ),
        )

    def _note_failure(self, raw: RawAccount, kind: str, error: str) -> None:
        self.decode_failures[kind] += 1
        if (raw.owner, kind) not in self._kinds_logged:
            self._kinds_logged.add((raw.owner, kind))
            log.warning("account not decoded", pubkey=raw.pubkey, owner=raw.owner, kind=kind, error=error)

    # ---- commit, then out ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Commit and publish until cancelled."""
        while True:
            if self._queue.empty:
                self._idle.set()
                await self._queue.arrived()
            await self._linger()
            group = self._queue.group()
            refused = await self._commit(group)
            published = self._queue.done(group)
            for update in group[:published]:
                self._amend(update)
            await self._publish_all(group[published:], refused)
            self._keep(group if not refused else [update for update in group if update.id not in refused])

    async def _linger(self) -> None:
        at, size = self._last_group
        now = time.monotonic()
        if size > max(LINGER_BELOW, (now - at) * FLOOD_ABOVE) and len(self._queue) < FLOOD_GROUP:
            await asyncio.sleep(FLOOD_SECONDS)
        elif size > (now - at) * LINGER_ABOVE and len(self._queue) < LINGER_BELOW:
            await asyncio.sleep(LINGER_SECONDS)
        self._last_group = (time.monotonic(), len(self._queue))

    async def _commit(self, group: list[AccountUpdate]) -> set[int]:
        """Commit `group`, however long it takes; return the ids of the updates that the database refuses."""
        delay, longest = RETRY_SECONDS
        while True:
            started = time.monotonic()
            lost_id = self._queue.shed_id if self._queue.shed_id > self._lost_id else 0
            append = asyncio.ensure_future(self._store.append(group, history=self.history, lost_id=lost_id))
            try:
                refused = await self._await_patiently(append)
            except StoreError as error:
                self._stuck_since = self._stuck_since or started
                self._tries.warning("commit failed", error=str(error), hint=error.hint, retry_in=delay)
                await self._sleep_patiently(delay)
                delay = min(delay * 2, longest)
                continue
            self._lost_id = max(self._lost_id, lost_id)
            self._commit_succeeded(group, time.monotonic() - started)
            return self._note_refused(refused)

    async def _await_patiently(self, append: asyncio.Future[list[AccountUpdate]]) -> list[AccountUpdate]:
        """
        Await a commit that may hang; after `patience` seconds go on without it, and await it still.

        They are counted in ticks: one that comes late because the process stood still is not the database's.
        """
        started = self._stuck_since or time.monotonic()
        tick = max(0.0, started + self._patience - time.monotonic()) / PATIENCE_TICKS
        for _ in range(0 if self.degraded else PATIENCE_TICKS):
            done, _pending = await asyncio.wait((append,), timeout=tick)
            if done:
                break
        else:
            self._go_on_without(started)
        return await append

    def _go_on_without(self, started: float) -> None:
        if not self.degraded:
            self._stuck_since = started
            self._degrade()

    async def _sleep_patiently(self, delay: float) -> None:
        assert self._stuck_since is not None
        if not self.degraded and time.monotonic() + delay - self._stuck_since >= self._patience:
            self._degrade()
        await asyncio.sleep(delay)

    def _degrade(self) -> None:
        self.degraded = True
        failures_log.error("database cannot commit, updates go on without ids", queued=len(self._queue))
        self._publish_without_ids()

    def _commit_succeeded(self, group: list[AccountUpdate], seconds: float) -> None:
        self.committed_id = group[-1].id
        self._ordering.trim(self.committed_id)
        self.group_size.observe(len(group))
        self.commit_seconds.observe(seconds)
        if self.degraded:
            failures_log.info("database commits again", queued=len(self._queue), shed=self._queue.shed_total)
        self._stuck_since = None
        self.degraded = False

    def _note_refused(self, refused: list[AccountUpdate]) -> set[int]:
        for update in refused:
            self.refused += 1
            failures_log.error("database refused an update", pubkey=update.pubkey, id=update.id)
        return {update.id for update in refused}

    async def _publish_all(self, updates: list[AccountUpdate], refused: set[int]) -> None:
        turn_ends = time.monotonic() + TURN_SECONDS
        for update in updates:
            self._publish(self._without_id(update) if update.id in refused else update)
            now = time.monotonic()
            if update.origin is Origin.LIVE:
                self.latency.observe(now - update.received_at)
            if now > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + TURN_SECONDS

    def _publish_without_ids(self) -> None:
        for update in self._queue.unpublished():
            self._publish(self._without_id(update))

    def _without_id(self, update: AccountUpdate) -> AccountUpdate:
        """Return `update` as it is published while its id is not durable; nor is any id that was not committed."""
        durable = update.prev_id is not None and update.prev_id <= self.committed_id
        account_json = encode_account(
            id=None,
            pubkey=update.pubkey,
            slot=update.slot,
            account_type=update.account_type,
            owner=update.owner,
            lamports=update.lamports,
            data_json=update.data_json,
            created_at=update.created_at,
            prev_id=update.prev_id if durable else None,
            closed=update.closed,
            signature=update.signature,
        )
        return msgspec.structs.replace(update, account_json=account_json)

    async def drain(self, seconds: float) -> bool:
        """Wait until all that was admitted is committed and published; False when `seconds` did not suffice."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            self._publish_without_ids()
            return False
        return True

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        return {
            "queued": len(self._queue),
            "queued_bytes": self._queue.bytes,
            "shed": self._queue.shed_total,
            "refused": self.refused,
        }
