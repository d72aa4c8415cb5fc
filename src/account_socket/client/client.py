"""`connect`: a client of one server, and what can be asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Self
from weakref import WeakSet

from account_socket.client.address import DEFAULT_URL, Address
from account_socket.client.connection import Patience
from account_socket.client.errors import RefusedError
from account_socket.client.frames import Account, Update
from account_socket.client.progress import Position
from account_socket.client.reading import Reader
from account_socket.client.selection import Delivery, Mode, Selection, Where
from account_socket.client.subscription import Subscription

HISTORY_PAGE = 100


class Client:
    """A server's address and what is subscribed to there; an async context manager that ends it all."""

    def __init__(self, address: Address, patience: Patience, *, wait_for_server: bool) -> None:
        self._address = address
        self._patience = patience
        self._wait_for_server = wait_for_server
        self._reader = Reader(address, patience)
        self._subscriptions: WeakSet[Subscription] = WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every subscription."""
        await asyncio.gather(*(subscription.close() for subscription in self._subscriptions))

    def subscribe(
        self,
        *pubkeys: str,
        account_type: str | None = None,
        program: str | None = None,
        where: Where | None = None,
        fields: Sequence[str] | None = None,
        mode: Mode | None = None,
        max_rate_ms: int | None = None,
        delivery: Delivery | None = None,
        snapshot: bool = True,
        status: bool = False,
        position: Position | None = None,
    ) -> Subscription:
        """
        Subscribe to accounts, by their keys or by what they hold: `async for update in client.subscribe(…)`.

        First comes the newest state of each, then every later update; after a break what was missed, but by what they
        hold and with `fields`, `mode` or `max_rate_ms` the states again. Each subscription has a connection of its
        own, so that one that is read slowly does not hold up another: name many accounts in one rather than making
        many.

        Args:
            pubkeys: the accounts, base58.
            account_type, program: the layout's name; the owner.
            where: dotted path into `data_json` → value, or values of which one must be there; several are AND.
            fields: only these paths of `data_json`.
            mode: `diff`: first the state, then what changed.
            max_rate_ms: at most one update of an account in so many milliseconds, the newest.
            delivery: `every`: where the server would pass over updates as this client is slow, it ends the connection;
                they come from history then.
            snapshot: by a filter: the states that match now come first.
            status: `Subscription.events` tells of the server's upstream too.
            position: go on where an earlier subscription stood.
        Raises:
            ValueError: nothing is selected, or in two ways at once.
        """
        selection = Selection(
            pubkeys=tuple(dict.fromkeys(pubkeys)),
            account_type=account_type,
            program=program,
            where=where,
            fields=None if fields is None else tuple(fields),
            mode=mode,
            max_rate_ms=max_rate_ms,
            delivery=delivery,
            snapshot=snapshot,
        )
        subscription = Subscription(
            self._address,
            selection,
            self._patience,
            status=status,
            position=position,
            wait_for_server=self._wait_for_server,
        )
        self._subscriptions.add(subscription)
        return subscription

    async def get(self, pubkey: str) -> Update | None:
        """
        Return the newest state of an account, None where nobody knows it.

        Raises:
            RefusedError: `foreign`, it belongs to another program; `invalid_pubkey`; ….
            ServerError: the server is not there, or did not answer in time.
        """
        try:
            return await self._reader.state(pubkey)
        except RefusedError as error:
            if error.code == "not_found":
                return None
            raise

    async def history(
        self, pubkey: str, *, before_id: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Account]:
        """
        Iterate over the past states of an account, newest first, as far as the server keeps them.

        Args:
            before_id: only those of lower ids.
            limit: at most so many.
        Raises:
            ServerError: as `get`.
        """
        left = limit
        while left is None or left > 0:
            size = HISTORY_PAGE if left is None else min(HISTORY_PAGE, left)
            page = await self._reader.history(pubkey, before_id=before_id, limit=size)
            for account in page.updates:
                yield account
            if page.next is None or not page.updates:
                return
            before_id = page.next
            left = None if left is None else left - len(page.updates)


def connect(url: str = DEFAULT_URL, *, wait_for_server: bool = False, patience: Patience | None = None) -> Client:
    """
    Return a client of the server at `url`: `async with connect(url) as client: …`.

    Args:
        url: `ws://` or `wss://`; without a path it is /ws.
        wait_for_server: a server that is not there at first is waited for; else it is an error.
        patience: how long to wait for what.
    Raises:
        SettingsError: `url` is none.
    """
    return Client(Address(url), patience or Patience(), wait_for_server=wait_for_server)
