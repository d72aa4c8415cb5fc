"""What /metrics shows of the parts behind the port; the server adds its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from account_socket.cache.base import Cache
from account_socket.metrics import Metrics
from account_socket.pipeline.backfill import Backfill
from account_socket.pipeline.gaps import Gaps
from account_socket.pipeline.ordering import Ordering
from account_socket.pipeline.pipeline import Pipeline
from account_socket.pipeline.snapshots import Snapshots
from account_socket.sources.base import Datasource, SourceStatus
from account_socket.store.base import Store


def measure_sources(metrics: Metrics, sources: Sequence[Datasource]) -> None:
    """Tell of each upstream; the label is the datasource's name."""

    def each(read: Callable[[SourceStatus], float | None]) -> Callable[[], dict[str, float]]:
        def values() -> dict[str, float]:
            pairs = ((source.name, read(source.status)) for source in sources)
            return {name: value for name, value in pairs if value is not None}

        return values

    def tip_age(status: SourceStatus) -> float | None:
        return None if status.tip_at is None else time.monotonic() - status.tip_at

    def lag(status: SourceStatus) -> float | None:
        best = max((source.status.tip_slot or 0 for source in sources), default=0)
        return None if status.tip_slot is None else best - status.tip_slot

    def odd() -> dict[str, float]:
        kinds: dict[str, float] = {}
        for source in sources:
            for kind, count in source.status.odd.items():
                kinds[kind] = kinds.get(kind, 0) + count
        return kinds

    for name, text, kind, read in (
        ("connected", "1 while subscribed and slots arrive", "gauge", lambda status: status.connected),
        ("slot", "Newest slot the node confirmed", "gauge", lambda status: status.tip_slot),
        ("update_slot", "Slot of the newest account update", "gauge", lambda status: status.last_update_slot),
        ("slot_age_seconds", "Time since the newest slot grew", "gauge", tip_age),
        ("slot_lag", "Slots behind the best upstream", "gauge", lag),
        ("reconnects", "Times the connection was lost", "counter", lambda status: status.reconnects),
        ("notifications", "Account notifications taken", "counter", lambda status: status.notifications),
        ("oddities", "Odd frames survived, of each upstream", "counter", lambda status: status.odd.total()),
    ):
        metrics.add(f"account_socket_upstream_{name}", text, kind, each(read), label="source")  # type: ignore[arg-type]
    metrics.add("account_socket_upstream_odd_frames", "Odd frames survived", "counter", odd, label="kind")


def measure_pipeline(metrics: Metrics, pipeline: Pipeline, ordering: Ordering, snapshots: Snapshots) -> None:
    """Tell of ordering, decoding, commits and the reads that clients cause."""
    add = metrics.add
    first_id = ordering.next_id
    add("account_socket_updates", "Updates admitted", "counter", lambda: ordering.next_id - first_id)
    add(
        "account_socket_updates_dropped",
        "States that were no news",
        "counter",
        lambda: ordering.dropped,
        label="reason",
    )
    add(
        "account_socket_upstream_duplicates",
        "Pushed states that another notification had told already",
        "counter",
        lambda: ordering.duplicates,
        label="source",
    )
    add("account_socket_accounts_in_memory", "Accounts whose order is in memory", "gauge", lambda: len(ordering))
    failures = pipeline.decode_failures
    add("account_socket_decode_failures", "Accounts no layout fits", "counter", lambda: failures, label="kind")
    add("account_socket_degraded", "1 while updates go on without ids", "gauge", lambda: pipeline.degraded)
    for name, text, kind in (
        ("queued", "Updates waiting for a commit", "gauge"),
        ("queued_bytes", "Bytes of these", "gauge"),
        ("shed", "Updates the full queue dropped while the database was away", "counter"),
        ("refused", "Updates the database refused", "counter"),
    ):
        add(f"account_socket_commit_queue_{name}", text, kind, _reader(pipeline.statistics, name))  # type: ignore[arg-type]
    for name, text, kind in (
        ("lookups", "Reads from the node that clients caused", "counter"),
        ("lookup_errors", "Of these, failed", "counter"),
        ("wanted", "Accounts waiting to be read", "gauge"),
        ("misses", "Accounts remembered as unknown or foreign", "gauge"),
    ):
        add(f"account_socket_snapshot_{name}", text, kind, _reader(snapshots.statistics, name))  # type: ignore[arg-type]
    metrics.add_histogram(
        "account_socket_latency_seconds", "From upstream's bytes to the fan-out, commit included", pipeline.latency
    )
    metrics.add_histogram("account_socket_commit_group_size", "Updates per commit", pipeline.group_size)
    metrics.add_histogram("account_socket_commit_seconds", "Time of a commit", pipeline.commit_seconds)


def measure_gaps(metrics: Metrics, gaps: Gaps) -> None:
    """Tell of interruptions of upstream."""
    metrics.add("account_socket_gaps_open", "Interruptions not healed yet", "gauge", lambda: len(gaps.open))
    metrics.add("account_socket_gaps_healed", "Interruptions healed", "counter", lambda: gaps.healed)
    metrics.add(
        "account_socket_gaps_covered", "Interruptions another upstream covered", "counter", lambda: gaps.covered
    )


def measure_backfill(metrics: Metrics, backfill: Backfill) -> None:
    """Tell of what is read in the background."""
    add = metrics.add
    add("account_socket_backfill_accounts", "Accounts read", "counter", lambda: backfill.progress.accounts)
    add("account_socket_backfill_passes", "Readings that came to their end", "counter", lambda: backfill.passes)
    add("account_socket_backfill_seconds", "Time these took", "counter", lambda: backfill.seconds)
    add("account_socket_backfill_failing", "1 while the last reading failed", "gauge", lambda: backfill.error != "")
    add("account_socket_backfill_complete", "1 while the store has every account", "gauge", lambda: backfill.complete)


def measure_storage(metrics: Metrics, store: Store, cache: Cache) -> None:
    """Tell of the database and the cache, by their statistics."""
    for name in sorted(store.statistics()):
        metrics.add(f"account_socket_store_{name}", f"The store's {name}", "gauge", _reader(store.statistics, name))
    metrics.add("account_socket_store_free_bytes", "Free space for the database", "gauge", lambda: store.free_bytes)
    metrics.add("account_socket_cache_available", "1 while the cache answers", "gauge", lambda: cache.available)
    for name in sorted(cache.statistics()):
        metrics.add(f"account_socket_cache_{name}", f"The cache's {name}", "gauge", _reader(cache.statistics, name))


def _reader(
    statistics: Callable[[], dict[str, int]] | Callable[[], dict[str, float]], name: str
) -> Callable[[], float]:
    return lambda: statistics()[name]
