"""Files and keys that are not what they should be, and what the command line says then."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
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


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Path.mkdir, "is a directory"),
        (os.mkfifo, "is not a file"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("nothing"), "is a link to nothing"),
    ],
    ids=["directory", "pipe", "loop", "dangling"],
)
async def test_an_env_file_that_is_no_file(tmp_path: Path, make: Callable[[Path], None], told: str) -> None:
    """What lies at `.env` and cannot be read is never taken for no `.env`: exit 2."""
    make(tmp_path / ".env")
    ended = await run("run", cwd=tmp_path)
    assert (ended.code, ended.out, ended.err) == (2, "", f".env: {told}\n")


async def test_an_env_file_that_is_dev_null(tmp_path: Path) -> None:
    """`.env` may be /dev/null: then there is none."""
    (tmp_path / ".env").symlink_to(os.devnull)
    ended = await run("serve", cwd=tmp_path)
    assert ended.code == 2
    assert ended.err.startswith("nothing to read from")


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
    assert "Settings (by flag alone; RUST_LOG, LOG and LOG_FORMAT also from the environment)" in text
    assert "or .env" not in text


@pytest.mark.parametrize(
    ("taken", "free"), [("--port", "--http-port"), ("--http-port", "--port"), ("--geyser-port", "--port")]
)
async def test_devnode_names_the_port_that_is_taken(tmp_path: Path, taken: str, free: str) -> None:
    """A port that `devnode` cannot have exits 1 with the option that chooses another."""
    others = {"--port", "--http-port"} - {taken, free}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        zeros = [word for name in (free, *others) for word in (name, "0")]
        ended = await run("devnode", taken, port, *zeros, cwd=tmp_path)
    assert ended.code == 1
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use\n{taken} chooses another\n" == ended.err


async def test_devnode_names_the_host_that_is_none(tmp_path: Path) -> None:
    """An address that this machine does not have is not blamed on a port."""
    ended = await run("devnode", "--host", "192.0.2.1", "--port", "0", cwd=tmp_path)
    assert ended.code == 1
    assert ended.err.endswith("\n--host chooses another\n")
