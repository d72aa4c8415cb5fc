"""
Ingest: from the node's socket to committed and sent, at full speed and at a steady rate.

At full speed the node sends as fast as TCP takes it; the rate is that at which one client, subscribed to every
account, got each update. Latency is from the node's write to the client's read, the commit between them.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rig
from figures import Figure, Options, Series

if TYPE_CHECKING:
    from collections.abc import Iterator

    from messages import Messages

ACCOUNTS = 1_000
CROWD = 20
"""Clients subscribed to everything: each update becomes so many messages, and the loop has no time left."""
RATES = {1_000: (2.0, 8.0, 50.0), 5_000: (None, None, None)}
"""Updates a second → targets of p50, p99, p99.9 in ms."""
PARTS = ("p50", "p99", "p99.9")
LATENCY_SECONDS = 2.5
CATCH_UP_SECONDS = 30.0
FLAT = 1.05
"""Of memory that does not grow from run to run."""
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
    Case(f"{CROWD} clients on everything", 8_000, clients=CROWD),
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
        resident = []
        for _ in range(options.repetitions):
            for rate in case.rates:
                latency(parts, rate, options.seconds(LATENCY_SECONDS), found)
        for _ in range(case.repetitions or options.repetitions):
            full_speed(parts, options.seconds(options.ingest_seconds), found, case.clients)
            resident.append(server.resident_bytes / MIB)
    yield Figure(f"{case.name}: updates", "/s", found["rate"], case.target, ">=")
    yield Figure(f"{case.name}: server CPU an update", "µs", found["cpu"])
    yield Figure(f"{case.name}: updates a commit", "", found["group"], judge=">=")
    yield Figure(f"{case.name}: messages replaced by newer ones", "%", found["conflated"])
    yield Figure(f"{case.name}: resident memory", "MiB", resident)
    yield Figure(f"{case.name}: resident memory, last run against first", "", [resident[-1] / resident[0]], FLAT)
    for rate in case.rates:
        for part, target in zip(PARTS, RATES[rate], strict=True):
            yield Figure(f"{case.name}: latency at {rate:,}/s, {part}", "ms", found[f"{rate} {part}"], target)


def full_speed(parts: Parts, seconds: float, found: Series, clients: int) -> None:
    server, feeder, load = parts
    load.reset()
    before, cpu = server.metrics(), server.cpu_seconds
    started = time.monotonic()
    feeder.start()
    time.sleep(seconds)
    sent, _ = feeder.stop()
    received = receive_all(server, load, sent * clients, before["messages_conflated_total"])
    elapsed = time.monotonic() - started
    cpu = server.cpu_seconds - cpu
    after = server.metrics()
    conflated = after["messages_conflated_total"] - before["messages_conflated_total"]
    assert received + conflated == sent * clients, f"{received} received + {conflated} replaced, {sent * clients} sent"
    assert not load.report()["backwards"]
    found.add("rate", sent / elapsed)
    found.add("cpu", cpu / sent * 1e6)
    found.add("conflated", 100 * conflated / (sent * clients))
    commits = after["commit_group_size_count"] - before["commit_group_size_count"]
    found.add("group", (after["commit_group_size_sum"] - before["commit_group_size_sum"]) / commits)


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


def latency(parts: Parts, rate: int, seconds: float, found: Series) -> None:
    server, feeder, load = parts
    count = round(rate * seconds)
    server.quiet()
    load.reset()
    feeder.play(count, rate)
    received = load.receive(count)
    report = load.report()
    assert received == count == report["live"], f"{received} of {count} updates were received"
    assert not report["backwards"]
    for part in PARTS:
        found.add(f"{rate} {part}", report[f"{part.replace('.', '')}_us"] / 1000)
