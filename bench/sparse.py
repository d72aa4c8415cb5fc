"""
Sparse: many clients with one account each, so that every update goes to one of them and nothing can be joined.

The cost of a message is marginal: the same stream with every client subscribed, and with none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import rig
from figures import Figure, Options, Series

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 5_000
RATE = 2_000
SECONDS = 3.0


def measure(options: Options) -> Iterator[Figure]:
    clients = options.many(CLIENTS)
    count = max(clients, round(RATE * options.seconds(SECONDS)))
    found = Series()
    with (
        rig.made_messages(clients) as made,
        rig.serving(made) as (server, feeder),
        rig.Load(server.port, made, clients) as load,
        rig.Limit(made) as limit,
        rig.Load(limit.port, made, clients) as limit_load,
    ):
        load.connect(clients)
        limit_load.connect(clients)
        for _ in range(options.repetitions):
            alone = run(server, feeder, load, count, 0)
            load.subscribe(range(clients), 0, 1, 1)
            sent = run(server, feeder, load, count, count)
            report = load.report()
            load.unsubscribe(range(clients), 0, 1, 1)
            found.add("server", (sent - alone) / count * 1e6)
            found.add("p99", report["p99_us"] / 1000)
            found.add("p50", report["p50_us"] / 1000)
            idle = send(limit, limit_load, count, 0)
            found.add("C", (send(limit, limit_load, count, clients) - idle) / count * 1e6)
    name = f"{CLIENTS:,} clients, one account each, {RATE:,}/s"
    yield Figure(f"{name}: a message at the margin", "µs", found["server"])
    yield Figure(f"{name}: C", "µs", found["C"])
    yield Figure(f"{name}: ratio to C", "", found.ratio("server", "C"), 1.6)
    yield Figure(f"{name}: latency p50", "ms", found["p50"])
    yield Figure(f"{name}: latency p99", "ms", found["p99"], 8.0)


def run(server: rig.Server, feeder: rig.Feeder, load: rig.Load, count: int, expected: int) -> float:
    server.quiet()
    load.reset()
    cpu = server.cpu_seconds
    feeder.play(count, RATE)
    received = load.receive(expected)
    server.quiet()
    assert received == expected, f"{received} of {expected} messages"
    return server.cpu_seconds - cpu


def send(limit: rig.Limit, load: rig.Load, count: int, clients: int) -> float:
    load.reset()
    cpu = limit.cpu_seconds
    sent = limit.play(count, RATE, way="frame", spread="one", clients=clients)
    received = load.receive(sent)
    assert received == sent == (count if clients else 0), f"{received} of {sent} messages"
    return limit.cpu_seconds - cpu
