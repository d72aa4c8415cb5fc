"""JSON-RPC 2.0 as Agave's library (jsonrpc-core) answers it: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
MIN_CONTEXT_SLOT = -32016

Call = Callable[[str, list[Any]], bytes]
"""Takes method and params, returns the result as JSON bytes. Raises RpcFault."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class RpcFault(Exception):  # noqa: N818  (it is an answer, not a failure of ours)
    """
    An error object.

    Attributes:
        code, message, data: as in JSON-RPC 2.0; data None is left out.
    """

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


def answer(text: bytes, call: Call) -> bytes | None:
    """Return what answers one request or one batch, or None where nothing is answered (only notifications)."""
    try:
        request = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _error(RpcFault(PARSE_ERROR, "Parse error"), None)
    if isinstance(request, list):
        answers = [one for one in (_answer_one(each, call) for each in request) if one is not None]
        return b"[" + b",".join(answers) + b"]" if answers else None
    return _answer_one(request, call)


def _answer_one(request: Any, call: Call) -> bytes | None:
    if not isinstance(request, dict) or not _is_id(request.get("id")):
        return _error(RpcFault(INVALID_REQUEST, "Invalid request"), None)
    request_id, method = request.get("id"), request.get("method")
    is_notification = "id" not in request
    if not isinstance(method, str) or not isinstance(request.get("params"), list | dict | None):
        return _error(RpcFault(INVALID_REQUEST, "Invalid request"), request_id)
    try:
        result = call(method, _check_params(request))
    except RpcFault as fault:
        return None if is_notification else _error(fault, request_id)
    if is_notification:
        return None
    return b'{"jsonrpc":"2.0","result":%b,"id":%b}' % (result, _encode(request_id))


def _check_params(request: dict[str, Any]) -> list[Any]:
    if request.get("jsonrpc") != "2.0":
        raise RpcFault(INVALID_REQUEST, "Unsupported JSON-RPC protocol version")
    params = request.get("params")
    if isinstance(params, dict):
        raise RpcFault(INVALID_PARAMS, "`params` should be an array")
    return params or []


def _is_id(value: Any) -> bool:
    return value is None or isinstance(value, str) or (type(value) is int and value >= 0)


def _error(fault: RpcFault, request_id: Any) -> bytes:
    error: dict[str, Any] = {"code": fault.code, "message": fault.message}
    if fault.data is not None:
        error["data"] = fault.data
    return _encode({"jsonrpc": "2.0", "error": error, "id": request_id})
