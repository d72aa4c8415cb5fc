"""The HTTP side of the port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
import pytest
from tests.integration.server.serving import Served, raw_client, request_head, serving
from tests.waiting import until


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(head_seconds=0.4) as served:
        yield served


@pytest.fixture
async def http(served: Served) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(served.base) as session:
        yield session


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/healthz", 200, None),
        ("GET", "/readyz", 200, None),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/wsx", 404, "not_found"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("DELETE", "/metrics", 405, "method_not_allowed"),
        ("GET", "/ws", 426, "upgrade_required"),
        ("GET", "/ws/a/b", 426, "upgrade_required"),
        ("POST", "/ws", 405, "method_not_allowed"),
    ],
)
async def test_answers(http: aiohttp.ClientSession, method: str, path: str, status: int, code: str | None) -> None:
    """Each route answers JSON with its status; errors have a code and a message."""
    async with http.request(method, path) as response:
        body = await response.json()
        assert response.status == status
        assert response.headers["Server"] == "account-socket"
        if code is None:
            assert body == {"status": "ok"}
        else:
            assert body["error"]["code"] == code
            assert set(body["error"]) == {"code", "message"}
        assert status != 405 or response.headers["Allow"] == "GET,HEAD"


async def test_head_requests(http: aiohttp.ClientSession) -> None:
    """HEAD answers as GET does, without the body."""
    async with http.head("/healthz") as response:
        assert (response.status, await response.read()) == (200, b"")
        assert response.headers["Content-Length"] == "15"


async def test_readiness_is_asked_each_time() -> None:
    """What /readyz answers is what the service says now, status code and all."""
    answers = iter([(503, {"status": "starting"}), (200, {"status": "degraded", "parts": [1]})])
    async with serving(readiness=lambda: next(answers)) as served, aiohttp.ClientSession(served.base) as http:
        async with http.get("/readyz") as response:
            assert (response.status, await response.json()) == (503, {"status": "starting"})
        async with http.get("/readyz") as response:
            assert (response.status, await response.json()) == (200, {"status": "degraded", "parts": [1]})


async def test_metrics(http: aiohttp.ClientSession) -> None:
    """The metrics are in the format that every Prometheus reads."""
    async with http.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert "account_socket_connections 0.0" in (await response.text()).splitlines()


async def test_a_large_body_is_refused(served: Served) -> None:
    """A body that nobody asked for does not take the answer away, however large."""
    async with raw_client(served, shake=False) as client:
        client.send(b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
        assert b"405" in await client.read_head()


BAD_HEADS = [
    (b"\x16\x03\x01\x02\x00\x01\x00", 400, "bad_request"),
    (b"hello\r\n\r\n", 400, "bad_request"),
    (b"GET\r\n\r\n", 400, "bad_request"),
    (b"GET / HTTP/9.9\r\n\r\n", 400, "bad_request"),
    (b"GET / HTTP/1.1\r\nNo colon\r\n\r\n", 400, "bad_request"),
    (b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", 400, "bad_request"),
    (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "bad_request"),
    (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "bad_request"),
    (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400, "bad_request"),
    (b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000, 431, "head_too_large"),
    (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431, "head_too_large"),
    (b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % i for i in range(200)) + b"\r\n", 400, "bad_request"),
]


@pytest.mark.parametrize(("head", "status", "code"), BAD_HEADS, ids=range(len(BAD_HEADS)))
async def test_bad_heads(served: Served, head: bytes, status: int, code: str) -> None:
    """A head that is no HTTP is answered as JSON, and the connection ends."""
    async with raw_client(served, shake=False) as client:
        client.send(head)
        answer = await client.read_rest()
        assert answer.split(b" ")[1] == b"%d" % status
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == code


SLOW_HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Slow: yes\r\n" * 100
SLOW_HEADS = [SLOW_HEAD[:0], SLOW_HEAD[:1], SLOW_HEAD[:8], SLOW_HEAD[:25]]


@pytest.mark.parametrize("begun", SLOW_HEADS)
async def test_a_first_head_that_stays_incomplete(served: Served, begun: bytes) -> None:
    """A connection whose first head is not complete in time is closed, without an answer."""
    loop = asyncio.get_running_loop()
    async with raw_client(served, shake=False) as client:
        client.send(begun)
        started = loop.time()
        assert await client.read_rest() == b""
        assert 0.3 < loop.time() - started < 1.2


@pytest.mark.parametrize("begun", SLOW_HEADS)
async def test_a_second_head_that_stays_incomplete(served: Served, begun: bytes) -> None:
    """The same holds for every later head of the connection, though a byte comes now and then."""
    loop = asyncio.get_running_loop()
    async with raw_client(served, shake=False) as client:
        for _ in range(2):
            client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.read_head()
            await client.reader.readexactly(15)
        started = loop.time()
        client.send(begun)
        dripping = asyncio.create_task(_drip(client.writer, SLOW_HEAD[len(begun) :]))
        with suppress(ConnectionResetError):  # so it ends where a byte is under way just then
            assert await client.read_rest() == b""
        assert 0.3 < loop.time() - started < 1.2
        dripping.cancel()


async def _drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    for byte in data:
        writer.write(bytes((byte,)))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("head", "status"),
    [(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b" 200 "), (request_head(), b" 101 ")],
    ids=["http", "ws"],
)
async def test_a_slow_but_whole_head(served: Served, head: bytes, status: bytes) -> None:
    """A head that comes byte by byte but in time is served, whether HTTP or an upgrade."""
    async with raw_client(served, shake=False) as client:
        for byte in head:
            client.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert status in await client.read_head()


async def test_a_handler_that_fails(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a handler is a 500 as JSON, without its text, and the port goes on."""

    def explode() -> bytes:
        raise RuntimeError("secret")

    async with aiohttp.ClientSession(served.base) as http:
        with monkeypatch.context() as patch:
            patch.setattr(served.metrics, "render", explode)
            async with http.get("/metrics") as response:
                assert response.status == 500
                assert await response.json() == {"error": {"code": "internal", "message": "internal error"}}
        async with http.get("/healthz") as response:
            assert response.status == 200
    await until(lambda: served.listener.clients.sockets == 0)


async def test_garbage_behind_a_request_is_not_kept(served: Served) -> None:
    """However much follows a malformed request, its connection is answered 400 once and holds on to nothing."""
    async with raw_client(served, shake=False) as client:
        client.send(b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na" + b"z" * 200_000)
        with suppress(ConnectionResetError):  # what was not read resets the connection, maybe before the answer is
            answer = await client.read_rest()
            assert answer.count(b"HTTP/1.") <= 2
            assert answer.count(b"bad_request") == 1
    await until(lambda: served.listener.clients.sockets <= 1)
