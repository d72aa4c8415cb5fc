"""The backfill between a real store and a node over HTTP, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from tests.hostile_node import hostile_http
from tests.samples import PROGRAM
from tests.waiting import until

from account_socket.devnode.ledger import Ledger
from account_socket.devnode.replay import derived_pubkey
from account_socket.model import Gap, RawAccount
from account_socket.pipeline import backfill as backfill_module
from account_socket.pipeline.backfill import NOTE, Backfill, Mode
from account_socket.pipeline.gaps import Gaps
from account_socket.pipeline.ordering import Ordering
from account_socket.pipeline.pipeline import Pipeline
from account_socket.programs import load_programs
from account_socket.protocol.solana_jsonrpc import answer
from account_socket.sources import program_accounts
from account_socket.sources.nodes import Nodes
from account_socket.sources.program_accounts import ProgramAccounts
from account_socket.sources.rpc_http import RpcHttp
from account_socket.store.sqlite import SqliteStore

SLOT = 1_000
KEYS = [derived_pubkey("5rpEtPU2ZnMupnyRbt5AbLL7DGHia1YvtbQB7QjJmo4c", copy) for copy in range(150)]


class Parts:
    """
    Attributes:
        refuse: what a request is answered with instead, if anything.
        follows: whether upstream is followed.
    """

    def __init__(self, url: str, ledger: Ledger, store: SqliteStore, ordering: Ordering, mode: Mode) -> None:
        self.ledger, self.store, self.ordering = ledger, store, ordering
        self.rpc = RpcHttp(url, max_rps=10_000, retry_base=0.01)
        self.gaps = Gaps()
        self.follows = True
        self.pipeline = Pipeline(
            ordering=ordering,
            registry=load_programs(),
            store=store,
            publish=lambda _: None,
            keep=lambda _: None,
            amend=lambda _: None,
        )
        self.backfill = Backfill(
            mode,
            {PROGRAM: {}},
            gaps=self.gaps,
            ordering=ordering,
            store=store,
            nodes=Nodes([self.rpc], lambda: ledger.tip_slot),
            listers=[ProgramAccounts(self.rpc, lambda: ledger.tip_slot, retry_base=0.01)],
            admit=self.pipeline.admit_at_leisure,
            settled=self.pipeline.settled,
            follows=lambda: self.follows,
            tip=lambda: ledger.tip_slot,
        )

    def interrupt(self) -> None:
        """Let upstream have been interrupted, and the accounts with subscribers be re-read."""
        opened = self.gaps.report(Gap("rpc-0", SLOT, self.ledger.context_slot, "dropped"))
        assert opened is not None
        self.gaps.close(opened, everything=False)
        self.backfill.wake()

    async def note(self) -> dict[str, Any]:
        return msgspec.json.decode(await self.store.recall(NOTE) or "{}")

    def open(self) -> set[str]:
        return {pubkey for pubkey, mark in self.ordering._marks.items() if not mark.closed}


@asynccontextmanager
async def parts(
    directory: Path, mode: Mode, *, pages: bool = False, refuse: Any = lambda _: None
) -> AsyncIterator[Parts]:
    ledger = Ledger(tip_slot=SLOT, genesis_hash="hash")
    ledger.has_pages = pages
    for key in KEYS:
        ledger.apply(RawAccount(key, SLOT - 5, PROGRAM, 1, b"some kind of account"))

    def respond(request: dict[str, Any]) -> Any:
        return refuse(request) or web.Response(body=answer(msgspec.json.encode(request), ledger.call))

    store = SqliteStore(directory / "account.db")
    identity = await store.open()
    ordering = Ordering({PROGRAM}, identity.next_id, stored=identity.has_states)
    async with hostile_http(respond) as node:
        made = Parts(node.url, ledger, store, ordering, mode)
        tasks = [asyncio.ensure_future(made.pipeline.run()), asyncio.ensure_future(made.backfill.run())]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await made.rpc.close()
            await store.close(next_id=None)


async def test_nothing_is_read_before_upstream_is(tmp_path: Path) -> None:
    """A fill begins with the first subscription, and waits for the accounts with subscribers."""
    async with parts(tmp_path, "all") as it:
        await asyncio.sleep(0.05)
        assert not it.open()
        opened = it.gaps.report(Gap("rpc-0", None, SLOT, "start"))
        it.backfill.wake()
        await asyncio.sleep(0.05)
        assert not it.open()
        assert opened is not None
        it.gaps.close(opened, everything=False)
        it.backfill.wake()
        await until(lambda: it.backfill.complete)
        assert it.open() == set(KEYS)


@pytest.mark.parametrize("mode", ["known", "all"])
async def test_an_interruption_costs_trust_until_it_is_caught_up(tmp_path: Path, mode: Mode) -> None:
    """States from before are doubtful, and are trusted again once everything was re-read."""
    async with parts(tmp_path, mode) as it:
        await it.pipeline.admit(list(it.ledger._accounts.values()))
        it.interrupt()
        assert not it.gaps.trusts(SLOT - 1)
        await until(lambda: it.gaps.trusts(SLOT - 1))
        assert it.backfill.error == ""


async def test_a_close_that_nobody_told_of_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All known accounts are looked at regularly, not only those with subscribers."""
    monkeypatch.setattr(backfill_module, "SWEEP_SECONDS", 0.0)
    async with parts(tmp_path, "all") as it:
        it.interrupt()
        await until(lambda: it.backfill.complete)
        it.ledger._remove(KEYS[3])
        it.ledger.tip_slot = it.ledger.context_slot = SLOT + 1
        it.backfill.wake()
        await until(lambda: it.open() == set(KEYS) - {KEYS[3]})


async def test_an_account_that_makes_no_sense_does_not_harm_the_others(tmp_path: Path) -> None:
    """It is left out and stays doubtful; so does everything that was not re-read."""

    def refuse(request: dict[str, Any]) -> Any:
        if request["method"] != "getMultipleAccounts" or KEYS[7] not in request["params"][0]:
            return None
        values = [{"lamports": -1} for _ in request["params"][0]]
        return {"result": {"context": {"slot": SLOT}, "value": values}}

    async with parts(tmp_path, "known", refuse=refuse) as it:
        await it.pipeline.admit(list(it.ledger._accounts.values()))
        it.interrupt()
        await until(lambda: it.backfill.passes == 1)
        doubtful = {pubkey for pubkey, mark in it.ordering._marks.items() if not it.gaps.trusts(mark.slot)}
        assert doubtful == {KEYS[7]}
        assert (await it.note())["doubtful"]


async def test_how_far_the_store_is_covered_goes_with_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as upstream is followed, what need not be read again grows; else it stands still."""
    monkeypatch.setattr(backfill_module, "NOTE_SECONDS", 0.0)
    async with parts(tmp_path, "subscribed", pages=True) as it:
        it.interrupt()
        await until(lambda: it.backfill.passes == 1)
        assert (await it.note())["covered"] == SLOT - backfill_module.BEHIND_TIP_SLOTS
        it.follows = False
        it.ledger.tip_slot = SLOT + 50
        await asyncio.sleep(0.05)
        assert (await it.note())["covered"] == SLOT - backfill_module.BEHIND_TIP_SLOTS
        it.follows = True
        async with asyncio.timeout(5):
            while (await it.note())["covered"] != SLOT + 50 - backfill_module.BEHIND_TIP_SLOTS:  # noqa: ASYNC110  (a file)
                await asyncio.sleep(0.01)


async def test_a_note_that_cannot_be_read_costs_reading_anew(tmp_path: Path) -> None:
    """Garbage under our name is no reason not to start."""
    store = SqliteStore(tmp_path / "account.db")
    await store.open()
    await store.remember(NOTE, '{"covered":"soon"}')
    await store.close(next_id=None)
    async with parts(tmp_path, "all") as it:
        it.interrupt()
        await until(lambda: it.backfill.complete)
        assert it.open() == set(KEYS)


async def test_a_list_that_never_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error and nothing is trusted; once the list has an end it is read."""
    monkeypatch.setattr(program_accounts, "NEW_ACCOUNT_SECONDS", 0.2)
    monkeypatch.setattr(backfill_module, "REFUSED_SECONDS", 0.05)
    endless = True

    async def blanks(request: dict[str, Any]) -> AsyncIterator[bytes]:
        yield b'{"jsonrpc":"2.0","id":%d,"result":{"context":{"slot":%d},"value":[' % (request["id"], SLOT)
        while endless:
            yield b" "
            await asyncio.sleep(0.02)

    def refuse(request: dict[str, Any]) -> Any:
        return web.Response(body=blanks(request)) if endless and request["method"] == "getProgramAccounts" else None

    async with parts(tmp_path, "all", refuse=refuse) as it:
        it.interrupt()
        await until(lambda: "no new account in" in it.backfill.error)
        works, told = it.backfill.report()
        assert (works, told["complete"], it.gaps.trusts(SLOT - 1)) == (False, False, False)
        endless = False
        await until(lambda: it.backfill.complete and not it.backfill.error)
        assert it.open() == set(KEYS)


async def test_a_list_of_nonsense_is_not_complete(tmp_path: Path) -> None:
    """Accounts that the node neither lists nor tells in a way that makes sense are told, and keep it incomplete."""

    def refuse(request: dict[str, Any]) -> Any:
        if request["method"] not in {"getProgramAccounts", "getMultipleAccounts"}:
            return None
        odd = {"lamports": -1}
        if request["method"] == "getProgramAccounts":
            value = [{"pubkey": key, "account": odd} for key in KEYS[:20]]
        else:
            value = [odd for _ in request["params"][0]]
        return {"result": {"context": {"slot": SLOT}, "value": value}}

    async with parts(tmp_path, "all", refuse=refuse) as it:
        it.interrupt()
        await until(lambda: it.backfill.passes == 1)
        _, told = it.backfill.report()
        assert (told["complete"], told["unusable"], told["not_reread"]) == (False, 20, 20)
        assert not it.gaps.trusts(SLOT - 1)
