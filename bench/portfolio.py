"""One client that follows 10,000 accounts: its states at once, then a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rig
from figures import Figure, Options, Series

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCOUNTS = 10_000
RATE = 2_000
SECONDS = 2.0


def measure(options: Options) -> Iterator[Figure]:
    accounts = options.many(ACCOUNTS)
    count = round(RATE * options.seconds(SECONDS))
    found = Series()
    with rig.made_messages(accounts) as made, rig.serving(made) as (server, feeder):
        for _ in range(options.repetitions):
            with rig.Load(server.port, made, 1) as load:
                load.connect(1)
                found.add("states", load.subscribe(range(1), 0, accounts) * 1000)
                assert load.report()["states"] == accounts
                load.reset()
                feeder.play(count, RATE)
                assert load.receive(count) == count
                found.add("p99", load.report()["p99_us"] / 1000)
    yield Figure(f"{ACCOUNTS:,} accounts: all states", "ms", found["states"])
    yield Figure(f"{ACCOUNTS:,} accounts: latency at {RATE:,}/s, p99", "ms", found["p99"])
