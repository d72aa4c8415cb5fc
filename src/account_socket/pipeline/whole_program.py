"""
Reading every account of a program from one node.

By pages where the node has them. Else a first list of 8 bytes of each account tells which accounts there are and of
which kinds, known to us or not; then each kind is read by a list of its own, or account by account where they are few.
What was read is remembered, so that after a restart the kinds that were never read come first, and pages go on.

Items that a node lists but that make no sense are read one by one; where they name no account, what else there is is
read, and then the reading fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
import structlog

from account_socket.errors import RpcError
from account_socket.model import RawAccount
from account_socket.pipeline.listing import HEAD_BYTES, KeySet, Listing
from account_socket.pipeline.progress import Progress
from account_socket.sources.program_accounts import Page, ProgramAccounts
from account_socket.sources.rpc_answer import nonsense

REACH_SLOTS = 216_000
"""A day: what was read longer ago is read anew rather than continued."""

log = structlog.get_logger("account_socket.upstream")


class Reading(msgspec.Struct):
    """
    What was read of a program in a reading that did not end, as it is remembered over restarts.

    Attributes:
        kinds: the first 8 bytes, hex → the slot at which all accounts that begin so were read.
        key: the page to go on with; None: the first.
        began: the slot of the first page, which is the oldest; None before it was read.
        unread: items of these pages that could not be read in any way.
    """

    kinds: dict[str, int] = {}
    key: str | None = None
    began: int | None = None
    unread: int = 0

    def forget_before(self, slot: int) -> None:
        """Drop what was read before `slot`."""
        self.kinds = {kind: read_at for kind, read_at in self.kinds.items() if read_at >= slot}
        if self.began is not None and self.began < slot:
            self.forget_pages()

    def forget_pages(self) -> None:
        """Begin with the first page again."""
        self.key = self.began = None
        self.unread = 0


class WholeProgram:
    """
    Every method raises SourceError; what was read until then is taken, and noted in the Reading.

    Args:
        program: base58.
        names: the first 8 bytes of an account → its type, as far as types are known.
        take: the pipeline's entrance; returns when there is room for more.
        reread: re-reads any number of accounts, at a slot or later, and takes them.
        remember: keeps the Reading over a restart.
    """

    def __init__(
        self,
        program: str,
        *,
        names: Mapping[bytes, str],
        progress: Progress,
        take: Callable[[list[RawAccount]], Awaitable[None]],
        reread: Callable[[Sequence[str], int], Awaitable[None]],
        remember: Callable[[], Awaitable[None]],
    ) -> None:
        self.program = program
        self._names = names
        self._progress = progress
        self._take = take
        self._reread = reread
        self._remember = remember

    async def read(self, node: ProgramAccounts, reading: Reading, pubkeys: KeySet, floor: int) -> int | None:
        """
        Read everything, at slot `floor` or later.

        Args:
            pubkeys: every account that is listed is put in.
        Returns:
            The slot at which an account that is not in `pubkeys` is not there; None where only some were listed.
        """
        reading.forget_before(floor - REACH_SLOTS)
        if await node.find_pages(self.program):
            try:
                return await self._by_pages(node, reading, pubkeys, floor)
            except RpcError as error:
                if error.retryable:
                    raise
                self._give_up_pages(node, error)
        return await self._by_kinds(node, reading, pubkeys, floor)

    async def read_changes(self, node: ProgramAccounts, since: int, floor: int) -> bool:
        """
        Read what was written at slot `since` or later, by pages; closed accounts may be missing.

        Returns:
            False where the node has pages but not these, or where there are items on them that nobody can read.
        """
        unread = 0

        async def turned(_: Page) -> None:
            nonlocal unread
            unread += await self._read_left_out(node, floor)

        self._progress.begin("accounts that changed")
        try:
            await node.walk(self.program, self._take, turned, changed_since=since, at_least=floor)
        except RpcError as error:
            if error.retryable:
                raise
            self._give_up_pages(node, error)
            return False
        return not unread

    def _give_up_pages(self, node: ProgramAccounts, error: RpcError) -> None:
        log.warning("pages of a program's accounts given up", node=str(node.rpc), error=str(error))
        node.has_pages = False

    async def _by_pages(self, node: ProgramAccounts, reading: Reading, pubkeys: KeySet, floor: int) -> int | None:
        async def take(accounts: list[RawAccount]) -> None:
            for raw in accounts:
                pubkeys.add(raw.pubkey)
            await self._take(accounts)

        async def turned(page: Page) -> None:
            reading.unread += await self._read_left_out(node, floor)
            reading.key = page.next_key
            reading.began = page.slot if reading.began is None else min(reading.began, page.slot)
            await self._remember()

        resumed = reading.key is not None
        self._progress.begin("all accounts, by pages")
        try:
            await node.walk(self.program, take, turned, key=reading.key, at_least=floor)
        except RpcError as error:
            if error.retryable:
                raise
            reading.forget_pages()
            if not resumed:
                raise
            # The node does not know the page any more.
            return await self._by_pages(node, reading, pubkeys, floor)
        unread, reading.unread = reading.unread, 0
        self._fail_for(unread, node)
        began = floor if reading.began is None else reading.began
        if resumed and not await self.read_changes(node, began, floor):
            return await self._by_kinds(node, reading, pubkeys, floor)
        return None if resumed else began

    async def _by_kinds(self, node: ProgramAccounts, reading: Reading, pubkeys: KeySet, floor: int) -> int:
        listing = Listing(pubkeys)

        async def note(accounts: list[RawAccount]) -> None:
            listing.add(accounts)
            self._progress.add(len(accounts), whole=False)

        self._progress.begin("list of all accounts")
        slot = await node.read(self.program, note, head_bytes=HEAD_BYTES, at_least=floor)
        unread = await self._read_left_out(node, floor)
        never_read_first = sorted(listing.kinds.items(), key=lambda item: (item[0].hex() in reading.kinds, item[1]))
        for kind, _ in never_read_first:
            if reading.kinds.get(kind.hex(), -1) < floor:
                unread += await self._read_kind(node, reading, kind, listing, floor)
        if listing.strays:
            self._progress.begin("accounts of no type", len(listing.strays))
            await self._reread(listing.strays, floor)
        if listing.left_out:
            log.warning("accounts of too many kinds were left out", program=self.program, accounts=listing.left_out)
        self._fail_for(unread, node)
        return slot

    async def _read_kind(
        self, node: ProgramAccounts, reading: Reading, kind: bytes, listing: Listing, floor: int
    ) -> int:
        """Return how many of its items could not be read; while there are any, the kind does not count as read."""
        self._progress.begin(self._names.get(kind, f"accounts that begin with {kind.hex()}"), listing.kinds[kind])
        if kind in listing.few:
            await self._reread(listing.few[kind], floor)
            read_at = floor
        else:
            read_at = await node.read(self.program, self._take, starts_with=kind, at_least=floor)
            if unread := await self._read_left_out(node, floor):
                return unread
        reading.kinds[kind.hex()] = read_at
        await self._remember()
        return 0

    # ---- what made no sense --------------------------------------------------------------------------------

    async def _read_left_out(self, node: ProgramAccounts, floor: int) -> int:
        """Read what the last answer named but did not tell; return how many items are left."""
        left_out = node.left_out
        if left_out:
            log.warning(
                "listed accounts make no sense",
                node=str(node.rpc),
                program=self.program,
                named=len(left_out.pubkeys),
                others=left_out.others,
                since_start=dict(node.odd),
            )
            await self._reread(left_out.pubkeys, floor)
        return left_out.others

    def _fail_for(self, unread: int, node: ProgramAccounts) -> None:
        if unread:
            raise nonsense(f"{node.rpc!r} listed {unread} accounts of {self.program} that make no sense")
