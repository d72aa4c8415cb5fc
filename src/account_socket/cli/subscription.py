"""A client's connection for `watch` and `get`: subscribes, yields what the server sends, says why it ended."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from account_socket.endpoints import is_loopback
from account_socket.errors import AccountSocketError, SettingsError

DEFAULT_URL = "ws://127.0.0.1:8080/ws"
KEYS_A_REQUEST = 1000
MAX_MESSAGE_BYTES = 64 * 2**20
"""Above the JSON of the largest account, 10 MiB."""
OPEN_SECONDS = 5.0
ANSWER_SECONDS = 15.0
FINAL_CLOSES = (4401, 4403)
"""The server says: do not reconnect."""
PLAIN_REASONS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""What OpenSSL 3 says where what answers is no TLS."""
TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)


class ServerError(AccountSocketError):
    """The server refused, broke off or was not there; `retryable` says whether to try again."""


class NoAnswerError(ServerError):
    """Whoever took the connection never said anything."""


async def messages(
    url: str, pubkeys: Sequence[str], *, status: bool = False
) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """
    Subscribe to `pubkeys` and yield each message as it came and as JSON: states, acks, updates.

    Args:
        status: status and gap frames as well.
    Raises:
        SettingsError: `url` is none.
        ServerError: the connection could not be made or ended, or an error answer came.
        NoAnswerError: no first message came for ANSWER_SECONDS.
    """
    try:
        connection = await connect(
            with_status(complete_url(url)) if status else complete_url(url),
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=OPEN_SECONDS,
            close_timeout=1,
            proxy=None if is_loopback(url) else True,
        )
        # Not `async with`: a reader that has enough would be told to the server as an internal error.
        try:
            for number in range(-(-len(pubkeys) // KEYS_A_REQUEST)):
                request = {"action": "subscribe", "pubkeys": requested(pubkeys, number), "id": number}
                await connection.send(msgspec.json.encode(request).decode())
            yield _checked(await _first(connection, url))
            async for text in connection:
                yield _checked(text)
            raise _closed(connection.close_code, connection.close_reason)
        finally:
            await connection.close()
    except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake) as error:
        raise _server_error(url, error) from error
    except (msgspec.DecodeError, KeyError, AttributeError) as error:
        raise ServerError(f"{url}: what answers is not an account-socket server") from error


async def _first(connection: ClientConnection, url: str) -> str | bytes:
    """Return the first message. Raises NoAnswerError, ConnectionClosed."""
    try:
        return await asyncio.wait_for(connection.recv(), ANSWER_SECONDS)
    except TimeoutError:
        raise NoAnswerError(f"{url}: no answer for {ANSWER_SECONDS:.0f} seconds", retryable=True) from None


def _checked(text: str | bytes) -> tuple[str, dict[str, Any]]:
    """Return a message as it came and as JSON. Raises ServerError; DecodeError, AttributeError, KeyError: not ours."""
    message = msgspec.json.decode(text)
    if message.get("type") == "error":
        raise ServerError(f"{message['code']}: {message['message']}")
    if "account" not in message and "type" not in message:
        raise KeyError("type")
    return str(text), message


def requested(pubkeys: Sequence[str], number: int) -> Sequence[str]:
    """Return those of `pubkeys` that the request with the id `number` names."""
    return pubkeys[number * KEYS_A_REQUEST : (number + 1) * KEYS_A_REQUEST]


def complete_url(url: str) -> str:
    """Return `url` with the path /ws where it has none. Raises SettingsError."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in {"ws", "wss"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"--url {url}: is not a WebSocket URL such as {DEFAULT_URL}")
    return parts._replace(path="/ws").geturl() if parts.path in {"", "/"} else url


def with_status(url: str) -> str:
    """Return `url` with its query asking for status and gap frames."""
    parts = urlsplit(url)
    return parts._replace(query=f"{parts.query}&status=1" if parts.query else "status=1").geturl()


def _server_error(url: str, error: Exception) -> ServerError:
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        return ServerError(f"{url}: HTTP {status} instead of a WebSocket", retryable=status in TRANSIENT_STATUSES)
    if isinstance(error, ConnectionClosed) and error.rcvd is not None:
        return _closed(error.rcvd.code, error.rcvd.reason)
    if isinstance(error, ssl.SSLError) and error.reason in PLAIN_REASONS:
        return ServerError(f"{url}: does not speak TLS", hint=f"without TLS: --url {url.replace('wss:', 'ws:', 1)}")
    reason = "no answer" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return ServerError(f"{url}: {reason}", retryable=True)


def _closed(code: int | None, reason: str | None) -> ServerError:
    return ServerError(
        f"the server closed the connection ({f'{code}: {reason}' if reason else code})",
        retryable=code not in FINAL_CLOSES,
    )
