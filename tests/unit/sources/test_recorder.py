"""Recording to real files, to a disk that stalls and to one that is full."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import BinaryIO

import pytest
from tests.waiting import until

from account_socket.errors import SourceError
from account_socket.model import Gap
from account_socket.sources import recorder as module
from account_socket.sources.recorded_message import RecordedMessage
from account_socket.sources.recorder import Recorder
from account_socket.sources.recording import RecordingHeader, RecordingReader

FRAMES = RecordingHeader(content="frames")


def recording_to(file: BinaryIO, **more: object) -> Recorder:
    options = {"max_bytes": 10**9, **more}
    return Recorder(file, FRAMES, **options)


def messages(path: Path) -> list[RecordedMessage]:
    if not path.stat().st_size:
        return []  # the recorder did not come to write yet
    with path.open("rb") as file:
        return list(RecordingReader(file).messages())


def received(path: Path) -> list[bytes]:
    return [message.received for message in messages(path) if message.received is not None]


async def test_everything_told_is_in_the_file_in_order(tmp_path: Path) -> None:
    """Messages, requests, connections and gaps come into the file in their order, with their times."""
    path = tmp_path / "r"
    recorder = recording_to(path.open("wb"))
    began = monotonic()
    recorder.opened()
    recorder.gap(Gap("rpc-0", None, 5, "first connection"))
    recorder.sent(b'{"id":1}')
    await recorder.received(b'{"a":1}', began + 1)
    await recorder.received(b"odd\n\xff", began + 2)
    recorder.lost("dropped")
    recorder.opened()
    recorder.gap(Gap("rpc-0", 5, 9, "dropped"))
    await recorder.finish()
    found = messages(path)
    assert [(each.mark, each.sent, each.received, each.reason) for each in found] == [
        ("connected", None, None, ""),
        ("", b'{"id":1}', None, ""),
        ("", None, b'{"a":1}', ""),
        ("", None, b"odd\n\xff", ""),
        ("lost", None, None, "dropped"),
        ("connected", None, None, ""),
        ("gap", None, None, "dropped"),
    ]
    assert 990 <= found[2].at_ms <= 1_500
    assert 1_990 <= found[3].at_ms <= 2_500
    assert (recorder.messages, recorder.interruptions) == (2, 1)


async def test_what_came_is_readable_a_second_later(tmp_path: Path) -> None:
    """While the recorder goes on, what it heard before is in the file within a second."""
    path = tmp_path / "r"
    recorder = recording_to(path.open("wb"))
    for number in range(2):
        await recorder.received(b"%d" % number, monotonic())
        told = monotonic()
        await until(lambda number=number: received(path) == [b"%d" % each for each in range(number + 1)])
        assert monotonic() - told < 1 + 0.5  # the half second is for a busy machine
    await recorder.finish()


async def test_secrets_that_a_node_repeats_are_not_kept(tmp_path: Path) -> None:
    """A key of ours in a message, in whatever form, becomes stars of the same number; the rest stays."""
    path = tmp_path / "r"
    secrets = {"k3y/with+slash", "short", "plain-api-key"}
    recorder = recording_to(path.open("wb"), secrets=secrets)
    for message in (
        b'{"m":"no plain-api-key"}',
        rb"k3y\/with+slash",
        b"k3y%2Fwith%2Bslash",
        b"short",
        rb'{"m":"plain\u002Dapi\u002dkey \u002d"}',
    ):
        await recorder.received(message, monotonic())
    await recorder.finish()
    assert received(path) == [
        b'{"m":"no *************"}',
        b"*" * 15,
        b"*" * 18,
        b"short",
        b'{"m":"%s \\u002d"}' % (b"*" * 23),
    ]


async def test_a_secret_in_the_description_is_not_kept(tmp_path: Path) -> None:
    """Stars stand in place of a key of ours in the description too; the rest of it stays."""
    path = tmp_path / "r"
    header = RecordingHeader(content="frames", description="küche of wss://h/?key=k3y%2Fwith%2Bslash")
    recorder = Recorder(path.open("wb"), header, max_bytes=10**9, secrets={"k3y/with+slash"})
    await recorder.finish()
    with path.open("rb") as file:
        assert RecordingReader(file).header.description == "küche of wss://h/?key=" + "*" * 18


async def test_a_full_file_ends_the_recording(tmp_path: Path) -> None:
    """The recording ends by itself when the file has the size; what was told later is left out."""
    path = tmp_path / "r"
    sent = [os.urandom(100_000) for _ in range(40)]
    recorder = recording_to(path.open("wb"), max_bytes=1_000_000)
    for message in sent:
        await recorder.received(message, monotonic())
    await asyncio.wait_for(recorder.ended.wait(), 5)
    await recorder.received(b"too late", monotonic())
    await recorder.finish()
    # Random bytes do not shrink; in base64 they grow to 4/3 and shrink back. Two blocks of zstd are beyond the limit.
    assert 900_000 < path.stat().st_size < 1_400_000
    kept = received(path)
    assert kept == sent[: len(kept)]
    assert 7 <= len(kept) < 40


@asynccontextmanager
async def stalled_disk() -> AsyncIterator[tuple[int, BinaryIO]]:
    """Give a file that takes nothing beyond what a pipe holds, and what reads from it."""
    reading, writing = os.pipe()
    file = os.fdopen(writing, "wb")
    try:
        yield reading, file
    finally:
        os.close(reading)  # a stalled thread gets an error and ends


async def test_a_disk_that_stalls_holds_reading_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is written only so much waits; when the disk goes on, nothing was lost."""
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 1_000_000)
    sent = [os.urandom(50_000) for _ in range(60)]
    read = bytearray()
    async with stalled_disk() as (reading, file):
        recorder = recording_to(file)
        taken = 0

        async def tell() -> None:
            nonlocal taken
            for message in sent:
                await recorder.received(message, monotonic())
                taken += 1

        def drain() -> None:
            while data := os.read(reading, 1 << 20):
                read.extend(data)

        telling = asyncio.create_task(tell())
        await until(lambda: taken >= 19)
        await asyncio.sleep(0.2)
        assert taken <= 21
        reader = threading.Thread(target=drain)
        reader.start()
        await asyncio.wait_for(telling, 10)
        await recorder.finish()
        await asyncio.to_thread(reader.join, 10)
    assert [each.received for each in RecordingReader(io.BytesIO(bytes(read))).messages()] == sent


async def test_a_disk_that_stays_stalled_does_not_hold_the_end_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk takes nothing any more, finishing says so and returns."""
    monkeypatch.setattr(module, "END_SECONDS", 0.2)
    async with stalled_disk() as (_, file):
        recorder = recording_to(file)
        await recorder.received(os.urandom(500_000), monotonic())
        with pytest.raises(SourceError, match="the disk took nothing"):
            await recorder.finish()
    await asyncio.wait_for(recorder.ended.wait(), 5)


async def test_a_full_disk_is_told() -> None:
    """What the disk refuses ends the recording with the reason; telling more costs nothing."""
    file = open("/dev/full", "wb")  # noqa: PTH123, ASYNC230, SIM115  (its closing fails)
    recorder = recording_to(file)
    await asyncio.wait_for(recorder.ended.wait(), 5)
    for _ in range(100):
        await recorder.received(bytes(1_000_000), monotonic())
    with pytest.raises(SourceError, match="the disk refused: No space left on device"):
        await recorder.finish()
    assert file.closed
