"""PURE part of the door: what the first request head is, and the answer to a WebSocket handshake."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import msgspec
from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import ExtensionParameter

MAX_HEAD_BYTES = 16 * 1024
WINDOW_BITS = 15

_UPGRADE = re.compile(rb"\nupgrade[ \t]*:[^\r\n]*websocket", re.IGNORECASE)
_WEBSOCKET_PATH = re.compile(r"/ws(?:/|$)")
_HTTP_PATH = re.compile(r"/(?:v1|healthz|readyz|metrics|\w+\.json)(?:/|$)")
"""Where there is something else: who upgrades there is mistaken."""


def head_end(data: bytes | bytearray) -> int:
    """Return where the request head in `data` ends, 0 if it is not complete."""
    return data.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0


def may_be_http(data: bytes | bytearray) -> bool:
    """Return whether a request may begin like that: with a method's capital letter."""
    return not data or data[:1].isupper()


def is_upgrade(head: bytes, *, anywhere: bool = False) -> bool:
    """Return whether a request head asks for WebSocket on a path of ours, or `anywhere` where nothing else is."""
    line = head.split(b"\r\n", 1)[0].split(b" ")
    if len(line) != 3:
        return False
    ours = is_native(head) or (anywhere and not _HTTP_PATH.match(_path(head)))
    return ours and _UPGRADE.search(head) is not None


def is_native(head: bytes) -> bool:
    """Return whether the path of a request head is one where our own dialect is spoken, and not Solana's."""
    return _WEBSOCKET_PATH.match(_path(head)) is not None


def _path(head: bytes) -> str:
    return head.split(b" ", 2)[1].decode("latin-1").split("?", 1)[0]


def asks_for_status(head: bytes) -> bool:
    """Return whether the request line of an upgrade has `status=1` in its query."""
    return b"status=1" in head.split(b" ", 2)[1].partition(b"?")[2].split(b"&")


def error_body(code: str, message: str) -> bytes:
    """Return the JSON body of every HTTP error."""
    return msgspec.json.encode({"error": {"code": code, "message": message}})


def plain_response(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> bytes:
    """Return a whole HTTP error response, after which the connection ends."""
    body = error_body(code, message)
    fields = {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **(headers or {}),
    }
    return Response(status, HTTPStatus(status).phrase, Headers(fields), body).serialize()


@dataclass(frozen=True)
class Refused:
    """A handshake that fails; `response` is the whole HTTP response."""

    response: bytes


class _Deflate(ServerPerMessageDeflateFactory):
    """
    permessage-deflate in the one form that serves all clients alike: no context is kept, and the window is whole.

    A smaller window would need frames of its own; an offer that names one is declined, and the client's next one, or
    none, is taken.
    """

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """Return what is agreed. Raises NegotiationError where the offer is declined."""
        answer, extension = super().process_request_params(params, accepted_extensions)
        if extension.local_max_window_bits != WINDOW_BITS or extension.remote_max_window_bits != WINDOW_BITS:
            raise NegotiationError("smaller windows are not served")
        return answer, extension


_DEFLATE = _Deflate(server_no_context_takeover=True, client_no_context_takeover=True)


def shake_hands(
    head: bytes, *, max_message_bytes: int, logger: logging.Logger, compression: bool = False
) -> ServerProtocol | Refused:
    """
    Answer a WebSocket handshake.

    Args:
        head: the request head alone, with its empty line.
        max_message_bytes: of what a client sends, inflated.
        compression: whether permessage-deflate is agreed to, where the client offers it.
    Returns:
        The protocol of an open connection, the answer to be sent as its first output; or the refusal.
    """
    protocol = ServerProtocol(
        extensions=[_DEFLATE] if compression else None, max_size=max_message_bytes, logger=logger
    )
    protocol.receive_data(head)
    events = protocol.events_received()
    if not events:
        return Refused(plain_response(400, "bad_request", "the request head is not well formed HTTP/1.1"))
    request = events[0]
    assert isinstance(request, Request)
    versions = request.headers.get_all("Sec-WebSocket-Version")
    response = protocol.accept(request)
    if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
        protocol.send_response(response)
        return protocol
    if versions and versions != ["13"]:  # RFC 6455, 4.4
        message = "only version 13 of the WebSocket protocol is spoken here"
        return Refused(plain_response(426, "upgrade_required", message, {"Sec-WebSocket-Version": "13"}))
    return Refused(_translate(response, str(protocol.handshake_exc)))


_CODES = {405: "method_not_allowed", 426: "upgrade_required", 505: "http_version_not_supported"}


def _translate(response: Response, reason: str) -> bytes:
    """Keep the library's verdict, in the shape of all our errors."""
    kept = {name: response.headers[name] for name in ("Allow", "Upgrade") if name in response.headers}
    code = _CODES.get(response.status_code, "bad_request")
    return plain_response(response.status_code, code, f"not a WebSocket handshake: {reason}", kept)
