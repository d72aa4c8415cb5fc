"""
Ingest: from the node's socket to committed and sent, at full speed and at a steady rate.

At full speed the node sends as fast as TCP takes it; the rate is that at which one client, subscribed to every
account, got each update. Latency is from the node's write to the client's read, the commit between them; at full
speed it is the time in which all buffers on the way are worked off.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import rig
from figures import Figure, Options, Series

if TYPE_CHECKING:
    from collections.abc import Iterator

    from messages import Messages

ACCOUNTS = 1_000
CROWD = 20
"""Clients subscribed to everything: each update becomes so many messages, and the loop has no time left."""
PARTS = ("p50", "p99", "p99.9")
TARGETS = (2.0, 8.0, 50.0)
"""In ms, at `TARGET_RATE`, with one client."""
TARGET_RATE = 1_000
LATENCY_SECONDS = 2.5
CATCH_UP_SECONDS = 30.0
FLAT = 1.05
"""Of memory that does not grow: the median of the second half of all looks, against the first."""
FILLED_UPDATES = 60_000
"""After so many SQLite's page caches are full; memory is looked at from there on."""
SAMPLE_SECONDS = 0.1
MIB = 2**20

Parts = tuple[rig.Server, rig.Feeder, rig.Load]


@dataclass(frozen=True)
class Case:
    name: str
    target: float | None
    with_redis: bool = False
    zstd: bool = True
    clients: int = 1
    rates: tuple[int, ...] = ()
    repetitions: int | None = None


CASES = (
    Case("embedded cache", 15_000, rates=(1_000, 5_000)),
    Case("Redis", 10_000, with_redis=True, rates=(1_000,)),
    Case(f"{CROWD} clients on everything", 8_000, clients=CROWD, rates=(1_000,)),
    Case("embedded cache, base64 upstream", None, zstd=False, repetitions=1),
)


def measure(options: Options) -> Iterator[Figure]:
    with rig.made_messages(options.many(ACCOUNTS)) as made:
        for case in CASES:
            with rig.redis() if case.with_redis else nullcontext("memory://") as cache_url:
                yield from measure_case(case, made, options, cache_url)


def measure_case(case: Case, made: Messages, options: Options, cache_url: str) -> Iterator[Figure]:
    found = Series()
    with (
        rig.serving(made, zstd=case.zstd, environment={"REDIS_URL": cache_url}) as (server, feeder),
        rig.Load(server.port, made, case.clients) as load,
    ):
        load.connect(case.clients)
        load.subscribe(range(case.clients), 0, made.accounts)
        parts = (server, feeder, load)
        for _ in range(options.repetitions):
            for rate in case.rates:
                latency(parts, rate, options.seconds(LATENCY_SECONDS), found, case.clients)
        for _ in range(case.repetitions or options.repetitions):
            full_speed(parts, options.seconds(options.ingest_seconds), found, case.clients)
    yield Figure(f"{case.name}: updates", "/s", found["rate"], case.target, ">=")
    yield Figure(f"{case.name}: server CPU an update", "µs", found["cpu"])
    yield Figure(f"{case.name}: updates a commit", "", found["group"], judge=">=")
    yield Figure(f"{case.name}: messages replaced by newer ones", "%", found["conflated"])
    for part in PARTS:
        yield Figure(f"{case.name}: latency at full speed, {part}", "ms", found[part])
    yield Figure(f"{case.name}: resident memory", "MiB", found["resident"])
    yield Figure(f"{case.name}: resident memory, second half against first", "", [growth(found["resident"])], FLAT)
    for rate in case.rates:
        judged = rate == TARGET_RATE and case.clients == 1
        for part, target in zip(PARTS, TARGETS, strict=True):
            values = found[f"{rate} {part}"]
            yield Figure(f"{case.name}: latency at {rate:,}/s, {part}", "ms", values, target if judged else None)
        yield Figure(f"{case.name}: updates a commit at {rate:,}/s", "", found[f"{rate} group"])


def growth(samples: list[float]) -> float:
    middle = len(samples) // 2
    return median(samples[middle:]) / median(samples[:middle])


def full_speed(parts: Parts, seconds: float, found: Series, clients: int) -> None:
    server, feeder, load = parts
    load.reset()
    before, cpu = server.metrics(), server.cpu_seconds
    started = time.monotonic()
    feeder.start()
    resident = watch_memory(server, seconds)
    sent, _ = feeder.stop()
    filling = (FILLED_UPDATES - before["published_total"]) / sent  # the part of this run in which caches fill
    for memory in resident[max(0, min(len(resident) - 2, round(len(resident) * filling))) :]:
        found.add("resident", memory)
    received = receive_all(server, load, sent * clients, before["messages_conflated_total"])
    elapsed = time.monotonic() - started
    cpu = server.cpu_seconds - cpu
    after = server.metrics()
    conflated = after["messages_conflated_total"] - before["messages_conflated_total"]
    assert received + conflated == sent * clients, f"{received} received + {conflated} replaced, {sent * clients} sent"
    report = load.report()
    assert not report["backwards"]
    keep_latency(report, "", found)
    found.add("rate", sent / elapsed)
    found.add("cpu", cpu / sent * 1e6)
    found.add("conflated", 100 * conflated / (sent * clients))
    found.add("group", group_size(before, after))


def watch_memory(server: rig.Server, seconds: float) -> list[float]:
    """Return the server's resident memory in MiB, regularly for so long."""
    until, found = time.monotonic() + seconds, []
    while time.monotonic() < until:
        time.sleep(min(SAMPLE_SECONDS, seconds / 4))
        found.append(server.resident_bytes / MIB)
    return found


def group_size(before: dict[str, float], after: dict[str, float]) -> float:
    """Return the mean number of updates a commit between two looks at the metrics."""
    commits = after["commit_group_size_count"] - before["commit_group_size_count"]
    return (after["commit_group_size_sum"] - before["commit_group_size_sum"]) / commits


def receive_all(server: rig.Server, load: rig.Load, expected: int, conflated_before: float) -> int:
    """Wait until every update was received, or replaced by a newer one in a client's backlog."""
    until = time.monotonic() + CATCH_UP_SECONDS
    received = load.receive(expected, 0.5)
    while received < expected and time.monotonic() < until:
        conflated = server.metrics()["messages_conflated_total"] - conflated_before
        received = load.receive(round(expected - conflated), 0.5)
        if received + conflated >= expected:
            break
    return received


def latency(parts: Parts, rate: int, seconds: float, found: Series, clients: int = 1) -> None:
    server, feeder, load = parts
    count = round(rate * seconds)
    server.quiet()
    load.reset()
    before = server.metrics()
    feeder.play(count, rate)
    received = load.receive(count * clients)
    report = load.report()
    assert received == count * clients == report["live"], f"{received} of {count * clients} updates were received"
    assert not report["backwards"]
    keep_latency(report, f"{rate} ", found)
    found.add(f"{rate} group", group_size(before, server.metrics()))


def keep_latency(report: dict[str, float], prefix: str, found: Series) -> None:
    for part in PARTS:
        found.add(f"{prefix}{part}", report[f"{part.replace('.', '')}_us"] / 1000)
