"""The door's pure part, as tables of bytes and verdict."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.server import ServerProtocol

from account_socket.server.handshake import (
    Refused,
    asks_for_status,
    head_end,
    is_native,
    is_upgrade,
    may_be_http,
    plain_response,
    shake_hands,
)

HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LOG = logging.getLogger("test")


@pytest.mark.parametrize(
    ("head", "upgrade"),
    [
        (HEAD, True),
        (HEAD.replace(b"/ws", b"/ws/"), True),
        (HEAD.replace(b"/ws", b"/ws/a/b"), True),
        (HEAD.replace(b"/ws", b"/ws?token=1"), True),
        (HEAD.replace(b"Upgrade: websocket", b"UPGRADE:WebSocket"), True),
        (HEAD.replace(b"Upgrade: websocket", b"Upgrade: \t websocket"), True),
        (HEAD.replace(b"GET", b"POST"), True),
        (HEAD.replace(b"/ws", b"/wsx"), False),
        (HEAD.replace(b"/ws", b"/"), False),
        (HEAD.replace(b"/ws", b"/x/ws"), False),
        (HEAD.replace(b"Upgrade: websocket", b"Upgrade: h2c"), False),
        (HEAD.replace(b"Upgrade: websocket", b"X: Upgrade: websocket"), False),
        (HEAD.replace(b"GET /ws HTTP/1.1", b"GET /ws"), False),
        (b"\r\n" + HEAD, False),
        (b"\r\n\r\n", False),
    ],
)
def test_what_is_an_upgrade(head: bytes, upgrade: bool) -> None:
    """Only a request line with a path of ours and an Upgrade header that names websocket."""
    assert is_upgrade(head) == upgrade


@pytest.mark.parametrize(
    ("path", "upgrade", "native"),
    [
        (b"/", True, False),
        (b"/?api-key=1", True, False),
        (b"/rpc/", True, False),
        (b"/ws", True, True),
        (b"/ws/a", True, True),
        (b"/wsx", True, False),
        (b"/healthz", False, False),
        (b"/healthzy", True, False),
        (b"/v1/stream", False, False),
        (b"/openapi.json", False, False),
    ],
)
def test_what_is_an_upgrade_anywhere(path: bytes, upgrade: bool, native: bool) -> None:
    """Where Solana's dialect is spoken, every path but those of HTTP upgrades; /ws is our own dialect's."""
    head = HEAD.replace(b"/ws", path)
    assert is_upgrade(head, anywhere=True) == upgrade
    assert is_native(head) == native


@pytest.mark.parametrize(
    ("path", "asks"),
    [
        (b"/ws", False),
        (b"/ws?status=1", True),
        (b"/ws/?status=1", True),
        (b"/ws/a?token=2&status=1", True),
        (b"/ws?status=1&x", True),
        (b"/ws?status=0", False),
        (b"/ws?status", False),
        (b"/ws?status=11", False),
        (b"/ws?xstatus=1", False),
        (b"/ws/status=1", False),
        (b"/ws?x?status=1", False),
    ],
)
def test_who_asks_for_status(path: bytes, asks: bool) -> None:
    """Only `status=1`, as one of the pairs of the query; everything else there is ignored."""
    head = HEAD.replace(b"/ws", path)
    assert is_upgrade(head)
    assert asks_for_status(head) == asks


@pytest.mark.parametrize("cut", range(1, len(HEAD)))
def test_where_a_head_ends(cut: int) -> None:
    """A head ends behind its empty line, and not before, whatever follows."""
    assert head_end(HEAD[:cut]) == 0
    assert may_be_http(HEAD[:cut])
    assert head_end(HEAD + b"\r\n\r\n") == len(HEAD)


def test_a_good_handshake() -> None:
    """The answer is the protocol's first output, with the key's digest of RFC 6455, 1.3."""
    shaken = shake_hands(HEAD, max_message_bytes=10, logger=LOG)
    assert isinstance(shaken, ServerProtocol)
    (answer,) = shaken.data_to_send()
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer


AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (None, None),
        ("permessage-deflate", AGREED),
        ("permessage-deflate; client_max_window_bits", AGREED),  # browsers, ws, websockets
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", AGREED),
        ("permessage-deflate; client_max_window_bits=15", AGREED + "; client_max_window_bits=15"),
        ("permessage-deflate; server_max_window_bits=15", AGREED + "; server_max_window_bits=15"),
        ("permessage-deflate; server_max_window_bits=14", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; client_max_window_bits=10", None),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", AGREED),
        ("permessage-deflate, permessage-deflate; server_no_context_takeover", AGREED),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; window=15", None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", None),
        ("x-webkit-deflate-frame, permessage-bzip2", None),
        ("x-webkit-deflate-frame, permessage-deflate; client_max_window_bits", AGREED),
    ],
)
def test_which_offers_of_compression_are_taken(offer: str | None, answer: str | None) -> None:
    """The first with whole windows is, never with context takeover; without one the client is let in plain."""
    head = HEAD if offer is None else HEAD[:-2] + f"Sec-WebSocket-Extensions: {offer}\r\n\r\n".encode()
    assert extensions_agreed(head, compression=True) == answer
    assert extensions_agreed(head, compression=False) is None


def extensions_agreed(head: bytes, *, compression: bool) -> str | None:
    shaken = shake_hands(head, max_message_bytes=10, logger=LOG, compression=compression)
    assert isinstance(shaken, ServerProtocol)
    (answer,) = shaken.data_to_send()
    values = [line.partition(b": ")[2] for line in answer.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Ext")]
    assert bool(values) == bool(shaken.extensions)
    return values[0].decode() if values else None


@pytest.mark.parametrize("value", ["permessage-deflate;", "=", "permessage-deflate; =", ";;", "a b", "\x7f"])
def test_an_offer_that_is_none(value: str) -> None:
    """A header that is not a list of extensions is refused with 400 where extensions are looked at."""
    head = HEAD[:-2] + f"Sec-WebSocket-Extensions: {value}\r\n\r\n".encode()
    shaken = shake_hands(head, max_message_bytes=10, logger=LOG, compression=True)
    assert isinstance(shaken, Refused)
    assert shaken.response.startswith(b"HTTP/1.1 400 ")


@given(st.binary(max_size=300))
def test_any_bytes_are_judged(data: bytes) -> None:
    """No bytes raise, and none but a handshake are taken for one."""
    head = data + b"\r\n\r\n"
    assert isinstance(is_upgrade(head), bool)
    shaken = shake_hands(head, max_message_bytes=10, logger=LOG)
    assert isinstance(shaken, Refused)
    assert shaken.response.startswith(b"HTTP/1.1 4")


def test_plain_responses() -> None:
    """A response without a framework is whole: length, type, end of the connection, JSON."""
    head, body = plain_response(431, "head_too_large", "too large", {"X-A": "b"}).split(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert b"Connection: close" in head
    assert b"X-A: b" in head
    assert json.loads(body) == {"error": {"code": "head_too_large", "message": "too large"}}
