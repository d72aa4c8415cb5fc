"""From a programNotification's bytes to a RawAccount, in this process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from figures import Figure, Options, Series
from messages import notification, pool_states
from solders.pubkey import Pubkey

from account_socket.sources.pubsub import AccountNotification, FrameReader

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 5


def measure(options: Options) -> Iterator[Figure]:
    keys = [str(Pubkey(number.to_bytes(32, "big"))) for number in range(1, 201)]
    states = pool_states()
    found = Series()
    for _ in range(options.repetitions * ROUNDS):
        for encoding in ("base64", "base64+zstd"):
            frames = [notification(key, states[at % len(states)], encoding) for at, key in enumerate(keys)]
            found.add(encoding, per_frame(frames))
    for encoding in ("base64", "base64+zstd"):
        yield Figure(f"programNotification of a pool, {encoding}", "µs", found[encoding])


def per_frame(frames: list[bytes]) -> float:
    reader = FrameReader("bench")
    assert all(isinstance(reader.read(frame, 0.0)[-1], AccountNotification) for frame in frames)
    start = time.perf_counter()
    for frame in frames:
        reader.read(frame, 0.0)
    return (time.perf_counter() - start) * 1e6 / len(frames)
