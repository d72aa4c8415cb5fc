"""Everybody who is sent updates, by WebSocket or as a stream: who may come in, who is late, and the totals."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from account_socket.hub.compression import Compressor
from account_socket.hub.hub import Hub
from account_socket.hub.outbox import Batch, Outbox
from account_socket.hub.shapers import Rates
from account_socket.protocol.codes import ABNORMAL_CLOSURE, Close
from account_socket.protocol.selection import Select
from account_socket.protocol.session import Tally
from account_socket.server.catching_up import Past
from account_socket.server.deadlines import Deadlines
from account_socket.server.filter_check import find_unknown
from account_socket.server.limits import Limits
from account_socket.server.state_pages import StatePages
from account_socket.server.turns import InputTurns

SWEEP_LIMIT = 128
"""The most clients that are pinged or closed at once; the others follow a moment later."""

_COUNTED_CODES = {close.code for close in Close} | {1000, 1002, 1005, ABNORMAL_CLOSURE}


class Client(Protocol):
    """One who is sent updates, whatever the form."""

    address: str
    outbox: Outbox

    def __hash__(self) -> int: ...

    def ping(self) -> bool:
        """Send a sign of life; return whether one has to come back."""

    def close(self, close: Close) -> None:
        """Say why, and end."""

    def abort(self) -> None:
        """Cut the client off."""

    @property
    def behind(self) -> bool:
        """Whether the client keeps up but has not been written everything yet."""


class Clients:
    """
    Args:
        epoch: names the database's life, said in every ack.
        greet: has a client that asked for it told how upstream is, and what changes from then on.

    Attributes:
        connections: the clients that were let in and are not gone; those on their way out included.
        sockets: everything connected to the port, HTTP included.
        tally: what the clients asked, and which errors they were answered.
        closes: how many connections ended with each close code; codes that only clients use count as "other".
        past: what clients that resume are told from; None: there is none.
        pages: tells what was there before a subscription by filter; None: nothing was.
        rates: the time of all that is told at most so often.
        turns: the share of each loop turn that clients' input has.
        batch, compressed_batch: what clients are written alike in one turn, as it is and compressed.
        compressor: makes the frames of the latter.
        refused: how many were turned away at once, by close code.
    """

    def __init__(self, hub: Hub, limits: Limits, epoch: str, greet: Callable[[Outbox], None] = lambda _: None) -> None:
        self.hub = hub
        self.limits = limits
        self.epoch = epoch
        self.greet = greet
        self.connections: set[Client] = set()
        self.sockets = 0
        self.accepted = 0
        self.tally = Tally()
        self.closes: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.past: Past | None = None
        self.pages: StatePages | None = None
        self.rates = Rates(lambda seconds, act: asyncio.get_running_loop().call_later(seconds, act), monotonic)
        self.turns = InputTurns()
        self.batch = Batch()
        self.compressor = Compressor(monotonic)
        self.compressed_batch = Batch(self.compressor)
        self._addresses: Counter[str] = Counter()
        self._gone_sent = 0
        self._gone_conflated = 0
        self.pings: Deadlines[Client] = Deadlines(limits.ping_seconds)
        self.pongs: Deadlines[Client] = Deadlines(limits.pong_seconds)
        self.slow: Deadlines[Client] = Deadlines(limits.slow_consumer_seconds)
        self.closing: Deadlines[Client] = Deadlines(limits.close_seconds)
        self.slow_closing: Deadlines[Client] = Deadlines(limits.slow_close_seconds)
        self._watches: tuple[tuple[Deadlines[Client], Callable[[Client], None]], ...] = (
            (self.pings, self._ping),
            (self.pongs, lambda connection: connection.close(Close.NO_PONG)),
            (self.slow, lambda connection: connection.close(Close.SLOW_CONSUMER)),
            (self.closing, lambda connection: connection.abort()),
            (self.slow_closing, lambda connection: connection.abort()),
        )

    def find_unknown(self, select: Select) -> str | None:
        """Return what in a numbered subscription names nothing there is, or None."""
        return None if self.past is None else find_unknown(select, self.past.reads.fields)

    # ---- coming and going ----------------------------------------------------------------------------------

    def judge(self, origin: str | None, address: str) -> Close | None:
        """Return why a client with this Origin header and address is not let in, or None."""
        limits = self.limits
        if limits.allowed_origins and origin is not None and origin.lower() not in limits.allowed_origins:
            return Close.ORIGIN_REFUSED
        if len(self.connections) >= limits.max_connections:
            return Close.SERVER_FULL
        if limits.max_connections_per_ip and self._addresses[address] >= limits.max_connections_per_ip:
            return Close.ADDRESS_FULL
        return None

    def admit(self, connection: Client) -> None:
        """Count a client that was let in, and look after it from now on."""
        self.connections.add(connection)
        self.accepted += 1
        self._addresses[connection.address] += 1
        self.pings.start(connection, now=monotonic())

    def leave(self, connection: Client, *, slow: bool) -> None:
        """Watch a client whose closing has begun: it is cut off if it takes long."""
        self.pings.stop(connection)
        self.pongs.stop(connection)
        self.slow.stop(connection)
        (self.slow_closing if slow else self.closing).start(connection, now=monotonic())

    def forget(self, connection: Client, code: int) -> None:
        """Count a client out; its connection is lost."""
        self.sockets -= 1
        for deadlines, _ in self._watches:
            deadlines.stop(connection)
        name = str(code) if code in _COUNTED_CODES else "other"
        if connection not in self.connections:
            self.refused[name] += 1
            return
        self.connections.discard(connection)
        self.closes[name] += 1
        self._addresses[connection.address] -= 1
        if not self._addresses[connection.address]:
            del self._addresses[connection.address]
        self._gone_sent += connection.outbox.sent
        self._gone_conflated += connection.outbox.conflated

    # ---- time ----------------------------------------------------------------------------------------------

    def postpone(self, seconds: float) -> None:
        """Have everything become due so much later: the loop stood still."""
        for deadlines, _ in self._watches:
            deadlines.postpone(seconds)

    def sweep(self, *, now: float) -> bool:
        """Act on what is due; return whether more is due already."""
        more = False
        for deadlines, act in self._watches:
            due = deadlines.take_due(now=now, limit=SWEEP_LIMIT)
            for connection in due:
                act(connection)
            more = more or len(due) == SWEEP_LIMIT
        return more

    def _ping(self, connection: Client) -> None:
        now = monotonic()
        self.pings.start(connection, now=now)
        if connection not in self.pongs and connection.ping():
            self.pongs.start(connection, now=now)

    # ---- totals --------------------------------------------------------------------------------------------

    @property
    def sent(self) -> int:
        """How many messages were handed to transports."""
        return self._gone_sent + sum(connection.outbox.sent for connection in self.connections)

    @property
    def conflated(self) -> int:
        """How many messages were replaced by a newer state of the same account."""
        return self._gone_conflated + sum(connection.outbox.conflated for connection in self.connections)
