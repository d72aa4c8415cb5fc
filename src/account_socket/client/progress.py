"""What a subscription has been told, and so where it resumes after a break. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from account_socket.client.frames import Ack, SnapshotEnd, Subscribed, Update
from account_socket.client.selection import Selection


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where a subscription stands; given to `Client.subscribe` it goes on there, also in another process.

    Attributes:
        epoch: of the ids.
        after: pubkey → the id of the last update of it; for a subscription by pubkeys.
        after_id: the highest id; for one by a filter whose `SnapshotEnd` came.
    """

    epoch: str
    after: dict[str, int] = {}
    after_id: int | None = None


class Progress:
    """
    Follows one subscription through its connections.

    Attributes:
        recovered: whether the last reconnect missed nothing; None before the first one has been answered.
    """

    def __init__(self, selection: Selection, position: Position | None = None) -> None:
        self.recovered: bool | None = None
        self._selection = selection
        self._epoch = position.epoch if position else ""
        self._after = dict(position.after) if position else {}
        self._after_id = position.after_id if position else None
        self._told = position is not None
        self._again = self._resuming = False
        self._waiting: set[int] = set()
        self._last: dict[str, tuple[int, str]] = {}
        """By pubkeys: id and time of the last update of each; a state that is told again is known by them."""
        self._arrived: dict[str, int] = {}
        """By pubkeys: the ids on this connection. By a filter: those of a snapshot that is not whole yet."""
        self._highest = self._after_id
        self._whole = False

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._waiting)

    @property
    def position(self) -> Position | None:
        """Where this subscription can go on; None where it can only begin anew."""
        if not self._epoch or not self._selection.resumable:
            return None
        if self._selection.by_filter:
            return None if self._after_id is None else Position(epoch=self._epoch, after_id=self._after_id)
        return Position(epoch=self._epoch, after=dict(self._after)) if self._after else None

    def begin(self) -> list[dict[str, Any]]:
        """Return the requests of a new connection."""
        self._again = self._told
        self._resuming = self.position is not None
        self._whole = False
        if not self._selection.by_filter:
            self._arrived = {}
        requests = self._selection.requests()
        if self._resuming:
            for request in requests:
                request.update(self._resume(request.get("pubkeys", ())))
        self._waiting = {request["id"] for request in requests}
        if self._again:
            self.recovered = None
        return requests

    def _resume(self, pubkeys: tuple[str, ...]) -> dict[str, Any]:
        if self._selection.by_filter:
            return {"after_id": self._after_id, "epoch": self._epoch}
        after = {pubkey: self._after[pubkey] for pubkey in pubkeys if pubkey in self._after}
        return {"after": after, "epoch": self._epoch} if after else {}

    def give_up_resuming(self) -> bool:
        """Begin anew on the next connection: the server cannot resume this. Return whether that is something else."""
        resuming, self._epoch, self._after_id = self._resuming, "", None
        self._after.clear()
        return resuming

    def see(self, update: Update) -> bool:
        """Note an update; return whether it is news, and not what was told before a break."""
        self._told = True
        number = update.account.id
        if not self._selection.by_filter:
            return self._see_by_key(update.pubkey, number, update.account.created_at)
        if number is None:
            return True
        if not self._whole:
            if self._arrived.get(update.pubkey, -1) >= number:
                return False
            self._arrived[update.pubkey] = number
        self._highest = number if self._highest is None else max(self._highest, number)
        if self._whole:
            self._after_id = self._highest
        return True

    def _see_by_key(self, pubkey: str, number: int | None, created_at: str) -> bool:
        if number is None:
            return True
        self._arrived[pubkey] = self._after[pubkey] = number
        if self._last.get(pubkey) == (number, created_at):
            return False
        self._last[pubkey] = (number, created_at)
        return True

    def answer(self, ack: Ack) -> Subscribed:
        """Note an answer. Raises ValueError: to a request that is not waiting for one."""
        if ack.id not in self._waiting:
            raise ValueError("an answer to no request")
        self._told = True
        self._waiting.remove(ack.id)
        if ack.epoch != self._epoch:
            # Ids of another epoch say nothing. By pubkeys the states came ahead of this answer, by a filter nothing.
            self._epoch, self._after = ack.epoch, dict(self._arrived)
            self._after_id = self._highest = None
            if self._selection.by_filter:
                self._arrived.clear()
        by_filter = self._selection.by_filter
        asked = () if by_filter else self._selection.asked(ack.id)
        for pubkey in {*asked} - {*ack.found}:
            self._after.setdefault(pubkey, 0)  # nothing is known of it: whatever comes is news
        return Subscribed(
            asked=asked,
            epoch=ack.epoch,
            found=ack.found,
            foreign=ack.foreign,
            stale=ack.stale,
            recovered=None if by_filter else self._judge(ack.recovered),
            unrecovered=ack.unrecovered,
        )

    def end_snapshot(self, end: SnapshotEnd) -> SnapshotEnd:
        """Note that everything which matches has been told."""
        self._whole, self._after_id = True, self._highest
        self._arrived.clear()
        return SnapshotEnd(count=end.count, recovered=self._judge(end.recovered))

    def _judge(self, recovered: bool | None) -> bool | None:
        if not self._again:
            return None
        verdict = self._resuming and bool(recovered)
        # One of several requests that did not recover decides.
        self.recovered = verdict and self.recovered is not False
        return verdict
