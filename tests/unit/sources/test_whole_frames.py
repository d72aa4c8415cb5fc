"""Frames that are taken past the library's parser, against what the library makes of the same bytes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from account_socket.sources.whole_frames import WholeFrames

LARGEST = 70_000
Seen = tuple[list[bytes], int | None]
"""Messages, and the close code that was sent."""


def frame(opcode: Opcode, payload: bytes = b"", *, fin: bool = True, mask: bool = False) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=mask)


FRAMES = st.one_of(
    st.binary(max_size=200).map(lambda payload: frame(Opcode.TEXT, payload)),
    st.sampled_from([125, 126, 127, 65_535, 65_536]).map(lambda size: frame(Opcode.TEXT, b"x" * size)),
    st.binary(max_size=20).map(lambda payload: frame(Opcode.PING, payload)),
    st.binary(max_size=20).map(lambda payload: frame(Opcode.BINARY, payload)),
    st.lists(st.binary(max_size=9), min_size=1, max_size=3).map(
        lambda parts: b"".join(
            frame(Opcode.CONT if at else Opcode.TEXT, part, fin=at == len(parts) - 1) for at, part in enumerate(parts)
        )
    ),
)
WRONG = st.sampled_from([
    b"",
    frame(Opcode.TEXT, b"masked", mask=True),
    b"\xc1\x08reserved",
    frame(Opcode.CONT, b"of nothing"),
    frame(Opcode.TEXT, b"begun", fin=False) + frame(Opcode.TEXT, b"another"),
    frame(Opcode.TEXT, b"x" * (LARGEST + 1)),
    frame(Opcode.CLOSE, b"\x03\xe8bye"),
    b"\x83\x00",
    b"\x81",
    b"\x81\x7f\x00",
])  # fmt: skip


@asynccontextmanager
async def node(behind_the_handshake: bytes = b"") -> AsyncIterator[str]:
    """Run a server that shakes hands, sends something at once, and then is silent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(line[18:].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + behind_the_handshake
        )
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def open_to(url: str, kind: type[ClientConnection] = WholeFrames) -> connect:
    return connect(url, create_connection=kind, compression=None, max_size=LARGEST, max_queue=None, close_timeout=0.01)


async def feed(url: str, kind: type[ClientConnection], chunks: Sequence[bytes], *, ends: bool) -> Seen:
    """Return what a connection makes of bytes that arrive in these chunks."""
    async with open_to(url, kind) as connection:
        for chunk in chunks:
            connection.data_received(chunk)
        if ends:
            connection.eof_received()
        messages: list[bytes] = []
        with suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(0.005):  # what has arrived is there; the rest of a message in parts is not
                while True:
                    messages.append(await connection.recv(decode=False))
        sent = connection.protocol.close_sent
        return messages, sent.code if sent else None


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Return `data` in pieces, cut at these places."""
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(marks)]


@settings(max_examples=60, deadline=None)
@given(st.lists(FRAMES, max_size=6), WRONG, st.lists(st.integers(0, 2**20), max_size=8), st.booleans())
@example([frame(Opcode.TEXT, b"x" * 126)] * 3, b"", [1, 2, 3, 131, 132], True)
def test_the_same_as_the_library_alone(
    frames: list[bytes],
    wrong: bytes,
    places: list[int],
    ends: bool,
) -> None:
    """Whatever frames come, right and wrong ones, in whatever pieces: messages and the end are as the library's."""
    chunks = cut(b"".join(frames) + wrong, places)

    async def compare() -> None:
        async with node() as url:
            expected = await feed(url, ClientConnection, chunks, ends=ends)
            assert await feed(url, WholeFrames, chunks, ends=ends) == expected

    asyncio.run(compare())


async def test_plain_messages_go_past_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole text frames the library's parser sees none; of one in pieces it sees all."""
    parsed: list[bytes] = []
    async with node() as url, open_to(url) as connection:
        receive_data = connection.protocol.receive_data
        monkeypatch.setattr(
            connection.protocol, "receive_data", lambda data: (parsed.append(data), receive_data(data))
        )
        whole = frame(Opcode.TEXT, b"a message")
        connection.data_received(whole * 3 + whole[:5])
        connection.data_received(whole[5:] + whole)
        assert [await connection.recv() for _ in range(5)] == ["a message"] * 5
        assert parsed == [whole[:5], whole[5:]]


@pytest.mark.parametrize("behind", [frame(Opcode.TEXT, b"early"), frame(Opcode.TEXT, b"early\r\n\r\n" * 2)[:-9]])
async def test_frames_right_behind_the_handshake(behind: bytes) -> None:
    """What a node sends together with its handshake is read, and so is what follows it."""
    rest = frame(Opcode.TEXT, b"early\r\n\r\n" * 2)[-9:] if behind.endswith(b"\r\n\r\n") else b""
    async with node(behind) as url, open_to(url) as connection:
        connection.data_received(rest + frame(Opcode.TEXT, b"later"))
        assert (await connection.recv(decode=False)).startswith(b"early")
        assert await connection.recv() == "later"
