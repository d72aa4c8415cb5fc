"""
One PubSub connection without its socket: what to ask, what the answers mean, what is ready to hand over. Pure.

The caller sends what `take_outgoing` returns, feeds every message to `receive`, and hands `take_accounts` on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from account_socket.model import RawAccount
from account_socket.sources.account_watch import AccountWatch
from account_socket.sources.fork_watch import ForkWatch
from account_socket.sources.pubsub import (
    AccountNotification,
    FrameReader,
    Odd,
    Reply,
    SlotNotification,
    WatchNotification,
    program_subscribe,
    request,
)
from account_socket.sources.slot_tip import SlotTip

MAX_BATCH_ACCOUNTS = 1_000
MAX_BATCH_BYTES = 16 * 1024 * 1024
"""Above either, nothing more is read until a batch was handed over; at least one account always fits."""

ACCOUNT_OVERHEAD_BYTES = 512
"""What an account costs beside its data, for counting."""

ENCODINGS = ("base64+zstd", "base64")
"""In the order they are asked for; the next one when the node refuses the last."""

_SLOT_SUBSCRIBE_ID = 1
_INVALID_PARAMS = -32602
_NOTHING = object()


class PubSubSession:
    """
    The state of one connection.

    Args:
        forks: the watch of all connections, where a fork may take back what is streamed (`processed`).

    Attributes:
        ready: every program is subscribed.
        failure: why the connection is of no use, as the node wrote it, or "".
        slots_refused: the node does not know slotSubscribe; the tip must be asked for.
        heartbeats: how often slotSubscribe named a newer slot than before on this connection.
        doubtful_slot: a slot that needs confirming by getSlot before it counts, or None.
        slot_ahead: an account waits whose slot lies beyond what the tip allows.
        odd: what was odd since the caller last emptied it.
    """

    def __init__(
        self,
        reader: FrameReader,
        tip: SlotTip,
        programs: Sequence[str],
        commitment: str,
        forks: ForkWatch | None = None,
    ) -> None:
        self._reader = reader
        self._tip = tip
        self._commitment = commitment
        self._program_ids = frozenset(programs)
        self._watch = AccountWatch(commitment)
        self._asked: dict[int, tuple[str, int]] = {}  # request id → program, index of the encoding
        self._programs: set[int] = set()
        self._slot_subscription: int | None = None
        self._slot_asked = True
        self._newest_slot = -1
        self._early: defaultdict[int, list[RawAccount]] = defaultdict(list)
        self._early_room = MAX_BATCH_BYTES
        self._accounts: list[RawAccount] = []
        self._bytes = 0
        self._next_id = _SLOT_SUBSCRIBE_ID + 1
        self._answers: dict[int, Any] = {}
        self.failure = ""
        self.slots_refused = False
        self.heartbeats = 0
        self.doubtful_slot: int | None = None
        self.slot_ahead = False
        self.odd: list[Odd] = []
        self.forks = forks
        tip.new_connection()
        self._outgoing = [request(_SLOT_SUBSCRIBE_ID, "slotSubscribe")]
        for program in programs:
            self._subscribe(program, 0)

    @property
    def ready(self) -> bool:
        """Whether every program is subscribed."""
        return not self._asked and not self.failure

    @property
    def full(self) -> bool:
        """Whether a batch is at its bound."""
        return len(self._accounts) >= MAX_BATCH_ACCOUNTS or self._bytes >= MAX_BATCH_BYTES

    @property
    def waiting(self) -> bool:
        """Whether accounts wait to be handed over."""
        return bool(self._accounts)

    def take_outgoing(self) -> list[bytes]:
        """Return what must be sent now, each as one text message."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def take_accounts(self) -> list[RawAccount]:
        """Return the accounts that have arrived, in their order, and make room."""
        accounts, self._accounts = self._accounts, []
        self._bytes = 0
        self.slot_ahead = False
        return accounts

    def watch(self, pubkeys: Collection[str]) -> None:
        """Queue what it takes to see these accounts closed, and no others; only once `ready`."""
        self._outgoing += self._watch.choose(pubkeys, self._new_id)

    def ask(self, method: str, params: list[Any] | None = None) -> int:
        """Queue a request and return its id for `answer`."""
        request_id = self._new_id()
        self._answers[request_id] = _NOTHING
        self._outgoing.append(request(request_id, method, params))
        return request_id

    def answered(self, request_id: int) -> bool:
        """Return whether the answer to a request of `ask` has come, be it an error."""
        return self._answers.get(request_id, _NOTHING) is not _NOTHING

    def answer(self, request_id: int) -> Any | None:
        """Return the result that came for a request of `ask`, or None; either way forget the request."""
        result = self._answers.pop(request_id, None)
        return None if result is _NOTHING else result

    def receive(self, message: bytes, now: float) -> bool:
        """
        Take one message.

        Args:
            message: the payload, text or binary.
            now: monotonic seconds.
        Returns:
            Whether there is something to do besides handing accounts over: see the attributes.
        """
        busy = False
        for event in self._reader.read(message, now):
            if type(event) is AccountNotification:
                if event.subscription in self._programs:
                    self._accept(event.account)
                else:
                    self._set_aside(event)
            elif type(event) is WatchNotification:
                self._receive_watched(event, now)
            elif type(event) is SlotNotification:
                self._receive_slot(event, now)
                busy = True
            elif type(event) is Reply:
                self._receive_reply(event)
                busy = True
            elif type(event) is Odd:
                self.odd.append(event)
                busy = True
        return busy or bool(self.odd)

    def settle_doubt(self, confirmed: int | None, now: float) -> None:
        """
        Say what getSlot answered about the doubtful slot (None: nothing).

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
        elif first:
            self.odd.append(Odd("tip_ahead", str(doubtful)))

    def polled(self, slot: int, now: float) -> None:
        """Take a slot that getSlot named in the place of slotSubscribe."""
        self._beat(slot, now)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _subscribe(self, program: str, attempt: int) -> None:
        request_id = self._new_id()
        self._asked[request_id] = (program, attempt)
        self._outgoing.append(
            program_subscribe(request_id, program, encoding=ENCODINGS[attempt], commitment=self._commitment)
        )

    def _accept(self, account: RawAccount) -> None:
        if self._tip.tip is None and self.full:
            # Nothing can be handed over before a slot is known, and stopping to read would keep that slot away.
            self.odd.append(Odd("before_first_slot"))
            return
        self._accounts.append(account)
        self._bytes += len(account.data) + ACCOUNT_OVERHEAD_BYTES
        if self.forks is not None:
            self.forks.wrote(account.slot, account.pubkey)
        if account.slot > self._tip.limit:
            self.slot_ahead = True

    def _set_aside(self, event: AccountNotification) -> None:
        # A proxy may deliver a notification before the reply that names its subscription.
        cost = len(event.account.data) + ACCOUNT_OVERHEAD_BYTES
        if self._asked and cost <= self._early_room:
            self._early_room -= cost
            self._early[event.subscription].append(event.account)
        else:
            self.odd.append(Odd("unknown_subscription", str(event.subscription)))

    def _receive_watched(self, event: WatchNotification, now: float) -> None:
        pubkey = self._watch.pubkey(event.subscription)
        if pubkey is None:
            if not self._watch.ended(event.subscription):
                self.odd.append(Odd("unknown_subscription", str(event.subscription)))
        elif not event.value.lamports or event.value.owner not in self._program_ids:
            # What the program owns comes by programSubscribe; that it no longer owns an account, only here.
            read = self._reader.watched(pubkey, event, now)
            if isinstance(read, Odd):
                self.odd.append(read)
            else:
                self._accept(read.account)

    def _receive_slot(self, event: SlotNotification, now: float) -> None:
        if event.subscription != self._slot_subscription:
            if not self._slot_asked:
                self.odd.append(Odd("unknown_subscription", str(event.subscription)))
        elif self._tip.believes(event.slot, now):
            self._beat(event.slot, now)
            if self.forks is not None:
                self.forks.began(event.slot, event.parent, event.root)
        else:
            if self._tip.known and self.doubtful_slot is None:
                self.odd.append(Odd("tip_ahead", str(event.slot)))
            self.doubtful_slot = event.slot

    def _beat(self, slot: int, now: float) -> None:
        self._tip.confirm(slot, now)
        if slot > self._newest_slot:
            self._newest_slot = slot
            self.heartbeats += 1

    def _receive_reply(self, reply: Reply) -> None:
        if reply.id == _SLOT_SUBSCRIBE_ID and self._slot_asked:
            self._slot_asked = False
            if reply.code is None and type(reply.result) is int:
                self._slot_subscription = reply.result
            else:
                self.slots_refused = True
        elif reply.id in self._asked:
            self._receive_subscribed(reply)
        elif reply.id in self._answers:
            self._answers[reply.id] = reply.result
        elif self._watch.expects(reply.id):
            self._outgoing += self._watch.receive_reply(reply, self._new_id)
            if reply.code is not None:
                self.odd.append(Odd("watch_refused", reply.message))
        else:
            self.odd.append(Odd("unknown_reply", str(reply.id)))

    def _receive_subscribed(self, reply: Reply) -> None:
        program, attempt = self._asked.pop(reply.id)
        if reply.code is None and type(reply.result) is int:
            self._programs.add(reply.result)
            for account in self._early.pop(reply.result, ()):
                self._accept(account)
        elif attempt + 1 < len(ENCODINGS) and _complains_of_encoding(reply):
            self._subscribe(program, attempt + 1)
        else:
            reason = reply.message if reply.code is not None else "the reply is no subscription id"
            self.failure = f"programSubscribe was refused: {reason} ({reply.code})"
        if not self._asked:
            for subscription, accounts in self._early.items():
                self.odd.extend(Odd("unknown_subscription", str(subscription)) for _ in accounts)
            self._early.clear()


def _complains_of_encoding(reply: Reply) -> bool:
    return reply.code == _INVALID_PARAMS or "encoding" in reply.message.lower()
