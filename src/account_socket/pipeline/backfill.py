"""
Re-reading in the background what an interruption of upstream made doubtful, and filling the store (`BACKFILL`).

    subscribed   only accounts with subscribers (pipeline/healing.py); where the node tells what changed, that too
    known        after these, every account that the store knows
    all          after these, every account of the programs; at first that fills the store

Where a node has pages (getProgramAccountsV2), what changed since the slot up to which everything is known is enough;
as closes are not promised there, known accounts are looked at for these. Accounts that a complete list leaves out are
asked for one by one before they count as closed. With `known` and `all` every known account is looked at once an hour,
for closes that PubSub does not tell of. All of it takes what others leave of the budget of background reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias

import msgspec
import structlog

from account_socket.backoff import Backoff
from account_socket.errors import AccountSocketError, RpcError, SourceError, StoreError
from account_socket.model import Mark, RawAccount, missing_account
from account_socket.pipeline.gaps import Gaps
from account_socket.pipeline.listing import KeySet
from account_socket.pipeline.ordering import Ordering
from account_socket.pipeline.progress import Progress
from account_socket.pipeline.whole_program import REACH_SLOTS, Reading, WholeProgram
from account_socket.sources.base import Deliver
from account_socket.sources.nodes import Nodes
from account_socket.sources.program_accounts import ProgramAccounts
from account_socket.store.base import Store

PAGE = 100
MAX_SKIPPED = 100
NOTE = "backfill"
NOTE_SECONDS = 60.0
SWEEP_SECONDS = 3600.0
BEHIND_TIP_SLOTS = 150
"""A minute: what was written longer ago has arrived and is committed."""
RETRY_SECONDS = (1.0, 60.0)
REFUSED_SECONDS = 600.0
"""Before a node that does not offer what is needed is asked again."""
MAX_REST_SECONDS = 600.0
"""Interruptions that follow each other cost no more than every other minute of reading."""

Mode: TypeAlias = Literal["subscribed", "known", "all"]

log = structlog.get_logger("account_socket.upstream")


class Notes(msgspec.Struct):
    """
    What is remembered in the store.

    Attributes:
        covered: every write up to this slot is in the store, None where nobody knows.
        doubtful: there may be older states in it that are wrong: they were not re-read after some interruption.
        filled: the programs of which every account was read once.
        readings: program → what was read of it in a reading that did not end.
    """

    covered: int | None = None
    doubtful: bool = True
    filled: list[str] = []
    readings: dict[str, Reading] = {}


class Backfill:
    """
    Args:
        programs: program → the first 8 bytes of an account → its type.
        nodes: read single accounts.
        listers: list whole programs, in the order in which they are asked; none: there is no node to ask.
        admit: the pipeline's entrance for what nobody waits for.
        settled: returns when all that was admitted until then is in the store.
        follows: whether upstream is read and committed without interruption now.
        tip: the newest slot that upstream confirmed.
        show: see `Progress`.

    Attributes:
        passes: how many readings came to their end.
        seconds: how long these took.
        error: why the last one failed, or "".
    """

    def __init__(
        self,
        mode: Mode,
        programs: Mapping[str, Mapping[bytes, str]],
        *,
        gaps: Gaps,
        ordering: Ordering,
        store: Store,
        nodes: Nodes,
        listers: Sequence[ProgramAccounts],
        admit: Deliver,
        settled: Callable[[], Awaitable[None]],
        follows: Callable[[], bool],
        tip: Callable[[], int | None],
        show: Callable[[Progress], None] | None = None,
    ) -> None:
        self.mode: Mode = mode
        self.progress = Progress(show)
        self.passes = 0
        self.seconds = 0.0
        self.error = ""
        self._gaps = gaps
        self._ordering = ordering
        self._store = store
        self._nodes = nodes
        self._listers = listers
        self._admit = admit
        self._settled = settled
        self._follows = follows
        self._tip = tip
        self._wanted = asyncio.Event()
        self._notes = Notes()
        self._done = 0
        self._noted_at = self._swept_at = time.monotonic()
        self._skipped = 0
        self._programs = [
            WholeProgram(
                program,
                names=names,
                progress=self.progress,
                take=self._take,
                reread=self._reread,
                remember=self._remember,
            )
            for program, names in programs.items()
        ]

    @property
    def complete(self) -> bool:
        """Whether every account of the programs is in the store, as far as anybody knows."""
        return self.mode == "all" and self._filled and self._current and not self._notes.doubtful

    @property
    def _filled(self) -> bool:
        return all(program.program in self._notes.filled for program in self._programs)

    @property
    def _current(self) -> bool:
        """Whether what every gap made doubtful was re-read."""
        return self._done == self._gaps.opened and not self._gaps.open

    def wake(self) -> None:
        """Take that a gap was reported, or that the accounts with subscribers were re-read after one."""
        self._wanted.set()

    def report(self) -> tuple[bool, dict[str, Any]]:
        """Return whether it works, and the facts for /readyz."""
        progress = self.progress
        return not self.error, {
            "mode": self.mode,
            "complete": self.complete,
            "reading": progress.doing or None,
            "done": progress.done if progress.doing else None,
            "total": progress.total if progress.doing else None,
            "unusable": sum(lister.odd.total() for lister in self._listers),
            "not_reread": self._skipped,
            "error": self.error,
        }

    # ---- when ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read what is due until cancelled; a node that cannot tell is asked again for ever."""
        if not self._listers:
            self.error = "" if self.mode == "subscribed" else "there is no node to ask: RPC_URL is not set"
            await asyncio.Event().wait()
        await self._recall()
        backoff = Backoff(*RETRY_SECONDS)
        while True:
            due = self._due()
            if due is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(NOTE_SECONDS / 2):
                        await self._wanted.wait()
                self._wanted.clear()
                continue
            began = time.monotonic()
            try:
                await due()
            except (SourceError, StoreError) as error:
                await self._fail(error, backoff)
            else:
                self.error = ""
                backoff.reset()
                if due != self._note_covered:
                    await self._rest(time.monotonic() - began)
            finally:
                self.progress.end()

    def _due(self) -> Callable[[], Awaitable[None]] | None:
        if self._gaps.open or not self._gaps.opened:
            return None  # the accounts with subscribers come first; and nothing is read before upstream is
        if not self._current or (self.mode == "all" and not self._filled):
            return self._catch_up
        now = time.monotonic()
        if self.mode != "subscribed" and now - self._swept_at >= SWEEP_SECONDS:
            return self._sweep
        return self._note_covered if now - self._noted_at >= NOTE_SECONDS else None

    async def _fail(self, error: AccountSocketError, backoff: Backoff) -> None:
        refused = isinstance(error, RpcError) and not error.retryable
        wait = REFUSED_SECONDS if refused else max(backoff.next(), getattr(error, "retry_after", None) or 0.0)
        if str(error) != self.error:
            log.warning("backfill failed", error=str(error), hint=error.hint, retry_in=round(wait, 1))
        self.error = str(error)
        await asyncio.sleep(wait)

    async def _rest(self, took: float) -> None:
        self.passes += 1
        self.seconds += took
        await asyncio.sleep(min(took, MAX_REST_SECONDS))

    # ---- what ----------------------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Read what the gaps until now made doubtful, or all there is."""
        opened, floor = self._gaps.opened, self._gaps.end
        self._skipped = 0
        reliable = await self._read_changes(floor)
        if self.mode == "all" and not (reliable and self._filled):
            await self._read_whole(floor)
            reliable = True
        elif self.mode == "known" and not reliable:
            await self._read_known(floor)
            reliable = True
        elif self.mode != "subscribed":
            await self._look_for_closes(floor)
        self._done = opened
        self._notes.doubtful = not reliable or self._skipped > 0
        await self._note_covered()
        if self.mode != "subscribed":
            if not self._notes.doubtful and self._current:
                self._gaps.trust_all()
            log.info("backfill done", mode=self.mode, accounts=self.progress.accounts, complete=self.complete)

    async def _read_changes(self, floor: int) -> bool:
        """Read what changed, where a node can tell; return whether every other open state is right then."""
        if not self._ordering.knows_any:
            return True
        covered = self._notes.covered
        reachable = covered is not None and covered >= floor - REACH_SLOTS
        if covered is None or not reachable or (self.mode == "all" and not self._filled):
            return False
        for program in self._programs:
            node = await self._node_with_pages(program)
            if node is None:
                return False
            if not await program.read_changes(node, covered, floor):
                return False
        return not self._notes.doubtful

    async def _node_with_pages(self, program: WholeProgram) -> ProgramAccounts | None:
        for lister in self._listers:
            if await lister.find_pages(program.program):
                return lister
        return None

    async def _read_whole(self, floor: int) -> None:
        pubkeys = KeySet()
        slots = [await self._read_program(program, pubkeys, floor) for program in self._programs]
        self._notes.filled = [program.program for program in self._programs]
        self._notes.readings.clear()
        at = min((slot for slot in slots if slot is not None), default=None)
        if at is None or None in slots:
            await self._look_for_closes(floor)
            return
        self.progress.begin("accounts that were not listed")
        async for page in self._pages(lambda key, mark: not mark.closed and mark.slot <= at and key not in pubkeys):
            await self._reread(page, at)

    async def _read_program(self, program: WholeProgram, pubkeys: KeySet, floor: int) -> int | None:
        failure = RpcError("there is no node to ask", code=0, retryable=False)
        for lister in self._listers:
            reading = self._notes.readings.setdefault(program.program, Reading())
            try:
                return await program.read(lister, reading, pubkeys, floor)
            except RpcError as error:
                failure = error
        raise failure

    async def _read_known(self, floor: int) -> None:
        total = 0
        async for _, mark in self._known():
            total += not self._gaps.trusts(mark.slot)
        self.progress.begin("known accounts", total)
        async for page in self._pages(lambda _, mark: not self._gaps.trusts(mark.slot)):
            await self._reread(page, max(floor, self._gaps.end))

    async def _sweep(self) -> None:
        self._swept_at = time.monotonic()
        await self._look_for_closes(None)

    async def _look_for_closes(self, floor: int | None) -> None:
        """Look at the known open accounts, or only at those whose states are from before `floor`."""
        self.progress.begin("known accounts, for closes")
        async for page in self._pages(lambda _, mark: not mark.closed and (floor is None or mark.slot < floor)):
            _, glimpses = await self._nodes.glance_at_leisure(page, floor or 0)
            self.progress.add(len(page), whole=False)
            gone = [
                pubkey
                for pubkey, glimpse in zip(page, glimpses, strict=True)
                if glimpse is None or self._ordering.is_closed(glimpse)
            ]
            await self._reread(gone, floor or 0)

    # ---- accounts ------------------------------------------------------------------------------------------

    async def _known(self) -> AsyncIterator[tuple[str, Mark]]:
        """Yield every account of the store with its newest mark."""
        await self._settled()
        async for page in self._store.marks():
            for pubkey, stored in page:
                yield pubkey, self._ordering.mark(pubkey) or stored

    async def _pages(self, wanted: Callable[[str, Mark], bool]) -> AsyncIterator[list[str]]:
        page: list[str] = []
        async for pubkey, mark in self._known():
            if wanted(pubkey, mark):
                page.append(pubkey)
            if len(page) == PAGE:
                yield page
                page = []
        if page:
            yield page

    async def _take(self, accounts: list[RawAccount]) -> None:
        await self._admit(accounts)
        self.progress.add(len(accounts))

    async def _reread(self, pubkeys: Sequence[str], at_least: int) -> None:
        for at in range(0, len(pubkeys), PAGE):
            await self._reread_page(pubkeys[at : at + PAGE], at_least)

    async def _reread_page(self, pubkeys: Sequence[str], at_least: int) -> None:
        try:
            slot, accounts = await self._nodes.read_at_leisure(pubkeys, at_least)
        except RpcError as error:
            if error.retryable or error.code:
                raise
            if len(pubkeys) == 1:
                # It makes no sense, and the others must not suffer for it.
                self._skipped += 1
                if self._skipped > MAX_SKIPPED:
                    raise
                log.warning("account not re-read", pubkey=pubkeys[0], error=str(error))
                return
            middle = len(pubkeys) // 2
            await self._reread_page(pubkeys[:middle], at_least)
            await self._reread_page(pubkeys[middle:], at_least)
        else:
            await self._take([raw or missing_account(key, slot) for key, raw in zip(pubkeys, accounts, strict=True)])

    # ---- notes ---------------------------------------------------------------------------------------------

    async def _recall(self) -> None:
        try:
            note = await self._store.recall(NOTE)
            self._notes = msgspec.json.decode(note or "{}", type=Notes)
        except (StoreError, msgspec.ValidationError, msgspec.DecodeError) as error:
            log.warning("what was read before is not known", error=str(error))

    async def _remember(self) -> None:
        try:
            await self._store.remember(NOTE, msgspec.json.encode(self._notes).decode())
        except StoreError as error:  # it costs reading more after a restart, no more
            log.warning("how far the backfill is was not remembered", error=str(error))

    async def _note_covered(self) -> None:
        """Note up to which slot nothing is missing, as long as upstream is followed."""
        self._noted_at = time.monotonic()
        tip = self._tip()
        if tip is not None and self._current and self._follows():
            self._notes.covered = max(self._notes.covered or 0, tip - BEHIND_TIP_SLOTS)
        await self._remember()
