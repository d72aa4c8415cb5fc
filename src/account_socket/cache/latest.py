"""A bounded queue that keeps only the newest value of each account."""

from __future__ import annotations

from account_socket.model import StoredState


class LatestQueue:
    """
    First in, first out, by account: a newer value takes the place of the one that waits, at the end.

    What is taken stays readable until it is `done` or given back. Only one group is out at a time, so a value
    that was superseded can never be written after the newer one.

    Attributes:
        dropped: values that fell out because the queue was full; the oldest fall first.
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self.dropped = 0
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._waiting: dict[str, StoredState] = {}
        self._taken: dict[str, StoredState] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, pubkey: str, state: StoredState) -> None:
        """Queue `state` unless a newer one waits or is on its way."""
        known = self.get(pubkey)
        if known is not None and known.id > state.id:
            return
        self.discard(pubkey)
        self._waiting[pubkey] = state
        self._bytes += len(state.account_json)
        while len(self._waiting) > self._max_entries or self._bytes > self._max_bytes:
            self.discard(next(iter(self._waiting)))
            self.dropped += 1

    def get(self, pubkey: str) -> StoredState | None:
        """Return the newest value that is not known to be written."""
        return self._waiting.get(pubkey) or self._taken.get(pubkey)

    def discard(self, pubkey: str) -> None:
        """Let go of the value of `pubkey` that waits, if one does."""
        state = self._waiting.pop(pubkey, None)
        if state is not None:
            self._bytes -= len(state.account_json)

    def take(self, *, max_entries: int, max_bytes: int) -> dict[str, StoredState]:
        """Take the oldest values: at least one if any waits, else at most so many entries and bytes."""
        taken: dict[str, StoredState] = {}
        size = 0
        for pubkey, state in self._waiting.items():
            size += len(state.account_json)
            if taken and (len(taken) >= max_entries or size > max_bytes):
                break
            taken[pubkey] = state
        for pubkey in taken:
            self.discard(pubkey)
        self._taken = taken
        return taken

    def done(self) -> None:
        """Forget the group that was taken: it is written."""
        self._taken = {}

    def give_back(self) -> None:
        """Put what was taken and not superseded back to the front."""
        back = {pubkey: state for pubkey, state in self._taken.items() if pubkey not in self._waiting}
        self._taken = {}
        self._waiting = back | self._waiting
        self._bytes += sum(len(state.account_json) for state in back.values())
        while len(self._waiting) > self._max_entries or self._bytes > self._max_bytes:
            self.discard(next(iter(self._waiting)))
            self.dropped += 1
