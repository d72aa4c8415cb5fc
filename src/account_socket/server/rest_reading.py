"""How HTTP reads states and history: by the same way as a subscription, and in the store's reader threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from account_socket.errors import StoreError
from account_socket.hub.frames import payload_of
from account_socket.hub.hub import Answered, Hub
from account_socket.hub.outbox import Batch, Outbox
from account_socket.server.rest_derived import Look
from account_socket.server.rest_parameters import Fields, RefusedError
from account_socket.store.base import Store

READ_SECONDS = 10.0
"""How long a read of the store may wait and take."""
STATE_SECONDS = 25.0
"""The hub answers for every account within less."""
RESUMING_SECONDS = 30.0
"""The same for what a client missed: after a restart, all come back at once."""
READS_AT_ONCE = 6
"""The store's other readers are left to clients who wait for a state."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Reads:
    """
    What HTTP reads from beside the hub.

    Attributes:
        trusts: whether what is known of an account whose state has this slot is its newest as far as anybody knows.
        tip_slot: the newest slot that upstream confirmed, or None.
        newest_id: the newest id that was given out.
        committed_id: the newest id that was committed.
        fields: what may be selected by.
        look: reads mints from the node; None: there is none.
    """

    store: Store
    trusts: Callable[[str, int], bool]
    tip_slot: Callable[[], int | None]
    newest_id: Callable[[], int]
    committed_id: Callable[[], int]
    fields: Fields
    look: Look | None = None


@dataclass(frozen=True)
class States:
    """
    What was found of some accounts.

    Attributes:
        told: pubkey → the update's shape as JSON, as a WebSocket client is told.
        foreign: those that belong to another program.
        stale: whether one of the states may not be the newest.
    """

    told: dict[str, bytes]
    foreign: list[str]
    stale: bool


async def read_states(hub: Hub, pubkeys: Sequence[str]) -> States:
    """
    Return the newest states: from memory, cache, store or node, as a subscription would be answered.

    Raises:
        RefusedError: 503, it took too long.
    """
    done: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()

    def settle(answered: Answered) -> None:
        if not done.done():
            done.set_result(answered)

    outbox = Outbox(lambda: None, Batch())
    try:
        async with asyncio.timeout(STATE_SECONDS):
            hub.subscribe(outbox, pubkeys, settle)
            answered = await done
        # A live update behind a state is newer, and told in its place.
        told = {message.key: payload_of(message.frame) for message in outbox.pending if message.key}
    except TimeoutError as error:
        raise unavailable("the state was not read in time") from error
    finally:
        hub.detach(outbox)
    return States(told, answered.foreign, answered.stale)


class StoreReading:
    """Reads of the store, a few at a time whoever they are for: one object for the whole server."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(READS_AT_ONCE)

    async def __call__(self, read: Callable[[], Awaitable[_Result]], seconds: float = READ_SECONDS) -> _Result:
        """Return what `read` returns. Raises RefusedError, 503, where it cannot be had in so many seconds."""
        try:
            async with asyncio.timeout(seconds), self._places:
                return await read()
        except TimeoutError as error:
            raise unavailable("the database took too long") from error
        except StoreError as error:
            raise unavailable("the database cannot be read") from error


def unavailable(message: str) -> RefusedError:
    """Return the refusal of a request that may be made again."""
    return RefusedError(503, "unavailable", f"{message}; try again", {"Retry-After": "1"})
