"""Slow consumers: a tenth of the clients stops reading; what the others notice, and what each of them costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rig
from figures import Figure, Options, Series

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 100
STALLED = 10
ACCOUNTS = 1_000
EACH = 100
RATE = 2_000
SECONDS = 4.0
RECEIVE_BYTES = 64 * 1024
"""Of a stalled client: by default the kernel would take all that is sent in so short a time."""
MIB = 2**20


def measure(options: Options) -> Iterator[Figure]:
    clients = options.many(CLIENTS, 10)
    stalled = clients * STALLED // CLIENTS
    count = round(RATE * options.seconds(SECONDS))
    found = Series()
    with (
        rig.made_messages(ACCOUNTS) as made,
        rig.serving(made) as (server, feeder),
        rig.Load(server.port, made, clients) as good,
        rig.Load(server.port, made, clients, receive_bytes=RECEIVE_BYTES) as bad,
    ):
        good.connect(clients - stalled)
        bad.connect(stalled)
        good.subscribe(range(clients - stalled), 0, EACH)
        bad.subscribe(range(stalled), 0, EACH)
        for _ in range(options.repetitions):
            found.add("with none", run(server, feeder, good, count))
            before, conflated = server.resident_bytes, server.metrics()["messages_conflated_total"]
            bad.ask("stall", 0, stalled)
            found.add("with some", run(server, feeder, good, count))
            found.add("memory", (server.resident_bytes - before) / MIB / stalled)
            found.add("replaced", (server.metrics()["messages_conflated_total"] - conflated) / stalled)
            bad.ask("resume")
            server.quiet()
        closed = bad.report()["closed"]
    name = f"{STALLED} of {CLIENTS} clients stalled for {SECONDS:g} s at {RATE:,}/s"
    yield Figure(f"{name}: others' latency p99", "ms", found["with some"])
    yield Figure("the same without: latency p99", "ms", found["with none"])
    yield Figure(f"{name}: ratio of p99", "", found.ratio("with some", "with none"), 1.5)
    yield Figure(f"{name}: resident memory of each", "MiB", found["memory"], 1.5)
    yield Figure(f"{name}: messages replaced by newer ones for each", "", found["replaced"])
    yield Figure(f"{name}: closed", "", [closed], 0)


def run(server: rig.Server, feeder: rig.Feeder, good: rig.Load, count: int) -> float:
    """Return the p99 latency in ms of clients that read; each must get everything."""
    server.quiet()
    good.reset()
    sent, _ = feeder.play(count, RATE)
    server.quiet()
    report = good.report()
    assert report["least"] == report["most"] > 0
    assert not report["backwards"]
    assert sent == count
    return report["p99_us"] / 1000
