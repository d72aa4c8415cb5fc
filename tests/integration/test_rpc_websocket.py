from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import Any

import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.hostile_node import (
    FIRST_SLOT,
    HostileNode,
    account_json,
    hostile_http,
    program_notification,
    slot_notification,
)
from tests.samples import KEY_A, KEY_B, PROGRAM
from tests.taking import note, refusing, running, source_of
from tests.waiting import until

from account_socket.sources.account_json import MAX_DATA_BYTES
from account_socket.sources.rpc_http import RpcHttp


async def test_accounts_arrive_in_their_order() -> None:
    """Every account of the program arrives, in the order sent, with slots and counts in the status."""
    async with HostileNode() as node:
        source = source_of(node.url)
        async with running(source) as taker:
            await until(lambda: source.status.connected)
            await node.send(*[note(n) for n in range(1, 501)])
            await until(lambda: len(taker.accounts) == 500)
        assert taker.lamports == list(range(1, 501))
        assert source.status.notifications == 500
        assert source.status.last_update_slot == FIRST_SLOT
        assert source.status.tip_slot is not None
        assert source.status.tip_slot > FIRST_SLOT
        assert not source.status.connected
        (asked,) = node.asked("programSubscribe")
        assert asked["params"] == [PROGRAM, {"encoding": "base64+zstd", "commitment": "confirmed"}]


async def test_a_burst_becomes_few_batches() -> None:
    """What arrives together is handed over together."""
    async with HostileNode() as node:
        source = source_of(node.url)
        async with running(source) as taker:
            await until(lambda: source.status.connected)
            burst = [json.dumps(note(n)) for n in range(1, 201)]
            await node.send("[" + ",".join(burst) + "]", *burst)
            await until(lambda: len(taker.accounts) == 400)
        assert len(taker.batches) < 40


async def test_the_largest_account_arrives() -> None:
    """An account of 10 MiB arrives as plain base64."""
    data = bytes(range(256)) * (MAX_DATA_BYTES // 256)
    async with HostileNode() as node:
        source = source_of(node.url, stale_slot_seconds=5)
        async with running(source) as taker:
            await until(lambda: source.status.connected)
            await node.send(program_notification(account_json(data)))
            await until(lambda: taker.accounts, seconds=20)
        assert taker.accounts[0].data == data
        assert source.status.reconnects == 0


async def test_a_binary_frame_counts_by_what_it_holds() -> None:
    """JSON in a binary frame is read, other bytes are odd."""
    async with HostileNode() as node:
        source = source_of(node.url)
        async with running(source) as taker:
            await until(lambda: source.status.connected)
            await node.send(json.dumps(note(1)).encode(), b"\x00\x01\xff", note(2))
            await until(lambda: len(taker.accounts) == 2)
        assert source.status.odd == {"not_json": 1}


ODD_FRAMES: list[tuple[Any, str]] = [
    ("pong", "not_json"),
    (b"\xff\xfe", "not_json"),
    ("5", "not_object"),
    ("[" * 5000, "not_json"),
    ([], "not_object"),
    ({}, "unknown_frame"),
    ({"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": None}, "error_frame"),
    ({"method": "voteNotification", "params": {}}, "unknown_method"),
    ({"method": "programNotification", "params": {}}, "bad_notification"),
    ({"jsonrpc": "2.0", "result": 1, "id": 4444}, "unknown_reply"),
    ({"jsonrpc": "2.0", "result": 1, "id": "1"}, "unknown_reply"),
    (note(1, subscription=5), "unknown_subscription"),
    (slot_notification(FIRST_SLOT, subscription=5), "unknown_subscription"),
    (slot_notification(-5), "bad_slot"),
    (slot_notification(2**62), "tip_ahead"),
    (note(1, slot=2**62), "slot_ahead"),
    (note(1, slot=-1), "bad_slot"),
    (note(1, slot=2**64), "bad_slot"),
    (note(1, pubkey="short"), "bad_pubkey"),
    (note(-1), "bad_lamports"),
    (note(2**63), "bad_lamports"),
    (program_notification(account_json(owner="x")), "bad_owner"),
    (program_notification({**account_json(), "data": "error: data too large for bs58 encoding"}), "data_too_large"),
    (program_notification({**account_json(), "data": {"program": "x", "parsed": {}, "space": 1}}), "data_parsed"),
    (program_notification({**account_json(), "data": ["!", "base64"]}), "bad_data"),
    (program_notification({**account_json(), "data": ["AAAA", "base32"]}), "bad_encoding"),
]


async def test_odd_frames_amid_good_ones() -> None:
    """Each odd frame is survived, counted once under its kind, and the good ones all arrive in order."""
    async with HostileNode() as node:
        source = source_of(node.url, stale_slot_seconds=5)
        async with running(source) as taker:
            await until(lambda: source.status.connected)
            for number, (frame, _) in enumerate(ODD_FRAMES, start=1):
                await node.send(frame, note(number))
            await until(lambda: len(taker.accounts) == len(ODD_FRAMES))
        assert taker.lamports == list(range(1, len(ODD_FRAMES) + 1))
        kinds = [kind for _, kind in ODD_FRAMES]
        assert {kind: source.status.odd[kind] for kind in kinds} == {kind: kinds.count(kind) for kind in kinds}
        assert source.status.reconnects == 0


async def test_odd_frames_of_one_kind_are_logged_once() -> None:
    """A thousand odd frames of one kind are one line of the log."""
    async with HostileNode() as node:
        source = source_of(node.url)
        with structlog.testing.capture_logs() as lines:
            async with running(source):
                await until(lambda: source.status.connected)
                await node.send(*["pong"] * 1000, {})
                await until(lambda: source.status.odd["unknown_frame"])
        assert source.status.odd["not_json"] == 1000
        assert [line["kind"] for line in lines if line["event"] == "odd upstream frame"] == [
            "not_json",
            "unknown_frame",
        ]


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60) | st.text(max_size=60), max_size=30))
def test_whatever_the_node_sends_good_accounts_arrive(frames: list[bytes | str]) -> None:
    """Between any frames, text or binary, every good account arrives in order."""

    async def run() -> None:
        async with HostileNode() as node:
            source = source_of(node.url, stale_slot_seconds=5)
            async with running(source) as taker:
                await until(lambda: source.status.connected)
                for number, frame in enumerate(frames, start=1):
                    await node.send(frame, note(number))
                await until(lambda: len(taker.accounts) == len(frames))
            assert taker.lamports == list(range(1, len(frames) + 1))

    asyncio.run(run())


async def test_a_refused_slot_subscription_is_replaced_by_asking() -> None:
    """Without slotSubscribe the slot is asked for over HTTP; when that stops, the connection is dead."""
    slots = count(FIRST_SLOT)
    answering = True

    def respond(request: dict[str, Any]) -> Any:
        return {"result": next(slots)} if answering else {"error": {"code": -32601, "message": "no"}}

    async with hostile_http(respond) as http, HostileNode(beat_seconds=None) as node:
        node.answer = refusing("slotSubscribe", {"code": -32601, "message": "Method not found"}, node)
        rpc = RpcHttp(http.url)
        source = source_of(node.url, rpc=rpc, stale_slot_seconds=1.5)
        try:
            async with running(source) as taker:
                await until(lambda: source.status.connected)
                await node.send(note(1))
                await until(lambda: taker.accounts)
                await until(lambda: (source.status.tip_slot or 0) > FIRST_SLOT + 1)
                assert source.status.reconnects == 0
                answering = False
                await until(lambda: source.status.last_error == "no slot for 1.5 s")
        finally:
            await rpc.close()


async def test_the_socket_is_asked_for_the_slot_where_http_is_missing() -> None:
    """Without slotSubscribe and without HTTP, a node whose socket answers getSlot is kept."""
    slots = count(FIRST_SLOT)
    async with HostileNode(beat_seconds=None) as node:

        def answer(request: dict[str, Any]) -> Any:
            if request["method"] == "slotSubscribe":
                return {"error": {"code": -32601, "message": "Method not found"}}
            return {"result": next(slots)} if request["method"] == "getSlot" else node.usual_answer(request)

        node.answer = answer
        source = source_of(node.url, stale_slot_seconds=2)
        async with running(source) as taker:
            await until(lambda: source.status.connected)
            await until(lambda: (source.status.tip_slot or 0) >= FIRST_SLOT + 2)
            await node.send(note(1))
            await until(lambda: taker.accounts)
        assert source.status.reconnects == 0


async def test_an_account_ahead_of_the_tip_is_admitted_when_getslot_confirms() -> None:
    """An account further ahead than the tip allows makes the source ask, and the answer decides."""
    http_slot = FIRST_SLOT
    async with hostile_http(lambda _: {"result": http_slot}) as http, HostileNode(beat_seconds=0.2) as node:
        rpc = RpcHttp(http.url)
        source = source_of(node.url, rpc=rpc, stale_slot_seconds=5)
        try:
            async with running(source) as taker:
                await until(lambda: source.status.connected)
                await asyncio.sleep(1.05)  # the answer of the start may stand for a second
                http_slot = FIRST_SLOT + 1000
                await node.send(note(1), note(2, slot=FIRST_SLOT + 1100), note(3, slot=FIRST_SLOT + 9000), note(4))
                await until(lambda: 4 in taker.lamports)
        finally:
            await rpc.close()
        assert taker.lamports == [1, 2, 4]
        assert source.status.odd == {"slot_ahead": 1}
        assert len(http.requests) == 2


async def test_a_first_slot_that_getslot_denies_is_refused() -> None:
    """The first slot of a process does not count when getSlot answers a slot far below."""
    async with hostile_http(lambda _: {"result": FIRST_SLOT}) as http, HostileNode() as node:
        node.slot = 2**60
        rpc = RpcHttp(http.url)
        source = source_of(node.url, rpc=rpc)
        try:
            async with running(source) as taker:
                await until(lambda: source.status.last_error)
                await until(lambda: source.status.odd["tip_ahead"])
                assert source.status.tip_slot == FIRST_SLOT
                node.slot = FIRST_SLOT
                await until(lambda: source.status.connected)
                await node.send(note(1))
                await until(lambda: taker.accounts)
        finally:
            await rpc.close()


async def test_a_node_that_begins_anew_is_judged_by_its_own_slots() -> None:
    """After a reconnect to a chain far behind, its slots are the tip and an account of the old chain's is refused."""
    async with HostileNode() as node:
        source = source_of(node.url)
        async with running(source) as taker:
            await until(lambda: source.status.connected)
            node.slot = 1000
            node.drop()
            await until(lambda: source.status.reconnects == 1 and source.status.connected)
            assert source.status.tip_slot is not None
            assert source.status.tip_slot < 10_000
            await node.send(note(1, slot=1001), note(2, slot=FIRST_SLOT), note(3, slot=1002, pubkey=KEY_B))
            await until(lambda: len(taker.accounts) == 2)
        assert [(account.slot, account.pubkey) for account in taker.accounts] == [(1001, KEY_A), (1002, KEY_B)]
