"""
Growth: what an update costs more where there is more beside it, counted in instructions of the whole server.

Seconds hide an effect of a few percent. The server runs under callgrind; each update is sent when the one before
has arrived, and what the server does in as long a time at rest is subtracted. Nobody is pinged: under callgrind the
pings of ten thousand clients would be many to each update.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import instructions
import rig
import stored
from figures import Figure, Options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from messages import Messages

CLIENTS = 10_000
STREAMED = 100
"""Accounts that updates come for; the crowd subscribes to another."""
UPDATES = 100
STRETCHES = 3
REST_SECONDS = 2.0
TAIL_SECONDS = 0.1
"""What an update leaves to be done once it is sent."""


def measure(options: Options) -> Iterator[Figure]:
    if not instructions.can_count():
        print("growth: left out, it needs valgrind", file=sys.stderr)
        return
    clients = options.many(CLIENTS)
    with rig.made_messages(2 * STREAMED) as made:
        with watching(made) as scene:
            alone = scene.count(options)
            yield Figure("nothing beside it: an update", "1,000 instructions", alone)
            with rig.Load(scene.server.port, made, clients) as crowd:
                crowd.connect(clients)
                crowd.subscribe(range(clients), STREAMED)
                crowded = scene.count(options)
        yield from against(alone, crowded, f"{CLIENTS:,} clients that asked for another account", 1.03)
        if options.big is not None:
            with watching(made, stored.keeping(options.big)) as scene:
                yield from against(alone, scene.count(options), stored.BIG, 1.1)


def against(alone: list[float], counted: list[float], name: str, target: float) -> Iterator[Figure]:
    yield Figure(f"{name}: an update", "1,000 instructions", counted)
    yield Figure(f"{name}: instructions against none", "", [median(counted) / median(alone)], target)


@contextmanager
def watching(made: Messages, environment: Mapping[str, str] = rig.NOTHING) -> Iterator[Scene]:
    """Run a server under callgrind, with one client on all that is streamed."""
    with (
        rig.serving(made, environment=environment, under=instructions.UNDER, pings=False) as (server, feeder),
        rig.Load(server.port, made, 1) as live,
    ):
        live.connect(1)
        live.subscribe(range(1), 0, STREAMED)
        yield Scene(server, feeder, live)


@dataclass(frozen=True)
class Scene:
    """A server that is counted, and one client on the stream."""

    server: rig.Server
    feeder: rig.Feeder
    live: rig.Load

    def count(self, options: Options) -> list[float]:
        """Return how many thousand instructions an update takes, in each stretch that counts."""
        updates = options.many(UPDATES, 10)
        with instructions.counting(self.server):
            self._stretch(2 * updates)  # callgrind translates anew what it counts
            at_rest = min(executed / seconds for executed, seconds in (self._stretch(0) for _ in range(2)))
            streaming = [self._stretch(updates) for _ in range(STRETCHES)]
        return [(executed - at_rest * seconds) / updates / 1000 for executed, seconds in streaming]

    def _stretch(self, updates: int) -> tuple[int, float]:
        """Return instructions and seconds of so many updates, or of a rest."""
        commits = self._commits()
        self.live.reset()
        before, started = instructions.executed(self.server), time.monotonic()
        for at in range(updates):
            self.feeder.play(1, 0, messages=range(at % STREAMED, STREAMED))
            received = self.live.receive(at + 1)
            assert received == at + 1, f"{received} of {at + 1} updates were received"
        time.sleep(TAIL_SECONDS if updates else REST_SECONDS)
        executed, seconds = instructions.executed(self.server) - before, time.monotonic() - started
        assert self._commits() - commits == updates
        return executed, seconds

    def _commits(self) -> float:
        return self.server.metrics()["commit_group_size_count"]
