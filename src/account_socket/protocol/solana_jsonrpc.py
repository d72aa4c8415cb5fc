"""JSON-RPC 2.0 as Agave's library (jsonrpc-core) answers it: bytes in, bytes out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
NODE_UNHEALTHY = -32005
SCAN_ERROR = -32012
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

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Request(msgspec.Struct, frozen=True):
    """
    One call.

    Attributes:
        id: as it was sent; None also where `is_notification`: nobody wants an answer.
    """

    id: Any
    method: str
    params: list[Any]
    is_notification: bool

    def answer(self, result: bytes) -> bytes | None:
        """Return what answers it with `result` (JSON)."""
        if self.is_notification:
            return None
        return b'{"jsonrpc":"2.0","result":%b,"id":%b}' % (result, _encode(self.id))

    def refuse(self, fault: RpcFault) -> bytes | None:
        """Return what answers it with an error."""
        return None if self.is_notification else _error(fault, self.id)


class Message(msgspec.Struct, frozen=True):
    """
    What one text asks for.

    Attributes:
        entries: each is a call, or, where it is none, its answer; None: it gets none.
    """

    entries: list[Request | bytes | None]
    is_batch: bool

    def join(self, answers: Iterable[bytes | None]) -> bytes | None:
        """Return the answers to all entries as one, or None where nothing is answered (only notifications)."""
        told = [each for each in answers if each is not None]
        if not self.is_batch:
            return told[0] if told else None
        return b"[" + b",".join(told) + b"]" if told else None


def read(text: bytes, max_batch: int | None = None) -> Message:
    """Return what `text`, whatever it is, asks for. A batch over `max_batch` is answered as a whole by one error."""
    try:
        request = _decode(text)
    except (ValueError, RecursionError):
        return Message([_error(RpcFault(PARSE_ERROR, "Parse error"), None)], is_batch=False)
    if not isinstance(request, list):
        return Message([_read_one(request)], is_batch=False)
    if max_batch is not None and len(request) > max_batch:
        fault = RpcFault(INVALID_REQUEST, f"Invalid request: a batch has at most {max_batch} requests")
        return Message([_error(fault, None)], is_batch=False)
    return Message([_read_one(each) for each in request], is_batch=True)


def answer(text: bytes, call: Call) -> bytes | None:
    """Return what answers one request or one batch, or None where nothing is answered (only notifications)."""
    message = read(text)
    return message.join(_answer_one(entry, call) for entry in message.entries)


def _answer_one(entry: Request | bytes | None, call: Call) -> bytes | None:
    if not isinstance(entry, Request):
        return entry
    try:
        return entry.answer(call(entry.method, entry.params))
    except RpcFault as fault:
        return entry.refuse(fault)


def _read_one(request: Any) -> Request | bytes | None:
    if not isinstance(request, dict) or not _is_id(request.get("id")):
        return _error(RpcFault(INVALID_REQUEST, "Invalid request"), None)
    request_id, method = request.get("id"), request.get("method")
    is_notification = "id" not in request
    if not isinstance(method, str) or not isinstance(request.get("params"), list | dict | None):
        return _error(RpcFault(INVALID_REQUEST, "Invalid request"), request_id)
    try:
        return Request(request_id, method, _check_params(request), is_notification)
    except RpcFault as fault:
        return None if is_notification else _error(fault, request_id)


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
