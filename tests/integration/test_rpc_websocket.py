from __future__ import annotations

import asyncio
import io
import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from account_socket.backoff import Backoff
from account_socket.model import RawAccount
from account_socket.sources.account_json import MAX_DATA_BYTES
from account_socket.sources.rpc_http import RpcHttp
from account_socket.sources.rpc_websocket import RpcWebSocket
from tests.hostile_node import (
    FIRST_SLOT,
    HostileNode,
    account_json,
    hostile_http,
    program_notification,
    silent_server,
    slot_notification,
)
from tests.samples import KEY_A, KEY_B, PROGRAM
from tests.waiting import until

STALE_SECONDS = 0.6


class Taker:
    """Takes what a source delivers; `gate` closed makes it slow."""

    def __init__(self) -> None:
        self.batches: list[list[RawAccount]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def deliver(self, batch: list[RawAccount]) -> None:
        self.batches.append(batch)
        await self.gate.wait()

    @property
    def accounts(self) -> list[RawAccount]:
        return [account for batch in self.batches for account in batch]

    @property
    def lamports(self) -> list[int]:
        return [account.lamports for account in self.accounts]


def source_of(url: str, *, rpc: RpcHttp | None = None, **more: Any) -> RpcWebSocket:
    options = {
        "stale_slot_seconds": STALE_SECONDS,
        "backoff": Backoff(0.05, 0.2),
        "programs": [PROGRAM],
        "commitment": "confirmed",
        **more,
    }
    return RpcWebSocket(url, name="rpc-0", rpc=rpc, **options)


@asynccontextmanager
async def running(source: RpcWebSocket, taker: Taker | None = None) -> AsyncIterator[Taker]:
    """Run a source for the block; it must still be running at its end."""
    taker = taker or Taker()
    task = asyncio.create_task(source.run(taker.deliver))
    try:
        yield taker
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def note(lamports: int, *, slot: int = FIRST_SLOT, **more: Any) -> dict[str, Any]:
    """Return a programNotification that can be told by its lamports."""
    return program_notification(account_json(lamports=lamports), slot=slot, **more)


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
        assert [line["kind"] for line in lines if line["event"] == "odd upstream frame"] == ["not_json", "unknown_frame"]


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


async def test_a_drop_without_close_frame_is_followed_by_resubscribing() -> None:
    """After the connection is cut, everything is subscribed again and updates go on."""
    async with HostileNode() as node:
        source = source_of(node.url)
        async with running(source) as taker:
            await until(lambda: source.status.connected)
            await node.send(note(1))
            await until(lambda: taker.accounts)
            node.drop()
            await until(lambda: source.status.reconnects == 1 and source.status.connected)
            await node.send(note(2))
            await until(lambda: len(taker.accounts) == 2)
        assert taker.lamports == [1, 2]
        assert source.status.last_error == "dropped without a close frame"
        assert len(node.asked("programSubscribe")) == len(node.asked("slotSubscribe")) == 2


async def test_what_arrived_before_a_drop_is_delivered() -> None:
    """Accounts that were read before the connection broke are delivered, though the taker was busy then."""
    async with HostileNode() as node:
        source = source_of(node.url)
        taker = Taker()
        async with running(source, taker):
            await until(lambda: source.status.connected)
            taker.gate.clear()
            await node.send(note(1))
            await until(lambda: taker.accounts)
            await node.send(*[note(n) for n in range(2, 11)])
            await node.close_all(1001, "bye")
            taker.gate.set()
            await until(lambda: len(taker.accounts) == 10)
        assert taker.lamports == list(range(1, 11))


async def test_the_node_s_close_reason_is_kept() -> None:
    """A close frame's code and reason are the last error."""
    async with HostileNode() as node:
        source = source_of(node.url)
        async with running(source):
            await until(lambda: source.status.connected)
            await node.close_all(1013, "lagging")
            await until(lambda: source.status.last_error)
        assert source.status.last_error == "closed by the node: 1013 lagging"


async def test_silence_with_tcp_open_is_death() -> None:
    """Without slots the connection is left though TCP stands and accounts still come; then streaming resumes."""
    async with HostileNode() as node:
        source = source_of(node.url)
        async with running(source):
            await until(lambda: source.status.connected)
            node.beat_seconds = None

            async def chatter() -> None:
                while True:
                    await node.send(note(1))
                    await asyncio.sleep(0.02)

            talking = asyncio.create_task(chatter())
            await until(lambda: source.status.last_error)
            talking.cancel()
            assert not source.status.connected
            node.beat_seconds = 0.02
            await until(lambda: source.status.connected)
        assert source.status.last_error == f"no slot for {STALE_SECONDS:g} s"


async def test_a_slow_taker_is_no_silence() -> None:
    """While the taker blocks, reading stops, the connection lives on, and nothing is lost or reordered."""
    total = 4000
    async with HostileNode() as node:
        source = source_of(node.url)
        taker = Taker()
        taker.gate.clear()
        async with running(source, taker):
            await until(lambda: source.status.connected)

            async def flood() -> None:
                for n in range(1, total + 1, 100):
                    await node.send(*[json.dumps(note(each)) for each in range(n, n + 100)])

            flooding = asyncio.create_task(flood())
            await until(lambda: taker.accounts)
            await asyncio.sleep(STALE_SECONDS * 3)
            held = len(taker.accounts)
            taker.gate.set()
            await until(lambda: len(taker.accounts) == total, seconds=20)
            await flooding
        assert held <= 1000
        assert taker.lamports == list(range(1, total + 1))
        assert max(map(len, taker.batches)) <= 1000
        assert source.status.reconnects == 0


async def test_a_refusing_node_that_comes_back() -> None:
    """While nobody listens it is tried again and again, and streaming resumes when the node is back."""
    node = HostileNode()
    await node.start()
    try:
        source = source_of(node.url)
        async with running(source) as taker:
            await until(lambda: source.status.connected)
            await node.stop()
            await until(lambda: source.status.reconnects >= 4)
            assert not source.status.connected
            await node.start()
            await until(lambda: source.status.connected)
            await node.send(note(1))
            await until(lambda: taker.accounts)
    finally:
        await node.stop()


async def test_a_node_that_accepts_tcp_only_is_left() -> None:
    """A handshake that is never answered ends at the open timeout."""
    async with silent_server() as port:
        source = source_of(f"ws://127.0.0.1:{port}", open_seconds=0.1)
        async with running(source):
            await until(lambda: source.status.reconnects >= 2)
        assert source.status.last_error == "no answer to the handshake for 0.1 s"


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_a_refused_handshake_is_tried_again(status: int) -> None:
    """An HTTP status instead of the upgrade is the last error, and the node is tried until it takes us."""
    async with HostileNode() as node:
        node.refuse_with = status
        source = source_of(node.url)
        async with running(source):
            await until(lambda: source.status.reconnects >= 2)
            assert source.status.last_error == f"HTTP {status} at the handshake"
            node.refuse_with = None
            await until(lambda: source.status.connected)


def refusing(method: str, error: dict[str, Any], node: HostileNode, *, times: int = 10**9) -> Callable[..., Any]:
    """Return an `answer` that refuses `method` the first `times` and else answers as usual."""

    def answer(request: dict[str, Any]) -> Any:
        if request["method"] == method and len(node.asked(method)) <= times:
            return {"error": error}
        return node.usual_answer(request)

    return answer


async def test_a_refused_encoding_falls_back_to_base64() -> None:
    """A node that does not know base64+zstd is asked for base64, on the same connection."""
    async with HostileNode() as node:
        node.answer = refusing("programSubscribe", {"code": -32602, "message": "unknown variant"}, node, times=1)
        source = source_of(node.url)
        async with running(source) as taker:
            await until(lambda: source.status.connected)
            await node.send(note(1))
            await until(lambda: taker.accounts)
        assert [asked["params"][1]["encoding"] for asked in node.asked("programSubscribe")] == ["base64+zstd", "base64"]
        assert node.handshakes == 1


async def test_a_refused_program_is_tried_on_new_connections() -> None:
    """When the node refuses the program for another reason, the connection is given up and tried again."""
    async with HostileNode() as node:
        error = {"code": -32603, "message": "Internal Error: Subscription refused. Node subscription limit reached"}
        node.answer = refusing("programSubscribe", error, node, times=2)
        source = source_of(node.url)
        async with running(source):
            await until(lambda: "limit reached" in source.status.last_error)
            await until(lambda: source.status.connected)
        assert node.handshakes == 3


async def test_a_subscribe_that_is_never_answered_is_left() -> None:
    """Slots alone do not make a connection: without a reply to programSubscribe it is left."""
    async with HostileNode() as node:
        node.answer = lambda request: node.usual_answer(request) if request["method"] == "slotSubscribe" else None
        source = source_of(node.url, subscribe_seconds=0.3)
        async with running(source):
            await until(lambda: source.status.reconnects >= 1)
            assert not source.status.connected
        assert source.status.last_error == "no answer to programSubscribe for 0.3 s"


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
    async with hostile_http(lambda request: {"result": http_slot}) as http, HostileNode(beat_seconds=0.2) as node:
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
    async with hostile_http(lambda request: {"result": FIRST_SLOT}) as http, HostileNode() as node:
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


async def test_a_taker_that_fails_ends_the_source() -> None:
    """An error of `deliver` is not taken for the node's: it leaves `run`."""

    async def deliver(batch: list[RawAccount]) -> None:
        raise ZeroDivisionError

    async with HostileNode() as node:
        source = source_of(node.url)
        task = asyncio.create_task(source.run(deliver))
        await until(lambda: source.status.connected)
        await node.send(note(1))
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(task, 5)
        assert caught.group_contains(ZeroDivisionError)
        assert not source.status.connected


async def test_cancelling_is_quick() -> None:
    """A source that is cancelled ends within a second, connected or not, and closes its connection."""
    async with HostileNode() as node:
        source = source_of(node.url)
        async with running(source):
            await until(lambda: source.status.connected)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 1.5
        await until(lambda: node.connected == 0)


SECRET = "s3cr3t-of-the-node"
KEYED = f"user:{SECRET}-pw@{{}}/{SECRET}-path/v1?api-key={SECRET}"


@pytest.mark.parametrize("fault", ["refused", "status", "silent", "dropped", "closed", "odd", "no such name", "bad URL"])
async def test_no_key_in_logs_status_or_repr(fault: str) -> None:
    """Whatever goes wrong, at whatever log level, the URL's key stands in no line, status or repr."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        async with HostileNode() as node, silent_server() as silent_port:
            hosts = {"silent": f"127.0.0.1:{silent_port}", "no such name": "no-such-name.invalid", "bad URL": "[::1"}
            source = source_of(f"ws://{KEYED.format(hosts.get(fault, f'127.0.0.1:{node.port}'))}", open_seconds=0.2)
            if fault == "refused":
                await node.stop()
            if fault == "status":
                node.refuse_with = 403
            with structlog.testing.capture_logs() as lines:
                async with running(source):
                    if fault in ("dropped", "closed", "odd"):
                        await until(lambda: source.status.connected)
                        assert node.paths[0] == f"/{SECRET}-path/v1?api-key={SECRET}"
                    if fault == "dropped":
                        node.drop()
                    if fault == "odd":
                        await node.send({"error": {"code": 1, "message": f"bad key {SECRET}"}, "id": None})
                        await until(lambda: source.status.odd)
                    if fault in ("closed", "odd"):
                        await node.close_all(1008, f"bad key {SECRET}")
                    await until(lambda: source.status.last_error)
                    tasks = "".join(map(repr, asyncio.all_tasks()))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    shown = f"{lines}{source!r}{source.status}{written.getvalue()}{tasks}"
    assert lines
    assert SECRET not in shown


async def test_no_key_in_a_traceback() -> None:
    """When the taker fails, the traceback of `run` shows no key, chained errors included."""
    async with HostileNode() as node:
        source = source_of(f"ws://{KEYED.format(f'127.0.0.1:{node.port}')}")

        async def deliver(batch: list[RawAccount]) -> None:
            raise ZeroDivisionError

        task = asyncio.create_task(source.run(deliver))
        await until(lambda: source.status.connected)
        await node.send(note(1))
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(task, 5)
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert "ZeroDivisionError" in shown
        assert SECRET not in shown
