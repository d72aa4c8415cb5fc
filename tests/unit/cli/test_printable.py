"""What is written to a terminal steers none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.commands import run
from tests.waiting import until
from websockets.asyncio.server import ServerConnection, serve

from account_socket.cli.process import printable

KEY = "11111111111111111111111111111111"
STEERING = "\x1b[2J\x9b1A\x00\x7f\u202e\U000e0041"


@pytest.mark.parametrize("text", [STEERING, "plain", "zwölf → 12", f"a\nb{STEERING}"])
def test_every_character_is_shown(text: str) -> None:
    """What is not printable is escaped, so that all of a text is printable; nothing else changes."""
    shown = printable(text)
    assert shown.replace("\n", "").isprintable()
    assert json.loads(f'"{shown}"'.replace("\n", "\\n")) == text


async def test_json_keeps_its_meaning() -> None:
    """JSON that holds such characters stays the same JSON."""
    text = json.dumps({"a": STEERING[5:], "b": 1}, ensure_ascii=False, indent="\t")
    assert json.loads(printable(text)) == json.loads(text)


@pytest.mark.parametrize("command", [("watch", KEY), ("tail", "--account-type", "Pool")])
async def test_a_refusal_and_a_reason_steer_nothing(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A server's refusal, and the reason with which it closes, are shown with their control characters escaped."""
    connections: list[ServerConnection] = []

    async def refuse(connection: ServerConnection) -> None:
        connections.append(connection)
        asked = json.loads(await connection.recv())
        if len(connections) == 1:
            await connection.send(json.dumps({"type": "pong", "id": None}))
            await connection.close(1012, STEERING)
            return
        refusal = {"type": "error", "id": asked["id"], "code": "invalid_filter", "message": STEERING}
        await connection.send(json.dumps(refusal))
        await connection.wait_closed()

    async with serve(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ended = await run(*command, "--url", f"ws://127.0.0.1:{port}", cwd=tmp_path)
        await until(lambda: len(connections) == 2)
    assert ended.code == 1
    assert ended.err.replace("\n", "").isprintable()
    assert ended.err.count(printable(STEERING)) == 2
