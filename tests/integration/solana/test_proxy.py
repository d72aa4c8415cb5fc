"""What is passed on to the node, what of its answer is told, and what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.integration.server.serving import raw_client
from tests.integration.solana.inside import TIP, inside
from tests.samples import KEY_A
from tests.waiting import until

from account_socket.server.solana_proxy import Proxy
from account_socket.sources.rpc_http import RpcHttp

BASE64 = {"encoding": "base64"}
SECRET = "s3cr3t-0123456789"


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def run_node(handler: Handler) -> AsyncIterator[RpcHttp]:
    """Run a node that `handler` is, behind a URL with a key, for the block."""
    app = web.Application()
    app.router.add_post("/{tail:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    rpc = RpcHttp(f"http://127.0.0.1:{port}/{SECRET}?api-key={SECRET}")
    try:
        yield rpc
    finally:
        await asyncio.gather(rpc.close(), runner.cleanup())


URL = "URL"
"""Stands for the request's own URL in what the node answers."""
LOGS = [f"Program log: {'x' * 60} {at}" for at in range(50)]


@asynccontextmanager
async def answering(*answers: Any) -> AsyncIterator[tuple[Proxy, list[dict[str, Any]]]]:
    """Run a node for each of `answers`, for the block; return what asks them, and what they were asked.

    An answer is the rest of a JSON-RPC answer, an HTTP status with a body, or None: the node hangs up.
    """
    asked: list[dict[str, Any]] = []

    def handler(answer: Any) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.json()
            asked.append(body)
            if answer is None:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            status, told = answer if isinstance(answer, tuple) else (200, answer)
            if isinstance(told, dict):
                told = json.dumps({"jsonrpc": "2.0", "id": body["id"], **told})
            return web.Response(status=status, text=told.replace(URL, str(request.url)))

        return handle

    async with AsyncExitStack() as nodes:
        yield Proxy([await nodes.enter_async_context(run_node(handler(each))) for each in answers]), asked


async def test_a_result_is_passed_on_as_it_is(tmp_path: Path) -> None:
    """The node's result is told as it is; where no commitment was asked for, the node is asked for ours."""
    result = {"context": {"slot": 1}, "value": 2**64 - 1}
    async with answering({"result": result}) as (proxy, asked), inside(tmp_path, proxy) as made:
        assert await made.ask("sendTransaction", "AQ==") == result
        await made.ask("getAccountInfo", "SysvarC1ock11111111111111111111111111111111", BASE64)
        assert asked[-1]["params"][1] == {"encoding": "base64", "commitment": "confirmed"}
        assert (await made.ask("no such/method"))["code"] == -32601
        assert len(asked) == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"code": -32002, "message": "no", "data": {"logs": LOGS}}, {"code": -32002, "message": "no"}),
        ({"code": 5, "message": "five"}, {"code": 5, "message": "five"}),
        ({"code": 0, "message": "zero"}, {"code": 0, "message": "zero"}),
        ({"code": 503, "message": ""}, {"code": 503, "message": ""}),
        ("in words", {"code": 0, "message": "in words"}),
        ({"code": -32000, "message": f"at {URL}", "data": {"url": URL}}, {"code": -32000, "message": "at ***"}),
    ],
)
async def test_an_error_of_the_node_is_told_as_it_is(tmp_path: Path, error: Any, told: dict[str, Any]) -> None:
    """A JSON-RPC error has its own code, message and data, and no second node is asked; no URL is in it."""
    answers = {"error": error}, {"result": 1}
    async with answering(*answers) as (proxy, asked), inside(tmp_path, proxy) as made:
        data = error.get("data") if isinstance(error, dict) else None
        expected = told if data is None else {**told, "data": {"url": "***"} if "url" in data else data}
        assert await made.ask("sendTransaction", "AQ==") == expected
        assert len(asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        (200, f"<p>{URL}</p>"),
        (500, URL),
        (401, {"error": f"bad key: {URL}"}),
        (429, {"error": {"code": 429, "message": URL}}),
        None,
    ],
)
async def test_a_node_without_an_answer(tmp_path: Path, answer: Any) -> None:
    """Where a node gives no JSON-RPC answer, or turns us away, the next one is asked; what is told names no node."""
    async with answering(answer) as (proxy, asked), inside(tmp_path, proxy) as made:
        told = await made.ask("sendTransaction", "AQ==")
        assert told["code"] in (-32603, 429)
        assert SECRET not in json.dumps(told)
        assert "127.0.0.1" not in json.dumps(told)
        assert len(asked) == 1
    async with answering(answer, {"result": 1}) as (proxy, asked), inside(tmp_path, proxy) as made:
        assert await made.ask("sendTransaction", "AQ==") == 1
        assert len(asked) == 2


async def test_a_slot_that_only_the_node_has_reached(tmp_path: Path) -> None:
    """A minContextSlot beyond our tip, which an answer of the node may have told, is the node's to answer."""
    result = {"context": {"slot": TIP + 5}, "value": None}
    async with answering({"result": result}) as (proxy, asked), inside(tmp_path, proxy) as made:
        await made.commit()
        assert (await made.ask("getAccountInfo", KEY_A, BASE64))["context"]["slot"] == TIP
        assert await made.ask("getAccountInfo", KEY_A, BASE64 | {"minContextSlot": TIP + 5}) == result
        assert asked[0]["params"] == [KEY_A, BASE64 | {"minContextSlot": TIP + 5, "commitment": "confirmed"}]


async def test_a_batch_of_a_client_that_left(tmp_path: Path) -> None:
    """Nobody is asked for the rest of a batch once its client is gone."""
    asked = asyncio.Semaphore(0)
    goes_on = asyncio.Event()
    count = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        asked.release()
        await goes_on.wait()
        return web.json_response({"jsonrpc": "2.0", "id": (await request.json())["id"], "result": 1})

    async with run_node(handler) as rpc, inside(tmp_path, proxy := Proxy([rpc])) as made:
        body = json.dumps([{"jsonrpc": "2.0", "id": 1, "method": "getBalance", "params": []}] * 5).encode()
        async with raw_client(made.served, shake=False) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await asyncio.wait_for(asked.acquire(), 5)
        await until(lambda: made.served.listener.clients.sockets == 0)
        goes_on.set()
        await until(lambda: proxy._waiting == 0)
        assert (await made.ask("getHealth")) == "ok"
        assert count == 1
