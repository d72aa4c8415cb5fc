"""
Growth: what an update costs more where there is more beside it, counted in instructions of the whole server.

Seconds hide an effect of a few percent. The server runs under callgrind; updates come one by one, so that each is
committed and sent by itself, and what the server does in as long a time without updates is subtracted. A stretch
in which something else happened, a ping or two updates in one commit, does not count.
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
UPDATES = 80
RATE = 40
"""Updates a second: under callgrind one takes the server some 10 ms."""
STRETCHES = 3
MOST_TRIES = 15
LEAST_COMMITS = 0.97
"""Of a stretch that counts, for each update."""


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
                crowded = Scene(scene.server, scene.feeder, scene.live, crowd).count(options)
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
        rig.serving(made, environment=environment, under=instructions.UNDER) as (server, feeder),
        rig.Load(server.port, made, 1) as live,
    ):
        live.connect(1)
        live.subscribe(range(1), 0, STREAMED)
        yield Scene(server, feeder, live)


@dataclass(frozen=True)
class Scene:
    """A server that is counted, one client on the stream, and perhaps a crowd that is not."""

    server: rig.Server
    feeder: rig.Feeder
    live: rig.Load
    crowd: rig.Load | None = None

    def count(self, options: Options) -> list[float]:
        """Return how many thousand instructions an update takes, in each stretch that counts."""
        updates = options.many(UPDATES, 10)
        with instructions.counting(self.server):
            self._stretch(updates)  # callgrind translates anew what it counts
            at_rest = self._undisturbed(0, updates / RATE, 2)
            streaming = self._undisturbed(updates, updates / RATE, STRETCHES)
        return [(executed - min(at_rest)) / updates / 1000 for executed in streaming]

    def _undisturbed(self, updates: int, seconds: float, wanted: int) -> list[int]:
        """Return the instructions of so many stretches; of disturbed ones where there are no others."""
        clean, disturbed = [], []
        while len(clean) < wanted and len(clean) + len(disturbed) < MOST_TRIES:
            executed, alone = self._stretch(updates, seconds)
            (clean if alone else disturbed).append(executed)
        return clean or disturbed

    def _stretch(self, updates: int, seconds: float = 0.0) -> tuple[int, bool]:
        """Return the instructions of a stretch, and whether nothing but the updates happened."""
        self.live.reset()
        if self.crowd is not None:
            self.crowd.reset()
        commits = self._commits()
        before, started = instructions.executed(self.server), time.monotonic()
        if updates:
            self.feeder.play(updates, RATE, messages=range(STREAMED))
            received = self.live.receive(updates)
            assert received == updates, f"{received} of {updates} updates were received"
        time.sleep(max(0.0, started + seconds - time.monotonic()))
        executed = instructions.executed(self.server) - before
        pinged = self.crowd is not None and self.crowd.report()["bytes"] > 0
        return executed, not pinged and self._commits() - commits >= LEAST_COMMITS * updates

    def _commits(self) -> float:
        return self.server.metrics()["commit_group_size_count"]
