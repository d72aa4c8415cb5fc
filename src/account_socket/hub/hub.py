"""
The fan-out: who is subscribed to what, and the newest state of each account.

Everything here runs on the event loop and never awaits. A subscription goes through three steps: register (live
updates are held by being the answer), snapshot (the newest state is sent), release (the client joins the live
subscribers). A live update that arrives before the snapshot *is* the snapshot, so nothing is older than what was
sent before and nothing comes twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from account_socket.hub.frames import Message, answer_message, state_message
from account_socket.hub.outbox import TURN_BYTES, Outbox
from account_socket.hub.selections import Concern, Selections
from account_socket.hub.shapers import Shaper
from account_socket.hub.shapes import Shapes
from account_socket.hub.snapshots import SharedSnapshots
from account_socket.model import AccountUpdate, Origin, StoredState

Target: TypeAlias = Outbox | Shaper
"""Where the states of one client are put."""

MEMORY_BYTES = 128 * 1024 * 1024
"""The most that the newest states kept here may hold."""


@dataclass(eq=False, slots=True)
class Answered:
    """
    What became of a subscribe request.

    Attributes:
        found: the accounts whose state is known.
        foreign: those that belong to another program.
        stale: whether a state was sent that may not be the newest.
    """

    found: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    stale: bool = False


Done = Callable[[Answered], None]
"""Told once every account of a subscribe request has been answered for."""


@dataclass(eq=False, slots=True)
class _Request:
    outbox: Target
    done: Done
    waiting: int = 0
    answered: Answered = field(default_factory=Answered)

    def settled(self) -> None:
        self.waiting -= 1
        if self.waiting == 0:
            self.done(self.answered)


class Hub:
    """
    Args:
        schedule: runs a callable at the end of this loop turn (`loop.call_soon`).
        load: starts reading accounts whose newest state is not in memory; must call `settle` for each of them
            later, found or not, within a bounded time.
        knows: tells whether a state of an account is known, in memory or not.
        trusts: tells whether the state in memory of an account is its newest as far as anybody knows; if not, it
            is loaded although it is in memory.
        is_foreign: tells whether an account is known to belong to another program.

    Attributes:
        published_id: the id of the newest update that was published.
        stale: upstream is silent: what is known is told at once, and said to be stale.
        listeners: the clients that asked for notices.
        selections: what clients select by filter.
        shapes: makes states in other forms.
    """

    def __init__(
        self,
        *,
        schedule: Callable[[Callable[[], None]], object],
        load: Callable[[Sequence[str]], None],
        knows: Callable[[str], bool] = lambda _: False,
        trusts: Callable[[str], bool] = lambda _: True,
        is_foreign: Callable[[str], bool] = lambda _: False,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._schedule = schedule
        self._load = load
        self._knows = knows
        self._trusts = trusts
        self._is_foreign = is_foreign
        self._memory_bytes = memory_bytes
        self._states: OrderedDict[str, StoredState] = OrderedDict()
        self._states_bytes = 0
        self._snapshots = SharedSnapshots()
        self._subscribers: dict[str, dict[Target, None]] = {}
        self.listeners: dict[Target, None] = {}
        self.selections = Selections()
        self.shapes = Shapes()
        self._waiting: dict[str, list[tuple[_Request, bool]]] = {}
        self._touched: list[Target] = []
        self._turn_bytes = 0
        self._flush_scheduled = False
        self.stale = False
        self.published = 0
        self.published_id = 0
        self.messages = 0
        self.subscriptions = 0

    # ---- updates -------------------------------------------------------------------------------------------

    def publish(self, update: AccountUpdate) -> None:
        """Send `update` to whoever asked for its account; it is that account's newest state from now on."""
        pubkey = update.pubkey
        self.published += 1
        self.published_id = update.id
        subscribers = self._subscribers.get(pubkey)
        waiting = pubkey in self._waiting
        if update.origin is not Origin.REREAD or subscribers or waiting or pubkey in self._states:
            # A backfill must not push out what clients ask for.
            self.remember(pubkey, StoredState(update.id, update.account_json))
        concern = self.selections.concern(update) if self.selections.active else None
        if not subscribers and not waiting and concern is None:
            return
        message = state_message(pubkey, update.origin.value, update.account_json, event=update.event)
        if subscribers:
            self._fan_out(message, subscribers)
        if concern is not None:
            self._tell_selected(message, update, concern)
        if waiting:
            self._answer(pubkey, message)

    def _tell_selected(self, message: Message, update: AccountUpdate, concern: Concern) -> None:
        """Send an update to those who select its account and are not sent it by name."""
        pubkey = update.pubkey
        # Whoever takes the account by name has it so, also while it waits for the state, or for what it missed.
        self._fan_out(message, [each for each in concern.told if pubkey not in each.pubkeys])
        if not concern.left and not concern.held:
            return
        named = self._subscribers.get(pubkey, {})
        waiting = {request.outbox for request, sends in self._waiting.get(pubkey, ()) if sends}
        covered = {each.client for several in (named, waiting, concern.told, concern.later) for each in several}
        leaving = [each for each in concern.left if pubkey not in each.pubkeys]
        leaving = [each for each in leaving if each.leave(pubkey)]
        left = dict.fromkeys(each.client for each in leaving if not _has(each.client, pubkey, covered))
        if staying := {each.client for each in leaving}.difference(left):
            for shaper in concern.told:
                if shaper.client in staying:
                    shaper.stay(pubkey)
        held = [(paging, leaves) for paging, leaves in concern.held if pubkey not in paging.target.pubkeys]
        leave = [paging for paging, leaves in held if leaves and not _has(paging.target.client, pubkey, covered)]
        if left or leave:
            gone = state_message(pubkey, update.origin.value, update.account_json, event="left")
            self._fan_out(gone, left)
            for paging in leave:
                paging.hold(paging.target.client, gone)
        for paging, leaves in held:
            if not leaves:
                paging.hold(paging.target, message)

    def _fan_out(self, message: Message, subscribers: Iterable[Target]) -> None:
        touched = self._touched
        before = len(touched)
        count = 0
        for outbox in subscribers:
            pending = outbox.pending
            if not pending:  # a shaper's never is
                touched.append(outbox)
            pending.append(message)
            count += 1
        self.messages += count
        self._turn_bytes += len(message.frame)
        if self._turn_bytes > TURN_BYTES:
            self.flush()
        elif len(touched) > before:
            self._wake()

    def remember(self, pubkey: str, state: StoredState) -> None:
        """Keep `state` as the newest of `pubkey`, forgetting the least recently used beyond the bound."""
        states = self._states
        old = states.pop(pubkey, None)
        states[pubkey] = state
        self._states_bytes += len(state.account_json) - (len(old.account_json) if old else 0)
        while self._states_bytes > self._memory_bytes and len(states) > 1:
            _, dropped = states.popitem(last=False)
            self._states_bytes -= len(dropped.account_json)

    def newest(self, pubkey: str) -> StoredState | None:
        """Return the newest state of `pubkey` if it is in memory."""
        return self._states.get(pubkey)

    # ---- subscriptions -------------------------------------------------------------------------------------

    def subscribe(self, outbox: Target, pubkeys: Sequence[str], done: Done) -> None:
        """
        Subscribe a client to accounts: first their states, then `done`, then every later update.

        An account it is subscribed to already is found, and its state is not sent again. `done` is called before
        this returns when every state is in memory.
        """
        request = _Request(outbox, done, waiting=1)
        unread: list[str] = []
        for pubkey in pubkeys:
            state = self._states.get(pubkey)
            if pubkey in outbox.pubkeys:
                self._subscribe_again(request, pubkey)
                continue
            outbox.pubkeys[pubkey] = None
            self.subscriptions += 1
            if state is not None and (self.stale or self._trusts(pubkey)):
                self._states.move_to_end(pubkey)
                self.send(outbox, self._snapshots.message(pubkey, state, stale=self.stale))
                self._subscribers.setdefault(pubkey, {})[outbox] = None
                request.answered.found.append(pubkey)
                request.answered.stale |= self.stale
                continue
            request.waiting += 1
            waiting = self._waiting.setdefault(pubkey, [])
            if not waiting:
                unread.append(pubkey)
            waiting.append((request, True))
        if unread:
            self._load(unread)
        request.settled()

    def _subscribe_again(self, request: _Request, pubkey: str) -> None:
        """Answer for an account that the client has already: its state is not sent twice, and precedes the ack."""
        first = next((each for each, _ in self._waiting.get(pubkey, ()) if each.outbox is request.outbox), None)
        if first is not None:
            if first is not request:
                request.waiting += 1
                self._waiting[pubkey].append((request, False))
        elif pubkey in self._states or self._knows(pubkey):
            request.answered.found.append(pubkey)
        elif self._is_foreign(pubkey):
            request.answered.foreign.append(pubkey)

    def settle(
        self, pubkey: str, state: StoredState | None, source: str, *, foreign: bool = False, stale: bool = False
    ) -> None:
        """
        Answer whoever waits for the state of `pubkey`; without effect if a live update was faster.

        Args:
            state: its newest state, or None when nobody knows one.
            source: `cache`, `database` or `rpc`.
            foreign: the account exists but belongs to another program.
            stale: `state` may not be the newest.
        """
        if pubkey not in self._waiting:
            return
        if state is None:
            self._answer(pubkey, None, foreign=foreign)
        else:
            self.remember(pubkey, state)
            message = state_message(pubkey, source, state.account_json, stale=stale, answers=True)
            self._answer(pubkey, message, stale=stale)

    def waits_for(self, pubkey: str) -> bool:
        """Whether a client waits for the first state of `pubkey`."""
        return pubkey in self._waiting

    def _answer(self, pubkey: str, message: Message | None, *, foreign: bool = False, stale: bool = False) -> None:
        for request, sends in self._waiting.pop(pubkey):
            self._subscribers.setdefault(pubkey, {})[request.outbox] = None
            if message is not None:
                if sends:
                    self.send(request.outbox, message)
                request.answered.found.append(pubkey)
                request.answered.stale |= stale
            elif foreign:
                request.answered.foreign.append(pubkey)
            request.settled()

    def unsubscribe(self, outbox: Target, pubkeys: Iterable[str]) -> None:
        """Stop sending these accounts to a client; without effect for what it is not subscribed to."""
        for pubkey in pubkeys:
            if pubkey not in outbox.pubkeys:
                continue
            del outbox.pubkeys[pubkey]
            self.subscriptions -= 1
            subscribers = self._subscribers.get(pubkey)
            if subscribers is not None and outbox in subscribers:
                del subscribers[outbox]
                if not subscribers:
                    del self._subscribers[pubkey]
                continue
            self._withdraw(outbox, pubkey)

    def _withdraw(self, outbox: Target, pubkey: str) -> None:
        waiting = self._waiting.get(pubkey, [])
        gone = [each for each in waiting if each[0].outbox is outbox]
        for each in gone:
            waiting.remove(each)
            each[0].settled()
        if not waiting:
            self._waiting.pop(pubkey, None)

    def hand_over(self, outbox: Outbox, heir: Target) -> None:
        """Send `heir` what `outbox` is subscribed to, in its place; of each account the first state must have come."""
        for pubkey in outbox.pubkeys:
            subscribers = self._subscribers[pubkey]
            del subscribers[outbox]
            subscribers[heir] = None
            heir.pubkeys[pubkey] = None
        outbox.pubkeys.clear()

    def detach(self, outbox: Target) -> None:
        """Forget a client that is gone."""
        self.unsubscribe(outbox, list(outbox.pubkeys))
        self.listeners.pop(outbox, None)
        outbox.pending.clear()

    @property
    def accounts_subscribed(self) -> int:
        """How many accounts have at least one live subscriber."""
        return len(self._subscribers)

    def subscribed_pubkeys(self) -> Iterable[str]:
        """Return the accounts with at least one live subscriber."""
        return self._subscribers.keys()

    # ---- sending -------------------------------------------------------------------------------------------

    def notify(self, notice: Message) -> None:
        """Send every client that asked for notices one, behind everything published before."""
        self._fan_out(notice, self.listeners)

    def answer(self, outbox: Outbox, payload: bytes) -> None:
        """Send one client an answer, behind everything it was sent before."""
        self.send(outbox, answer_message(payload))

    def send(self, outbox: Target, message: Message) -> None:
        """Send one client one message, behind everything it was sent before."""
        self.messages += 1
        self.put(outbox, message)

    def put(self, outbox: Target, message: Message) -> None:
        """Send one client a message that was counted when it was put into a shaper."""
        if not outbox.pending:
            self.touch(outbox)
        outbox.pending.append(message)

    def touch(self, outbox: Target) -> None:
        """Have `outbox` flushed at the end of this loop turn."""
        self._touched.append(outbox)
        self._wake()

    def _wake(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._schedule(self.flush)

    def flush(self) -> None:
        """Have every touched client write what is pending: one write per client and turn."""
        touched, self._touched = self._touched, []
        self._turn_bytes = 0
        self._flush_scheduled = False
        for outbox in touched:
            outbox.flush()


def _has(client: Outbox, pubkey: str, covered: Collection[Outbox]) -> bool:
    """Whether a client is told of an account in another way."""
    return client in covered or pubkey in client.pubkeys
