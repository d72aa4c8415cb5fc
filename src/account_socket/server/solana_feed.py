"""Who is subscribed in Solana's dialect, and what they are told of updates and slots."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection

import msgspec

from account_socket.hub.frames import Message, text_frame
from account_socket.hub.hub import Hub
from account_socket.hub.outbox import Batch, Outbox
from account_socket.model import AccountUpdate, RawAccount
from account_socket.protocol.solana_jsonrpc import RpcFault
from account_socket.protocol.solana_subscriptions import Params, Registry
from account_socket.server.solana_reads import Known, parsed_of

SLOT_LOOK_SECONDS = 0.05


class _Ownership(msgspec.Struct):
    """Of a public account object, whose it is."""

    lamports: int
    closed: bool = False


_decode_ownership = msgspec.json.Decoder(_Ownership).decode


class SolanaFeed:
    """
    Accounts that somebody subscribed to are subscribed to in the hub as well, by one client that stands for all:
    so they are looked up, watched, and looked after in gaps like anybody's.

    Attributes:
        registry: the subscriptions of all clients, who are their outboxes.
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self._hub: Hub = known.hub
        self.registry: Registry[Outbox] = Registry(self._deliver)
        self._stand_in = Outbox(self._forget, Batch())
        self._watched: Counter[str] = Counter()
        self._told_slot = 0

    # ---- updates -------------------------------------------------------------------------------------------

    def behind(self, publish: Callable[[AccountUpdate], None]) -> Callable[[AccountUpdate], None]:
        """Return what publishes an update with `publish`, and then here, which costs nothing while nobody listens."""
        registry = self.registry

        def publish_both(update: AccountUpdate) -> None:
            publish(update)
            if registry:
                self.publish(update)

        return publish_both

    def publish(self, update: AccountUpdate) -> None:
        """Tell whoever is subscribed to its account or its program."""
        wants = self.registry.wants
        if not (wants("account", update.pubkey) or wants("program", update.owner)):
            return
        if update.closed and update.lamports:
            return  # another program's account now, whose bytes nobody here has
        self._known.told.tell(update.slot)
        account = RawAccount(
            update.pubkey,
            update.slot,
            update.owner,
            update.lamports,
            update.data,
            executable=update.executable,
            rent_epoch=update.rent_epoch,
        )
        parsed = parsed_of(update.account_type, update.data_json, self._known.programs.get(update.owner))
        self.registry.notify_account(account, was_open=True, parsed=parsed)

    def _deliver(self, subscribers: Collection[Outbox], notification: bytes, topic: str) -> None:
        # `answers`: it stays behind the answer to its subscription, also where it replaces an older one.
        message = Message(text_frame(notification), topic, answers=True)
        for outbox in subscribers:
            self._hub.send(outbox, message)

    async def run(self) -> None:
        """Tell slots until cancelled."""
        while True:
            await asyncio.sleep(SLOT_LOOK_SECONDS)
            if self.registry.wants("slot") or self.registry.wants("root"):
                self._tell_slot()

    def _tell_slot(self) -> None:
        slot = self._known.tip_slot()
        if slot is not None and slot > self._told_slot:
            self._told_slot = slot
            self.registry.notify_slot(slot=slot, parent=max(0, slot - 1))

    # ---- coming and going ----------------------------------------------------------------------------------

    def watch(self, pubkey: str, done: Callable[[bool], None]) -> None:
        """Have an account looked after until `release`; `done` is told whether it may be ours, perhaps at once."""
        self._watched[pubkey] += 1
        self._hub.subscribe(
            self._stand_in, [pubkey], lambda answered: done(not answered.foreign and not self._was_reassigned(pubkey))
        )

    def _was_reassigned(self, pubkey: str) -> bool:
        """Return whether an account that was ours is known to be another program's."""
        state = self._hub.newest(pubkey)
        if state is None:
            return False
        account = _decode_ownership(state.account_json)
        return account.closed and account.lamports > 0

    def release(self, pubkey: str) -> None:
        """Take back one `watch`."""
        self._watched[pubkey] -= 1
        if not self._watched[pubkey]:
            del self._watched[pubkey]
            self._hub.unsubscribe(self._stand_in, [pubkey])

    def subscribe(self, outbox: Outbox, params: Params) -> int:
        """Subscribe a client; the account was given to `watch` before. Raises RpcFault."""
        if params.kind == "account" and self.registry.holds(outbox, params):
            self.release(params.key)
        try:
            return self.registry.subscribe(outbox, params)
        except RpcFault:
            if params.kind == "account":
                self.release(params.key)
            raise

    def unsubscribe(self, outbox: Outbox, params: list[object]) -> None:
        """End one subscription of a client. Raises RpcFault."""
        ended = self.registry.unsubscribe(outbox, params)
        if ended.kind == "account":
            self.release(ended.key)

    def drop(self, outbox: Outbox) -> None:
        """Forget a client that is gone."""
        for ended in self.registry.drop(outbox):
            if ended.kind == "account":
                self.release(ended.key)

    def _forget(self) -> None:
        self._stand_in.pending.clear()
