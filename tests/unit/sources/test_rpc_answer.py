from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_socket.errors import RpcError
from account_socket.sources.rpc_answer import parse_retry_after, read_answer


def read(body: Any, *, status: int = 200, retry_after: float | None = None) -> Any:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return read_answer(status, raw, 7, retry_after=retry_after, scrub=lambda text: text.replace("KEY", "***"))


@pytest.mark.parametrize("result", [5, "ok", None, {"context": {"slot": 1}, "value": None}, []])
def test_a_result_is_returned(result: Any) -> None:
    """The result of the right id is returned as it is, null included."""
    assert read({"jsonrpc": "2.0", "result": result, "id": 7}) == result


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable"),
    [
        (200, {"error": {"code": -32005, "message": "Node is behind"}, "id": 7}, -32005, True),
        (200, {"error": {"code": -32016, "message": "x"}, "id": 7}, -32016, True),
        (200, {"error": {"code": -32603, "message": "x"}, "id": 7}, -32603, True),
        (200, {"error": {"code": -32429, "message": "x"}, "id": 7}, -32429, True),
        (200, {"error": {"code": -32602, "message": "x"}, "id": 7}, -32602, False),
        (200, {"error": {"code": -32601, "message": "x"}, "id": 7}, -32601, False),
        (200, {"error": {"code": -32600, "message": "x"}, "id": None}, -32600, False),
        (200, {"error": {"code": -32010, "message": "x"}, "id": 7}, -32010, False),
        (200, {"error": "rate limited", "id": 7}, 0, False),
        (400, {"error": {"code": -32603, "message": "x"}, "id": 7}, -32603, False),
        (429, {"error": {"code": 429, "message": "Too many requests"}, "id": 7}, 429, True),
        (429, {"error": {"message": "Too many requests"}}, 429, True),
        (429, b"<html>Too many</html>", 429, True),
        (502, b"", 502, True),
        (503, b"\xff\xfe", 503, True),
        (504, {"jsonrpc": "2.0", "result": 5, "id": 7}, 504, True),
        (500, b"oops", 500, False),
        (401, b"bad key", 401, False),
        (403, b"", 403, False),
        (404, b"<html>", 404, False),
        (301, b"", 301, False),
        (200, b"<html>Welcome</html>", 0, False),
        (200, b"", 0, False),
        (200, b"5", 0, False),
        (200, b"[" * 100_000, 0, False),
        (200, {"id": 7}, 0, False),
        (200, {"result": 5}, 0, False),
        (200, {"result": 5, "id": 8}, 0, False),
        (200, {"result": 5, "id": "7"}, 0, False),
        (200, {"result": 5, "id": None}, 0, False),
        (200, [{"result": 5, "id": 7}], 0, False),
    ],
)
def test_anything_else_is_an_rpc_error(status: int, body: Any, code: int, retryable: bool) -> None:
    """An error object, a status or nonsense becomes an RpcError with its code and whether it may pass."""
    with pytest.raises(RpcError) as caught:
        read(body, status=status)
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


def test_what_the_node_wrote_is_scrubbed() -> None:
    """A node that repeats the key in its error or its page does not bring it into ours."""
    for body in ({"error": {"code": -32602, "message": "bad KEY"}, "id": 7}, b"<html>KEY</html>"):
        with pytest.raises(RpcError) as caught:
            read(body)
        assert "KEY" not in str(caught.value)
        assert "***" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error", "said", "data"),
    [
        (200, {"code": 5, "message": "KEY is bad", "data": ["KEY", "x" * 1000]}, "*** is bad", ["***", "x" * 1000]),
        (500, {"code": -32603, "message": "x" * 9999, "data": "x" * 100_000}, "x" * 2000, None),
        (200, "in words", "in words", None),
        (401, "bad key", None, None),
        (429, {"message": "too many"}, None, None),
    ],
)
def test_what_is_told_of_an_error(status: int, error: Any, said: str | None, data: Any) -> None:
    """A JSON-RPC error has what the node said, cleaned and bounded; a word beside an HTTP status is none."""
    with pytest.raises(RpcError) as caught:
        read({"error": error, "id": 7}, status=status)
    assert (caught.value.said, caught.value.data) == (said, data)


def test_retry_after_is_kept() -> None:
    """The seconds that the node asks to wait stand in the error."""
    with pytest.raises(RpcError) as caught:
        read(b"", status=429, retry_after=4.0)
    assert caught.value.retry_after == 4.0


NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("0", 0.0),
        ("7", 7.0),
        ("9" * 5000, 30.0),
        ("Mon, 23 Nov 2026 12:00:09 GMT", 9.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("Mon, 23 Nov 2037 11:00:00 GMT", 30.0),
        ("Mon, 23 Nov 2026 12:00:09", 9.0),
        ("Mon, 99 Nov 2026 12:00:09 GMT", None),
        ("Mon, 23 Nov 99999999999999999999 12:00:09 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Retry-After is seconds or a date, never below 0 nor above 30; nonsense counts as absent."""
    assert parse_retry_after(value, NOW) == seconds


@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_answer_raises_anything_but_rpc_error(status: int, body: bytes) -> None:
    """Whatever comes back, it is a result or an RpcError."""
    with suppress(RpcError):
        read(body, status=status)


@given(st.text(max_size=40))
def test_no_retry_after_raises(value: str) -> None:
    """Whatever the header holds, it is seconds within the bounds or None."""
    seconds = parse_retry_after(value)
    assert seconds is None or 0 <= seconds <= 30
