"""The local node: a recording, replayed to whoever subscribes."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

import msgspec

from account_socket.devnode.fork_choice import ForkChoice
from account_socket.devnode.gate import Gate, Limits
from account_socket.devnode.ledger import Ledger
from account_socket.devnode.replay import RECORDED, SLOT_MS, Pace, Rate, RecordedPace, Replay, slot_at
from account_socket.devnode.subscriptions import Subscriptions
from account_socket.model import SYSTEM_PROGRAM, RawAccount
from account_socket.protocol import base58

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from account_socket.devnode.geyser_server import GeyserServer
    from account_socket.sources.recording import Recording

GENESIS_HASH = base58.encode(sha256(b"account-socket devnode").digest())
MAX_RATE = 1_000_000.0
SLICE_SECONDS = 0.005
"""Writes that fall due together are made together; below 200 a second each is made by itself."""
MAX_SLICE_WRITES = 500


class ListenError(OSError):
    """
    A node cannot listen.

    Attributes:
        argument: which one of Devnode is at fault: "host", "port", "http_port" or "geyser_port".
        port: that was asked for.
    """

    def __init__(self, reason: str, *, argument: str, port: int) -> None:
        super().__init__(reason)
        self.argument, self.port = argument, port


class Devnode:
    """
    A Solana node that replays a recording; an async context manager.

    Without `loop` the recording is written once, at the recorded slots. With `loop` it is written again and again
    and slots follow the clock, so that they grow across passes and restarts. A slot is announced before anything in
    it is notified, and every 400 ms something is announced whatever the replay does. Each recorded write is
    notified, also several of one account in one slot, which Agave would join.

    All methods but `start` and `stop` act at once and do not wait.

    Args:
        recording: What is replayed.
        host, port: Where PubSub and HTTP JSON-RPC are served; port 0 picks a free one.
        http_port: A second port, as a validator has; both ports serve both.
        rate: Writes per second, or "recorded": each write as long after the first as it was recorded.
        loop: Begin again at the end.
        accounts: The recording spread onto this many addresses (fewer than it has: the first ones only).
        start_on_subscribe: Replay from the first programSubscribe on, not from `start` on.
        genesis_hash: What getGenesisHash says.
        limits: What a lagging client may hold back before it is dropped.
        max_subscriptions: Distinct subscriptions of the whole node.
        pages: Whether it offers getProgramAccountsV2.
        geyser_port: Where Yellowstone gRPC is served too, 0 picks a free port; None: it is not.
        geyser: Options of `GeyserServer`, and `replay_slots` of `Feed`.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        http_port: int | None = None,
        rate: Rate = 20,
        loop: bool = False,
        accounts: int | None = None,
        start_on_subscribe: bool = False,
        genesis_hash: str = GENESIS_HASH,
        limits: Limits | None = None,
        max_subscriptions: int = 1_000_000,
        pages: bool = False,
        geyser_port: int | None = None,
        geyser: Mapping[str, Any] | None = None,
    ) -> None:
        if rate != RECORDED and not 0 < rate <= MAX_RATE:
            raise ValueError(f"rate {rate} is not above 0 and at most {MAX_RATE:.0f} writes per second")
        if accounts is not None and accounts < 1:
            raise ValueError(f"accounts {accounts} is below 1")
        self.genesis_hash = genesis_hash
        self.host, self.port, self.http_port = host, port, http_port
        self.finished = asyncio.Event()
        self._rate, self._loop = rate, loop
        self._replay = Replay(recording, accounts=accounts, timed=rate == RECORDED)
        self._clock_offset = 0
        self._unix_ms_at_zero = time.time() * 1000 - time.monotonic() * 1000
        first = self._clock_slot() if loop or self._replay.done else self._replay.next_slot - 1
        self._ledger = Ledger(tip_slot=max(0, first), genesis_hash=genesis_hash)
        self._subscriptions = Subscriptions(limit=max_subscriptions)
        self._ledger.context_slot = self._safe_context_slot()
        self._ledger.has_pages = pages
        self._forks = ForkChoice(self._ledger.tip_slot)
        self._gate = Gate(self._ledger, self._subscriptions, limits or Limits())
        self._geyser = None if geyser_port is None else _serve_geyser(**(geyser or {}))
        self._geyser_port = geyser_port or 0
        self._announced_at = 0.0
        self._writes = 0
        self._pace: Pace | RecordedPace | None = None
        self._begun = asyncio.Event()
        self._playing = asyncio.Event()
        self._playing.set()
        if start_on_subscribe:
            self._subscriptions.on_program_subscribe = self._begun.set
            if self._geyser is not None:
                self._geyser.subscribed = self._begun.set
        else:
            self._begun.set()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ws_url(self) -> str:
        """The PubSub address, once started."""
        return f"ws://{_bracketed(self.host)}:{self.port}"

    @property
    def http_url(self) -> str:
        """The HTTP JSON-RPC address, once started."""
        return f"http://{_bracketed(self.host)}:{self.http_port or self.port}"

    @property
    def geyser(self) -> GeyserServer:
        """Yellowstone's side of the node. Only with `geyser_port`."""
        assert self._geyser is not None, "no geyser_port was given"
        return self._geyser

    @property
    def geyser_url(self) -> str:
        """The Yellowstone address, once started. Only with `geyser_port`."""
        return f"http://{_bracketed(self.host)}:{self.geyser.port}"

    async def start(self) -> None:
        """Listen, and begin to announce slots. Raises ListenError: a port is taken, or the address is not ours."""
        try:
            with _naming("port", self.port):
                self.port = await self._gate.listen(self.host, self.port)
            if self.http_port is not None:
                with _naming("http_port", self.http_port):
                    self.http_port = await self._gate.listen(self.host, self.http_port)
            if self._geyser is not None:
                with _naming("geyser_port", self._geyser_port):
                    self._geyser_port = await self._geyser.start(self.host, self._geyser_port)
        except OSError:
            await self._gate.close()
            if self._geyser is not None:
                await self._geyser.stop()
            raise
        self._announced_at = time.monotonic()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._announce_slots(), name="devnode-slots"),
            loop.create_task(self._play(), name="devnode-replay"),
        ]

    async def serve(self) -> None:
        """Wait until cancelled, once started. Raises what broke the replay, were there a bug in it."""
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """Abort every connection and stop. Idempotent."""
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._gate.close()
        if self._geyser is not None:
            await self._geyser.stop()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def pause(self) -> None:
        """Hold the replay; slots go on."""
        self._playing.clear()

    def resume(self) -> None:
        """Go on with the replay where it was held."""
        self._playing.set()

    def drop_connections(self) -> None:
        """Abort every TCP connection, without a close frame; new ones are taken."""
        self._gate.drop_connections()
        if self._geyser is not None:
            self._geyser.relay.drop()

    def silence(self, silent: bool = True) -> None:
        """Keep TCP open and take new connections, but read and send nothing; what would be notified is lost."""
        self._gate.set_silent(silent)
        if self._geyser is not None:
            self._geyser.relay.silence(silent)

    def refuse(self, refusing: bool = True) -> None:
        """Close every new connection at once; those that exist stay."""
        self._gate.refusing = refusing
        if self._geyser is not None:
            self._geyser.relay.refusing = refusing

    def hold_reads(self, held: bool = True) -> None:
        """Answer reads with what the accounts and the slot are now, as a node behind a balancer may lag; or go on."""
        self._ledger.hold_reads(held)

    async def restart(self, *, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Stop, and start on the same ports with the same accounts; `meanwhile` nobody is there to hear of writes."""
        await self.stop()
        meanwhile()
        await self.start()

    def write(self, account: RawAccount, *, announce: bool = True, tell: bool = True) -> RawAccount:
        """
        Write one account now, notified as usual, and return it with its slot.

        Args:
            account: Its slot 0 stands for the next slot (with `loop`: the clock's).
            announce: False keeps a slot above the tip unannounced, as a lying node would.
            tell: False notifies nobody, as where a notification is lost on its way.
        """
        written = msgspec.structs.replace(account, slot=account.slot or self._slot_for_write())
        if announce:
            self._announce(written.slot)
        self._apply(written, tell=tell)
        self._gate.flush()
        return written

    def tell(self, account: RawAccount) -> None:
        """Notify a state and write nothing: one that was told before, that comes late, or that never was."""
        self._subscriptions.notify_account(account, was_open=True)
        if self._geyser is not None:
            self._geyser.feed.tell(account)
        self._gate.flush()

    def say(self, message: bytes) -> None:
        """Send every PubSub client one text message as it is, whatever it asked for."""
        self._gate.say(message)

    def close_account(self, pubkey: str) -> RawAccount:
        """Close an account now: 0 lamports, no data, owned by the system program."""
        return self.write(RawAccount(pubkey, 0, SYSTEM_PROGRAM, 0, b""))

    def advance_slots(self, count: int) -> None:
        """Announce the next `count` slots at once."""
        self._clock_offset += count
        for _ in range(count):
            self._announce(self._ledger.tip_slot + 1)
        self._gate.flush()

    def abandon_slot(self, slot: int, *, tell: bool = True) -> None:
        """
        Let a slot die: its accounts are what they were before, and the next slot does not descend from it.

        PubSub says nothing of it, as on Agave; Yellowstone says so with `tell`, else only by what is finalized.
        """
        for before in self._forks.abandon(slot).items():
            self._ledger.restore(*before)
        if self._geyser is not None:
            self._geyser.feed.abandon(slot, tell=tell)

    def statistics(self) -> dict[str, float]:
        """Return counters and sizes; `behind_seconds` is how far the replay is behind its rate."""
        return {
            "writes": self._writes,
            "position": self._replay.position,
            "total": self._replay.total,
            "passes": self._replay.passes,
            "behind_seconds": self._pace.behind if self._pace else 0.0,
            "tip_slot": self._ledger.tip_slot,
            "accounts": len(self._ledger),
            "notifications": self._subscriptions.notifications,
            "subscriptions": len(self._subscriptions),
            "connections": len(self._gate.connections),
            "lagging_dropped": self._gate.lagging_dropped,
            "http_requests": self._gate.http_requests,
        }

    async def _announce_slots(self) -> None:
        while True:
            await asyncio.sleep(self._seconds_to_next_slot())
            if self._loop:
                self._announce(self._clock_slot())
            elif self._seconds_to_next_slot() <= 0:
                self._announce(self._ledger.tip_slot + 1)
            self._gate.flush()

    def _seconds_to_next_slot(self) -> float:
        if self._loop:
            now_ms = self._unix_ms_at_zero + time.monotonic() * 1000
            return (SLOT_MS - now_ms % SLOT_MS) / 1000
        return max(0.0, self._announced_at + SLOT_MS / 1000 - time.monotonic())

    async def _play(self) -> None:
        await self._begun.wait()
        if self._loop:
            # Whoever subscribed before hears of a slot before it hears of an account in it.
            before = self._ledger.tip_slot
            while self._clock_slot() <= before:  # noqa: ASYNC110  (the clock has no event)
                await asyncio.sleep(self._seconds_to_next_slot())
        elif not self._replay.done:
            self._announce(max(self._ledger.tip_slot + 1, self._replay.next_slot))
        pace = None
        while not self._replay.done:
            if pace is None or not self._playing.is_set():
                await self._playing.wait()
                pace = self._pace = self._new_pace()
            self._play_slice(pace.due(time.monotonic(), MAX_SLICE_WRITES))
            wait = pace.wait(time.monotonic())
            await asyncio.sleep(max(wait, SLICE_SECONDS) if wait else 0)
        self.finished.set()

    def _new_pace(self) -> Pace | RecordedPace:
        now = time.monotonic()
        return RecordedPace(self._replay, now) if self._rate == RECORDED else Pace(self._rate, now)

    def _play_slice(self, count: int) -> None:
        for _ in range(count):
            if self._replay.done:
                break
            slot = self._clock_slot() if self._loop else self._replay.next_slot
            self._announce(slot)
            self._apply(self._replay.take(slot))
            if self._replay.done and self._loop:
                self._replay.rewind()
        self._gate.flush()

    def _apply(self, account: RawAccount, *, tell: bool = True) -> None:
        self._writes += 1
        before = self._ledger.get(account.pubkey)
        was_open = self._ledger.apply(account)
        self._ledger.context_slot = self._safe_context_slot()
        self._forks.wrote(account.slot, account.pubkey, before)
        if tell:
            self._subscriptions.notify_account(account, was_open=was_open)
        if self._geyser is not None:
            if tell:
                self._geyser.feed.write(account)
            self._geyser.feed.settle(self._frozen_slot())

    def _announce(self, slot: int) -> None:
        if slot <= self._ledger.tip_slot:
            return
        parent = self._forks.begin(slot)
        self._ledger.tip_slot = slot
        self._ledger.context_slot = self._safe_context_slot()
        self._announced_at = time.monotonic()
        self._subscriptions.notify_slot(slot=slot, parent=parent)
        if self._geyser is not None:
            self._geyser.feed.create(slot, parent)
            self._geyser.feed.settle(self._frozen_slot())

    def _safe_context_slot(self) -> int:
        # A read shows all that was written, so its slot must be below that of every write to come.
        tip = self._ledger.tip_slot
        if self._loop:
            return max(0, tip - 1)
        ahead = self._replay.lowest_slot_ahead
        return tip if ahead is None else max(0, min(tip, ahead - 1))

    def _frozen_slot(self) -> int:
        # In the newest slot a test may write still.
        return min(self._ledger.context_slot, self._ledger.tip_slot - 1)

    def _slot_for_write(self) -> int:
        return max(self._clock_slot(), self._ledger.tip_slot) if self._loop else self._ledger.tip_slot + 1

    def _clock_slot(self) -> int:
        return slot_at(self._unix_ms_at_zero + time.monotonic() * 1000) + self._clock_offset


@contextmanager
def _naming(argument: str, port: int) -> Iterator[None]:
    """Say of the operating system's refusal to listen which argument it is about. Raises ListenError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            argument = "host"
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise ListenError(reason, argument=argument, port=port) from error


def _serve_geyser(*, replay_slots: int = 150, **options: Any) -> GeyserServer:
    # A node without Yellowstone does not load gRPC.
    from account_socket.devnode.geyser_feed import Feed  # noqa: PLC0415
    from account_socket.devnode.geyser_server import GeyserServer  # noqa: PLC0415

    return GeyserServer(Feed(replay_slots=replay_slots, now=time.time), **options)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def run_devnode(
    recording: Recording, *, on_ready: Callable[[Devnode], None] | None = None, **options: Any
) -> None:
    """Start a Devnode with `options`, tell `on_ready`, and serve until cancelled. Raises ListenError, ValueError."""
    async with Devnode(recording, **options) as node:
        if on_ready is not None:
            on_ready(node)
        await node.serve()
