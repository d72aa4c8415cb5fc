"""What every datasource is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from account_socket.model import Gap, RawAccount

Deliver = Callable[[list[RawAccount]], Awaitable[None]]
"""Takes a batch of what has arrived, in arrival order; returns when there is room for more (backpressure)."""


@dataclass
class SourceStatus:
    """
    What a datasource says of itself; read by /readyz and /metrics, written by the source alone.

    Attributes:
        connected: subscribed, and slots are arriving.
        tip_slot: the newest slot that slotSubscribe or getSlot confirmed, or None before the first.
        tip_at: `time.monotonic()` seconds when `tip_slot` last grew, or None.
        last_error: the newest reason for a lost connection, scrubbed of secrets, or "".
        odd: how many odd frames were survived, by kind (a short snake_case word).
    """

    connected: bool = False
    tip_slot: int | None = None
    tip_at: float | None = None
    last_update_slot: int | None = None
    reconnects: int = 0
    notifications: int = 0
    last_error: str = ""
    odd: Counter[str] = field(default_factory=Counter)


class Datasource(ABC):
    """
    One upstream.

    Attributes:
        name: short, unique among the datasources of a process, without secrets (`rpc-0`).
        on_gap: told of each span in which writes may have been missed, once the source is subscribed again (also
            after its first connection, with `from_slot` None). Writes from `to_slot` on are delivered.
        on_resumed: told the source's name when it is back after an interruption and misses nothing; only by sources
            whose node replays.
        on_doubt: told of accounts whose newest state a fork may have taken back, where only the node can tell.
        on_slot: told that a slot came to a level above the datasource's commitment (`confirmed`, `finalized`), once
            all that the slot wrote was delivered; only by sources whose node tells, perhaps more than once.
    """

    name: str
    status: SourceStatus
    on_gap: Callable[[Gap], None] = staticmethod(lambda _: None)
    on_resumed: Callable[[str], None] = staticmethod(lambda _: None)
    on_doubt: Callable[[Collection[str]], None] = staticmethod(lambda _: None)
    on_slot: Callable[[int, str], None] = staticmethod(lambda _slot, _level: None)

    @abstractmethod
    async def run(self, deliver: Deliver) -> None:
        """
        Deliver account states until cancelled, reconnecting for ever.

        Each batch holds what had arrived, in arrival order; it is bounded in number and bytes.
        """

    def watch(self, pubkeys: Collection[str]) -> None:  # noqa: B027  (not every source can)
        """
        Tell which accounts clients are subscribed to, the whole set each time.

        A source that can see the closing of single accounts watches as many of them as it can afford.
        """
