"""What an HTTP answer of a node means: a result, or an RpcError that says whether to try again. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from account_socket.errors import RpcError
from account_socket.sources.account_json import show

MAX_RETRY_AFTER_SECONDS = 30.0

_MAX_SAID = 2_000
"""Characters of an error's message that are passed on."""
_MAX_DATA_BYTES = 64 * 1024
"""The largest `data` of an error, as JSON, that is passed on: a failed transaction's logs fit."""

_OK = 200
_RETRY_STATUS = frozenset({429, 502, 503, 504})
_FINAL_STATUS = frozenset({400, 401, 403})
_RETRY_CODES = frozenset({-32004, -32005, -32014, -32016, -32029, -32429, -32603})
"""Block not available, node unhealthy, status not yet, slot not reached, rate limits, internal (Agave, providers)."""

_HINTS = {
    401: "the node wants another key: check RPC_HTTP_URL",
    403: "the node refuses this key or address: check RPC_HTTP_URL",
    404: "is RPC_HTTP_URL the JSON-RPC address, with its path?",
    429: "the node limits requests: lower RPC_MAX_RPS or RPC_LOOKUPS_PER_SECOND",
}

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def read_answer(
    status: int,
    body: bytes,
    request_id: int,
    *,
    retry_after: float | None,
    scrub: Callable[[str], str],
    conceal: Callable[[str], str] | None = None,
) -> Any:
    """
    Return the `result` of a JSON-RPC answer; it may be None.

    Args:
        status, body: of the HTTP response; whatever bytes.

    The rest is as in `judge_answer`.
    """
    answer = _parse(body)
    if status == _OK and not isinstance(answer, dict):
        raise nonsense(f"the node answered no JSON-RPC: {scrub(show(body[:60].decode(errors='replace')))}")
    return judge_answer(status, answer, request_id, retry_after=retry_after, scrub=scrub, conceal=conceal)


def judge_answer(
    status: int,
    answer: Any,
    request_id: int,
    *,
    retry_after: float | None,
    scrub: Callable[[str], str],
    conceal: Callable[[str], str] | None = None,
) -> Any:
    """
    Return the `result` of a JSON-RPC answer that is parsed; it may be None.

    Args:
        status, answer: of the HTTP response; None where its body is no JSON.
        request_id: the id the answer must carry.
        retry_after: seconds, as `parse_retry_after` gives them.
        scrub: cleans what the node wrote, which may repeat the key.
        conceal: cleans what of it is told to clients; None: as `scrub`.
    Raises:
        RpcError: code is the JSON-RPC code, the HTTP status, or 0 for an answer that makes no sense.
    """
    error = answer.get("error") if isinstance(answer, dict) else None
    if error is not None:
        raise _error(status, error, retry_after, scrub, conceal or scrub)
    if status != _OK:
        raise RpcError(
            f"the node answered HTTP {status}",
            code=status,
            retryable=status in _RETRY_STATUS,
            retry_after=retry_after,
            hint=_HINTS.get(status, ""),
        )
    if not isinstance(answer, dict) or "result" not in answer:
        raise nonsense(f"the node answered no JSON-RPC: {scrub(show(answer))}")
    if type(answer.get("id")) is not int or answer["id"] != request_id:
        raise nonsense("the node answered another request")
    return answer["result"]


def _error(
    status: int, error: Any, retry_after: float | None, scrub: Callable[[str], str], conceal: Callable[[str], str]
) -> RpcError:
    fields = error if isinstance(error, dict) else {"message": error}
    code, text = fields.get("code"), fields.get("message")
    text = text if isinstance(text, str) else show(text)
    is_json_rpc = type(code) is int or status == _OK
    if type(code) is not int:
        code = status if status != _OK else 0
    data = _encode(fields.get("data"))
    return RpcError(
        f"the node answered error {code}: {scrub(text)}",
        code=code,
        retryable=status not in _FINAL_STATUS and (status in _RETRY_STATUS or code in _RETRY_CODES),
        retry_after=retry_after,
        hint=_HINTS.get(status, ""),
        said=conceal(text[:_MAX_SAID]) if is_json_rpc else None,
        data=_parse(conceal(data.decode()).encode()) if len(data) <= _MAX_DATA_BYTES else None,
    )


def nonsense(message: str) -> RpcError:
    """Return the error for an answer that makes no sense; asking again would bring the same."""
    return RpcError(message, code=0, retryable=False)


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds of a Retry-After header (seconds, or an HTTP date), 0 … 30; None for none or nonsense."""
    if not value:
        return None
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    else:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _parse(body: bytes) -> Any:
    try:
        return _decode(body)
    except (ValueError, RecursionError):
        return None
