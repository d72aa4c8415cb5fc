"""`account-socket record` against real nodes: what it keeps, what ends it, and that the local node replays it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zstandard
from tests.hostile_node import FIRST_SLOT, HostileNode, program_notification
from tests.samples import PROGRAM
from tests.waiting import until

from account_socket.cli.devnode import _load
from account_socket.cli.record import Session, _only_upstream
from account_socket.devnode import GENESIS_HASH, Devnode, shipped_recording
from account_socket.errors import SettingsError
from account_socket.model import SYSTEM_PROGRAM, RawAccount
from account_socket.settings import load
from account_socket.sources.recorded_message import RecordedMessage
from account_socket.sources.recording import Recording, RecordingReader

SHIPPED = shipped_recording()
SOME = Recording(SHIPPED.header, [write for write in SHIPPED.writes if write.account.lamports][:300])
KEY = "s3cretk3ys3cret"
ODD = (
    "<html>502</html>",
    b"\xff\xfe not text",
    '{"jsonrpc":"2.0",\n "pretty":true}',
    "[]",
    '{"jsonrpc":"2.0","method":"programNotification","params":{"subscription":1}}',
    "[" * 3_000,
    "",
)


def messages(path: Path) -> list[RecordedMessage]:
    with path.open("rb") as file:
        return list(RecordingReader(file).messages())


def told(path: Path) -> list[RecordedMessage]:
    """Return what a recording that may just have been begun holds so far."""
    return messages(path) if path.exists() and path.stat().st_size else []


def content(recording: Recording) -> list[tuple[object, ...]]:
    accounts = [write.account for write in recording.writes]
    return [(each.pubkey, each.slot, each.owner, each.lamports, each.data, each.rent_epoch) for each in accounts]


@asynccontextmanager
async def recording_process(
    path: Path, *arguments: str, limit: Callable[[], None] | None = None, **env: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    clean = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG", "TMPDIR"}}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "account_socket", "record", str(path), *arguments),
        cwd=path.parent if path.is_file() or not path.exists() else "/",
        env={**clean, **env},
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=limit,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def end(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Return exit code and stderr."""
    async with asyncio.timeout(20):
        _, err = await process.communicate()
    return process.returncode, err.decode()


def is_watched(node: Devnode, pubkey: str, *, geyser: bool) -> bool:
    if not geyser:
        return node.statistics()["subscriptions"] == 3  # slots, the program, the account
    closed = RawAccount(pubkey, 1, SYSTEM_PROGRAM, 0, b"")
    filters = [subscriber.filters for subscriber in node.geyser.feed.subscribers]
    return any(each is not None and each.account_names(closed) for each in filters)


async def record(path: Path, *, geyser: bool = False, seconds: float | None = 10, **settings: str) -> None:
    """Record as the command does, in this process."""
    chosen = _only_upstream(load(settings, flags_only=True), geyser=geyser)
    session = Session(
        chosen, updates=len(SOME.writes), max_bytes=10**8, description="by a test", secrets=chosen.secrets
    )
    await session.record(path.open("wb"), path.name, seconds)


# ---- what is kept ------------------------------------------------------------------------------------------


async def test_kill_loses_a_second_at_most(tmp_path: Path) -> None:
    """A recorder that is killed leaves everything it heard a second before, readable and replayable."""
    path = tmp_path / "pools.jsonl.zst"
    async with Devnode(SHIPPED, rate=400, start_on_subscribe=True) as node:
        async with recording_process(path, RPC_URL=node.ws_url) as process:
            await until(lambda: node.statistics()["writes"] > 100, seconds=15)
            before = int(node.statistics()["writes"])
            await asyncio.sleep(1)
            process.kill()
            await process.wait()
    found = Recording.load(path)
    closes = sum(not write.account.lamports for write in SHIPPED.writes[:before])
    kept = [each for each in content(found) if each[3]]
    assert len(kept) >= before - closes
    assert kept == [each for each in content(SHIPPED) if each[3]][: len(kept)]
    assert found.timed
    assert found.header.content == "frames"
    assert (found.header.program, found.header.genesis_hash) == (PROGRAM, GENESIS_HASH)
    async with Devnode(found, rate=5_000) as replayed:
        await asyncio.wait_for(replayed.finished.wait(), 10)


async def test_odd_frames_are_kept_and_secrets_are_not(tmp_path: Path) -> None:
    """Whatever a node sends is in the file byte for byte, but for our key; SIGTERM ends the file in order."""
    path = tmp_path / "odd.zst"
    notification = json.dumps(program_notification())
    async with HostileNode() as node:
        url = f"{node.url}/{KEY}/?api-key={KEY}"
        async with recording_process(
            path, RPC_URL=url, RPC_HTTP_URL="http://127.0.0.1:9", LOG_FORMAT="json"
        ) as process:
            await until(lambda: node.asked("programSubscribe"), seconds=15)
            await node.send(*ODD, f'{{"error":"bad key {KEY}"}}', notification)
            await node.close_all(1008, f"key {KEY} is used up")
            await until(lambda: node.handshakes == 2 and len(node.asked("programSubscribe")) == 2)
            await until(lambda: any(each.mark == "lost" for each in told(path)))
            process.send_signal(signal.SIGTERM)
            code, err = await end(process)
    assert code == 0, err
    assert "interruptions" in err
    assert [write.account.slot for write in Recording.load(path).writes] == [FIRST_SLOT]
    found = messages(path)
    received = [each.received for each in found]
    for odd in ODD:
        assert (odd if isinstance(odd, bytes) else odd.encode()) in received
    assert f'{{"error":"bad key {"*" * len(KEY)}"}}'.encode() in received
    assert notification.encode() in received
    assert [each.mark for each in found if each.mark][:3] == ["connected", "lost", "connected"]
    with path.open("rb") as file:
        whole = zstandard.ZstdDecompressor().decompressobj()
        text = whole.decompress(file.read())
    assert whole.eof, "the zstd frame was not ended"
    assert KEY.encode() not in text
    assert b"127.0.0.1" not in text
    assert KEY not in err


@pytest.mark.parametrize("geyser", [False, True])
async def test_a_replay_of_a_recording_is_recorded_as_the_same(tmp_path: Path, geyser: bool) -> None:
    """Record, replay at the recorded times, record again: the same writes, as far apart."""
    first, second = tmp_path / "first", tmp_path / "second"
    options = {"start_on_subscribe": True, "geyser_port": 0 if geyser else None}
    commitment = {"COMMITMENT": "processed" if geyser else "confirmed"}

    def settings(node: Devnode) -> dict[str, str]:
        return {**commitment, **({"GEYSER_URL": node.geyser_url} if geyser else {"RPC_URL": node.ws_url})}

    async with Devnode(SOME, rate=300, **options) as node:
        await record(first, geyser=geyser, **settings(node))
    recorded = Recording.load(first)
    assert content(recorded) == content(SOME)
    async with Devnode(recorded, rate="recorded", **options) as node:
        await record(second, geyser=geyser, **settings(node))
    again = Recording.load(second)
    assert again.header.content == ("geyser" if geyser else "frames")
    assert content(again) == content(recorded)
    times, later = ([write.at_ms or 0 for write in each.writes] for each in (recorded, again))
    assert 900 < times[-1] - times[0] < 3_000
    off = [(late - later[0]) - (early - times[0]) for early, late in zip(times, later, strict=True)]
    assert -600 < min(off) <= max(off) < 600  # generous: other programs share the machine


@pytest.mark.parametrize("geyser", [False, True])
async def test_a_close_and_an_interruption_are_in_the_file(
    tmp_path: Path, geyser: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The closing of an account that was seen is a write; a lost connection and the gap after it are marked."""
    monkeypatch.setattr("account_socket.cli.record.WATCH_SECONDS", 0.05)
    path = tmp_path / "closes"
    async with Devnode(Recording(SHIPPED.header, []), geyser_port=0, geyser={"replay_slots": 0}) as node:
        url = {"GEYSER_URL": node.geyser_url} if geyser else {"RPC_URL": node.ws_url}
        running = asyncio.create_task(record(path, geyser=geyser, seconds=None, COMMITMENT="processed", **url))
        try:
            await until(lambda: any(each.mark == "connected" for each in told(path)))
            account = SOME.writes[0].account
            node.write(RawAccount(account.pubkey, 0, PROGRAM, 1, account.data))
            await until(lambda: is_watched(node, account.pubkey, geyser=geyser))
            closed = node.close_account(account.pubkey)
            node.advance_slots(2)
            await until(lambda: len(Recording.load(path).writes) == 2)
            node.drop_connections()
            await until(lambda: any(each.mark == "gap" for each in told(path)), seconds=10)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    found = Recording.load(path)
    assert found.writes[1].account.lamports == 0
    assert (found.writes[1].account.pubkey, found.writes[1].account.slot) == (closed.pubkey, closed.slot)
    assert (found.writes[1].account.owner, found.writes[1].account.data) == (SYSTEM_PROGRAM, b"")
    marks = [each for each in messages(path) if each.mark]
    assert [each.mark for each in marks] == ["connected", "lost", "connected", "gap"]
    assert marks[1].reason
    assert marks[3].from_slot is not None
    assert marks[3].to_slot is not None
    assert closed.slot <= marks[3].to_slot


# ---- what ends it ------------------------------------------------------------------------------------------


async def test_bounds_and_existing_files(tmp_path: Path) -> None:
    """--updates ends with 0; an existing file is refused with 2, as it is, until --overwrite; two nodes: the first."""
    path = tmp_path / "pools.zst"
    async with Devnode(SHIPPED, rate=300, loop=True) as node:
        path.write_bytes(b"mine")
        async with recording_process(path, RPC_URL=node.ws_url) as process:
            code, err = await end(process)
        assert (code, err) == (2, f"{path} exists\n--overwrite replaces it.\n")
        assert path.read_bytes() == b"mine"
        urls = f"{node.ws_url},ws://127.0.0.1:9"
        async with recording_process(path, "--updates", "50", "--overwrite", RPC_URL=urls) as process:
            code, err = await end(process)
    assert code == 0, err
    assert "RPC_URL names 2 nodes: the first is recorded" in err
    assert len(Recording.load(path).writes) >= 50


async def test_seconds_end_it_without_a_node(tmp_path: Path) -> None:
    """--seconds counts also while no node answers: exit 1; the file is then empty, a key in its description stars."""
    path = tmp_path / "empty.zst"
    node = {"RPC_URL": f"ws://127.0.0.1:9,ws://127.0.0.1:9/?api-key={KEY}"}
    async with recording_process(path, "--seconds", "0.2", "--description", f"of {KEY}", **node) as process:
        code, err = await end(process)
    assert code == 1, err
    assert "no slot yet" in err
    assert err.endswith(f"{path}: is empty: nothing came from the node\naccount-socket doctor says why\n")
    with path.open("rb") as file:
        reader = RecordingReader(file)
        assert (list(reader.messages()), reader.header.description) == ([], "of " + "*" * len(KEY))


def test_without_the_upstream_that_is_asked_for() -> None:
    """Where only the other upstream is set, the message names the flag or the setting."""
    with pytest.raises(SettingsError) as caught:
        _only_upstream(load({"GEYSER_URL": "http://127.0.0.1:1"}, flags_only=True), geyser=False)
    assert caught.value.hint == "To record GEYSER_URL: --geyser"
    with pytest.raises(SettingsError, match="--geyser: GEYSER_URL is not set"):
        _only_upstream(load({"RPC_URL": "ws://127.0.0.1:1"}, flags_only=True), geyser=True)


async def test_a_rejected_token_leaves_no_file(tmp_path: Path) -> None:
    """A node that refuses the token ends the command with 2, the token nowhere, and no file is left behind."""
    path = tmp_path / "never.zst"
    async with Devnode(SHIPPED, geyser_port=0, geyser={"token": "right-token"}) as node:
        env = {"GEYSER_URL": node.geyser_url, "GEYSER_X_TOKEN": "wrong-token"}
        async with recording_process(path, "--geyser", **env) as process:
            code, err = await end(process)
    assert code == 2, err
    assert "Check GEYSER_X_TOKEN" in err
    assert "wrong-token" not in err
    assert not path.exists()


async def test_a_file_that_may_not_grow_is_told(tmp_path: Path) -> None:
    """When the disk takes no more the command ends with 1 and says so; what was written is readable."""
    path = tmp_path / "full.zst"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    async with Devnode(SHIPPED, rate=2_000, loop=True) as node:
        async with recording_process(path, limit=limit, RPC_URL=node.ws_url) as process:
            code, err = await end(process)
    assert code == 1
    assert f"{path}: the disk refused: File too large" in err
    assert "Traceback" not in err
    assert path.stat().st_size == 30_000
    assert len(Recording.load(path).writes) > 100


# ---- the local node says what is wrong with a recording ----------------------------------------------------


async def test_devnode_names_the_file_and_the_line(tmp_path: Path) -> None:
    """A file that cannot be read or replayed ends `devnode` with 2, with its name and the line."""
    bad = tmp_path / "bad.zst"
    header = b'{"format":"account-socket-recording","version":1,"content":"frames"}\n'
    bad.write_bytes(zstandard.ZstdCompressor().compress(header + b'{"at_ms":1,"mark":"connected"}\n{"frame":1}\n'))
    no_times = tmp_path / "no-times.zst"
    no_times.write_bytes(zstandard.ZstdCompressor().compress(header))
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    for path, timed, reason in (
        (text, False, f"{text}: line 1: not zstd data"),
        (tmp_path, False, f"{tmp_path}: Is a directory"),
        (no_times, True, f"{no_times}: has no writes with times"),
        (None, True, "the shipped recording: has no writes with times"),
    ):
        with pytest.raises(SettingsError) as caught:
            _load(path, timed=timed)
        assert str(caught.value).startswith(reason)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "account_socket", "devnode", str(bad)), stderr=asyncio.subprocess.PIPE
    )
    assert await end(process) == (2, f"{bad}: line 3: Object missing required field `at_ms`\n")
