"""
Filters: what an update costs where many subscribe by filter, and it fits one of them.

One client has a filter for each account that is streamed. Another one adds thousands that no update fits, though each
agrees in one of its two conditions with all of them. The processor seconds of the whole server are compared.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import rig
from figures import Figure, Options, Series
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from websockets.sync.client import ClientConnection

FITTING = 100
ALL = 10_000
RATE = 2_000
BURST = 16
SECONDS = 3.0

Where = dict[str, Any]


def measure(options: Options) -> Iterator[Figure]:
    many = options.many(ALL, FITTING + 10)
    count = BURST * max(10, round(RATE * options.seconds(SECONDS) / BURST))
    found = Series()
    with rig.made_messages(FITTING) as made, rig.serving(made) as (server, feeder):
        others = [{"token_a_mint": f"nobody's {number}", "pool_status": 0} for number in range(many - FITTING)]
        with Subscriber(server.port, fitting(server, made.keys.read_text().split())) as live:
            parts = server, feeder, live
            run(parts, count)
            for _ in range(options.repetitions):
                before = run(parts, count)
                with Subscriber(server.port, others):
                    found.add("many", run(parts, count))
                found.add("few", (before + run(parts, count)) / 2)
    yield Figure(f"{FITTING} filters: an update that fits one", "µs", found["few"])
    yield Figure(f"{many:,} filters: an update that fits one", "µs", found["many"])
    yield Figure(f"{many:,} filters: ratio to {FITTING}", "", found.ratio("many", "few"), 1.2)


def fitting(server: rig.Server, keys: Iterable[str]) -> list[Where]:
    """Return a filter for each account, which fits only that one."""
    filters = []
    for key in keys:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v1/accounts/{key}", timeout=30) as answer:
            data = json.load(answer)["account"]["data_json"]
        filters.append({"token_a_mint": data["token_a_mint"], "pool_status": data["pool_status"]})
    return filters


class Subscriber:
    """A client that subscribes by filters and counts what it is sent; a context manager."""

    def __init__(self, port: int, filters: Iterable[Where]) -> None:
        self._url = f"ws://127.0.0.1:{port}/ws"
        self._filters = filters
        self._enough = threading.Condition()
        self._count = 0

    def __enter__(self) -> Self:
        self._socket: ClientConnection = connect(self._url, compression=None, max_size=None)
        for where in self._filters:
            request = {"action": "subscribe", "account_type": "Pool", "where": where, "snapshot": False}
            self._socket.send(json.dumps(request))
            assert b'"snapshot_end"' in self._socket.recv(decode=False)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._reader.join()

    def _read(self) -> None:
        try:
            for _ in self._socket:
                with self._enough:
                    self._count += 1
                    self._enough.notify_all()
        except ConnectionClosed:
            pass

    @contextmanager
    def receiving(self, count: int) -> Iterator[None]:
        """Have so many messages come in the block, or soon after it."""
        with self._enough:
            self._count = 0
        yield
        with self._enough:
            self._enough.wait_for(lambda: self._count >= count, rig.ANSWER_SECONDS)
            assert self._count == count, f"{self._count} of {count} messages"


def run(parts: tuple[rig.Server, rig.Feeder, Subscriber], count: int) -> float:
    """Return the server's processor time for an update, in µs."""
    server, feeder, live = parts
    server.quiet()
    cpu = server.cpu_seconds
    with live.receiving(count):
        feeder.play(count, RATE, BURST)
    server.quiet()
    return (server.cpu_seconds - cpu) / count * 1e6
