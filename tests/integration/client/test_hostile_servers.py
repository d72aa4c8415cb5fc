"""The Python client against servers that lie, stall, refuse and end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest
from tests.samples import KEY_A, KEY_B
from tests.waiting import until
from websockets.asyncio.server import ServerConnection, serve

from account_socket.client import (
    Client,
    ClosedError,
    Disconnected,
    NoAnswerError,
    NotAServerError,
    Patience,
    RefusedError,
    ServerError,
    Subscribed,
    Subscription,
    connect,
)

Handler: TypeAlias = Callable[[ServerConnection], Awaitable[None]]
ACK = json.dumps({"type": "ack", "id": 0, "action": "subscribe", "epoch": "e", "found": [], "foreign": [KEY_A]})
HASTY = Patience(open=0.3, answer=0.3, close=0.1, retry=0.01)
SECRET = "s3cr3t-k3y-of-somebody"


@asynccontextmanager
async def client_of(handler: Handler) -> AsyncIterator[Client]:
    """A client of a server that does with each connection, once a request came, what the test says."""

    async def handle(connection: ServerConnection) -> None:
        await connection.recv()
        await handler(connection)

    async with serve(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}/ws?api-key={SECRET}", patience=HASTY) as client:
            yield client


DEEP = '{"a":' * 100_000
ODD_ACKS = [ACK.replace('"id": 0', f'"id": {each}') for each in ('"abc"', "null", "[0]", "-1", "1", "1" * 40)]
DEEPER = "[" * 100_000
GARBAGE = ["", "{", "[]", "{}", '"text"', '{"type":"ack"}', "\0" * 100_000, b"\xff\xfe", DEEP, DEEPER, *ODD_ACKS]


@pytest.mark.parametrize("message", GARBAGE)
async def test_garbage_is_not_a_server(message: str | bytes) -> None:
    """What is no message of a server ends a subscription at once, names no secret, and it stays ended."""
    async with client_of(lambda connection: connection.send(message)) as client:
        subscription = client.subscribe(KEY_A)
        with pytest.raises(NotAServerError, match="is not an account-socket server") as refused:
            await anext(subscription)
        assert SECRET not in str(refused.value)
        with pytest.raises(StopAsyncIteration):
            await anext(subscription)


async def test_garbage_behind_an_answer() -> None:
    """Also behind good messages garbage ends it, rather than being fetched again for ever."""

    for garbage in ("{", DEEP, ACK):

        async def lie(connection: ServerConnection, garbage: str = garbage) -> None:
            await connection.send(ACK)
            await connection.send(garbage)

        async with client_of(lie) as client:
            events = client.subscribe(KEY_A).events()
            answer = await anext(events)
            assert isinstance(answer, Subscribed)
            assert answer.foreign == (KEY_A,)
            with pytest.raises(NotAServerError):
                await anext(events)


NO_WEBSOCKETS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
    b"HTTP/1.0 404 File not found\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
]


@pytest.mark.parametrize("said", NO_WEBSOCKETS)
@pytest.mark.parametrize("waits", [False, True])
async def test_no_websocket_is_not_a_server(said: bytes, *, waits: bool) -> None:
    """Whatever answers the first handshake otherwise is no server, also for who would wait for one."""
    async with http_server(said, waits=waits) as client:
        with pytest.raises(NotAServerError, match="is not an account-socket server") as refused:
            await anext(client.subscribe(KEY_A))
        assert not refused.value.retryable


@pytest.mark.parametrize("said", NO_WEBSOCKETS)
async def test_a_page_of_a_proxy_passes(said: bytes) -> None:
    """A page in the place of a server that had answered is told, and the server is tried again."""

    async def answer(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(ACK)
        await connection.wait_closed()

    async with serve(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", patience=HASTY) as client:
            events = client.subscribe(KEY_A).events()
            assert isinstance(await anext(events), Subscribed)
            server.close()
            await server.wait_closed()
            async with http_server(said, port):
                broken = [await anext(events) for _ in range(3)]
            assert all(isinstance(each, Disconnected) for each in broken)
            assert "is not an account-socket server" in str(broken[-1])
            async with serve(answer, "127.0.0.1", port), asyncio.timeout(5):
                while isinstance(told := await anext(events), Disconnected):
                    pass
            assert isinstance(told, Subscribed)


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden"])
async def test_a_refused_handshake(status: bytes) -> None:
    """Who is refused in the handshake is told the status, and not that there is no server."""
    async with http_server(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status) as client:
        with pytest.raises(ServerError, match=f"HTTP {status[:3].decode()} instead of a WebSocket") as refused:
            await anext(client.subscribe(KEY_A))
        assert not isinstance(refused.value, NotAServerError)
        assert not refused.value.retryable


@pytest.mark.parametrize("code", [1003, 1007, 1009, 4401, 4403])
async def test_closes_that_are_final(code: int) -> None:
    """A close after which the same would happen again raises, with its code and words, and is not tried again."""
    tries = 0

    async def end(connection: ServerConnection) -> None:
        nonlocal tries
        tries += 1
        await connection.send(ACK)
        await connection.close(code, "in words")

    async with client_of(end) as client:
        with pytest.raises(ClosedError, match=rf"\({code}: in words\)") as ended:
            await anext(client.subscribe(KEY_A))
        assert (ended.value.code, ended.value.retryable, tries) == (code, False, 1)


@pytest.mark.parametrize(
    ("code", "least", "most"), [(1001, 0, 1), (1011, 0, 1), (4008, 0, 1), (4012, 0, 1), (1013, 5, 6), (4029, 5, 6)]
)
async def test_closes_that_are_not(code: int, least: float, most: float) -> None:
    """Behind another close it goes on; where the server is full, or asked too much, only seconds later."""

    async def end(connection: ServerConnection) -> None:
        await connection.send(ACK)
        await connection.close(code, "in words")

    async with client_of(end) as client:
        events = client.subscribe(KEY_A).events()
        assert isinstance(await anext(events), Subscribed)
        broken = await anext(events)
        assert isinstance(broken, Disconnected)
        assert f"({code}: in words)" in broken.reason
        assert least <= broken.retry_in < most
        if not least:
            assert isinstance(await anext(events), Subscribed)


async def test_errors_are_told_by_their_code() -> None:
    """An error answer raises with its code; one that passes is tried again, if the server has answered before."""

    async def refuse(connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "error", "id": 0, "code": "too_many_subscriptions", "message": "m"}))
        await connection.wait_closed()

    async def limit(connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "error", "id": 0, "code": "rate_limited", "message": "m"}))
        await connection.wait_closed()

    async with client_of(refuse) as client:
        with pytest.raises(RefusedError, match="too_many_subscriptions: m") as refused:
            await anext(client.subscribe(KEY_A))
        assert refused.value.code == "too_many_subscriptions"
    async with client_of(limit) as client:
        broken = await anext(client.subscribe(KEY_A).events())
        assert isinstance(broken, Disconnected)
        assert broken.retry_in >= 5


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 101 Switching Protocols\r\n", b"HTTP/1.1 500 No\r\n\r\n", b"\xff" * 64]
)
async def test_everything_ends_in_time(said: bytes) -> None:
    """Who takes a connection and stalls, or says what is no WebSocket and no HTTP answer, is an error within time."""

    ended: list[bool] = []

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await reader.read()
        writer.close()
        ended.append(True)

    async with await asyncio.start_server(stall, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/{SECRET}/ws?api-key={SECRET}"
        async with connect(url, patience=HASTY) as client, asyncio.timeout(5):
            for ask in (lambda: anext(client.subscribe(KEY_A)), lambda: client.get(KEY_A)):
                with pytest.raises(ServerError) as refused:
                    await ask()
                assert SECRET not in str(refused.value) + refused.value.hint
        await until(lambda: len(ended) == 2)


async def test_a_server_that_cannot_resume() -> None:
    """Where a server knows no resuming, a subscription begins anew behind a break, and says so."""
    requests: list[dict[str, object]] = []

    async def answer(connection: ServerConnection) -> None:
        while True:
            requests.append(json.loads(await connection.recv()))
            if "after" in requests[-1]:
                refusal = {"type": "error", "id": 0, "code": "invalid_message", "message": "unknown key 'after'"}
                await connection.send(json.dumps(refusal))
            else:
                await connection.send(ACK)
                await connection.close(1001)

    async with serve(answer, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(url, patience=HASTY) as client:
            events = client.subscribe(KEY_A).events()
            told = [await anext(events) for _ in range(4)]
    assert [type(event) for event in told] == [Subscribed, Disconnected, Disconnected, Subscribed]
    assert isinstance(told[-1], Subscribed)
    assert told[-1].recovered is False
    assert ["after" in request for request in requests] == [False, True, False]


async def test_answers_are_read_while_requests_are_sent() -> None:
    """A server that takes no further request before its answer is read gets them all."""
    keys = [f"{number:044}" for number in range(200_000)]  # more than the sockets' buffers hold

    async def answer(connection: ServerConnection) -> None:
        async for message in connection:
            number = json.loads(message)["id"]
            await connection.send(json.dumps({"type": "of a later version", "text": "x" * 2**17}))
            await connection.send(json.dumps({"type": "ack", "id": number, "epoch": "e"}))

    async with serve(answer, "127.0.0.1", 0, max_queue=1) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(url, patience=Patience(answer=2.0)) as client:
            events = client.subscribe(*keys).events()
            answers = [await anext(events) for _ in range(400)]
    assert [key for each in answers if isinstance(each, Subscribed) for key in each.asked] == keys


async def test_requests_that_nobody_takes_end_in_time() -> None:
    """A server that shakes hands and reads no more is no answer, however much is still to be sent to it."""

    async def ignore(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await connection.wait_closed()

    async with serve(ignore, "127.0.0.1", 0, close_timeout=0.1) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(url, patience=HASTY) as client, asyncio.timeout(5):
            with pytest.raises(NoAnswerError):
                await anext(client.subscribe(*(f"{number:044}" for number in range(400_000))))
        for connection in server.connections:
            connection.transport.abort()


async def test_silence_is_no_answer() -> None:
    """A server that shakes hands and then says nothing is an error that says so."""
    async with client_of(lambda connection: connection.wait_closed()) as client:
        with pytest.raises(NoAnswerError, match="no answer for 0 seconds"):
            await anext(client.subscribe(KEY_A))


async def test_a_read_by_http_that_is_cancelled_lets_go() -> None:
    """A cancelled `get` closes its connection at once, and leaves no thread waiting for it."""
    gone = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_server(stall, "127.0.0.1", 0) as server:
        async with connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get(KEY_A), 0.1)
            await asyncio.wait_for(gone.wait(), 5)


async def test_close_ends_a_handshake() -> None:
    """Who closes while a connection is being made waits for nothing, and leaves no task, no socket and no reader."""
    gone = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()
        gone.set()

    async def read(subscription: Subscription) -> list[object]:
        return [event async for event in subscription.events()]

    async with await asyncio.start_server(stall, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for ways in range(3):
            asked = asyncio.Event()
            gone.clear()
            async with asyncio.timeout(5), connect(url, patience=Patience(open=60)) as client:
                reading = asyncio.create_task(read(subscription := client.subscribe(KEY_A)))
                await asked.wait()
                if ways:
                    await asyncio.gather(*(subscription.close() for _ in range(ways)))
                    assert await reading == []
            async with asyncio.timeout(5):
                assert await reading == []
                await gone.wait()


@asynccontextmanager
async def http_server(said: bytes, port: int = 0, *, waits: bool = False) -> AsyncIterator[Client]:
    """A client of an HTTP server that says this and ends the connection."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", port) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(url, patience=HASTY, wait_for_server=waits) as client:
            yield client


async def ask_both(client: Client) -> list[ServerError]:
    """What `get` and `history` raise."""
    with pytest.raises(ServerError) as get:
        await client.get(KEY_A)
    with pytest.raises(ServerError) as history:
        [each async for each in client.history(KEY_A)]
    return [get.value, history.value]


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000, DEEP.encode()])
async def test_garbage_by_http_is_not_a_server(status: bytes, body: bytes) -> None:
    """A whole answer that says nothing of ours, however deep, is no server's, and is not to be asked for again."""
    async with http_server(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)) as client:
        for error in await ask_both(client):
            assert isinstance(error, NotAServerError)
            assert not error.retryable


async def test_wrong_answers_by_http() -> None:
    """A state of another account, and history that leads to where it came from, are no server's."""
    account = {"id": 5, "pubkey": KEY_B, "slot": 1, "account_type": "T", "owner": "o", "lamports": 1, "created_at": ""}
    page = {"pubkey": KEY_A, "epoch": "e", "updates": [{**account, "pubkey": KEY_A}], "next": 5}
    for answer in ({"pubkey": KEY_B, "source": "cache", "account": account}, page):
        body = json.dumps(answer).encode()
        async with http_server(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)) as client:
            for error in await ask_both(client):
                assert isinstance(error, NotAServerError)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"pubkey":',
        b'HTTP/1.1 404 Not Found\r\nContent-Length: 500\r\n\r\n{"error":',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"pubkey":',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n{"pubkey":\r\n',
    ],
)
async def test_an_answer_that_is_cut_off_may_come_again(said: bytes) -> None:
    """A server that ends within its answer by HTTP is an error that may pass, and not one of what it is."""
    async with http_server(said) as client:
        for error in await ask_both(client):
            assert not isinstance(error, NotAServerError)
            assert error.retryable
