"""`history` and `tail` as people type them, against a real server."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from tests.commands import command, run
from tests.running import ServerProcess
from tests.servers import free_port

from account_socket.cli.tail import _conditions

NOBODY = "11111111111111111111111111111111"
LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z slot \d+ id \d+ Pool lamports \d+")


def demo(tmp_path: Path, *flags: str, port: int = 0) -> ServerProcess:
    command = ("demo", "--websocket-port", str(port), "--rate", "200", *flags)
    return ServerProcess(tmp_path, {"TMPDIR": str(tmp_path)}, command=command)


def busiest(server: ServerProcess) -> str:
    found = re.search(r"watch (\w+)", server.stderr.decode())
    assert found is not None
    return found[1]


def test_conditions_are_read_as_json() -> None:
    """What is typed is a number, true, false or null where it looks so, else text; a field again is OR."""
    assert _conditions(["a.0=1", "b=x=y", "a.0=-2", "c=true", "c=null", "d=007", "e="]) == {
        "a.0": [1, -2],
        "b": ["x=y"],
        "c": [True, None],
        "d": ["007"],
        "e": [""],
    }


async def test_history_and_tail(tmp_path: Path) -> None:
    """`history` prints past states, newest first; `tail` those that match now, then what comes."""
    async with demo(tmp_path) as server:
        pool = busiest(server)
        at = ("--url", server.url)
        watched = await run("watch", pool, *at, "--count", "6", cwd=tmp_path)
        update = json.loads(watched.out.splitlines()[-1])
        newest = update["account"]["id"]
        before = ("--before", str(newest + 1))
        history, as_json, nobody, tail, tail_json, wrong = await asyncio.gather(
            run("history", pool, *at, "--limit", "5", *before, cwd=tmp_path),
            run("history", pool, *at, "--limit", "5", *before, "--json", cwd=tmp_path),
            run("history", NOBODY, *at, cwd=tmp_path),
            run("tail", "--account-type", "Pool", *at, "--count", "12", cwd=tmp_path),
            run(
                *("tail", "--where", f"token_a_mint={update['account']['data_json']['token_a_mint']}"),
                *("--where", "pool_status=0", "--json", "--count", "4", *at),
                cwd=tmp_path,
            ),
            run("tail", "--where", "no_such_field=1", *at, cwd=tmp_path),
        )
    states = [json.loads(line) for line in as_json.out.splitlines()]
    ids = [json.loads(line)["account"]["id"] for line in watched.out.splitlines()]
    assert [state["id"] for state in states] == ids[:0:-1]
    assert states[0] == update["account"]
    assert [line.split()[4] for line in history.out.splitlines()] == [str(state["id"]) for state in states]
    assert all(LINE.fullmatch(line) for line in history.out.splitlines())
    assert (nobody.code, nobody.out, nobody.err) == (1, "", f"{NOBODY}: no past state is known\n")
    assert (tail.code, len(tail.out.splitlines())) == (0, 12)
    assert all(LINE.match(line.partition(" ")[2]) for line in tail.out.splitlines())
    assert {json.loads(line)["pubkey"] for line in tail_json.out.splitlines()} == {pool}
    assert (wrong.code, wrong.out) == (1, "")
    assert "no_such_field" in wrong.err


async def said(stream: asyncio.StreamReader) -> bytes:
    """Return the next line; a command that has ended says no more."""
    line = await stream.readline()
    assert line
    return line


async def test_tail_survives_the_server(tmp_path: Path) -> None:
    """`tail` says that the server is gone, and goes on with the next one."""
    port = free_port()
    async with demo(tmp_path, port=port) as server:
        arguments = ("tail", "--account-type", "Pool", "--url", server.url)
        async with command(*arguments, cwd=tmp_path) as tail, asyncio.timeout(30):
            assert tail.stdout is not None
            assert tail.stderr is not None
            assert b" Pool " in await said(tail.stdout)
            await server.kill()
            while b"; trying again in " not in await said(tail.stderr):
                pass
            await server.start()
            while b"what was missed cannot be told" not in await said(tail.stderr):
                pass
            while b" realtime" not in await said(tail.stdout):
                pass
