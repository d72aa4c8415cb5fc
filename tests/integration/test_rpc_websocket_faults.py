from __future__ import annotations

import asyncio
import io
import json
import logging
import traceback
from collections.abc import Iterator

import pytest
import structlog
from tests.hostile_node import (
    HostileNode,
    silent_server,
)
from tests.taking import STALE_SECONDS, Taker, note, refusing, running, source_of
from tests.waiting import until

from account_socket.errors import SettingsError
from account_socket.model import RawAccount


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
    with silent_server() as port:
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


async def test_a_refused_encoding_falls_back_to_base64() -> None:
    """A node that does not know base64+zstd is asked for base64, on the same connection."""
    async with HostileNode() as node:
        node.answer = refusing("programSubscribe", {"code": -32602, "message": "unknown variant"}, node, times=1)
        source = source_of(node.url)
        async with running(source) as taker:
            await until(lambda: source.status.connected)
            await node.send(note(1))
            await until(lambda: taker.accounts)
        assert [asked["params"][1]["encoding"] for asked in node.asked("programSubscribe")] == [
            "base64+zstd",
            "base64",
        ]
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


@pytest.fixture
def silent_port() -> Iterator[int]:
    with silent_server() as port:
        yield port


KEYED = f"user:{SECRET}-pw@{{}}/{SECRET}-path/v1?api-key={SECRET}"


@pytest.mark.parametrize("fault", ["refused", "status", "silent", "dropped", "closed", "odd", "impossible name"])
async def test_no_key_in_logs_status_or_repr(fault: str, silent_port: int) -> None:
    """Whatever goes wrong, at whatever log level, the URL's key stands in no line, status or repr."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(lambda record: record.name != "websockets.server")  # the node of the test
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        async with HostileNode() as node:
            hosts = {"silent": f"127.0.0.1:{silent_port}", "impossible name": f"{'a' * 64}.invalid"}
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


def test_a_bad_url_is_refused_without_its_key() -> None:
    """What is no URL is refused at once, and the error shows no key."""
    with pytest.raises(SettingsError) as caught:
        source_of(f"ws://{KEYED.format('[::1')}")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


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
