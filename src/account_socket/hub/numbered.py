"""The numbered subscriptions of one client: by filter or by name, each in its shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from account_socket.hub.filters import Filter
from account_socket.hub.frames import Message, id_of
from account_socket.hub.hub import Done, Hub
from account_socket.hub.outbox import Outbox
from account_socket.hub.selections import Paging, Selection
from account_socket.hub.shapers import DiffShaper, FieldsShaper, RatedShaper, Rates, Shaper
from account_socket.hub.shapes import Shape


@dataclass(eq=False, slots=True)
class _Subscription:
    shape: Shape
    every: bool
    paging: Paging | None = None
    pubkeys: Sequence[str] = ()
    from_id: int = 0
    """What was published up to this id came without it."""


@dataclass(eq=False, slots=True)
class _Taken:
    """What several subscriptions of one shape share."""

    shaper: Shaper
    subscriptions: int
    named: Counter[str]


class Numbered:
    """
    Args:
        outbox: the client's; it is this class that counts its `every`.
    """

    def __init__(self, hub: Hub, rates: Rates, outbox: Outbox) -> None:
        self._hub = hub
        self._rates = rates
        self._outbox = outbox
        self._subscriptions: dict[int, _Subscription] = {}
        self._taken: dict[Shape, _Taken] = {}
        self._pagings: dict[Selection, list[Paging]] = {}

    def select(
        self,
        sub: int,
        filter: Filter,
        shape: Shape,
        *,
        every: bool,
        from_id: int = 0,
        pages: bool = False,
        resumes: bool = False,
    ) -> Paging:
        """Send every update that `filter` fits; the other arguments as in `Selections.join`."""
        taken = self._take(sub, shape, every=every)
        paging = self._hub.selections.join(filter, taken.shaper, from_id=from_id, pages=pages, resumes=resumes)
        self._subscriptions[sub].paging = paging
        self._subscriptions[sub].from_id = from_id
        self._pagings.setdefault(paging.selection, []).append(paging)
        return paging

    @property
    def is_single(self) -> bool:
        """Whether there is but one subscription."""
        return len(self._subscriptions) == 1

    def covers(
        self, resuming: Paging, pubkey: str, id: int, *, account_type: str, owner: str, data_json: bytes, leaves: bool
    ) -> bool:
        """
        Whether another subscription of this client and of the same shape tells it of an open account's update.

        Args:
            leaves: the question is whether any other one tells it, in whatever shape, or will.
        """
        shapers = [taken.shaper for taken in self._taken.values()] if leaves else [resuming.target]
        return any(pubkey in shaper.pubkeys for shaper in shapers) or any(
            other is not resuming
            and id > other.from_id
            and (leaves or (other.target is resuming.target and other.follows))
            for selection in self._hub.selections.fitting(account_type, owner, data_json)
            for other in self._pagings.get(selection, ())
        )

    def follow(self, sub: int, pubkeys: Sequence[str], shape: Shape, *, every: bool, done: Done) -> None:
        """Send the states of accounts, then `done`, then every update; as `Hub.subscribe`."""
        self._hub.subscribe(self.name(sub, pubkeys, shape, every=every), pubkeys, done)

    def name(self, sub: int, pubkeys: Sequence[str], shape: Shape, *, every: bool) -> Shaper:
        """Return where the caller is to have the states of accounts put."""
        taken = self._take(sub, shape, every=every)
        self._subscriptions[sub].pubkeys = pubkeys
        taken.named.update(pubkeys)
        taken.shaper.begin(pubkeys)
        return taken.shaper

    def drop(self, sub: int, release: Callable[[Shaper, Sequence[str]], None] = lambda *_: None) -> None:
        """
        End a subscription; nothing of it comes any more that another one does not bring.

        Args:
            release: told, before, of the accounts that are not to be put there any more.
        """
        subscription = self._subscriptions.pop(sub)
        taken = self._taken[subscription.shape]
        if subscription.paging is not None:
            self._hub.selections.leave(subscription.paging)
            pagings = self._pagings[subscription.paging.selection]
            pagings.remove(subscription.paging)
            if not pagings:
                del self._pagings[subscription.paging.selection]
        taken.named.subtract(subscription.pubkeys)
        gone = [pubkey for pubkey in subscription.pubkeys if not taken.named[pubkey]]
        release(taken.shaper, gone)
        self._hub.unsubscribe(taken.shaper, gone)
        for pubkey in gone:
            del taken.named[pubkey]
        self._outbox.every -= subscription.every
        taken.subscriptions -= 1
        if taken.subscriptions:
            taken.shaper.end(None if subscription.paging else gone, partial(self._brings, taken.shaper))
        else:
            self._release(taken)
            del self._taken[subscription.shape]

    def _brings(self, shaper: Shaper, pubkey: str, state: Message) -> bool:
        id_ = id_of(state.frame)
        return pubkey in shaper.pubkeys or any(
            (id_ is None or id_ > each.from_id) and self._hub.selections.selects(each.paging.selection, pubkey)
            for each in self._subscriptions.values()
            if each.paging is not None and each.paging.target is shaper and not each.paging.resumes
        )

    def end(self) -> None:
        """End all subscriptions: the client is gone."""
        for subscription in self._subscriptions.values():
            if subscription.paging is not None:
                self._hub.selections.leave(subscription.paging)
        for taken in self._taken.values():
            self._release(taken)
        self._subscriptions.clear()
        self._taken.clear()
        self._pagings.clear()

    def _take(self, sub: int, shape: Shape, *, every: bool) -> _Taken:
        taken = self._taken.get(shape)
        if taken is None:
            taken = self._taken[shape] = _Taken(self._make(shape), 0, Counter())
        taken.subscriptions += 1
        self._subscriptions[sub] = _Subscription(shape, every)
        self._outbox.every += every
        return taken

    def _make(self, shape: Shape) -> Shaper:
        if shape.fields:
            return FieldsShaper(self._hub, self._outbox, shape)
        if shape.diff:
            return DiffShaper(self._hub, self._outbox, shape)
        if shape.max_rate_ms:
            return RatedShaper(self._hub, self._outbox, shape, self._rates)
        return Shaper(self._hub, self._outbox, shape)

    def _release(self, taken: _Taken) -> None:
        self._hub.detach(taken.shaper)
