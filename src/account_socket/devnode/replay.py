"""What is replayed, and when: the recording's writes on N addresses, paced by the clock."""

from __future__ import annotations

from hashlib import sha256
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal

from solders.pubkey import Pubkey

from account_socket.model import RawAccount

if TYPE_CHECKING:
    from account_socket.sources.recording import Recording

SLOT_MS = 400
SLOT_ZERO_UNIX_MS = 1_584_316_800_000
"""2020-03-16, when mainnet began: slots derived from the clock look like mainnet's."""
MAX_DEBT_SECONDS = 1.0
"""How far behind its rate a replay may fall before what is missed is forgiven."""


MAX_WAIT_SECONDS = 60.0
"""A replay looks at the clock at least so often, however long nothing was recorded."""

RECORDED: Final = "recorded"
Rate = float | Literal["recorded"]
"""Writes per second, or each at its recorded time."""


def slot_at(unix_ms: float) -> int:
    """Return the slot that a looping node is in at a unix time."""
    return max(0, int(unix_ms - SLOT_ZERO_UNIX_MS) // SLOT_MS)


def derived_pubkey(pubkey: str, copy: int) -> str:
    """Return the address of an account's n-th copy: sha256 of the 32 key bytes and `copy` as u64; copy 0 is itself."""
    if copy == 0:
        return pubkey
    seed = bytes(Pubkey.from_string(pubkey)) + copy.to_bytes(8, "little")
    return str(Pubkey.from_bytes(sha256(seed).digest()))


def spread(pubkeys: list[str], accounts: int) -> dict[str, tuple[str, ...]]:
    """Return the addresses that each of the distinct `pubkeys` stands for, `accounts` in all."""
    whole, rest = divmod(accounts, len(pubkeys)) if pubkeys else (0, 0)
    return {
        pubkey: tuple(derived_pubkey(pubkey, copy) for copy in range(whole + (index < rest)))
        for index, pubkey in enumerate(pubkeys)
    }


class Replay:
    """
    The recording's writes one after another, each on every address that its account stands for.

    Args:
        timed: Whether the recorded times are wanted.

    Attributes:
        total: How many writes one pass has.
        position: How many of them were taken in this pass.
        passes: How many passes are complete.
    """

    def __init__(self, recording: Recording, *, accounts: int | None = None, timed: bool = False) -> None:
        pubkeys = list(dict.fromkeys(write.account.pubkey for write in recording.writes))
        self._recording = recording
        self._addresses = spread(pubkeys, len(pubkeys) if accounts is None else accounts)
        self.total = sum(len(self._addresses[write.account.pubkey]) for write in recording.writes)
        self.passes = 0
        self._seconds = _seconds_of(recording) if timed else []
        self.rewind()

    def rewind(self) -> None:
        """Begin a pass."""
        self.position = 0
        self._index = 0
        self._copy = 0
        self._skip_absent()

    @property
    def done(self) -> bool:
        """Whether every write of this pass was taken."""
        return self._index >= len(self._recording.writes)

    @property
    def next_slot(self) -> int:
        """The recorded slot of the next write. Only while not done."""
        return self._recording.writes[self._index].account.slot

    @property
    def lowest_slot_ahead(self) -> int | None:
        """The lowest recorded slot of the writes not yet taken, or None when done."""
        return None if self.done else self._recording.lowest_slot_from[self._index]

    @property
    def next_seconds(self) -> float:
        """When the next write is due, since the first one of the first pass. Only where `timed` and not done."""
        # Between two passes lies what on average lies between two writes.
        last, count = self._seconds[-1], len(self._seconds)
        return self._seconds[self._index] + (self.passes * (last * count / (count - 1) if count > 1 else 1.0))

    def count_due(self, seconds: float, limit: int) -> int:
        """Return how many of the next writes of this pass, at most `limit`, are due by then. Only where `timed`."""
        count, index = -self._copy, self._index
        seconds -= self.next_seconds - self._seconds[index]
        while count < limit and index < len(self._seconds) and self._seconds[index] <= seconds:
            count += len(self._addresses[self._recording.writes[index].account.pubkey])
            index += 1
        return max(0, min(count, limit))

    def take(self, slot: int | None = None) -> RawAccount:
        """Return the next write, at its recorded slot or at `slot`. Only while not done."""
        recorded = self._recording.writes[self._index].account
        addresses = self._addresses[recorded.pubkey]
        pubkey = addresses[self._copy]
        self.position += 1
        self._copy += 1
        if self._copy == len(addresses):
            self._index += 1
            self._copy = 0
            self._skip_absent()
        if self.done:
            self.passes += 1
        return RawAccount(
            pubkey,
            recorded.slot if slot is None else slot,
            recorded.owner,
            recorded.lamports,
            recorded.data,
            recorded.executable,
            recorded.rent_epoch,
        )

    def _skip_absent(self) -> None:
        writes = self._recording.writes
        while self._index < len(writes) and not self._addresses[writes[self._index].account.pubkey]:
            self._index += 1


def _seconds_of(recording: Recording) -> list[float]:
    """Return when each write is due after the first. Raises ValueError: the recording has no times."""
    if not recording.timed:
        raise ValueError("the recording has no times to replay it by")
    # Whatever a file says, no write comes before the one before it.
    times = list(accumulate((write.at_ms or 0 for write in recording.writes), max))
    return [(at_ms - times[0]) / 1000 for at_ms in times]


class RecordedPace:
    """Which writes are due by their recorded times; times are seconds of a monotonic clock."""

    def __init__(self, replay: Replay, now: float) -> None:
        self._replay = replay
        self._zero = now - replay.next_seconds
        self.behind = 0.0

    def due(self, now: float, limit: int) -> int:
        """Return how many writes are due, at most `limit`; the caller makes them. Only while not done."""
        self.behind = max(0.0, now - self._zero - self._replay.next_seconds)
        self._zero += max(0.0, self.behind - MAX_DEBT_SECONDS)
        return self._replay.count_due(now - self._zero, limit)

    def wait(self, now: float) -> float:
        """Return the seconds until the next write is due, at most MAX_WAIT_SECONDS."""
        if self._replay.done:
            return 0.0
        return min(max(0.0, self._zero + self._replay.next_seconds - now), MAX_WAIT_SECONDS)


class Pace:
    """How many writes are due at `rate` per second; times are seconds of a monotonic clock."""

    def __init__(self, rate: float, now: float) -> None:
        self._interval = 1 / rate
        self._next = now
        self.behind = 0.0

    def due(self, now: float, limit: int) -> int:
        """Return how many writes are due, at most `limit`, and count them as made."""
        self.behind = max(0.0, now - self._next)
        if self.behind > MAX_DEBT_SECONDS:
            self._next = now - MAX_DEBT_SECONDS
        if now < self._next:
            return 0
        count = min(limit, 1 + int((now - self._next) / self._interval))
        self._next += count * self._interval
        return count

    def wait(self, now: float) -> float:
        """Return the seconds until the next write is due."""
        return max(0.0, self._next - now)
