from __future__ import annotations

import asyncio
import gzip
import io
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from time import monotonic
from typing import Any

import pytest
from aiohttp import web
from tests.hostile_node import FIRST_SLOT, HostileHttp, account_json, hostile_http, silent_server
from tests.samples import KEY_A, KEY_B, PROGRAM

from account_socket.errors import RpcError
from account_socket.model import Origin
from account_socket.sources.rpc_http import MAX_ACCOUNTS_BYTES, RpcHttp

Respond = Callable[[dict[str, Any]], Any]
OK = {"result": FIRST_SLOT}


@asynccontextmanager
async def rpc_to(respond: Respond, *, tail: str = "", **options: Any) -> AsyncIterator[tuple[RpcHttp, HostileHttp]]:
    """Run a node that answers with `respond`, and a client of it."""
    async with hostile_http(respond) as node:
        rpc = RpcHttp(node.url + tail, name="rpc-0", **{"retry_base": 0.01, **options})
        try:
            yield rpc, node
        finally:
            await rpc.close()


def in_turn(*answers: Any) -> Respond:
    """Return a `respond` that gives each answer once, then the last one for ever."""
    left = list(answers)

    def respond(request: dict[str, Any]) -> Any:
        answer = left.pop(0) if len(left) > 1 else left[0]
        return answer(request) if callable(answer) else answer

    return respond


def status(code: int, *, text: str = "", **headers: str) -> Callable[[dict[str, Any]], web.Response]:
    """Return an answer that is a plain HTTP response."""
    return lambda _: web.Response(status=code, text=text, headers=headers)


def error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def accounts_of(request: dict[str, Any]) -> dict[str, Any]:
    """Answer getMultipleAccounts with an account for each key but KEY_B, its lamports the key's length."""
    values = [None if key == KEY_B else account_json(lamports=len(key)) for key in request["params"][0]]
    return {"result": {"context": {"slot": FIRST_SLOT, "apiVersion": "3.0.6"}, "value": values}}


async def test_an_account_is_read_at_the_context_slot() -> None:
    """getAccountInfo gives a re-read at the response's slot, and asks for base64+zstd at the commitment."""
    answer = {"result": {"context": {"slot": FIRST_SLOT}, "value": account_json(b"x" * 1112, encoding="base64+zstd")}}
    async with rpc_to(lambda _: answer, commitment="finalized") as (rpc, node):
        slot, account = await rpc.get_account_info(KEY_A)
    assert account is not None
    assert (slot, account.slot, account.origin, account.source) == (FIRST_SLOT, FIRST_SLOT, Origin.REREAD, "rpc-0")
    assert (account.pubkey, account.owner, account.data) == (KEY_A, PROGRAM, b"x" * 1112)
    assert account.rent_epoch == 2**64 - 1
    assert node.requests[0]["params"] == [KEY_A, {"encoding": "base64+zstd", "commitment": "finalized"}]


async def test_no_account_is_none() -> None:
    """A null value is None, with the slot at which it was so."""
    answer = {"result": {"context": {"slot": FIRST_SLOT}, "value": None}}
    async with rpc_to(lambda _: answer) as (rpc, _):
        assert await rpc.get_account_info(KEY_A) == (FIRST_SLOT, None)


async def test_the_scalar_calls() -> None:
    """getSlot, getVersion, getHealth and getGenesisHash give their values."""
    answers = {
        "getSlot": FIRST_SLOT,
        "getVersion": {"feature-set": 1, "solana-core": "3.0.6"},
        "getHealth": "ok",
        "getGenesisHash": KEY_A,
    }
    async with rpc_to(lambda request: {"result": answers[request["method"]]}) as (rpc, node):
        assert await rpc.get_slot(commitment="confirmed") == FIRST_SLOT
        assert await rpc.get_version() == "3.0.6"
        assert await rpc.get_health() == "ok"
        assert await rpc.get_genesis_hash() == KEY_A
    assert node.requests[0]["params"] == [{"commitment": "confirmed"}]


async def test_an_unhealthy_node_says_so() -> None:
    """getHealth returns what an unhealthy node says, and asks once; another error is raised."""
    async with rpc_to(in_turn(error(-32005, "Node is behind by 42 slots"), error(-32603, "oops"))) as (rpc, node):
        assert "behind by 42 slots" in await rpc.get_health()
        with pytest.raises(RpcError, match="oops"):
            await rpc.get_health()
    assert len(node.requests) == 2


async def test_many_accounts_are_asked_in_chunks_of_100() -> None:
    """250 keys are three requests; order is kept and what does not exist is None."""
    keys = [KEY_A, KEY_B] * 125
    async with rpc_to(accounts_of) as (rpc, node):
        slot, states = await rpc.get_multiple_accounts(keys)
    assert slot == FIRST_SLOT
    assert [state and state.pubkey for state in states] == [KEY_A, None] * 125
    assert [len(request["params"][0]) for request in node.requests] == [100, 100, 50]


async def test_no_keys_ask_nothing() -> None:
    """Without keys there is no request."""
    async with rpc_to(accounts_of) as (rpc, node):
        assert await rpc.get_multiple_accounts([]) == (0, [])
    assert not node.requests


async def test_the_lowest_slot_of_the_chunks_is_returned() -> None:
    """Each state carries the slot of its own request, and the lowest stands for all."""
    slots = iter([FIRST_SLOT + 5, FIRST_SLOT])

    def respond(request: dict[str, Any]) -> Any:
        answer = accounts_of(request)
        answer["result"]["context"]["slot"] = next(slots)
        return answer

    async with rpc_to(respond) as (rpc, _):
        slot, states = await rpc.get_multiple_accounts([KEY_A] * 101)
    assert slot == FIRST_SLOT
    assert [states[0].slot, states[100].slot] == [FIRST_SLOT + 5, FIRST_SLOT]  # type: ignore[union-attr]


async def test_a_smaller_limit_of_the_node_is_remembered() -> None:
    """ "Too many inputs" is answered by smaller chunks, now and later."""

    def respond(request: dict[str, Any]) -> Any:
        too_many = len(request["params"][0]) > 5
        return error(-32602, "Too many inputs provided; max 5") if too_many else accounts_of(request)

    async with rpc_to(respond) as (rpc, node):
        assert len((await rpc.get_multiple_accounts([KEY_A] * 12))[1]) == 12
        assert len((await rpc.get_multiple_accounts([KEY_A] * 7))[1]) == 7
    assert [len(request["params"][0]) for request in node.requests] == [12, 5, 5, 2, 5, 2]


async def test_a_refused_encoding_falls_back_and_is_remembered() -> None:
    """A node that refuses base64+zstd is asked for base64, now and later."""

    def respond(request: dict[str, Any]) -> Any:
        zstd = request["params"][1]["encoding"] == "base64+zstd"
        return error(-32602, "Invalid params: unknown variant `base64+zstd`") if zstd else accounts_of(request)

    async with rpc_to(respond) as (rpc, node):
        for _ in range(2):
            assert (await rpc.get_multiple_accounts([KEY_A]))[1][0] is not None
    encodings = [request["params"][1]["encoding"] for request in node.requests]
    assert encodings == ["base64+zstd", "base64", "base64"]


async def test_a_bad_key_does_not_change_the_encoding() -> None:
    """A refusal that the other encoding does not mend is raised, and the encoding stays."""

    def respond(request: dict[str, Any]) -> Any:
        bad = request["params"][0] == ["bad"]
        return error(-32602, "Invalid param: WrongSize") if bad else accounts_of(request)

    async with rpc_to(respond) as (rpc, node):
        with pytest.raises(RpcError, match="WrongSize"):
            await rpc.get_multiple_accounts(["bad"])
        await rpc.get_multiple_accounts([KEY_A])
    assert node.requests[-1]["params"][1]["encoding"] == "base64+zstd"


@pytest.mark.parametrize(
    "passing",
    [
        status(429),
        status(502, text="<html>Bad gateway</html>"),
        status(503),
        status(504),
        error(-32005, "Node is behind"),
        error(-32016, "Minimum context slot has not been reached"),
        error(-32603, "Internal error"),
        error(-32004, "Block not available"),
        error(-32014, "Block status not yet available"),
        error(-32029, "rate"),
        error(-32429, "rate"),
    ],
)
async def test_what_may_pass_is_asked_again(passing: Any) -> None:
    """After an answer that may pass the call is repeated and succeeds."""
    async with rpc_to(in_turn(passing, passing, OK)) as (rpc, node):
        assert await rpc.get_slot() == FIRST_SLOT
    assert len(node.requests) == 3
    assert len({request["id"] for request in node.requests}) == 3


@pytest.mark.parametrize(
    ("final", "code"),
    [
        (status(400), 400),
        (status(401, text="bad key"), 401),
        (status(403), 403),
        (status(404, text="<html>"), 404),
        (status(413), 413),
        (status(500), 500),
        (status(302, location="/elsewhere"), 302),
        (error(-32600, "Invalid request"), -32600),
        (error(-32601, "Method not found"), -32601),
        (error(-32602, "Invalid params"), -32602),
        (error(-32010, "excluded from account secondary indexes"), -32010),
        (status(200, text="<html>Welcome</html>"), 0),
        (status(200, text='{"jsonrpc":"2.0","result":5,"id":999999}'), 0),
        (status(200, text=""), 0),
        ({"result": None}, 0),
        ({"result": "5"}, 0),
        ({"result": -1}, 0),
        ({"result": 2**63}, 0),
        ({"result": True}, 0),
    ],
)
async def test_what_does_not_pass_is_raised_at_once(final: Any, code: int) -> None:
    """An answer that asking again would not change is one RpcError with its code, after one request."""
    async with rpc_to(in_turn(final, OK)) as (rpc, node):
        with pytest.raises(RpcError) as caught:
            await rpc.get_slot()
    assert (caught.value.code, caught.value.retryable) == (code, False)
    assert len(node.requests) == 1


async def test_attempts_are_bounded() -> None:
    """A node that never recovers is asked four times, and the last error is raised."""
    async with rpc_to(status(503)) as (rpc, node):
        with pytest.raises(RpcError) as caught:
            await rpc.get_slot()
    assert (caught.value.code, caught.value.retryable) == (503, True)
    assert len(node.requests) == 4


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_honoured(as_date: bool) -> None:
    """The next attempt comes no earlier than Retry-After says, in seconds or as a date."""
    at = datetime.now(UTC) + timedelta(seconds=2)
    value = format_datetime(at, usegmt=True) if as_date else "1"
    async with rpc_to(in_turn(status(429, **{"Retry-After": value}), OK)) as (rpc, _):
        began = monotonic()
        assert await rpc.get_slot() == FIRST_SLOT
    assert 0.9 <= monotonic() - began < 4


async def test_retry_after_holds_for_every_call() -> None:
    """While the node wants to be left alone no call is sent: it waits its turn, or fails at once if that is late."""
    async with rpc_to(in_turn(status(429, **{"Retry-After": "1"}), OK)) as (rpc, node):
        with pytest.raises(RpcError):
            await rpc.call("getSlot", attempts=1)
        began = monotonic()
        with pytest.raises(RpcError, match="left alone") as caught:
            await rpc.call("getSlot", deadline=0.5)
        assert (caught.value.code, caught.value.retryable) == (429, True)
        assert monotonic() - began < 0.3
        assert len(node.requests) == 1
        await asyncio.gather(*(rpc.call("getSlot", attempts=1) for _ in range(3)))
        assert 0.8 <= monotonic() - began < 3


async def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    """When Retry-After lies beyond the deadline the error is raised at once and names the wait."""
    async with rpc_to(status(429, **{"Retry-After": "20"})) as (rpc, node):
        began = monotonic()
        with pytest.raises(RpcError) as caught:
            await rpc.get_slot(deadline=5)
    assert caught.value.retry_after == 20
    assert monotonic() - began < 2
    assert len(node.requests) == 1


async def test_a_silent_node_ends_at_the_deadline() -> None:
    """A node that accepts TCP and never answers costs the deadline, no more."""
    with silent_server() as port:
        rpc = RpcHttp(f"http://127.0.0.1:{port}")
        began = monotonic()
        with pytest.raises(RpcError, match="no answer from the node") as caught:
            await rpc.get_slot(deadline=0.2)
        await rpc.close()
    assert caught.value.retryable
    assert monotonic() - began < 2


async def test_a_dripping_answer_ends_at_the_deadline() -> None:
    """A node that sends its answer a byte at a time is not waited for beyond the deadline."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    app = web.Application()
    app.router.add_post("/", drip)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    rpc = RpcHttp(f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        with pytest.raises(RpcError, match="no answer"):
            await rpc.get_slot(deadline=0.3)
    finally:
        await rpc.close()
        await runner.cleanup()


async def test_a_refusing_port_is_an_rpc_error() -> None:
    """Nobody listening is a retryable RpcError that names the endpoint."""
    async with hostile_http(lambda _: OK) as node:
        url = node.url
    rpc = RpcHttp(url, retry_base=0.01)
    with pytest.raises(RpcError, match=url) as caught:
        await rpc.get_slot()
    await rpc.close()
    assert (caught.value.code, caught.value.retryable) == (0, True)


async def test_a_large_answer_is_refused() -> None:
    """A scalar's answer over 64 KiB is refused without reading it to its end."""
    async with rpc_to(status(200, text="x" * (1 << 20))) as (rpc, node):
        with pytest.raises(RpcError, match="over 65536 bytes"):
            await rpc.get_slot()
    assert len(node.requests) == 1


async def test_many_large_accounts_are_asked_in_halves() -> None:
    """When the accounts of a chunk do not fit into one answer, fewer are asked for."""
    text = "A" * (MAX_ACCOUNTS_BYTES // 3)

    def respond(request: dict[str, Any]) -> Any:
        keys = request["params"][0]
        if len(keys) > 2:
            return web.Response(text=text * 4)
        return accounts_of(request)

    async with rpc_to(respond) as (rpc, node):
        _, states = await rpc.get_multiple_accounts([KEY_A] * 8)
    assert len(states) == 8
    assert [len(request["params"][0]) for request in node.requests] == [8, 4, 2, 2, 2, 2]


async def test_a_compressed_answer_is_not_inflated() -> None:
    """An answer compressed unasked is refused as it is: it could inflate beyond every limit."""
    packed = gzip.compress(b"0" * 10_000_000)
    headers = {"Content-Encoding": "gzip"}
    async with rpc_to(lambda _: web.Response(body=packed, headers=headers)) as (rpc, _):
        with pytest.raises(RpcError, match="no JSON-RPC"):
            await rpc.get_slot()


BAD_RESULTS = {
    "null": None,
    "no context": {"value": [None]},
    "a context slot of text": {"context": {"slot": "5"}, "value": [None]},
    "a context slot that is true": {"context": {"slot": True}, "value": [None]},
    "a context slot below 0": {"context": {"slot": -1}, "value": [None]},
    "no value": {"context": {"slot": 5}},
    "a null value": {"context": {"slot": 5}, "value": None},
    "too few values": {"context": {"slot": 5}, "value": []},
    "too many values": {"context": {"slot": 5}, "value": [None, None]},
    "a value that is a number": {"context": {"slot": 5}, "value": [5]},
    "a bad owner": {"context": {"slot": 5}, "value": [account_json(owner="x")]},
    "bad lamports": {"context": {"slot": 5}, "value": [account_json(lamports=2**63)]},
}


@pytest.mark.parametrize("name", BAD_RESULTS)
async def test_nonsense_is_never_taken_for_a_missing_account(name: str) -> None:
    """A result that makes no sense is an RpcError, not None."""
    async with rpc_to(lambda _: {"result": BAD_RESULTS[name]}) as (rpc, _):
        with pytest.raises(RpcError) as caught:
            await rpc.get_multiple_accounts([KEY_A])
    assert caught.value.code == 0


async def test_a_budget_spreads_the_requests() -> None:
    """Calls that share a budget are sent at its rate."""
    async with rpc_to(lambda _: OK, lookups_per_second=20) as (rpc, node):
        began = monotonic()
        await asyncio.gather(*(rpc.call("getSlot", budget=rpc.lookups) for _ in range(30)))
        assert monotonic() - began >= 10 / 20 * 0.99
    assert len(node.requests) == 30


async def test_a_spent_budget_ends_at_the_deadline() -> None:
    """A call whose turn does not come within its deadline is not sent."""
    async with rpc_to(lambda _: OK, max_rps=1) as (rpc, node):
        await rpc.call("getSlot", budget=rpc.background)
        with pytest.raises(RpcError, match="waiting for their turn") as caught:
            await rpc.call("getSlot", budget=rpc.background, deadline=0.1)
        assert caught.value.retryable
        assert len(node.requests) == 1


async def test_a_closed_client_can_be_used_again() -> None:
    """close is idempotent, and the next call opens a new session."""
    async with rpc_to(lambda _: OK) as (rpc, _):
        await rpc.close()
        assert await rpc.get_slot() == FIRST_SLOT
        await rpc.close()
        await rpc.close()


SECRET = "s3cr3t-of-the-node"


@pytest.fixture
def silent_port() -> Iterator[int]:
    with silent_server() as port:
        yield port


@contextmanager
def captured_logs() -> Iterator[io.StringIO]:
    """Collect everything that is logged, from DEBUG on."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(lambda record: record.name not in ("aiohttp.access", "aiohttp.server"))  # the node of the test
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


FAULTS: dict[str, Any] = {
    "status": status(401, text=f"bad key {SECRET}"),
    "error": error(-32602, f"bad key {SECRET}"),
    "page": status(200, text=f"<html>{SECRET}</html>"),
    "redirect": status(302, location=f"/?api-key={SECRET}"),
    "reset": None,
    "refused": None,
    "silent": None,
    "impossible name": None,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_key_in_an_error(fault: str, silent_port: int) -> None:
    """Whatever goes wrong, the key stands neither in the error, its chain and traceback, nor in a log line."""

    async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with hostile_http(lambda _: FAULTS[fault]) as node:
        broken = await asyncio.start_server(reset, "127.0.0.1", 0)
        hosts = {
            "silent": f"127.0.0.1:{silent_port}",
            "reset": f"127.0.0.1:{broken.sockets[0].getsockname()[1]}",
            "refused": "127.0.0.1:1",
            "impossible name": f"{'a' * 64}.invalid",
        }
        if callable(FAULTS[fault]):
            node.respond = FAULTS[fault]
        host = hosts.get(fault, f"127.0.0.1:{node.port}")
        rpc = RpcHttp(f"http://user:{SECRET}-pw@{host}/{SECRET}-path/v1?api-key={SECRET}", retry_base=0.01)
        with captured_logs() as written:
            with pytest.raises(RpcError) as caught:
                await rpc.get_slot(deadline=0.5)
            await rpc.close()
        broken.close()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    ours = caught.tb.tb_next  # below the test's own frame, which knows the key
    formatted = traceback.TracebackException(RpcError, caught.value, ours, capture_locals=True).format()
    shown = "".join(formatted)
    assert "RpcError" in shown
    assert SECRET not in f"{shown}{caught.value!r}{caught.value.args}{caught.value.hint}{rpc!r}{written.getvalue()}"
