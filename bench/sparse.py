"""
Sparse: many clients with one account each, so that every update goes to one of them and nothing can be joined.

The cost of a message is marginal: the same stream with every client subscribed, and with none. There the node writes
16 updates at once, so that what a commit costs, and by chance more or less, does not hide it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import rig
from figures import Figure, Options, Series

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 5_000
RATE = 2_000
BURST = 16
BURST_RATE = 4_000
SECONDS = 4.0

Parts = tuple[rig.Server, rig.Feeder, rig.Load]


def measure(options: Options) -> Iterator[Figure]:
    clients = options.many(CLIENTS)
    count = round(RATE * options.seconds(SECONDS))
    bursts = BURST * max(1, round(BURST_RATE * options.seconds(SECONDS) / BURST))
    found = Series()
    with (
        rig.made_messages(clients) as made,
        rig.serving(made) as (server, feeder),
        rig.Load(server.port, made, clients) as load,
        rig.Limit(made) as limit,
        rig.Load(limit.port, made, clients) as limit_load,
    ):
        parts = (server, feeder, load)
        load.connect(clients)
        limit_load.connect(clients)
        for _ in range(options.repetitions):
            alone = run(parts, bursts, 0)
            load.subscribe(range(clients), 0, 1, 1)
            sent = run(parts, bursts, bursts)
            run(parts, count, count, burst=1)
            report = load.report()
            load.unsubscribe(range(clients), 0, 1, 1)
            alone = (alone + run(parts, bursts, 0)) / 2
            found.add("server", (sent - alone) / bursts * 1e6)
            found.add("p50", report["p50_us"] / 1000)
            found.add("p99", report["p99_us"] / 1000)
            idle = send(limit, limit_load, bursts, 0)
            found.add("C", (send(limit, limit_load, bursts, clients) - idle) / bursts * 1e6)
    name = f"{CLIENTS:,} clients, one account each"
    yield Figure(f"{name}: a message at the margin", "µs", found["server"])
    yield Figure(f"{name}: C", "µs", found["C"])
    yield Figure(f"{name}: ratio to C", "", found.ratio("server", "C"), 1.6)
    yield Figure(f"{name}: latency at {RATE:,}/s, p50", "ms", found["p50"])
    yield Figure(f"{name}: latency at {RATE:,}/s, p99", "ms", found["p99"], 8.0)


def run(parts: Parts, count: int, expected: int, burst: int = BURST) -> float:
    """Return the server's processor seconds."""
    server, feeder, load = parts
    server.quiet()
    load.reset()
    cpu = server.cpu_seconds
    feeder.play(count, BURST_RATE if burst > 1 else RATE, burst)
    received = load.receive(expected)
    server.quiet()
    assert received == expected, f"{received} of {expected} messages"
    return server.cpu_seconds - cpu


def send(limit: rig.Limit, load: rig.Load, count: int, clients: int) -> float:
    """Return the C server's processor seconds."""
    load.reset()
    cpu = limit.cpu_seconds
    sent = limit.play(count, BURST_RATE, BURST, way="frame", spread="one", clients=clients)
    received = load.receive(sent)
    assert received == sent == (count if clients else 0), f"{received} of {sent} messages"
    return limit.cpu_seconds - cpu
