"""
Fan-out: what one more message costs the server, against a C server that does nothing but send.

Each update also costs its decoding and its commit, so the figure is marginal: the slope between N and 2N clients
subscribed to the same stream. The C server's is likewise its processor time with 2N clients less that with none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import rig
from figures import Figure, Options, Series

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCOUNTS = 16
"""Few, and everybody subscribes to all: each update goes to each client."""


@dataclass(frozen=True)
class Case:
    """
    Attributes:
        clients: N.
        burst: updates that the node writes at once, and that leave in one loop turn.
        rate: updates a second, such that the server is idle between two bursts.
        seconds: of one run. What each update costs by itself varies, and where few clients share it, that is much
            of the slope: there a run is longer.
        per_frame, coalesced: targets, as parts of the cost of the C server in either way.
    """

    clients: int
    burst: int
    rate: int
    seconds: float = 0.8
    per_frame: float | None = None
    coalesced: float | None = None


CASES = (
    Case(100, 1, 300, seconds=4.0, per_frame=1.3),
    Case(100, 4, 800),
    Case(100, 16, 1_600, per_frame=0.3, coalesced=1.3),
    Case(1_000, 1, 40, per_frame=1.3),
    Case(1_000, 4, 100),
    Case(1_000, 16, 240, per_frame=0.3, coalesced=1.3),
)


def measure(options: Options) -> Iterator[Figure]:
    most = max(options.many(case.clients) for case in CASES)
    with (
        rig.made_messages(ACCOUNTS) as made,
        rig.serving(made) as (server, feeder),
        rig.Load(server.port, made, 2 * most) as load,
        rig.Limit(made) as limit,
        rig.Load(limit.port, made, 2 * most) as limit_load,
    ):
        load.connect(2 * most)
        limit_load.connect(2 * most)
        for case in CASES:
            yield from Comparison(Rig(server, feeder, load, limit, limit_load), case, options).run()


@dataclass(frozen=True)
class Rig:
    """The candidates and their clients."""

    server: rig.Server
    feeder: rig.Feeder
    load: rig.Load
    limit: rig.Limit
    limit_load: rig.Load


class Comparison:
    """One case: the candidates, alternating."""

    def __init__(self, parts: Rig, case: Case, options: Options) -> None:
        self._server, self._feeder, self._load = parts.server, parts.feeder, parts.load
        self._limit, self._limit_load = parts.limit, parts.limit_load
        self._case = case
        self._clients = options.many(case.clients)
        self._repetitions = options.repetitions
        bursts = max(2, round(case.rate * options.seconds(case.seconds) / case.burst))
        self._updates = bursts * case.burst
        self._found = Series()

    def run(self) -> Iterator[Figure]:
        case, found, clients = self._case, self._found, self._clients
        self._load.subscribe(range(clients), 0, ACCOUNTS)
        for _ in range(self._repetitions):
            few = self._serve(clients)
            self._load.subscribe(range(clients, 2 * clients), 0, ACCOUNTS)
            many = self._serve(2 * clients)
            self._load.unsubscribe(range(clients, 2 * clients), 0, ACCOUNTS)
            few = (few + self._serve(clients)) / 2
            found.add("server", (many - few) / (self._updates * clients) * 1e6)
            found.add("per frame", self._send("frame"))
            found.add("coalesced", self._send("coalesced") if case.burst > 1 else found["per frame"][-1])
        self._load.unsubscribe(range(clients), 0, ACCOUNTS)
        name = f"{case.clients:,} clients, {case.burst} a turn"
        yield Figure(f"{name}: a message at the margin", "µs", found["server"])
        yield Figure(f"{name}: C, one send() a frame", "µs", found["per frame"])
        if case.burst > 1:
            yield Figure(f"{name}: C, coalesced", "µs", found["coalesced"])
        yield Figure(f"{name}: ratio to C per frame", "", found.ratio("server", "per frame"), case.per_frame)
        if case.burst > 1:
            yield Figure(f"{name}: ratio to C coalesced", "", found.ratio("server", "coalesced"), case.coalesced)
        yield Figure(f"{name}: updates a commit", "", found["group"])

    def _serve(self, clients: int) -> float:
        """Return the server's processor seconds for one run; every message must arrive."""
        server, load = self._server, self._load
        server.quiet()
        load.reset()
        before, cpu = server.metrics(), server.cpu_seconds
        self._feeder.play(self._updates, self._case.rate, self._case.burst)
        received = load.receive(self._updates * clients)
        server.quiet()
        cpu = server.cpu_seconds - cpu
        after = server.metrics()
        assert received == self._updates * clients, f"{received} of {self._updates * clients} messages"
        commits = after["commit_group_size_count"] - before["commit_group_size_count"]
        self._found.add("group", self._updates / commits)
        return cpu

    def _send(self, way: str) -> float:
        """Return the C server's processor µs a message."""
        clients = 2 * self._clients
        idle = self._pace(way, 0)
        return (self._pace(way, clients) - idle) / (self._updates * clients) * 1e6

    def _pace(self, way: str, clients: int) -> float:
        limit, load, case = self._limit, self._limit_load, self._case
        load.reset()
        cpu = limit.cpu_seconds
        sent = limit.play(self._updates, case.rate, case.burst, way=way, spread="all", clients=clients)
        received = load.receive(sent)
        assert received == sent == self._updates * clients, f"{received} of {sent} messages"
        return limit.cpu_seconds - cpu
