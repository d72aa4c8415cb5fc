"""`watch` against what is no account-socket server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeAlias

import pytest
from tests.commands import run
from tests.running import ServerProcess
from tests.waiting import until
from websockets.asyncio.server import ServerConnection, serve

from account_socket.cli.watch import _watch
from account_socket.client import NoAnswerError, Patience, Update
from account_socket.devnode import Devnode, shipped_recording

NOBODY = "11111111111111111111111111111111"
ACK = json.dumps({"type": "ack", "id": 0, "action": "subscribe", "epoch": "e1", "found": [NOBODY], "foreign": []})
IMPATIENT = Patience(answer=0.2)

Handler: TypeAlias = Callable[[ServerConnection], Awaitable[None]]


def no_show(_update: Update) -> None:
    """Updates do not come here."""


async def watch(handler: Handler) -> None:
    async with serve(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await _watch([NOBODY], f"ws://127.0.0.1:{port}", None, no_show, status=False, patience=IMPATIENT)


@pytest.mark.parametrize("command", ["watch", "get"])
async def test_a_node_is_no_server(tmp_path: Path, command: str) -> None:
    """A Solana node in the place of the server ends `watch` and `get` at once, with 1 and the reason."""
    async with Devnode(shipped_recording(), loop=True) as node:
        ended = await run(command, NOBODY, "--url", node.ws_url, cwd=tmp_path)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == f"{node.ws_url}: what answers is not an account-socket server\n"


@pytest.fixture(params=["HTTP/1.0", "HTTP/1.1"])
def web_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The WebSocket URL of a server of files, which are none here."""

    class Files(SimpleHTTPRequestHandler):
        protocol_version = request.param

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        serving = Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"ws://127.0.0.1:{server.server_port}/ws"
        server.shutdown()
        serving.join()


COMMANDS = [("watch", NOBODY), ("tail", "--account-type", "Pool"), ("get", NOBODY), ("history", NOBODY)]


async def test_a_web_server_is_none(tmp_path: Path, web_server: str) -> None:
    """A web server in the place of the server, of either HTTP, ends each command at once, with 1 and the reason."""
    all_ended = await asyncio.gather(*(run(*each, "--url", web_server, cwd=tmp_path) for each in COMMANDS))
    for ended in all_ended:
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith(f"{web_server}: what answers is not an account-socket server"), ended.err
        assert len(ended.err.splitlines()) == 1


async def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    """A mistyped path of the server's URL is told as one, and not as an account that nobody knows."""
    async with ServerProcess(tmp_path, {"TMPDIR": str(tmp_path)}, command=("demo", "--websocket-port", "0")) as server:
        for path in ("/typo", "/typo/ws"):
            url = server.url.replace("/ws", path)
            all_ended = await asyncio.gather(*(run(*each, "--url", url, cwd=tmp_path) for each in COMMANDS))
            for ended in all_ended:
                assert (ended.code, ended.out) == (1, "")
                assert ended.err.startswith(f"{url}: what answers is not an account-socket server"), ended.err
        unknown = await run("get", NOBODY, "--url", server.url, cwd=tmp_path)
        assert (unknown.code, unknown.err) == (1, f"{NOBODY}: no state is known\n")


async def test_a_silent_server_that_never_answered() -> None:
    """Who takes the connection and says nothing is given up, by its URL."""
    with pytest.raises(NoAnswerError, match=r"ws://127.*: no answer for 0 seconds"):
        await watch(lambda connection: connection.wait_closed())


async def test_a_silent_server_that_had_answered(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that had answered before, and is silent after a break, is said to be, and tried again."""
    connections: list[ServerConnection] = []

    async def answer_once(connection: ServerConnection) -> None:
        connections.append(connection)
        if len(connections) == 1:
            await connection.recv()
            await connection.send(ACK)
            await connection.close(1001, "server is shutting down; reconnect")
        await connection.wait_closed()

    watching = asyncio.create_task(watch(answer_once))
    try:
        await until(lambda: len(connections) >= 3)
        assert not watching.done()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    told = capsys.readouterr().err
    assert "the server closed the connection (1001: server is shutting down; reconnect); trying again in " in told
    assert "no answer for 0 seconds; trying again in " in told


async def test_tls_where_there_is_none(tmp_path: Path) -> None:
    """`wss://` to a server without TLS exits 1 and names the URL to use."""
    demo = ("demo", "--websocket-port", "0")
    async with ServerProcess(tmp_path, {"TMPDIR": str(tmp_path)}, command=demo) as server:
        secure = server.url.replace("ws:", "wss:", 1)
        ended = await run("watch", NOBODY, "--url", secure, cwd=tmp_path)
    assert ended.code == 1
    assert ended.err == f"{secure}: does not speak TLS\nwithout TLS: {server.url}\n"
