"""The command line as people type it: real processes, their output, their exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.commands import Ended, command, run
from tests.running import ServerProcess
from tests.servers import free_port

from account_socket import __version__
from account_socket.cli import COMMANDS
from account_socket.devnode import Devnode, shipped_recording

RECORDING = shipped_recording()
POOL = next(write.account for write in RECORDING.writes if len(write.account.data) == 1112)
NOBODY = "11111111111111111111111111111111"


def demo(tmp_path: Path, *flags: str) -> ServerProcess:
    command = ("demo", "--websocket-port", "0", "--rate", "200", *flags)
    return ServerProcess(tmp_path, {"TMPDIR": str(tmp_path)}, command=command)


def busiest(server: ServerProcess) -> str:
    found = re.search(r"watch (\w+)", server.stderr.decode())
    assert found is not None
    return found[1]


# ---- help and wrong usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
async def test_help_of_each_command_shows_an_example(tmp_path: Path, name: str) -> None:
    """`COMMAND --help` exits 0, says what the command does and shows an example."""
    ended = await run(name, "--help", cwd=tmp_path)
    assert ended.code == 0
    assert f"Usage: python -m account_socket {name}" in ended.out
    assert "Example:" in ended.out


async def test_help_lists_what_is_built_and_nothing_else(tmp_path: Path) -> None:
    """`--help` lists every command of this version, and that of `serve` every setting."""
    ended = await run("--help", cwd=tmp_path)
    assert ended.code == 0
    assert re.findall(r"│ (\w+)  ", ended.out) == list(COMMANDS)
    serve = (await run("serve", "--help", cwd=tmp_path)).out
    assert "--rpc-url" in serve
    assert "--geyser-url" in serve
    assert "--compression" in serve


async def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """`--help` is quick: it imports no command, no settings and no driver."""
    program = (
        "import atexit, sys; from account_socket.cli import main; atexit.register(lambda: print(*sys.modules)); main()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "--help", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    imported = set(out.decode().splitlines()[-1].split())
    assert {"typer", "account_socket.cli"} <= imported
    heavy = {"pydantic", "structlog", "aiohttp", "websockets", "redis", "sqlite3", "solders", "asyncio"}
    assert not imported & {*heavy, "account_socket.settings", "account_socket.service", "account_socket.cli.serve"}


async def test_version(tmp_path: Path) -> None:
    """`--version` prints the version alone."""
    assert await run("--version", cwd=tmp_path) == Ended(0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serv"], "No such command"),
        (["history", "abc"], "'abc' is not a base58 public key of 32 bytes"),
        (["tail", "--json"], "say which accounts"),
        (["tail", "--where", "token_a_mint"], "'token_a_mint' is not FIELD=VALUE"),
        (["serve", "--nonsense"], "No such option"),
        (["serve", "--websocket-port", "http"], "WEBSOCKET_PORT='http' (from the flag --websocket-port)"),
        (["serve", "--geyser-url", "https://host:443/?t=k"], "belongs into GEYSER_X_TOKEN"),
        (["serve", "--rpc-url", "ws://127.0.0.1:1", "--database-url", "postgresql://u:pw@h/d"], "not available"),
        (["watch", NOBODY, "--url", "http://127.0.0.1"], "is not a WebSocket URL"),
        (["watch", NOBODY, "--count", "0"], "--count"),
        (["devnode", "--rate", "0"], "--rate"),
        (["watch", NOBODY, "abc"], "'abc' is not a base58 public key of 32 bytes"),
        (["get", "abc"], "'abc' is not a base58 public key of 32 bytes"),
        (["devnode", "nowhere.zst"], "nowhere.zst: No such file or directory"),
    ],
)
async def test_wrong_usage(tmp_path: Path, arguments: list[str], told: str) -> None:
    """Wrong usage and wrong settings exit 2 and say on stderr what is wrong."""
    ended = await run(*arguments, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert "pw" not in ended.err


async def test_serve_without_upstream_says_what_to_set(tmp_path: Path) -> None:
    """`serve` without an upstream exits 2 and names RPC_URL, GEYSER_URL and `demo`."""
    ended = await run("serve", cwd=tmp_path)
    assert ended.code == 2
    for word in ("RPC_URL", "GEYSER_URL", "account-socket demo"):
        assert word in ended.err


async def test_serve_reads_the_env_file_of_the_working_directory(tmp_path: Path) -> None:
    """A bad value in `.env` exits 2 and names the file."""
    (tmp_path / ".env").write_text("RPC_URL=wss://host/?api-key=k3yk3yk3y\nRPC_MAX_RPS=fast")
    ended = await run("serve", cwd=tmp_path)
    assert ended.code == 2
    assert f"RPC_MAX_RPS='fast' (from {tmp_path / '.env'})" in ended.err
    assert "k3yk3yk3y" not in ended.err


async def test_taken_port_is_told(tmp_path: Path) -> None:
    """A port that is taken exits 1 and names the settings that choose another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = await run("demo", "--websocket-port", port, cwd=tmp_path)
    assert ended.code == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in ended.err
    assert "WEBSOCKET_PORT" in ended.err


# ---- demo, watch, get --------------------------------------------------------------------------------------


@pytest.fixture
def hangups() -> Iterator[None]:
    """Let SIGHUP end the commands, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_demo_ignores_the_environment_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """`demo` starts whatever `.env` and the environment say, ends with 0 on a signal and deletes its database."""
    (tmp_path / ".env").write_text("RPC_URL=nonsense\nDATABASE_URL=sqlite:mine.db")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = {"DATABASE_URL": "nonsense", "REDIS_URL": "nonsense", "TMPDIR": str(temporary)}
    async with ServerProcess(tmp_path, env, command=("demo", "--websocket-port", "0")) as server:
        assert list(temporary.glob("account-socket-demo-*/*.db"))
        server.process.send_signal(number)
        assert await server.wait() == 0
    assert not list(temporary.iterdir())
    assert not (tmp_path / "mine.db").exists()
    assert "Traceback" not in server.stderr.decode()


async def test_demo_database_by_flag_is_kept(tmp_path: Path) -> None:
    """A database given to `demo` by flag is used and kept."""
    async with demo(tmp_path, "--database-url", "sqlite:kept.db") as server:
        assert await server.stop() == 0
    assert (tmp_path / "kept.db").exists()


async def test_make_run_chooses_and_says_why(tmp_path: Path) -> None:
    """`run` starts the demo without RPC_URL, and `serve` with it, and names where it found it."""
    async with demo(tmp_path) as server:
        env = {"RPC_URL": server.url}
        (tmp_path / ".env").write_text("GEYSER_URL=nowhere")
        from_environment = await run("run", cwd=tmp_path, env={**env, "WEBSOCKET_PORT": "x"})
        from_file = await run("run", cwd=tmp_path)
    assert from_environment.err.startswith("RPC_URL is set (from the environment variable RPC_URL): starting")
    assert from_environment.code == 2
    assert from_file.err.startswith(f"GEYSER_URL is set (from {tmp_path / '.env'}): starting account-socket serve")
    (tmp_path / ".env").unlink()
    async with ServerProcess(tmp_path, command=("run",)) as server:
        assert server.stderr.startswith(b"neither RPC_URL nor GEYSER_URL is set")
        assert b"The demo is streaming" in server.stderr
        assert await server.stop() == 0


async def test_watch_piped_prints_the_messages_as_they_came(tmp_path: Path) -> None:
    """Piped, `watch` prints one JSON line per update, the state first, and stops after `--count`."""
    async with demo(tmp_path) as server:
        ended = await run("watch", busiest(server), "--url", server.url, "--count", "5", cwd=tmp_path)
    assert ended.code == 0
    updates = [json.loads(line) for line in ended.out.splitlines()]
    assert len(updates) == 5
    ids = [update["account"]["id"] for update in updates]
    assert ids == sorted(set(ids))
    assert {update["source"] for update in updates[1:]} == {"realtime"}
    assert updates[0]["account"]["account_type"] == "Pool"


async def test_watch_on_a_terminal_shows_what_changed(tmp_path: Path) -> None:
    """On a terminal `watch` shows a head line per update and the fields that changed, from what to what."""
    async with demo(tmp_path) as server:
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "account_socket", "watch", busiest(server), "--url", server.url, "--count", "9",
            cwd=tmp_path, stdin=asyncio.subprocess.DEVNULL, stdout=theirs, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "COLUMNS": "160", "TERM": "xterm"},
        )  # fmt: skip
        os.close(theirs)
        shown = bytearray()

        def read() -> None:
            try:
                shown.extend(os.read(ours, 65536))
            except OSError:  # the other end is closed
                asyncio.get_running_loop().remove_reader(ours)

        asyncio.get_running_loop().add_reader(ours, read)
        _, err = await asyncio.wait_for(process.communicate(), 30)
        read()
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
    assert process.returncode == 0, err
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    assert text.count(" Pool ") == 9
    assert re.search(r"^ +[a-z_.]+ +\S+ +→ +\S+", text, re.MULTILINE)
    assert b"\x1b[" in shown


async def test_watch_ends_quietly_when_its_reader_does(tmp_path: Path) -> None:
    """A closed pipe ends `watch` with 0 and without a word."""
    async with demo(tmp_path) as server, command("watch", busiest(server), "--url", server.url, cwd=tmp_path) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        await asyncio.wait_for(watch.stdout.readline(), 20)
        watch.stdout._transport.close()  # type: ignore[attr-defined]
        assert await asyncio.wait_for(watch.wait(), 20) == 0
        assert b"Traceback" not in await watch.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_watch_survives_the_server_and_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """`watch` reconnects when the server comes back, and a signal ends it with 0."""
    port = str(free_port())
    async with command("watch", POOL.pubkey, "--url", f"ws://127.0.0.1:{port}", cwd=tmp_path) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert b"trying again" in await asyncio.wait_for(watch.stderr.readline(), 20)
        for _ in range(2):
            async with ServerProcess(tmp_path, command=("demo", "--websocket-port", port, "--rate", "500")) as server:
                line = await asyncio.wait_for(watch.stdout.readline(), 20)
                assert json.loads(line)["pubkey"] == POOL.pubkey
                assert await server.stop() == 0
        watch.send_signal(number)
        assert await asyncio.wait_for(watch.wait(), 20) == 0


async def test_watch_tells_what_the_server_refuses(tmp_path: Path) -> None:
    """What the server refuses exits 1 with its words; a key that nobody knows is told, and waited for."""
    async with demo(tmp_path, "--max-subscriptions", "1") as server:
        refused = await run("watch", busiest(server), NOBODY, "--url", server.url, cwd=tmp_path)
        assert (refused.code, refused.out) == (1, "")
        assert "too_many_subscriptions" in refused.err
        async with command("watch", NOBODY, "--url", server.url, cwd=tmp_path) as watch:
            assert watch.stderr is not None
            assert b"no state is known yet" in await asyncio.wait_for(watch.stderr.readline(), 20)


async def test_watch_does_not_hammer_what_is_no_server(tmp_path: Path) -> None:
    """An HTTP answer that is no WebSocket exits 1 and tells the status."""
    async with demo(tmp_path) as server:
        ended = await run("watch", NOBODY, "--url", f"{server.url.removesuffix('/ws')}/healthz", cwd=tmp_path)
    assert ended.code == 1
    assert "HTTP" in ended.err


async def test_get_prints_the_newest_state(tmp_path: Path) -> None:
    """`get` prints the state as the server sends it; an account that nobody knows exits 1."""
    async with demo(tmp_path) as server:
        first = await run("watch", busiest(server), "--url", server.url, "--count", "1", cwd=tmp_path)
        found = await run("get", busiest(server), "--url", server.url, cwd=tmp_path)
        unknown = await run("get", NOBODY, "--url", server.url, cwd=tmp_path)
    assert found.code == 0
    state = json.loads(found.out)
    assert state["pubkey"] == busiest(server)
    assert state["account"]["id"] >= json.loads(first.out)["account"]["id"]
    assert (unknown.code, unknown.out) == (1, "")
    assert "no state is known" in unknown.err


async def test_get_without_a_server(tmp_path: Path) -> None:
    """`get` does not wait for a server that is not there: exit 1, at once."""
    began = time.monotonic()
    ended = await run("get", NOBODY, "--url", f"ws://127.0.0.1:{free_port()}", cwd=tmp_path)
    assert ended.code == 1
    assert "refused" in ended.err
    assert time.monotonic() - began < 10


# ---- decode ------------------------------------------------------------------------------------------------


async def test_decode_takes_base64_and_raw_bytes(tmp_path: Path) -> None:
    """`decode` gives the same JSON for raw bytes and for their base64, from a file and from stdin."""
    import pybase64

    (tmp_path / "raw").write_bytes(POOL.data)
    text = pybase64.b64encode(POOL.data)
    (tmp_path / "base64").write_bytes(text[:100] + b"\n" + text[100:] + b"\n")
    outcomes = [
        await run("decode", "raw", cwd=tmp_path),
        await run("decode", "base64", cwd=tmp_path),
        await run("decode", "-", cwd=tmp_path, stdin=text),
    ]
    assert [ended.code for ended in outcomes] == [0, 0, 0]
    assert len({ended.out for ended in outcomes}) == 1
    decoded = json.loads(outcomes[0].out)
    assert decoded["account_type"] == "Pool"
    assert decoded["data_json"]["pool_fees"]["base_fee"]["mode"]


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (b"garbage!", [], "no account type"),
        (b"", [], "no data"),
        (POOL.data[:500], [], "Pool"),
        (POOL.data, ["--owner", NOBODY], "no layouts for program"),
    ],
)
async def test_decode_what_does_not_decode(tmp_path: Path, content: bytes, options: list[str], told: str) -> None:
    """Bytes that no layout fits are printed as Unknown, with the reason on stderr and exit 1."""
    ended = await run("decode", "-", *options, cwd=tmp_path, stdin=content)
    assert ended.code == 1
    assert json.loads(ended.out)["account_type"] == "Unknown"
    assert told in ended.err


async def test_decode_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    """A missing file, a directory and a file larger than any account exit 2 and are named."""
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(17 * 2**20)
    for file, told in [("missing", "No such file"), (".", "Is a directory"), ("huge", "longer than")]:
        ended = await run("decode", file, cwd=tmp_path)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith(f"{file}: {told}")


# ---- doctor, devnode ---------------------------------------------------------------------------------------


def told(ended: Ended) -> Sequence[tuple[str, str]]:
    return re.findall(r"^(ok|FAIL) +([\w ]+)", ended.out, re.MULTILINE)


async def test_doctor_on_a_healthy_set_up(tmp_path: Path) -> None:
    """`doctor` finds nothing wrong with a node that answers, and creates no database."""
    async with Devnode(RECORDING, loop=True) as node:
        ended = await run("doctor", cwd=tmp_path, env={"RPC_URL": node.ws_url, "REDIS_URL": "memory://"})
    assert ended.code == 0, ended.out
    assert told(ended) == [
        ("ok", "settings"),
        ("ok", "RPC WebSocket 0"),
        ("ok", "RPC HTTP 0"),
        ("ok", "Redis"),
        ("ok", "database"),
    ]
    assert node.genesis_hash in ended.out
    assert not list(tmp_path.iterdir())


async def test_doctor_says_what_to_do(tmp_path: Path) -> None:
    """`doctor` tells each part that fails, with a hint and without secrets, and exits 1."""
    env = {
        "RPC_URL": f"ws://user:k3yk3yk3y@127.0.0.1:{free_port()}/?api-key=k3yk3yk3y",
        "REDIS_URL": f"redis://:pa55word@127.0.0.1:{free_port()}",
        "DATABASE_URL": f"sqlite://{tmp_path}/missing/account.db",
    }
    ended = await run("doctor", cwd=tmp_path, env=env)
    assert ended.code == 1
    assert [outcome for outcome, _ in told(ended)] == ["ok", "FAIL", "FAIL", "FAIL", "FAIL"]
    for hint in ("Check RPC_URL", "Start Redis", "correct DATABASE_URL"):
        assert hint in ended.out
    assert "k3yk3yk3y" not in ended.out + ended.err
    assert "pa55word" not in ended.out + ended.err


async def test_doctor_without_settings(tmp_path: Path) -> None:
    """Without an upstream `doctor` fails at the settings and checks nothing else."""
    ended = await run("doctor", cwd=tmp_path)
    assert ended.code == 1
    assert told(ended) == [("FAIL", "settings")]


async def test_doctor_does_not_wait_for_a_silent_node(tmp_path: Path) -> None:
    """A node that accepts TCP and says nothing fails its checks in time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        ended = await run("doctor", cwd=tmp_path, env={"RPC_URL": f"ws://127.0.0.1:{port}", "REDIS_URL": "memory://"})
    assert ended.code == 1
    assert [outcome for outcome, _ in told(ended)] == ["ok", "FAIL", "FAIL", "ok", "ok"]


async def test_doctor_finds_a_database_of_another_cluster(tmp_path: Path) -> None:
    """`doctor` names both clusters when the database belongs to another one."""
    other = "4uhcVJyU9pJkvQyS88uRDiswHXSCkY3zQawwpjk2NsNY"
    env = {"REDIS_URL": "memory://", "DATABASE_URL": "sqlite:account.db"}
    async with Devnode(RECORDING, loop=True, genesis_hash=other) as node:
        async with ServerProcess(tmp_path, {**env, "RPC_URL": node.ws_url}) as server:
            assert await server.stop() == 0
    async with Devnode(RECORDING, loop=True) as node:
        ended = await run("doctor", cwd=tmp_path, env={**env, "RPC_URL": node.ws_url})
    assert ended.code == 1
    assert other in ended.out
    assert node.genesis_hash in ended.out


async def test_devnode_serves_until_a_signal(tmp_path: Path) -> None:
    """`devnode` says where it listens, `serve` streams from it, and SIGTERM ends it with 0."""
    arguments = ("devnode", "--port", "0", "--http-port", "0", "--loop", "--rate", "500", "--accounts", "3")
    async with command(*arguments, cwd=tmp_path) as node:
        assert node.stderr is not None
        ready = (await asyncio.wait_for(node.stderr.readline(), 20)).decode()
        found = re.search(r"(ws://\S+), HTTP JSON-RPC (http://\S+);", ready)
        assert found is not None
        env = {"RPC_URL": found[1], "RPC_HTTP_URL": found[2]}
        async with ServerProcess(tmp_path, env) as server:
            key = RECORDING.writes[0].account.pubkey
            ended = await run("watch", key, "--url", server.url, "--count", "2", cwd=tmp_path)
            assert ended.code == 0
            assert await server.stop() == 0
        node.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(node.wait(), 20) == 0


async def test_devnode_refuses_a_file_that_is_no_recording(tmp_path: Path) -> None:
    """A file that is no recording exits 2 and says what is wrong with which file."""
    (tmp_path / "noise").write_bytes(b"not a recording")
    ended = await run("devnode", "noise", cwd=tmp_path)
    assert ended.code == 2
    assert ended.err.startswith("noise: line 1: not zstd data")
    assert "Traceback" not in ended.err
