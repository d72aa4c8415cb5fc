"""
The composition root: settings become objects, objects become one TaskGroup.

    source ──► pipeline ──► hub ──► connection
               │      ▲
               ▼      │ snapshots
             store + cache

The only file that knows every backend.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import structlog

from account_socket.cache.base import Cache
from account_socket.cache.memory import MemoryCache
from account_socket.cluster import ClusterCheck
from account_socket.errors import SettingsError, scrub_url
from account_socket.hub.hub import Hub
from account_socket.measures import measure_backfill, measure_gaps, measure_pipeline, measure_sources, measure_storage
from account_socket.metrics import Metrics
from account_socket.model import AccountUpdate, Gap, StoredState
from account_socket.pipeline.backfill import Backfill
from account_socket.pipeline.gaps import Gaps
from account_socket.pipeline.healing import Healer
from account_socket.pipeline.listing import HEAD_BYTES
from account_socket.pipeline.ordering import Ordering
from account_socket.pipeline.pipeline import Pipeline
from account_socket.pipeline.progress import Progress
from account_socket.pipeline.reconciling import Reconciler
from account_socket.pipeline.retention import Retention
from account_socket.pipeline.snapshots import Snapshots
from account_socket.programs import load_programs, program_names
from account_socket.server.limits import SPARE_SOCKETS, Limits
from account_socket.server.listener import Listener
from account_socket.server.open_files import within_open_files
from account_socket.server.readiness import Readiness
from account_socket.server.rest_parameters import Fields
from account_socket.server.rest_reading import Reads
from account_socket.server.solana_http import Solana
from account_socket.server.solana_proxy import Proxy
from account_socket.server.solana_reads import Known
from account_socket.server.status_feed import StatusFeed
from account_socket.settings import Settings
from account_socket.sources.base import Datasource
from account_socket.sources.nodes import Nodes
from account_socket.sources.program_accounts import ProgramAccounts
from account_socket.store.base import Store
from account_socket.store.sqlite import SqliteStore
from account_socket.upstreams import Timing, make_rpcs, make_sources

SWITCH_INTERVAL = 0.0005
"""Seconds. The writer thread gives the GIL back at each step; at Python's 5 ms a busy loop starves it."""
GC_THRESHOLDS = (700, 10, 1_000)
"""Python's, but for the last: a pass over everything takes 200 ms with 10,000 clients. Nothing of ours needs it, as
what ends is not left in cycles; what a library leaves is found a hundred times more rarely."""
COMMIT_SECONDS = 3.0
GOODBYE_SECONDS = 2.0
EXIT_SECONDS = 9.5
"""A drain ends within 10 s, whatever hangs."""


log = structlog.get_logger("account_socket.service")


async def serve(
    settings: Settings,
    *,
    on_ready: Callable[[str], None] | None = None,
    show: Callable[[Progress], None] | None = None,
) -> None:
    """
    Run the server until SIGTERM or SIGINT, then drain.

    Args:
        on_ready: told the WebSocket URL once the port is open.
        show: draws how far a backfill is; None: log lines.
    Raises:
        SettingsError, WrongClusterError: exit 2. StoreError, OSError: exit 1.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*GC_THRESHOLDS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def drain() -> None:
        stop.set()
        _exit_after(EXIT_SECONDS)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain)
    service = Service(settings, show=show)
    try:
        try:
            await service.start()
        except BaseException:
            await service.release()
            raise
        gc.freeze()  # what was imported and made so far stays
        if on_ready is not None:
            on_ready(service.url)
        await service.run_until(stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class Service:
    """One server: everything between the upstream's bytes and the clients' sockets."""

    def __init__(
        self,
        settings: Settings,
        *,
        timing: Timing | None = None,
        show: Callable[[Progress], None] | None = None,
    ) -> None:
        self._settings = settings
        self._show = show
        self._timing = timing = timing or Timing()
        self._registry = load_programs()
        self._store: Store = SqliteStore(settings.database_url, readers=settings.database_max_connections)
        self._cache: Cache = MemoryCache(ttl=settings.cache_ttl_seconds)
        self._rpcs = make_rpcs(settings)
        self.sources = make_sources(settings, self._registry.programs, self._rpcs, timing)
        self._nodes = Nodes(self._rpcs, lambda: self.readiness.tip_slot)
        self._cluster = ClusterCheck(self._rpcs, self._store.bind)
        self.metrics = Metrics()

    async def start(self) -> None:
        """Open the database, the cache and the port; what upstream says comes in `run_until`."""
        settings = self._settings
        identity = await self._store.open()
        self._ordering = Ordering(self._registry.programs, identity.next_id, stored=identity.has_states)
        await self._cluster.check()
        self._cache = await _open_cache(settings)
        self._gaps = Gaps()
        self._snapshots = Snapshots(
            ordering=self._ordering,
            gaps=self._gaps,
            cache=self._cache,
            store=self._store,
            lookup=self._nodes.look_up if self._rpcs else None,
        )
        self.hub = Hub(
            schedule=asyncio.get_running_loop().call_soon,
            load=self._snapshots.load,
            knows=lambda pubkey: self._ordering.mark(pubkey) is not None,
            trusts=self._snapshots.trusts,
            is_foreign=self._snapshots.is_foreign,
        )
        self._solana = self._make_solana()
        self.pipeline = Pipeline(
            ordering=self._ordering,
            registry=self._registry,
            store=self._store,
            publish=self._solana.feed.behind(self.hub.publish),
            keep=self._cache.put,
            amend=self._amend,
            last_created_at=identity.last_created_at,
            patience=self._timing.commit,
        )
        self._make_healing()
        self._snapshots.attach(self.hub, self.pipeline.admit, self.pipeline.recall, self._healer.recheck)
        for source in self.sources:
            source.on_gap = self._report_gap
            source.on_resumed = self._gaps.resumed
            source.on_doubt = self._reconciler.doubt
            source.on_slot = self._note_slot
        self._retention = Retention(
            self._store,
            keep_days=settings.retention_days,
            keep_rows=settings.retention_rows_per_account,
            reserve_bytes=settings.disk_reserve_mb * 1024 * 1024,
            write_history=self._write_history,
        )
        await self._listen(identity.epoch)
        log.info("server started", url=self.url, database=settings.database_url, epoch=identity.epoch)

    def _make_healing(self) -> None:
        """Make the parts that ask the nodes for what upstream did not tell."""
        self._backfill = self._make_backfill()
        self._healer = Healer(
            self._gaps,
            known=lambda: self._ordering.knows_any,
            subscribed=self.hub.subscribed_pubkeys,
            reread=self._nodes.read_again if self._rpcs else None,
            admit=self.pipeline.admit,
            told=self._backfill.wake,
        )
        self._reconciler = Reconciler(
            self._ordering,
            subscribed=self.hub.subscribed_pubkeys,
            glance=self._nodes.glance,
            reread=self._nodes.read_again,
            admit=self.pipeline.admit,
            every=self._settings.reconcile_seconds,
            forks=self._settings.commitment == "processed",
            settle=self._timing.settle,
        )

    def _make_backfill(self) -> Backfill:
        return Backfill(
            self._settings.backfill,
            {
                program: {layout.discriminator[:HEAD_BYTES]: name for name, layout in decoder.layouts.items()}
                for program, decoder in self._registry.programs.items()
            },
            gaps=self._gaps,
            ordering=self._ordering,
            store=self._store,
            nodes=self._nodes,
            listers=[ProgramAccounts(rpc, lambda: self.readiness.tip_slot) for rpc in self._rpcs],
            admit=self.pipeline.admit_at_leisure,
            settled=self.pipeline.settled,
            follows=lambda: not self.pipeline.degraded and any(source.status.connected for source in self.sources),
            tip=lambda: self.readiness.tip_slot,
            show=self._show,
        )

    async def _listen(self, epoch: str) -> None:
        """Open the port, with what it tells of all parts."""
        settings = self._settings
        self.readiness = Readiness(
            self.sources,
            stale_after=settings.stale_after_seconds,
            parts={
                "database": self._database_report,
                "cache": self._cache_report,
                "gaps": self._gaps_report,
                "backfill": self._backfill.report,
            },
            facts={"reconcile": self._reconcile_facts},
        )
        self._status_feed = StatusFeed(
            self.hub,
            self.sources,
            self.readiness,
            open_gaps=lambda: ((each.gap, each.error) for each in self._gaps.open),
            admitted=lambda: self._ordering.next_id - 1,
            recovered=self._recheck_untrusted,
        )
        self._listener = Listener(
            settings.websocket_host,
            settings.websocket_port,
            hub=self.hub,
            epoch=epoch,
            readiness=self.readiness.report,
            metrics=self.metrics,
            limits=_limits(settings),
            greet=self._status_feed.greet,
            reads=self._reads(),
            solana=self._solana,
        )
        measure_sources(self.metrics, self.sources)
        measure_pipeline(self.metrics, self.pipeline, self._ordering, self._snapshots)
        measure_gaps(self.metrics, self._gaps)
        measure_backfill(self.metrics, self._backfill)
        measure_storage(self.metrics, self._store, self._cache)
        await self._listener.start()
        _warn_if_open(settings.websocket_host)

    def _make_solana(self) -> Solana:
        settings = self._settings
        return Solana(
            Known(
                hub=self.hub,
                reads=self._reads(),
                slots_behind=lambda: self.readiness.slots_behind,
                commits=lambda: not self.pipeline.degraded,
                is_filled=lambda: self._backfill.complete,
                programs=program_names(),
                commitment=settings.commitment,
                proxy=Proxy(self._rpcs) if settings.rpc_proxy and self._rpcs else None,
            )
        )

    def _reads(self) -> Reads:
        layouts = {
            name: each for decoder in self._registry.programs.values() for name, each in decoder.layouts.items()
        }
        return Reads(
            store=self._store,
            trusts=lambda pubkey, slot: self._snapshots.trusts(pubkey) or self._gaps.trusts(slot),
            tip_slot=lambda: self.readiness.tip_slot,
            newest_id=lambda: self._ordering.next_id - 1,
            committed_id=lambda: self.pipeline.committed_id,
            fields=Fields(layouts, self._registry.programs),
            look=self._nodes.look_up if self._rpcs else None,
        )

    @property
    def url(self) -> str:
        """Where clients connect."""
        host = self._settings.websocket_host
        return f"ws://{f'[{host}]' if ':' in host else host}:{self._listener.port}/ws"

    # ---- joints --------------------------------------------------------------------------------------------

    def _report_gap(self, gap: Gap) -> None:
        self._lose(gap.source)
        self._cluster.doubt()
        self._healer.report(gap)
        self._status_feed.note_gaps()

    def _recheck_untrusted(self) -> None:
        # Gaps may have been healed before whoever was told stale states last had subscribed.
        self._healer.recheck([key for key in self.hub.subscribed_pubkeys() if not self._snapshots.trusts(key)])

    def _note_slot(self, slot: int, level: str) -> None:
        self._status_feed.note_slot(slot, level)

    def _lose(self, source: str) -> None:
        self._reconciler.doubt(self._ordering.lose(source))

    def _amend(self, update: AccountUpdate) -> None:
        newest = self.hub.newest(update.pubkey)
        if newest is not None and newest.id == update.id:
            self.hub.remember(update.pubkey, StoredState(update.id, update.account_json))

    def _write_history(self, writing: bool) -> None:
        self.pipeline.history = writing

    def _database_report(self) -> tuple[bool, dict[str, Any]]:
        writing = self._retention.writing
        return not self.pipeline.degraded and writing, {
            "commits": not self.pipeline.degraded,
            "history": writing,
            "queued": self.pipeline.statistics()["queued"],
        }

    def _cache_report(self) -> tuple[bool, dict[str, Any]]:
        return self._cache.available, {"kind": type(self._cache).__name__.removesuffix("Cache").lower()}

    def _gaps_report(self) -> tuple[bool, dict[str, Any]]:
        opened = [
            {
                "source": each.gap.source,
                "from_slot": each.gap.from_slot,
                "to_slot": each.gap.to_slot,
                "error": each.error,
            }
            for each in self._gaps.open
        ]
        return not opened, {"open": opened}

    def _reconcile_facts(self) -> dict[str, Any]:
        period = round(self._reconciler.period, 1) if self._rpcs else None
        return {"period_seconds": period, "failures": self._reconciler.failures}

    # ---- tasks ---------------------------------------------------------------------------------------------

    async def run_until(self, stop: asyncio.Event) -> None:
        """Stream until `stop` is set, then drain within EXIT_SECONDS."""
        sources = [asyncio.create_task(self._run_source(source)) for source in self.sources]
        comparing = (
            (self._reconciler.run(), self._reconciler.run_soon(), self._reconciler.settle()) if self._rpcs else ()
        )
        parts = [
            asyncio.create_task(part)
            for part in (
                *comparing,
                self.pipeline.run(),
                self._snapshots.run(),
                self._healer.run(),
                self._backfill.run(),
                self._retention.run(),
                self._cluster.run(),
                self._watch_sources(),
                self._status_feed.run(),
                self._solana.feed.run(),
            )
        ]
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait((stopped, *parts, *sources), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._drain(sources, parts)
            stopped.cancel()

    async def _run_source(self, source: Datasource) -> None:
        while True:
            try:
                await source.run(self.pipeline.admit)
            except SettingsError as error:
                if len(self.sources) == 1:
                    raise
                log.error("upstream given up", source=source.name, error=str(error), hint=error.hint)  # noqa: TRY400
                await asyncio.Event().wait()
            except Exception:
                # A bug of ours; the others go on, and so does this one.
                log.exception("datasource failed", source=source.name)
            await asyncio.sleep(self._timing.restart)

    async def _watch_sources(self) -> None:
        """Tell the sources who is subscribed, and everybody else which sources are there."""
        settings = self._settings
        most = max(
            bool(settings.rpc_url) * settings.rpc_max_watched, bool(settings.geyser_url) * settings.geyser_max_watched
        )
        before: dict[str, None] = {}
        while True:
            # A node would stream any account, however busy, that a client asked for by mistake.
            subscribed = [key for key in self.hub.subscribed_pubkeys() if not self._snapshots.is_foreign(key)]
            watched = dict.fromkeys(subscribed[:most])
            self._reconciler.look_soon(key for key in watched if key not in before)
            before = watched
            for source in self.sources:
                source.watch(subscribed)
                if source.status.connected:
                    self._ordering.regain(source.name)
                else:
                    self._lose(source.name)
                    self._gaps.lost(source.name)
            self._reconciler.doubt(self._ordering.unsettled())
            await asyncio.sleep(self._timing.watch)

    async def _drain(self, sources: Iterable[asyncio.Task[None]], parts: Iterable[asyncio.Task[None]]) -> None:
        log.info("draining")
        self.readiness.draining = True
        await self._listener.stop_accepting()
        await _cancel(sources)
        drained = await self.pipeline.drain(COMMIT_SECONDS)
        await self._listener.drain(GOODBYE_SECONDS)
        await _cancel(parts)
        await self.release(next_id=self._ordering.next_id if drained else None)
        log.info("server stopped", clean=drained)

    async def release(self, *, next_id: int | None = None) -> None:
        """Let go of cache, database and nodes; also after a start that failed."""
        await self._cache.close()
        await self._store.close(next_id=next_id)
        for rpc in self._rpcs:
            await rpc.close()


async def _open_cache(settings: Settings) -> Cache:
    if settings.redis_url.startswith("memory:"):
        return MemoryCache(ttl=settings.cache_ttl_seconds)
    from account_socket.cache.redis import RedisCache  # noqa: PLC0415  (start-up without Redis is faster)

    cache: Cache = RedisCache(settings.redis_url, ttl=settings.cache_ttl_seconds)
    await cache.open()
    if not settings.redis_url_given and not cache.available:
        await cache.close()
        log.info("no Redis there, using the embedded cache", url=scrub_url(settings.redis_url))
        cache = MemoryCache(ttl=settings.cache_ttl_seconds)
        await cache.open()
    return cache


def _limits(settings: Settings) -> Limits:
    limits = Limits(
        max_connections=settings.max_connections,
        max_sockets=settings.max_connections + SPARE_SOCKETS,
        max_connections_per_ip=settings.max_connections_per_ip,
        allowed_origins=settings.allowed_origins,
        max_subscriptions=settings.max_subscriptions,
        max_requests_per_second=settings.max_requests_per_second,
        outbox_max_bytes=settings.outbox_max_bytes,
        slow_consumer_seconds=settings.slow_consumer_seconds,
        compression=settings.compression == "on",
    )
    return within_open_files(limits, asked=settings.max_connections_given)


def _warn_if_open(host: str) -> None:
    with suppress(ValueError):
        if host == "localhost" or ip_address(host).is_loopback:
            return
    log.warning("anybody who reaches this address can subscribe", host=host, hint="put it behind a proxy that asks")


def _exit_after(seconds: float) -> None:
    """End the process after `seconds` even if a thread hangs in a system call."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
