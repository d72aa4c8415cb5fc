"""The recording format: what is written is read, what is broken is named."""

from __future__ import annotations

import contextlib
import io
import json
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from account_socket.model import MAX_I64, RawAccount
from account_socket.sources import recording as module
from account_socket.sources.recorded_write import (
    MAX_ACCOUNT_BYTES,
    MAX_LINE_BYTES,
    RecordedWrite,
    RecordingError,
    encode_write,
    parse_write,
)
from account_socket.sources.recording import (
    Recording,
    RecordingHeader,
    RecordingParser,
    RecordingReader,
    RecordingWriter,
    encode_header,
    parse_header,
)

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
KEYS = (PROGRAM, "5rpEtPU2ZnMupnyRbt5AbLL7DGHia1YvtbQB7QjJmo4c", "1" * 32)
HEADER = RecordingHeader(program=PROGRAM, description="made by a test")

writes = st.builds(
    RecordedWrite,
    account=st.builds(
        RawAccount,
        pubkey=st.sampled_from(KEYS),
        slot=st.integers(0, MAX_I64),
        owner=st.sampled_from(KEYS),
        lamports=st.integers(0, MAX_I64),
        data=st.binary(max_size=300),
        executable=st.booleans(),
        rent_epoch=st.integers(0, 2**64 - 1),
    ),
    at_ms=st.none() | st.integers(0, MAX_I64),
)


def record(items: list[RecordedWrite], header: RecordingHeader = HEADER) -> bytes:
    file = io.BytesIO()
    with RecordingWriter(file, header) as recording:
        for item in items:
            recording.write(item)
    return file.getvalue()


def compress(text: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(text)


def a_write(number: int = 0) -> RecordedWrite:
    return RecordedWrite(RawAccount(KEYS[1], 400 + number, PROGRAM, 1, bytes([number % 256]) * 64))


def a_line(**changes: object) -> bytes:
    line = {
        "slot": 5,
        "pubkey": KEYS[1],
        "owner": PROGRAM,
        "lamports": 7,
        "executable": False,
        "rent_epoch": "18446744073709551615",
        "data": "AQID",
    }
    line.update(changes)
    return json.dumps({key: value for key, value in line.items() if value is not ...}).encode()


@given(st.lists(writes, max_size=20), st.integers(1, 4000))
def test_round_trip(items, piece):
    """Whatever is recorded is read again, in pieces of any size."""
    text = zstandard.ZstdDecompressor().decompressobj().decompress(record(items))
    parser = RecordingParser()
    read = [write for at in range(0, len(text), piece) for write in parser.feed(text[at : at + piece])]
    parser.finish()
    assert (parser.header, read, parser.warning) == (HEADER, items, "")


def test_reader_and_recording_agree():
    """Reading one by one and reading whole give the same."""
    items = [a_write(number) for number in range(500)]
    reader = RecordingReader(io.BytesIO(record(items)))
    assert reader.header == HEADER
    assert list(reader) == items
    whole = Recording.read(io.BytesIO(record(items)))
    assert (whole.header, whole.writes, whole.warning) == (HEADER, items, "")


def test_header_line():
    """A header says format, version and content first, and leaves out what is not known."""
    assert json.loads(encode_header(RecordingHeader())) == {
        "format": "account-socket-recording",
        "version": 1,
        "content": "writes",
        "description": "",
    }
    full = RecordingHeader(
        content="frames", program=PROGRAM, description="d", genesis_hash="g", commitment="c", began_at="b"
    )
    assert parse_header(encode_header(full)) == full


def test_write_line():
    """A write's line has the documented keys; the offset only where it is known."""
    assert json.loads(encode_write(RecordedWrite(RawAccount(KEYS[1], 5, PROGRAM, 7, b"\1\2\3", rent_epoch=9)))) == {
        "slot": 5,
        "pubkey": KEYS[1],
        "owner": PROGRAM,
        "lamports": 7,
        "executable": False,
        "rent_epoch": "9",
        "data": "AQID",
    }
    assert json.loads(encode_write(RecordedWrite(a_write().account, at_ms=12)))["at_ms"] == 12


def test_unknown_keys_are_left_out():
    """A later minor addition to a line does not stop this reader."""
    assert parse_write(a_line(signature="abc"), 2).account.data == b"\1\2\3"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"{", "Input data was truncated"),
        (b"[]", "Expected `object`"),
        (b'{"slot":\xff}', ""),
        (a_line(slot=...), "missing required field `slot`"),
        (a_line(slot=-1), "$.slot"),
        (a_line(slot=2**63), "$.slot"),
        (a_line(slot="5"), "$.slot"),
        (a_line(lamports=2**63), "$.lamports"),
        (a_line(executable=1), "$.executable"),
        (a_line(rent_epoch=1), "$.rent_epoch"),
        (a_line(rent_epoch="-1"), "$.rent_epoch"),
        (a_line(rent_epoch="18446744073709551616"), "rent_epoch 18446744073709551616 is above 2^64-1"),
        (a_line(data="A"), "$.data"),
        (a_line(data=None), "$.data"),
        (a_line(at_ms=-1), "$.at_ms"),
        (a_line(pubkey="abc"), "$.pubkey"),
        (a_line(pubkey="0" * 32), f"pubkey '{'0' * 32}' is not a base58 public key"),
        (a_line(owner="1" * 33), "owner "),
    ],
)
def test_bad_write_names_line_and_reason(line, reason):
    """A broken line is refused with its number and what is wrong with it."""
    with pytest.raises(RecordingError) as caught:
        parse_write(line, 17)
    assert caught.value.line == 17
    assert str(caught.value).startswith("line 17: ")
    assert reason in str(caught.value)


def test_account_above_ten_mebibytes_is_refused():
    """Account data has Solana's limit."""
    largest = MAX_ACCOUNT_BYTES
    assert len(
        parse_write(encode_write(RecordedWrite(RawAccount(PROGRAM, 1, PROGRAM, 1, bytes(largest)))), 2).account.data
    )
    with pytest.raises(RecordingError, match="data"):
        parse_write(encode_write(RecordedWrite(RawAccount(PROGRAM, 1, PROGRAM, 1, bytes(largest + 1)))), 2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{}", "missing required field `format`"),
        (b"not json", "not a recording"),
        (b"\xff", "not a recording"),
        (b'{"format":"other","version":1}', "not a recording"),
        (b'{"format":"account-socket-recording","version":2,"new":1}', "recording version 2"),
        (b'{"format":"account-socket-recording","version":1,"content":"notifications"}', "'notifications'"),
        (b'{"format":"account-socket-recording","version":1,"program":5}', "bad header"),
    ],
)
def test_bad_header(line, reason):
    """A file that is no recording, or a newer one, is refused as that."""
    with pytest.raises(RecordingError, match=reason) as caught:
        parse_header(line)
    assert caught.value.line == 1


def test_not_zstd():
    """A file that is not compressed is refused as that."""
    with pytest.raises(RecordingError, match="not zstd data"):
        Recording.read(io.BytesIO(encode_header(HEADER)))


@pytest.mark.parametrize("content", [b"", compress(b""), compress(encode_header(HEADER)[:-1])])
def test_header_missing(content):
    """A file that ends before its header does is refused."""
    with pytest.raises(RecordingError, match="the header is missing"):
        Recording.read(io.BytesIO(content))


def test_killed_recorder_loses_only_what_was_not_flushed():
    """A file whose writer died is read up to its last flush."""
    file = io.BytesIO()
    recording = RecordingWriter(file, HEADER)
    items = [a_write(number) for number in range(300)]
    for item in items[:200]:
        recording.write(item)
    recording.flush()
    flushed = file.getvalue()
    for item in items[200:]:
        recording.write(item)
    assert Recording.read(io.BytesIO(flushed)).writes == items[:200]


@given(st.data())
def test_cut_anywhere(data):
    """A file cut anywhere gives the first writes, never an error or a false write."""
    items = [a_write(number) for number in range(30)]
    file = io.BytesIO()
    recording = RecordingWriter(file, HEADER)
    recording.flush()
    header_end = len(file.getvalue())
    for item in items:
        recording.write(item)
        recording.flush()
    whole = file.getvalue()
    cut = whole[: data.draw(st.integers(header_end, len(whole)))]
    read = Recording.read(io.BytesIO(cut))
    assert read.writes == items[: len(read.writes)]
    if cut == whole:
        assert read.writes == items


def test_cut_line_is_a_warning():
    """A last line without its end is left out and said."""
    text = encode_header(HEADER) + encode_write(a_write(1)) + encode_write(a_write(2))[:-20]
    read = Recording.read(io.BytesIO(compress(text)))
    assert read.writes == [a_write(1)]
    assert read.warning == "cut off in line 3; the lines before it are kept"


def test_damage_is_an_error():
    """A flipped bit in the file is found."""
    damaged = bytearray(record([a_write(number) for number in range(50)]))
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(RecordingError):
        Recording.read(io.BytesIO(bytes(damaged)))


def test_several_frames():
    """A recording may be several zstd frames one after another."""
    content = compress(encode_header(HEADER)) + compress(encode_write(a_write(1))) + compress(encode_write(a_write(2)))
    assert Recording.read(io.BytesIO(content)).writes == [a_write(1), a_write(2)]


def test_endless_line_is_refused(monkeypatch):
    """A line above the limit is refused while it is still arriving."""
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    parser = RecordingParser()
    parser.feed(encode_header(HEADER))
    parser.feed(b" " * 1000)
    with pytest.raises(RecordingError, match="line 2: longer than 1000 bytes"):
        parser.feed(b" ")
    with pytest.raises(RecordingError, match="line 1: longer than 1000 bytes"):
        RecordingParser().feed(b" " * 2000 + b"\n")


def test_bomb_is_read_in_bounded_memory():
    """A few bytes that decompress to a gigabyte are refused after one line's worth."""
    compressor = zstandard.ZstdCompressor().compressobj()
    bomb = [compressor.compress(encode_header(HEADER))]
    bomb += [compressor.compress(bytes(1024 * 1024)) for _ in range(1024)]
    bomb.append(compressor.flush())
    file = io.BytesIO(b"".join(bomb))
    assert len(file.getvalue()) < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(RecordingError, match="line 2: longer than"):
            Recording.read(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * MAX_LINE_BYTES


def test_more_than_memory_allows_is_refused(monkeypatch):
    """A whole recording is only loaded up to a limit."""
    monkeypatch.setattr(module, "MAX_LOADED_BYTES", 1000)
    with pytest.raises(RecordingError, match="line 3: more than 1000 bytes of accounts"):
        Recording.read(io.BytesIO(record([a_write(1), a_write(2)])))


@given(st.binary(max_size=200))
def test_garbage_is_an_error(junk):
    """Whatever the lines hold, the only exception is RecordingError."""
    with contextlib.suppress(RecordingError):
        Recording.read(io.BytesIO(compress(encode_header(HEADER) + junk)))


@given(st.lists(st.integers(0, 50), max_size=12))
def test_lowest_slot_from(slots):
    """The lowest slot ahead is that of the write itself and of all later ones."""
    items = [RecordedWrite(RawAccount(PROGRAM, slot, PROGRAM, 1, b"")) for slot in slots]
    lowest = Recording(HEADER, items).lowest_slot_from
    assert lowest == [min(slots[at:]) for at in range(len(slots))]
