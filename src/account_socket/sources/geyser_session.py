"""
One Yellowstone stream without its socket: what updates mean, and what is ready to hand over. Pure.

The caller feeds every message to `receive`, hands `take_accounts` on, and sends what is `outgoing`.
"""

from __future__ import annotations

from account_socket.model import Gap, RawAccount
from account_socket.sources.continuity import Continuity
from account_socket.sources.forks import Forks, Retraction
from account_socket.sources.geyser import LEVELS, OddUpdateError, Ping, SlotUpdate, UpdateReader, ping_request
from account_socket.sources.geyser_proto.geyser_pb2 import SLOT_CREATED_BANK, SLOT_DEAD, SLOT_FINALIZED
from account_socket.sources.slot_tip import SlotTip

MAX_BATCH_ACCOUNTS = 1_000
MAX_BATCH_BYTES = 16 * 1024 * 1024
"""Above either, nothing more is read until a batch was handed over; at least one account always fits."""

ACCOUNT_OVERHEAD_BYTES = 512

_MAX_MADE_SLOTS = 512
_MAX_SECOND_REPLAYS = 4
_MAX_SKIPPED_SLOTS = 32
"""The slot in the making when a stream begins is at most so far ahead of the newest one."""
"""One is enough where the node says which slot is its newest when the stream begins."""

_PONG_FOR_NODE = 1
"""The id of our answer to the node's pings, which carry none."""


class GeyserSession:
    """
    The state of one stream.

    Args:
        name: of the datasource.
        continuity, forks: what is known over all streams of the datasource; `forks` where the commitment has them.
        why_new: why the stream before ended: the reason of the gap, should there be one.
        joined_at: the newest processed slot before the stream began, or None.

    Attributes:
        messages: how many messages came, of whatever kind.
        heartbeats: how often a newer slot than before was named on this stream.
        doubtful_slot: a slot that needs confirming by GetSlot before it counts, or None.
        replay_from: a slot to ask a second replay from, or None: it was in the making when the stream began, so that
            neither the first replay nor the stream brought its first writes.
        slot_ahead: an account waits whose slot lies beyond what the tip allows.
        resumed: the node replays all that was missed since the stream before.
        outgoing, gaps, odd: requests to send, what was missed, and what was odd (kind, detail), since the caller last
            emptied them.
        levels, doubts: which slots came to which level above the stream's, and of which accounts a fork took the only
            state that was seen. They count once the accounts that wait were handed over.
    """

    def __init__(
        self,
        name: str,
        reader: UpdateReader,
        tip: SlotTip,
        continuity: Continuity,
        *,
        forks: Forks | None = None,
        why_new: str = "first connection",
        joined_at: int | None = None,
    ) -> None:
        self._name = name
        self._reader = reader
        self._tip = tip
        self._continuity = continuity
        self._forks = forks
        self._why_new = why_new
        self._overlap = continuity.overlap()
        self._joined_at = joined_at
        self._made: dict[int, None] = {}
        self._asked_again: set[int] = set()
        self._awaited: int | None = None
        self._held: list[RawAccount | int] = []
        self._held_bytes = 0
        self._begun = False
        self._newest_slot = -1
        self._accounts: list[RawAccount] = []
        self._bytes = 0
        self.outgoing: list[bytes] = []
        self.messages = 0
        self.heartbeats = 0
        self.doubtful_slot: int | None = None
        self.replay_from: int | None = None
        self.slot_ahead = False
        self.gaps: list[Gap] = []
        self.odd: list[tuple[str, str]] = []
        self.levels: list[tuple[int, str]] = []
        self.doubts: list[str] = []
        self.resumed = False
        tip.new_connection()

    @property
    def full(self) -> bool:
        """Whether a batch must be handed over before more is read."""
        return len(self._accounts) >= MAX_BATCH_ACCOUNTS or self._bytes >= MAX_BATCH_BYTES

    @property
    def waiting(self) -> bool:
        """Whether accounts, levels of slots or doubts wait to be handed over."""
        return bool(self._accounts or self.levels or self.doubts)

    def take_accounts(self) -> list[RawAccount]:
        """Return the accounts that have arrived, in their order, and make room."""
        accounts, self._accounts = self._accounts, []
        self._bytes = 0
        self.slot_ahead = False
        return accounts

    def receive(self, message: bytes, now: float) -> bool:
        """
        Take one message.

        Args:
            now: monotonic seconds.
        Returns:
            Whether there is something to do besides handing accounts over: see the attributes.
        """
        self.messages += 1
        try:
            update = self._reader.read(message, now)
        except OddUpdateError as error:
            self.odd.append((error.kind, error.detail))
            return True
        if type(update) is RawAccount:
            self._receive_account(update, now)
            return bool(self.odd)
        if type(update) is SlotUpdate:
            self._receive_slot(update, now)
        elif type(update) is Ping:
            if update.asks:
                self.outgoing.append(ping_request(_PONG_FOR_NODE))
        else:
            self.odd.append(("unknown_update", ""))
        return True

    def settle_doubt(self, confirmed: int | None, now: float) -> None:
        """
        Say what GetSlot answered about the doubtful slot (None: nothing).

        Without an answer the first slot of a process is believed, for want of anything better; a later one is not.
        """
        doubtful, self.doubtful_slot = self.doubtful_slot, None
        first = not self._tip.known
        if confirmed is not None:
            self._tip.confirm(confirmed, now, asked=True)
        if doubtful is None:
            return
        if self._tip.believes(doubtful, now) or (confirmed is None and first):
            self._beat(doubtful, now)
        else:
            self.odd.append(("tip_ahead", str(doubtful)))

    # ---- accounts ------------------------------------------------------------------------------------------

    def _receive_account(self, account: RawAccount, now: float) -> None:
        if self._tip.tip is None:
            # GetSlot is not served, and the accounts of a slot come before its status.
            if self._tip.known and not self._tip.believes(account.slot, now):
                self.odd.append(("tip_ahead", str(account.slot)))
                return
            self._tip.confirm(account.slot, now)
        if self._awaited is not None and account.slot > self._awaited:
            self._hold(account)
        else:
            self._take(account)

    def _take(self, account: RawAccount) -> None:
        if self._overlap is not None:
            placed = self._overlap.place(account)
            if placed is None:
                return
            account = placed
        if account.slot <= self._tip.limit:
            self._continuity.wrote(account)
            if self._forks is not None:
                self._forks.write(account)
        else:
            self.slot_ahead = True
        self._accept(account)

    def _hold(self, account: RawAccount) -> None:
        """Keep an account back until the awaited slot was replayed, so that what that brings is not older."""
        self._held.append(account)
        self._held_bytes += len(account.data) + ACCOUNT_OVERHEAD_BYTES
        if self._held_bytes > MAX_BATCH_BYTES:
            self._release()

    def _release(self) -> None:
        self._awaited = None
        held, self._held = self._held, []
        self._held_bytes = 0
        for each in held:
            if isinstance(each, int):
                self._complete(each)
            else:
                self._take(each)

    def _accept(self, account: RawAccount) -> None:
        self._accounts.append(account)
        self._bytes += len(account.data) + ACCOUNT_OVERHEAD_BYTES

    # ---- slots ---------------------------------------------------------------------------------------------

    def _receive_slot(self, update: SlotUpdate, now: float) -> None:
        slot = update.slot
        if not self._tip.believes(slot, now):
            if self._tip.known and self.doubtful_slot is None:
                self.odd.append(("tip_ahead", str(slot)))
            self.doubtful_slot = slot
            return
        self._beat(slot, now)
        if self._forks is not None:
            self._track(self._forks, update)
        if update.status == self._continuity.completes:
            self._complete(slot)
        elif update.status in LEVELS and update.status > self._continuity.completes:
            self._note_level(slot, LEVELS[update.status])

    def _beat(self, slot: int, now: float) -> None:
        self._tip.confirm(slot, now)
        if slot > self._newest_slot:
            self._newest_slot = slot
            self.heartbeats += 1

    def _note_level(self, slot: int, level: str) -> None:
        # Passed over where what the slot wrote may be held back, or where nobody takes what is noted.
        if not self._held and len(self.levels) < MAX_BATCH_ACCOUNTS:
            self.levels.append((slot, level))

    def _complete(self, slot: int) -> None:
        continuity, overlap = self._continuity, self._overlap
        if not self._begun:
            self._begun = True
            if overlap is None or slot > overlap.newest:
                # Nothing was replayed, or only from later on. Of this slot the first writes may be missing.
                self._report_gap(continuity.newest, slot + 1, self._why_new)
                self._overlap = None
                continuity.begins_after(slot)
                return
            self.resumed = True
        if self._awaited is not None and slot > self._awaited:
            self._held.append(slot)
            return
        if overlap is not None:
            if self._forks is not None and self._was_in_the_making(slot, overlap.newest):
                self._asked_again.add(slot)
                self._overlap = continuity.overlap()
                self.replay_from = self._awaited = slot
                return
            if slot == self._awaited:
                self._release()
            if slot > overlap.ends_after and not self._may_be_in_the_making(slot, overlap.newest):
                self._overlap = None
        continuity.came_whole(slot)

    def _was_in_the_making(self, slot: int, known: int) -> bool:
        news = slot > self._joined(known) and slot not in self._made and slot not in self._asked_again
        return news and len(self._asked_again) < _MAX_SECOND_REPLAYS

    def _may_be_in_the_making(self, slot: int, known: int) -> bool:
        """Whether a slot was in the making when the stream began that comes after `slot`."""
        return self._forks is not None and slot <= self._joined(known) + _MAX_SKIPPED_SLOTS and slot not in self._made

    def _joined(self, known: int) -> int:
        return known if self._joined_at is None else self._joined_at

    def _report_gap(self, from_slot: int | None, to_slot: int, reason: str) -> None:
        self.gaps.append(Gap(self._name, from_slot, to_slot, reason))

    def _track(self, forks: Forks, update: SlotUpdate) -> None:
        if update.status == SLOT_DEAD:
            retraction = forks.dead(update.slot)
        else:
            if update.status == SLOT_CREATED_BANK:
                self._note_made(update.slot)
            forks.descends(update.slot, update.parent)
            retraction = forks.finalized(update.slot) if update.status == SLOT_FINALIZED else None
        if retraction is not None:
            self._retract(retraction)

    def _note_made(self, slot: int) -> None:
        self._made[slot] = None
        if len(self._made) > _MAX_MADE_SLOTS:
            del self._made[next(iter(self._made))]

    def _retract(self, retraction: Retraction) -> None:
        for account in retraction.restored:
            self._accept(account)
        if retraction.unknown:
            count = len(retraction.unknown)
            reason = f"slot {retraction.slot} died; {count} accounts that it wrote were not seen before"
            self.doubts += retraction.unknown
            self._report_gap(None, max(self._newest_slot, retraction.slot) + 1, reason)
