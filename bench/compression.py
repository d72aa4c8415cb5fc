"""COMPRESSION=on: bytes and processor time of an update, to clients that compress and to as many that do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import rig
from figures import Figure, Options, Series

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 100
ACCOUNTS = 16
SECONDS = 0.8


@dataclass(frozen=True)
class Case:
    """`burst` updates leave in one loop turn; `rate` a second, such that the server is idle between two bursts."""

    burst: int
    rate: int


CASES = (Case(1, 300), Case(16, 1_600))


def measure(options: Options) -> Iterator[Figure]:
    clients = options.many(CLIENTS)
    with (
        rig.made_messages(ACCOUNTS) as made,
        rig.serving(made, environment={"COMPRESSION": "on"}) as (server, feeder),
        rig.Load(server.port, made, clients) as plain,
        rig.Load(server.port, made, clients, deflate=True) as compressing,
    ):
        plain.connect(clients)
        compressing.connect(clients)
        found = Series()
        for case in CASES:
            updates = max(2, round(case.rate * options.seconds(SECONDS) / case.burst)) * case.burst
            for _ in range(options.repetitions):
                for name, load in (("plain", plain), ("compressed", compressing)):
                    run = Run(server, feeder, load, clients, updates)
                    cpu, size = run.play(case, compressed=load is compressing)
                    found.add(f"{name}, {case.burst}", cpu)
                    found.add(f"{name}, bytes", size)
            for name in ("plain", "compressed"):
                label = f"{CLIENTS} clients, {case.burst} a turn, {name}: the server's time for an update"
                yield Figure(label, "µs", found[f"{name}, {case.burst}"])
        for name in ("plain", "compressed"):
            yield Figure(f"{name}: a message", "bytes", found[f"{name}, bytes"])
        yield Figure("compressed: part of the size", "", found.ratio("compressed, bytes", "plain, bytes"))


@dataclass(frozen=True)
class Run:
    """One run: `clients` of `load`, subscribed to everything for so many `updates`."""

    server: rig.Server
    feeder: rig.Feeder
    load: rig.Load
    clients: int
    updates: int

    def play(self, case: Case, *, compressed: bool) -> tuple[float, float]:
        """Return the server's processor µs of an update, decoding and commit included, and the bytes of a message."""
        server, load = self.server, self.load
        load.subscribe(range(self.clients), 0, ACCOUNTS)
        server.quiet()
        load.reset()
        cpu = server.cpu_seconds
        self.feeder.play(self.updates, case.rate, case.burst)
        messages = self.updates * self.clients
        received = load.receive(messages)
        server.quiet()
        cpu = server.cpu_seconds - cpu
        report = load.report()
        assert received == messages, f"{received} of {messages} messages"
        assert report["compressed"] == (messages if compressed else 0)
        load.unsubscribe(range(self.clients), 0, ACCOUNTS)
        return cpu / self.updates * 1e6, report["bytes"] / messages
