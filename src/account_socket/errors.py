"""
What can go wrong outside this program, as one tree.

    AccountSocketError
    ├── SettingsError          a setting is missing or wrong; the process exits with 2
    ├── SourceError            upstream refused, broke off or answered nonsense
    │   ├── RpcError           a JSON-RPC error object or an HTTP status, with its code
    │   └── RecordingError     a recording is not one, or breaks off in a line (sources/recording.py)
    ├── StoreError             the database cannot do what was asked
    │   └── WrongClusterError  the database belongs to another cluster; the process exits with 2
    ├── CacheError             the cache cannot do what was asked
    ├── LayoutError            an IDL does not compile to a decoder
    └── DerivedError           a number cannot be derived from an account (programs/meteora_damm_v2/published.py)

A bug of ours is a built-in exception and is not caught. No message carries a secret: URLs are scrubbed with
`scrub_url` where they enter an error.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit


class AccountSocketError(Exception):
    """
    The root of the tree.

    Attributes:
        hint: What the user can do about it, or "".
        retryable: Whether the same call may succeed later.
    """

    def __init__(self, message: str, *, hint: str = "", retryable: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.retryable = retryable


class SettingsError(AccountSocketError):
    """A setting is missing or has a value that does not fit."""


class SourceError(AccountSocketError):
    """Upstream refused, broke off or answered nonsense."""


class RpcError(SourceError):
    """
    A JSON-RPC error object or an HTTP status.

    Attributes:
        code: The JSON-RPC code (negative), the HTTP status (positive), or 0 where the node gave none.
        retry_after: Seconds the node asks to wait, or None.
        said: The message of the JSON-RPC error, None where the answer was none. Neither it nor `data` names the node.
        data: The error's `data`, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int,
        retryable: bool,
        retry_after: float | None = None,
        hint: str = "",
        said: str | None = None,
        data: Any = None,
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.code = code
        self.said = said
        self.data = data
        self.retry_after = retry_after


class StoreError(AccountSocketError):
    """The database cannot do what was asked; nothing of the call was kept."""


class WrongClusterError(StoreError):
    """The database holds another cluster's accounts."""


class CacheError(AccountSocketError):
    """The cache cannot do what was asked."""


class LayoutError(AccountSocketError):
    """An IDL does not compile to a decoder."""


def is_token(segment: str) -> bool:
    """Whether a segment of a path looks like a key: long, or shorter with a digit in it."""
    return len(segment) >= 16 or (len(segment) >= 8 and any(map(str.isdigit, segment)))


def scrub_url(url: str) -> str:
    """
    Return `url` without what may be secret: user info, every query value, and long path segments (tokens).

    Host and port stay, so that a person can tell which endpoint is meant.
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "***"
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    user = "***@" if parts.username or parts.password else ""
    path = "/".join("***" if is_token(segment) else segment for segment in parts.path.split("/"))
    query = "&".join(f"{pair.split('=', 1)[0]}=***" for pair in parts.query.split("&")) if parts.query else ""
    return urlunsplit((parts.scheme, f"{user}{host}{port}", path, query, ""))
