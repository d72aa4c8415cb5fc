"""
A crowd of clients that want little: what an idle one costs, how fast 10,000 are let in and answered at once.

The storm: every client subscribes to an account of its own at once, each in memory, while a client that was there
before gets a steady stream.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import rig
from figures import Figure, Options, Series

if TYPE_CHECKING:
    from collections.abc import Iterator

    from messages import Messages

CLIENTS = 10_000
LIVE_RATE = 1_000
LIVE_SECONDS = 2.5
IDLE_SECONDS = 2.0
PING_SECONDS = 25.0
"""The server's: in so long it pings everybody once."""
SETTLE_SECONDS = 2.5
"""After work the log of the database is copied and cut, within two seconds: that is work, too."""
MOST_REPETITIONS = 2
"""Each takes 20 s."""
KIB = 1024

Parts = tuple[rig.Server, rig.Feeder, rig.Load]


def measure(options: Options) -> Iterator[Figure]:
    clients = options.many(CLIENTS)
    found = Series()
    with rig.made_messages(clients) as made:
        for repetition in range(min(options.repetitions, MOST_REPETITIONS)):
            gather(made, options, clients, found, pinged=repetition == 0)
    yield Figure(f"{CLIENTS:,} clients: time to let them in", "s", found["accept"], 10.0)
    yield Figure(f"{CLIENTS:,} clients: server CPU of a handshake", "µs", found["handshake"])
    yield Figure(f"{CLIENTS // 2:,} idle clients: resident memory of each", "KiB", found["memory of half"], 7.0)
    yield Figure(f"{CLIENTS:,} idle clients: resident memory of each", "KiB", found["memory"], 7.0)
    yield Figure("no clients, no updates: server CPU", "%", found["idle alone"])
    yield Figure(f"{CLIENTS:,} idle clients: server CPU, pings included", "%", found["idle"])
    yield Figure(f"storm of {CLIENTS:,}: subscribes and states", "/s", found["storm"], 10_000, ">=")
    yield Figure(f"storm of {CLIENTS:,}: server CPU meanwhile", "%", found["storm cpu"])
    yield Figure(f"storm of {CLIENTS:,}: live latency p50 meanwhile", "ms", found["live p50"])
    yield Figure(f"storm of {CLIENTS:,}: live latency p99 meanwhile", "ms", found["live p99"], 20.0)
    # Without a target: what growth.py counts lies below the noise of seconds.
    yield Figure(f"an update with {CLIENTS:,} idle clients, CPU against none", "", found["growth"])


def gather(made: Messages, options: Options, clients: int, found: Series, *, pinged: bool) -> None:
    with (
        rig.serving(made) as (server, feeder),
        rig.Load(server.port, made, clients) as load,
        rig.Load(server.port, made, 1) as live,
    ):
        live.connect(1)
        live.subscribe(range(1), 0, made.accounts)
        server.quiet()
        found.add("idle alone", busy(server, options.seconds(IDLE_SECONDS), options))
        alone = cost(server, feeder, live, options)
        empty, cpu = server.resident_bytes, server.cpu_seconds
        took = load.connect(clients // 2)
        server.quiet()
        found.add("memory of half", (server.resident_bytes - empty) / KIB / (clients // 2))
        took += load.connect(clients - clients // 2)
        found.add("accept", took)
        server.quiet()
        found.add("handshake", (server.cpu_seconds - cpu) / clients * 1e6)
        found.add("memory", (server.resident_bytes - empty) / KIB / clients)
        found.add("growth", cost(server, feeder, live, options) / alone)
        if pinged:
            found.add("idle", busy(server, options.seconds(PING_SECONDS), options))
        storm((server, feeder, load), live, clients, options.seconds(LIVE_SECONDS), found)


def cost(server: rig.Server, feeder: rig.Feeder, live: rig.Load, options: Options) -> float:
    """Return the server's processor seconds an update of a steady stream."""
    count = round(LIVE_RATE * options.seconds(LIVE_SECONDS))
    live.reset()
    cpu = server.cpu_seconds
    feeder.play(count, LIVE_RATE)
    assert live.receive(count) == count
    return (server.cpu_seconds - cpu) / count


def busy(server: rig.Server, seconds: float, options: Options) -> float:
    """Return the percentage of a processor that the server, left alone, uses for so long."""
    time.sleep(options.seconds(SETTLE_SECONDS))
    cpu = server.cpu_seconds
    time.sleep(seconds)
    return (server.cpu_seconds - cpu) / seconds * 100


def storm(parts: Parts, live: rig.Load, clients: int, seconds: float, found: Series) -> None:
    server, feeder, load = parts
    server.quiet()
    live.reset()
    load.reset()
    count = round(LIVE_RATE * seconds)
    feeder.start(count, LIVE_RATE)
    time.sleep(0.1)
    cpu = server.cpu_seconds
    took = load.subscribe(range(clients), 0, 1, 1)
    found.add("storm", clients / took)
    found.add("storm cpu", (server.cpu_seconds - cpu) / took * 100)
    feeder.finish()
    assert live.receive(count) == count
    report = live.report()
    assert not report["backwards"]
    answered = load.report()
    # Where a live update was faster, it is the state.
    assert answered["acks"] == clients
    assert answered["states"] + answered["live"] >= clients
    found.add("live p50", report["p50_us"] / 1000)
    found.add("live p99", report["p99_us"] / 1000)
