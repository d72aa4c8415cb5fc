"""
Clients that do everything wrong, by kind of wrong, while a good client of the same server misses nothing.

Each table holds what is sent and the exact answer: an HTTP status, an error code, or a close code.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator

import pytest
from tests.integration.server.serving import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawClient,
    Served,
    frame,
    good_client,
    raw_client,
    request_head,
    serving,
)
from tests.samples import KEY_A, KEY_B
from tests.waiting import until

ALIVE = {"action": "ping", "id": "alive"}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A server with a good client on it, checked at the end."""
    async with (
        serving(allowed_origins={"https://good.example"}, head_seconds=0.5, close_seconds=0.3) as served,
        good_client(served),
    ):
        yield served


def named(rows: dict[str, tuple[object, ...]]) -> object:
    names = ("sent", "answer")
    return pytest.mark.parametrize(names, [pytest.param(*row, id=name) for name, row in rows.items()])


async def assert_alive(client: RawClient) -> None:
    client.say(ALIVE)
    assert await client.read_message() == {"type": "pong", "id": "alive"}


# ---- handshake ---------------------------------------------------------------------------------------------

HANDSHAKES: dict[str, tuple[object, ...]] = {
    "post": (request_head(method="POST"), 405),
    "http 1.0": (request_head(version="HTTP/1.0"), 505),
    "http 2": (request_head(version="HTTP/2.0"), 400),
    "no key": (request_head(Sec_WebSocket_Key=None), 400),
    "short key": (request_head(Sec_WebSocket_Key="c2hvcnQ="), 400),
    "key that is no base64": (request_head(Sec_WebSocket_Key="!" * 24), 400),
    "two keys": (request_head(sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ=="), 400),
    "no version": (request_head(Sec_WebSocket_Version=None), 400),
    "old version": (request_head(Sec_WebSocket_Version="8"), 426),
    "two versions": (request_head(sec_websocket_version="13"), 426),
    "no connection": (request_head(Connection=None), 426),
    "connection without upgrade": (request_head(Connection="keep-alive"), 426),
    "two protocols": (request_head(Upgrade="h2c, websocket"), 426),
    "another path": (request_head(path="/wsx"), 404),
    "path with escapes": (request_head(path="/%77s"), 101),
    "path that is not ascii": (request_head(path="/ws/\xff"), 400),
    "body": (request_head(Content_Length="5") + b"hello", 400),
    "chunked": (request_head(Transfer_Encoding="chunked"), 400),
    "header without colon": (request_head()[:-2] + b"oops\r\n\r\n", 400),
    "folded header": (request_head()[:-2] + b" folded: x\r\n\r\n", 400),
    "many headers": (request_head(**{f"X_{number}": "y" for number in range(200)}), 400),
    "long header": (request_head(X_Long="y" * 9_000), 400),
    "endless head": (request_head()[:-2] + b"X: " + b"y" * 20_000, 431),
    "no http": (b"\x16\x03\x01" + bytes(200), 400),
}


@named(HANDSHAKES)
async def test_handshake(served: Served, sent: bytes, answer: int) -> None:
    """A wrong handshake is answered with its HTTP status and a JSON error, and ends the connection."""
    async with raw_client(served, shake=False) as client:
        client.send(sent)
        if answer == 101:
            assert b" 101 " in await client.read_head()
            return
        response = await client.read_rest()
        head, body = response.split(b"\r\n\r\n", 1)
        assert int(head.split(b" ")[1]) == answer, response
        assert set(json.loads(body)["error"]) == {"code", "message"}
        if b"Version: 8" in sent:
            assert b"Sec-WebSocket-Version: 13" in head


async def test_handshake_after_http(served: Served) -> None:
    """A wrong handshake on a kept-alive connection is refused the same way."""
    async with raw_client(served, shake=False) as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + request_head(Sec_WebSocket_Version="8"))
        assert b" 200 " in await client.read_head()
        assert b" 426 " in await client.read_rest()


@pytest.mark.parametrize(
    ("origin", "code"), [("https://evil.example", 4403), ("null", 4403), ("HTTPS://GOOD.example", None)]
)
async def test_origin(served: Served, origin: str, code: int | None) -> None:
    """A page of another origin is told 4403, not to come back; the allowed one is served whatever its case."""
    async with raw_client(served, shake=False) as client:
        client.send(request_head(Origin=origin))
        assert b" 101 " in await client.read_head()
        if code is None:
            await assert_alive(client)
        else:
            assert await client.read_close() == (4403, "origin refused; do not reconnect")


# ---- frames ------------------------------------------------------------------------------------------------

HELLO = b'{"action":"ping"}'

FRAMES: dict[str, tuple[object, ...]] = {
    "unmasked": (frame(TEXT, HELLO, mask=False), 1002),
    "unknown data opcode": (frame(3, HELLO), 1002),
    "unknown control opcode": (frame(11), 1002),
    "reserved bit 1": (frame(TEXT, HELLO, rsv=4), 1002),
    "reserved bit 2": (frame(TEXT, HELLO, rsv=2), 1002),
    "reserved bit 3": (frame(PING, rsv=1), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "long pong": (frame(PONG, b"x" * 126), 1002),
    "ping in parts": (frame(PING, b"x", fin=False), 1002),
    "continuation of nothing": (frame(CONTINUATION, HELLO), 1002),
    "text inside a message": (frame(TEXT, b"{", fin=False) + frame(TEXT, HELLO), 1002),
    "binary inside a message": (frame(TEXT, b"{", fin=False) + frame(BINARY, HELLO), 1002),
    "close inside a message": (frame(TEXT, b"{", fin=False) + frame(CLOSE, b"\x03\xe8"), 1002),
    "close with half a code": (frame(CLOSE, b"\x03"), 1002),
    "close with 1005": (frame(CLOSE, struct.pack("!H", 1005)), 1002),
    "close with 999": (frame(CLOSE, struct.pack("!H", 999)), 1002),
    "close with 5000": (frame(CLOSE, struct.pack("!H", 5000)), 1002),
    "long close": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "binary": (frame(BINARY, HELLO), 1003),
    "binary in parts": (frame(BINARY, HELLO, fin=False), 1003),
    "http instead of frames": (b"GET / HTTP/1.1\r\n\r\n", 1002),
    "zeros": (bytes(100), 1002),
    "negative length": (b"\x81\xff" + b"\xff" * 8 + b"mask", 1009),
    "close without a code": (frame(CLOSE), 1005),
    "close normally": (frame(CLOSE, b"\x03\xe8bye"), 1000),
    "close with a private code": (frame(CLOSE, struct.pack("!H", 4999)), 4999),
}


@named(FRAMES)
async def test_frames(served: Served, sent: bytes, answer: int) -> None:
    """A frame against the rules is answered with the close code that says so, behind the answers due before it."""
    async with raw_client(served) as client:
        behind = b"" if answer == 1003 else frame(TEXT, HELLO)  # a second fault there, see below
        client.send(frame(TEXT, HELLO) + sent + behind)
        assert await client.read_message() == {"type": "pong"}
        opcode, payload = await client.read_frame()
        assert opcode == CLOSE
        assert payload[:2] == (b"" if answer == 1005 else struct.pack("!H", answer))
        assert await client.read_rest() == b""
    await until(lambda: served.listener.connections == 1)
    counted = str(answer) if answer != 4999 else "other"
    assert served.listener.clients.closes == {counted: 1}


# ---- UTF-8 -------------------------------------------------------------------------------------------------

UTF8: dict[str, tuple[object, ...]] = {
    "lone continuation": ([b"\x80"], 1007),
    "overlong slash": ([b"\xc0\xaf"], 1007),
    "overlong three bytes": ([b"\xe0\x80\xaf"], 1007),
    "overlong nul": ([b"\xc0\x80"], 1007),
    "surrogate": ([b"\xed\xa0\x80"], 1007),
    "surrogate pair": ([b"\xed\xa0\xbd\xed\xb8\x80"], 1007),
    "above unicode": ([b"\xf4\x90\x80\x80"], 1007),
    "five bytes": ([b"\xf8\x88\x80\x80\x80"], 1007),
    "0xff": ([b'{"action":"\xff"}'], 1007),
    "utf-16": (['{"action":"ping"}'.encode("utf-16")], 1007),
    "latin-1": ([b'{"action":"ping","id":"\xe9"}'], 1007),
    "cut off": ([b'{"action":"ping","id":"\xe2\x82'], 1007),
    "cut off in parts": ([b'{"id":"', b"\xf0\x9f", b'"}'], 1007),
    "wrong across parts": ([b'{"id":"\xe2', b'\x28\xa1"}'], 1007),
    "close reason": (None, 1007),
}


@named(UTF8)
async def test_utf8(served: Served, sent: list[bytes] | None, answer: int) -> None:
    """Text that is not UTF-8 is closed with 1007, in whatever parts it comes."""
    async with raw_client(served) as client:
        if sent is None:
            client.send(frame(CLOSE, b"\x03\xe8\xff"))
        else:
            for number, part in enumerate(sent):
                opcode = TEXT if number == 0 else CONTINUATION
                client.send(frame(opcode, part, fin=number == len(sent) - 1))
        code, _ = await client.read_close()
        assert code == answer


@pytest.mark.parametrize("text", ["é", "\U0001f600", "\u2028", "\uffff", "\ue000"])
async def test_utf8_that_is_right(served: Served, text: str) -> None:
    """Any character may stand in an id and comes back as it was, wherever a fragment cuts it."""
    data = json.dumps({"action": "ping", "id": text}, ensure_ascii=False).encode()
    async with raw_client(served) as client:
        for cut in range(1, len(data)):
            client.send(frame(TEXT, data[:cut], fin=False) + frame(CONTINUATION, data[cut:]))
            assert (await client.read_message())["id"] == text


# ---- JSON --------------------------------------------------------------------------------------------------

JSON: dict[str, tuple[object, ...]] = {
    "empty": ("", "invalid_json"),
    "space": ("  \n", "invalid_json"),
    "byte order mark": ('\ufeff{"action":"ping"}', "invalid_json"),
    "nul": ('{"action":"ping"}\0', "invalid_json"),
    "two objects": ('{"action":"ping"}{"action":"ping"}', "invalid_json"),
    "single quotes": ("{'action':'ping'}", "invalid_json"),
    "trailing comma": ('{"action":"ping",}', "invalid_json"),
    "comment": ('{"action":"ping"/**/}', "invalid_json"),
    "NaN": ('{"action":"ping","id":NaN}', "invalid_json"),
    "bare control character": ('{"action":"pi\tng"}', "invalid_json"),
    "deep arrays": ("[" * 65_000, "invalid_json"),
    "deep objects": ('{"a":' * 10_000, "invalid_message"),
    "many digits": ('{"id":' + "9" * 60_000 + "}", "invalid_json"),
    "unknown escape": ('{"action":"\\x"}', "invalid_json"),
    "twice the same key": ('{"action":"ping","action":"list"}', "invalid_message"),
    "array": ('["subscribe"]', "invalid_message"),
    "string": ('"subscribe"', "invalid_message"),
    "null": ("null", "invalid_message"),
    "number": ("-1e400", "invalid_message"),
}


@named(JSON)
async def test_json(served: Served, sent: str, answer: str) -> None:
    """A text that is no JSON object is answered with an error without id; the connection goes on."""
    async with raw_client(served) as client:
        client.send(frame(TEXT, sent.encode()))
        error = await client.read_message()
        assert (error["type"], error["code"], "id" in error) == ("error", answer, False)
        await assert_alive(client)


# ---- fields ------------------------------------------------------------------------------------------------

FIELDS: dict[str, tuple[object, ...]] = {
    "no action": ({"id": 1}, "invalid_message"),
    "action null": ({"action": None, "id": 1}, "invalid_message"),
    "unknown action": ({"action": "resubscribe", "id": 1}, "unknown_action"),
    "action in capitals": ({"action": "SUBSCRIBE", "pubkey": KEY_A, "id": 1}, "unknown_action"),
    "no pubkey": ({"action": "subscribe", "id": 1}, "invalid_message"),
    "both": ({"action": "subscribe", "pubkey": KEY_A, "pubkeys": [KEY_A], "id": 1}, "invalid_message"),
    "empty list": ({"action": "subscribe", "pubkeys": [], "id": 1}, "invalid_message"),
    "list is an object": ({"action": "subscribe", "pubkeys": {}, "id": 1}, "invalid_message"),
    "list of lists": ({"action": "subscribe", "pubkeys": [[KEY_A]], "id": 1}, "invalid_message"),
    "unknown key": ({"action": "subscribe", "pubkey": KEY_A, "where": {}, "id": 1}, "invalid_message"),
    "pubkey of ping": ({"action": "ping", "pubkey": KEY_A, "id": 1}, "invalid_message"),
    "pubkey too short": ({"action": "subscribe", "pubkey": KEY_A[:30], "id": 1}, "invalid_pubkey"),
    "pubkey of 33 bytes": ({"action": "subscribe", "pubkey": "1" + KEY_A, "id": 1}, "invalid_pubkey"),
    "pubkey with 0": ({"action": "subscribe", "pubkey": "0" * 44, "id": 1}, "invalid_pubkey"),
    "pubkey with space": ({"action": "subscribe", "pubkey": KEY_A + " ", "id": 1}, "invalid_pubkey"),
    "pubkey in hex": ({"action": "subscribe", "pubkey": "ab" * 32, "id": 1}, "invalid_pubkey"),
    "half a surrogate pair": ({"action": "subscribe", "pubkey": "\ud800" * 44, "id": 1}, "invalid_pubkey"),
    "escape sequences": ({"action": "\x1b[2J\x07", "id": 1}, "unknown_action"),
    "id null": ({"action": "ping", "id": None}, "invalid_message"),
    "id true": ({"action": "ping", "id": True}, "invalid_message"),
    "id fraction": ({"action": "ping", "id": 1.5}, "invalid_message"),
    "id array": ({"action": "ping", "id": [1]}, "invalid_message"),
    "id of 65 bits": ({"action": "ping", "id": 2**64}, "invalid_message"),
    "id half a surrogate pair": ({"action": "ping", "id": "\udfff"}, "invalid_message"),
}


@named(FIELDS)
async def test_fields(served: Served, sent: dict[str, object], answer: str) -> None:
    """A wrong field is answered with its error, with the id if that could be read, and nothing is subscribed."""
    async with raw_client(served) as client:
        client.say(sent)
        error = await client.read_message()
        assert (error["type"], error["code"]) == ("error", answer)
        assert error.get("id") == (1 if sent.get("id") == 1 and sent["id"] is not True else None)
        assert error["message"].isprintable()
        client.say({"action": "list", "id": 2})
        assert (await client.read_message())["pubkeys"] == []


# ---- sizes -------------------------------------------------------------------------------------------------

LIMIT = 64 * 1024
BIG = {"action": "subscribe", "pubkey": "x" * 1000, "pad": ""}


def padded(size: int) -> bytes:
    text = json.dumps({"action": "ping", "id": 1})
    return text.encode() + b" " * (size - len(text))


SIZES: dict[str, tuple[object, ...]] = {
    "one byte too many": (frame(TEXT, padded(LIMIT + 1)), 1009),
    "a megabyte": (frame(TEXT, padded(1 << 20)), 1009),
    "announced only": (b"\x81\xff" + struct.pack("!Q", LIMIT + 1) + b"mask", 1009),
    "announced 2^62": (b"\x81\xff" + struct.pack("!Q", 1 << 62) + b"mask", 1009),
    "two parts": (frame(TEXT, padded(LIMIT), fin=False) + frame(CONTINUATION, b" "), 1009),
    "many parts": (frame(TEXT, b" ", fin=False) + frame(CONTINUATION, b" " * 1000, fin=False) * 70, 1009),
    "binary": (frame(BINARY, bytes(LIMIT + 1)), 1009),
    "exactly the limit": (frame(TEXT, padded(LIMIT)), "pong"),
    "exactly the limit in parts": (
        frame(TEXT, padded(LIMIT)[: LIMIT // 2], fin=False) + frame(CONTINUATION, padded(LIMIT)[LIMIT // 2 :]),
        "pong",
    ),
    "1,001 keys": (
        frame(TEXT, json.dumps({"action": "subscribe", "pubkeys": [KEY_A] * 1001}).encode()),
        "invalid_message",
    ),
    "long id": (frame(TEXT, json.dumps({"action": "ping", "id": "x" * 129}).encode()), "invalid_message"),
    "long pubkey": (
        frame(TEXT, json.dumps({"action": "subscribe", "pubkey": "x" * 60_000}).encode()),
        "invalid_pubkey",
    ),
    "long action": (frame(TEXT, json.dumps({"action": "x" * 60_000}).encode()), "unknown_action"),
    "long key": (
        frame(TEXT, json.dumps({"action": "ping", "x" * 60_000: 1}).encode()),
        "invalid_message",
    ),
    "many objects": (frame(TEXT, b"[" + b"{}," * 20_000 + b"{}]"), "invalid_message"),
}


@named(SIZES)
async def test_sizes(served: Served, sent: bytes, answer: int | str) -> None:
    """What is too large is refused with its code, in answers that are small themselves."""
    async with raw_client(served) as client:
        client.send(sent)
        if isinstance(answer, int):
            code, _ = await client.read_close()
            assert code == answer
        else:
            opcode, payload = await client.read_frame()
            message = json.loads(payload)
            assert (opcode, len(payload) < 300) == (TEXT, True)
            assert message.get("code", message["type"]) == answer
            await assert_alive(client)


async def test_too_many_subscriptions() -> None:
    """Beyond the limit of a connection a request is refused as a whole, and what stands goes on."""
    async with serving(max_subscriptions=1) as served, good_client(served), raw_client(served) as client:
        client.say({"action": "subscribe", "pubkeys": [KEY_A, KEY_B], "id": 1})
        assert (await client.read_message())["code"] == "too_many_subscriptions"
        client.say({"action": "subscribe", "pubkey": KEY_B, "id": 2})
        assert (await client.read_message())["type"] == "ack"
        client.say({"action": "subscribe", "pubkey": KEY_A, "id": 3})
        assert (await client.read_message())["code"] == "too_many_subscriptions"
        client.say({"action": "subscribe", "pubkey": KEY_B, "id": 4})
        assert (await client.read_message())["type"] == "ack"


async def test_a_binary_part_and_a_worse_fault_at_once(served: Served) -> None:
    """Two faults in one segment end in one close frame."""
    async with raw_client(served) as client:
        client.send(frame(BINARY, b"x", fin=False) + frame(TEXT, HELLO))
        code, _ = await client.read_close()
        assert code == 1002
        assert await client.read_rest() == b""
