"""
What the value of a single setting may be: each function takes a value and returns it in the form the program uses.

A bad value is a ValueError that says what is wrong; where the value may be a secret, without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from account_socket import logs
from account_socket.database_url import parse_database_url
from account_socket.endpoints import derive_http_url, normalize_ws_url
from account_socket.errors import SettingsError


def split(value: object) -> object:
    """Take comma-separated text apart; a tuple stays as it is."""
    return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value


def _node_url(url: str, convert: Callable[[str], str]) -> str:
    if "://" not in url:
        raise ValueError("is not a URL such as wss://host/?api-key=KEY")
    with _as_value_error():
        return convert(url)


def websocket_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Return PubSub URLs (`endpoints.normalize_ws_url`), each once."""
    return tuple(dict.fromkeys(_node_url(url, normalize_ws_url) for url in urls))


def http_url(url: str) -> str:
    """Return an HTTP JSON-RPC URL (`endpoints.derive_http_url`)."""
    return _node_url(url, derive_http_url)


def database_url(url: str) -> str:
    """Accept what names a database this version can open."""
    with _as_value_error():
        parse_database_url(url)
    return url


def redis_url(url: str) -> str:
    """Accept what redis-py can read, and `memory://`."""
    parts = urlsplit(url)
    if parts.scheme not in {"redis", "rediss", "unix", "memory"} or "://" not in url:
        raise ValueError("is not redis://, rediss://, unix:// or memory://")
    database = parts.path.strip("/")
    if parts.scheme in {"redis", "rediss"} and not re.fullmatch(r"\d{0,5}", database):
        raise ValueError("names a Redis database that is not a number")
    if parts.scheme == "unix" and not database:
        raise ValueError("names no socket file")
    _ = parts.port  # raises ValueError, as this function does
    return url


def host(host: str) -> str:
    """Return an address without brackets, or a host name."""
    host = host.removeprefix("[").removesuffix("]")
    try:
        return str(ip_address(host))
    except ValueError:
        if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host):
            return host
    raise ValueError("is not an IP address or a host name (the port is WEBSOCKET_PORT)")


def origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Return origins as browsers send them, lower case; `*` among them means any, which is ()."""
    for origin in origins:
        if origin not in {"*", "null"} and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+/?", origin, re.IGNORECASE):
            raise ValueError(f"{origin!r} is not an origin such as https://example.org")
    return () if "*" in origins else tuple(origin.rstrip("/").lower() for origin in origins)


def directives(text: str) -> str:
    """Accept what `logs.parse_directives` accepts."""
    with _as_value_error():
        logs.parse_directives(text)
    return text


@contextmanager
def _as_value_error() -> Iterator[None]:
    """Pydantic gathers ValueErrors, so that all bad values are told at once."""
    try:
        yield
    except SettingsError as exc:
        raise ValueError("; ".join(filter(None, (str(exc), exc.hint)))) from exc


def geyser_url(url: str) -> str:
    """Accept `http(s)://host[:port]`, what gRPC can be reached by."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("is not http(s)://host:port")
    if parts.path.strip("/") or parts.query or parts.username:
        raise ValueError("has more than host and port; a token in it belongs into GEYSER_X_TOKEN")
    _ = parts.port  # raises ValueError, as this function does
    return url


def token(text: str) -> str:
    """Accept what HTTP/2 metadata can carry."""
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("has characters that a token cannot have")
    return text
