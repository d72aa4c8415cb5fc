"""One gRPC channel to a Yellowstone node, and the calls made on it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from grpc.aio import AioRpcError

from account_socket import __version__
from account_socket.endpoints import is_loopback
from account_socket.sources.geyser import read_first_available, read_slot, read_version, slot_request

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""grpcio's default is 4 MiB, an account may have 10."""

KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 10_000, 5_000

_SERVICE = "/geyser.Geyser/"
_DEFAULT_PORTS = {"https": 443, "http": 10_000}
_IDENTITY, _GZIP = 0b001, 0b101
"""grpc.compression_enabled_algorithms_bitset: what the node may use towards us."""

_CANNOT_TELL = frozenset({"UNIMPLEMENTED", "INTERNAL", "NOT_FOUND", "UNKNOWN"})
"""How nodes answer a unary method that they do not serve, or not yet; the stream may work all the same."""


def open_channel(url: str, *, compression: bool = False) -> grpc.aio.Channel:
    """
    Return a channel that connects when it is first used and shares nothing with others.

    Args:
        url: `http(s)://host:port`; without a port 443, or 10000 without TLS. TLS trusts the system's roots.
        compression: whether the node may send gzip: less traffic, a third fewer messages a second.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    target = f"{f'[{host}]' if ':' in host else host}:{parts.port or _DEFAULT_PORTS[parts.scheme]}"
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.compression_enabled_algorithms_bitset", _GZIP if compression else _IDENTITY),
        ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the back-off of the old one
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0 if is_loopback(url) else 1),
        ("grpc.primary_user_agent", f"account-socket/{__version__}"),
    ]
    if parts.scheme == "https":
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(_system_roots()), options=options)
    return grpc.aio.insecure_channel(target, options=options)


def _system_roots() -> bytes | None:
    """Return the system's root certificates (SSL_CERT_FILE names others), or None for those that grpcio ships."""
    path = ssl.get_default_verify_paths().cafile
    return Path(path).read_bytes() if path else None


class Node:
    """
    The methods of a Yellowstone node.

    Args:
        token: the `x-token`, or "".
        seconds: how long a unary call may take, connecting included.
    """

    def __init__(self, channel: grpc.aio.Channel, token: str, seconds: float) -> None:
        self._channel = channel
        self._metadata = (("x-token", token),) if token else ()
        self._seconds = seconds

    def subscribe(self) -> grpc.aio.StreamStreamCall[Any, Any]:
        """Open a stream; it never ends by itself, and neither side of it is ever half-closed by us."""
        return self._channel.stream_stream(f"{_SERVICE}Subscribe")(metadata=self._metadata)

    async def slot(self) -> int | None:
        """Return the newest processed slot; None where the node does not tell. Raises AioRpcError."""
        answer = await self._ask("GetSlot", slot_request("processed"))
        return None if answer is None else read_slot(answer)

    async def first_available(self) -> int | None:
        """Return the first slot that can be replayed, None for no replay, 0 where only trying tells."""
        answer = await self._ask("SubscribeReplayInfo")
        return 0 if answer is None else read_first_available(answer)

    async def version(self) -> str:
        """Return the node's version. Raises AioRpcError."""
        answer = await self._ask("GetVersion")
        return "unknown" if answer is None else read_version(answer)

    async def _ask(self, method: str, request: bytes = b"") -> bytes | None:
        """Return an answer; None where the node does not serve the method. Raises AioRpcError."""
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_SERVICE + method)
        try:
            return await call(request, metadata=self._metadata, timeout=self._seconds)
        except AioRpcError as error:
            if error.code().name in _CANNOT_TELL:
                return None
            raise
