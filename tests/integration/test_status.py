"""What connections that asked for status are told of upstream, and when: the whole server and the local node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.running import Client, ServerProcess
from tests.samples import KEY_A, PROGRAM
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import RawAccount
from account_socket.sources.recording import Recording

RECORDING = shipped_recording()


class Asker(Client):
    """
    A client that asked for status.

    Attributes:
        before: how many other frames had come before each update, by the update's id.
    """

    def __init__(self, url: str) -> None:
        super().__init__(f"{url}?status=1")
        self.before: dict[int, int] = {}

    def arrived(self, update: dict[str, Any]) -> None:
        self.before[update["account"]["id"]] = len(self.others)

    def events(self, kind: str = "status") -> list[str]:
        """Return the events of the status frames so far, each with its source or slot where it has one."""
        named = [each for each in self.others if each.get("type") == kind]
        return [" ".join(str(each[key]) for key in ("event", "source", "slot") if key in each) for each in named]

    @property
    def gaps(self) -> list[dict[str, Any]]:
        return [each for each in self.others if each.get("type") == "gap"]

    @property
    def settled(self) -> bool:
        """Whether upstream is connected and every gap that was told of is healed."""
        last = {gap["source"]: gap["healed"] for gap in self.gaps}
        return any(event.startswith("connected") for event in self.events()) and all(last.values())


@asynccontextmanager
async def streaming(tmp_path: Path, **env: str) -> AsyncIterator[tuple[Devnode, ServerProcess, Asker]]:
    """Run a server on a node whose replay is held, an asker subscribed to all accounts that were written."""
    async with Devnode(RECORDING, rate=400, loop=True) as node:
        async with ServerProcess(tmp_path, {"RPC_URL": node.ws_url, **env}) as server, Asker(server.url) as asker:
            await until(lambda: len(node._ledger) >= 20 and asker.settled, seconds=15)
            node.pause()
            found = await asker.ask(action="subscribe", pubkeys=sorted(node._ledger._accounts))
            assert found["found"]
            yield node, server, asker


async def test_a_lost_upstream_is_told_and_the_gap_until_it_is_healed(tmp_path: Path) -> None:
    """Lost with its reason, connected, the gap, the states that were missed, healed: in order, to askers only."""
    async with (
        streaming(tmp_path) as (node, server, asker),
        Client(server.url) as other,
        Client(f"{server.url}?status=0&x=status=1") as another,
    ):
        account = next(iter(node._ledger._accounts.values()))
        seen, gaps = len(asker.others), len(asker.gaps)
        missed = msgspec.structs.replace(account, lamports=account.lamports + 5)
        await node.restart(
            meanwhile=lambda: node._ledger.apply(msgspec.structs.replace(missed, slot=account.slot + 1))
        )
        await until(lambda: len(asker.gaps) > gaps and asker.settled, seconds=10)
        told = asker.others[seen:]
        assert [each.get("event") or each["healed"] for each in told] == ["lost", "connected", False, True]
        lost, connected, opened, healed = told
        assert lost["source"] == connected["source"] == opened["source"] == "rpc-0"
        assert lost["reason"]
        assert lost["reason"] == opened["reason"]
        assert lost["sources"]["rpc-0"]["connected"] is False
        assert connected["sources"]["rpc-0"] == {"connected": True, "tip_slot": connected["tip_slot"]}
        assert opened["from_slot"] < opened["to_slot"]
        assert healed == {**opened, "healed": True}
        (update,) = [each for each in asker.updates if each["account"]["lamports"] == missed.lamports]
        assert update["source"] == "rpc"
        assert seen + 2 <= asker.before[update["account"]["id"]] <= seen + 3
        await other.ask(action="ping")
        await another.ask(action="ping")
        assert {each["type"] for each in other.others + another.others} == {"pong"}


async def test_a_gap_that_cannot_be_healed_stays_visible(tmp_path: Path) -> None:
    """The reason why is told, and to who asks later right after what is now."""
    async with (
        Devnode(RECORDING, rate=400, loop=True) as reads,
        streaming(tmp_path, RPC_HTTP_URL=f"{reads.http_url}/?api-key=hush-hush") as (node, server, asker),
    ):
        await reads.stop()
        node.drop_connections()
        await until(lambda: any("error" in gap for gap in asker.gaps), seconds=10)
        assert [gap["healed"] for gap in asker.gaps[-2:]] == [False, False]
        assert asker.gaps[-1] == {**asker.gaps[-2], "error": asker.gaps[-1]["error"]}
        async with Asker(server.url) as late:
            await until(lambda: len(late.others) >= 2)
            assert late.events() == ["now"]
            assert late.others[1] == asker.gaps[-1]
            first = await late.ask(action="subscribe", pubkey=asker.updates[0]["pubkey"])
            assert first["stale"] is True
        assert "hush-hush" not in str(asker.others)


async def test_silence_is_told_as_stale_and_its_end_as_recovered(tmp_path: Path) -> None:
    """Soon after the time that the setting allows; states served from then on say the same."""
    async with streaming(tmp_path, STALE_AFTER_SECONDS="2") as (node, server, asker):
        node.silence()
        began = time.monotonic()
        await until(lambda: asker.events()[-1] == "stale")
        assert 1 < time.monotonic() - began < 4
        assert asker.others[-1]["stale"] is True
        assert asker.others[-1]["sources"]["rpc-0"]["connected"] is True
        async with Asker(server.url) as late:
            await late.ask(action="subscribe", pubkey=asker.updates[0]["pubkey"])
            assert late.others[0]["stale"] is True
            assert late.updates[0]["stale"] is True
        node.silence(silent=False)
        await until(lambda: asker.events()[-1] == "recovered")
        assert asker.others[-1]["stale"] is False
        assert await server.stop() == 0
        assert asker.events()[-1] == "recovered"


async def test_one_of_two_upstreams_is_lost(tmp_path: Path) -> None:
    """Which one is told; nothing is stale, and no gap opens where the other one read on."""
    async with Devnode(RECORDING, rate=200, loop=True) as second:
        node: Devnode
        async with Devnode(RECORDING, rate=200, loop=True) as node:
            env = {"RPC_URL": f"{node.ws_url},{second.ws_url}"}
            async with ServerProcess(tmp_path, env) as server, Asker(server.url) as asker:
                both = {"connected rpc-0", "connected rpc-1"}
                await until(lambda: both <= set(asker.events()) and asker.settled, seconds=15)
                gaps = len(asker.gaps)
                second.refuse()
                second.drop_connections()
                await until(lambda: asker.events()[-1] == "lost rpc-1")
                told = asker.others[-1]
                assert (told["stale"], told["sources"]["rpc-0"]["connected"]) == (False, True)
                assert told["sources"]["rpc-1"]["connected"] is False
                second.refuse(refusing=False)
                await until(lambda: asker.events()[-1] == "connected rpc-1", seconds=10)
                await asker.ask(action="ping")
                assert len(asker.gaps) == gaps


async def test_yellowstone_tells_when_a_slot_is_confirmed_and_finalized(tmp_path: Path) -> None:
    """Each once, behind the updates of the slot; a slot that died is never said to be either."""
    async with Devnode(Recording(RECORDING.header, []), geyser_port=0) as node:
        node.advance_slots(40)
        env = {"GEYSER_URL": node.geyser_url, "COMMITMENT": "processed"}
        async with ServerProcess(tmp_path, env) as server, Asker(server.url) as asker, Client(server.url) as other:
            await until(lambda: node.geyser.streams and "connected geyser" in asker.events(), seconds=15)
            await asker.ask(action="subscribe", pubkeys=[KEY_A])
            living = node.write(RawAccount(KEY_A, 0, PROGRAM, 1, b"lives"))
            node.advance_slots(1)
            dying = node.write(RawAccount(KEY_A, 0, PROGRAM, 2, b"dies"))
            await until(lambda: len(asker.updates) == 2)
            node.abandon_slot(dying.slot)
            node.advance_slots(36)
            await until(lambda: f"finalized {living.slot}" in asker.events())
            await until(lambda: f"confirmed {dying.slot + 2}" in asker.events())
            await asker.ask(action="ping")
            await other.ask(action="ping")
            assert [each["type"] for each in other.others] == ["pong"]
    events = [each for each in asker.events() if each.startswith(("confirmed", "finalized"))]
    assert len(events) == len(set(events))
    assert events.index(f"confirmed {living.slot}") < events.index(f"finalized {living.slot}")
    assert not {f"confirmed {dying.slot}", f"finalized {dying.slot}"} & set(events)
    told = next(at for at, each in enumerate(asker.others) if each.get("slot") == living.slot)
    assert asker.before[asker.ids[0]] <= told
    assert [update.get("event") for update in asker.updates] == [None, None, "retracted"]


async def test_watch_tells_a_person_on_stderr(tmp_path: Path) -> None:
    """`watch --status` says on stderr how upstream is; stdout holds updates alone."""
    node = Devnode(RECORDING, rate=400, loop=True)
    async with node, ServerProcess(tmp_path, {"RPC_URL": node.ws_url}) as server:
        watch = await asyncio.create_subprocess_exec(
            *server.launch,
            *("watch", KEY_A, "--status", "--url", server.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert watch.stderr is not None
        try:
            async with asyncio.timeout(20):
                line = await watch.stderr.readline()
                assert line.startswith(b"upstream is ")
                while b"connected: rpc-0" not in line and b"upstream rpc-0 connected" not in line:
                    line = await watch.stderr.readline()
                node.drop_connections()
                while not line.startswith(b"upstream rpc-0 lost: "):
                    line = await watch.stderr.readline()
        finally:
            watch.kill()
            out, _ = await watch.communicate()
        assert b'"type":"status"' not in out
