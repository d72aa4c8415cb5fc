"""Files and keys that are not what they should be, and what the command line says then."""

from __future__ import annotations

import re
from pathlib import Path

from tests.commands import run
from tests.running import QUIET
from tests.servers import free_port

from account_socket.devnode import Devnode, shipped_recording

GARBAGE = b"no database at all" * 500


async def test_doctor_on_a_garbage_database(tmp_path: Path) -> None:
    """A file that is no database fails its own check and no other one."""
    (tmp_path / "account.db").write_bytes(GARBAGE)
    async with Devnode(shipped_recording(), loop=True) as node:
        ended = await run("doctor", cwd=tmp_path, env={"RPC_URL": node.ws_url, "REDIS_URL": "memory://"})
    assert ended.code == 1
    assert re.findall(r"^FAIL +([\w ]+)", ended.out, re.MULTILINE) == ["database"]
    assert (tmp_path / "account.db").read_bytes() == GARBAGE


async def test_serve_on_a_garbage_database(tmp_path: Path) -> None:
    """A server that cannot open its database says why and nothing else."""
    (tmp_path / "account.db").write_bytes(GARBAGE)
    ended = await run("serve", cwd=tmp_path, env={**QUIET, "RPC_URL": f"ws://127.0.0.1:{free_port()}"})
    assert ended.code == 1
    assert "file is not a database" in ended.err
    assert "closed cleanly" not in ended.err


async def test_every_line_of_a_hint_is_indented(tmp_path: Path) -> None:
    """What `doctor` says of a failure stands below it, each line as far in."""
    ended = await run("doctor", cwd=tmp_path)
    first, *others = ended.out.splitlines()
    assert first.startswith("FAIL  settings: ")
    assert len(others) > 2
    assert all(re.match(r" {6}\S", line) for line in others)


async def test_a_line_of_the_env_file_that_is_none(tmp_path: Path) -> None:
    """A line of `.env` that is no assignment is left out, and named by file and number without what it holds."""
    (tmp_path / ".env").write_text("WEBSOCKET_PORT=x\n\n# comment\nbad line=s3cr3t\nGEYSER_X_TOKEN='s3cr3t\n")
    ended = await run("serve", cwd=tmp_path)
    assert ended.code == 2
    told = ended.err.splitlines()
    assert told[:2] == [f"{tmp_path / '.env'}, line {number}: is not NAME=VALUE; left out" for number in (4, 5)]
    assert told[2].startswith("WEBSOCKET_PORT='x' (from ")
    assert "s3cr3t" not in ended.err
    assert "python-dotenv" not in ended.err


async def test_an_env_file_without_any_assignment(tmp_path: Path) -> None:
    """A `.env` of which no line can be read exits 2."""
    (tmp_path / ".env").write_text('{\n  "RPC_URL": "ws://127.0.0.1:1"\n}\n')
    ended = await run("run", cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert f"{tmp_path / '.env'}, line 1: is not NAME=VALUE" in ended.err


async def test_an_env_file_that_is_no_text(tmp_path: Path) -> None:
    """A `.env` that is not UTF-8 exits 2 and is named."""
    (tmp_path / ".env").write_bytes(b"RPC_URL=\xff\xfe\n")
    ended = await run("run", cwd=tmp_path)
    assert ended.code == 2
    assert ".env: cannot be read" in ended.err


async def test_decode_with_an_owner_that_is_no_key(tmp_path: Path) -> None:
    """An owner that is no public key is wrong usage."""
    ended = await run("decode", "-", "--owner", "xx", cwd=tmp_path, stdin=b"AAAA")
    assert (ended.code, ended.out) == (2, "")
    assert "'xx' is not a base58 public key" in ended.err


async def test_get_without_a_key(tmp_path: Path) -> None:
    """`get` without a key exits 2 and shows how it is used."""
    ended = await run("get", cwd=tmp_path)
    assert ended.code == 2
    assert "Usage:" in ended.out + ended.err


async def test_demo_shows_its_own_defaults(tmp_path: Path) -> None:
    """`demo --help` tells where the demo keeps its database and cache, not where a server does."""
    ended = await run("demo", "--help", cwd=tmp_path)
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", ended.out).split())
    assert "Default: a temporary file. (DATABASE_URL)" in text
    assert "Default: memory://. (REDIS_URL)" in text
