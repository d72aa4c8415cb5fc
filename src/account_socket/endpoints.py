"""URLs of nodes: turning one kind into the other, and keeping their secrets out of every text. Pure."""

from __future__ import annotations

import re
from base64 import b64encode
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from account_socket.errors import SettingsError, is_token, scrub_url

HTTP_PORT, PUBSUB_PORT = 8899, 8900
"""A plain Solana node serves HTTP JSON-RPC and PubSub on these; providers serve both on one port."""

_TO_WS = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_TO_HTTP = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_SHORTEST_SECRET = 4
_SHORTEST_PART = 8
_MAX_TEXT = 300


def normalize_ws_url(url: str) -> str:
    """
    Return the PubSub URL that `url` means: http(s) becomes ws(s), its port 8899 becomes 8900.

    Raises:
        SettingsError: no URL of these schemes, or one without a host; the message is scrubbed.
    """
    parts = _split(url)
    scheme = parts.scheme.lower()
    if scheme.startswith("http"):
        parts = _with_port(parts, HTTP_PORT, PUBSUB_PORT)
    return urlunsplit(parts._replace(scheme=_TO_WS[scheme], fragment=""))


def derive_http_url(ws_url: str) -> str:
    """
    Return the HTTP JSON-RPC URL beside a PubSub URL: same host, path and query, port 8900 becomes 8899.

    Raises:
        SettingsError: as `normalize_ws_url`.
    """
    parts = _split(ws_url)
    scheme = parts.scheme.lower()
    if scheme.startswith("ws"):
        parts = _with_port(parts, PUBSUB_PORT, HTTP_PORT)
    return urlunsplit(parts._replace(scheme=_TO_HTTP[scheme], fragment=""))


def is_loopback(url: str) -> bool:
    """Return whether `url` names this machine by a loopback name or address; such traffic uses no proxy."""
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def _split(url: str) -> SplitResult:
    reason = ""
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        reason = "is not a URL"
    else:
        if parts.scheme.lower() not in _TO_WS:
            reason = "has a scheme other than ws, wss, http, https"
        elif not parts.hostname:
            reason = "has no host"
    if reason:
        raise SettingsError(f"{scrub_url(url)} {reason}", hint="a node's URL looks like ws://127.0.0.1:8900")
    return parts


def _with_port(parts: SplitResult, old: int, new: int) -> SplitResult:
    if parts.port != old:
        return parts
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{new}")


class Endpoint:
    """
    A node's URL that does not show its secrets: `str` and `repr` are scrubbed, `scrub` and `conceal` clean foreign
    text.

    Raises:
        SettingsError: as `normalize_ws_url`.

    Attributes:
        url: the whole URL, secrets included; only for opening a connection.
        label: the scrubbed URL, for people.
    """

    __slots__ = ("_address", "_secrets", "label", "url")

    def __init__(self, url: str) -> None:
        _split(url)
        self.url = url
        self.label = scrub_url(url)
        self._secrets = sorted(secrets_of(url), key=len, reverse=True)
        self._address = _address_of(url)

    def scrub(self, text: str) -> str:
        """Return `text`, cut to 300 characters, with every secret of this URL replaced by `***`."""
        for secret in self._secrets:
            text = blank(text, secret)
        return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"

    def conceal(self, text: str) -> str:
        """Return `text`, all of it, without this URL's secrets, host and path: for who may not know the node."""
        text = self._address.sub("***", text)
        for secret in self._secrets:
            text = blank(text, secret)
        return text

    def __repr__(self) -> str:
        return f"Endpoint({self.label!r})"

    def __str__(self) -> str:
        return self.label


def _address_of(url: str) -> re.Pattern[str]:
    """Return what finds this URL in a text: its host with what stands around it, and its path alone."""
    parts = urlsplit(url)
    host = re.escape(f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "")
    scheme, port = r"(?:https?|wss?)://(?:[^\s/\"\\<>]*@)?", r":\d{1,5}"
    # A host without a dot may be a word of the text; a short path as well.
    named = rf"{scheme}{host}(?:{port})?|{host}{port}" + (rf"|{host}" if re.search(r"[.:]", host) else "")
    found = rf"(?:{named})(?:[/?#][^\s\"\\<>]*)?"
    if len(parts.path) >= _SHORTEST_PART:
        found += rf"|{re.escape(parts.path)}(?:\?[^\s\"\\<>]*)?"
    return re.compile(found, re.IGNORECASE)


def blank(text: str, secret: str) -> str:
    """Return `text` with `secret` replaced by `***`, also where it is cut short, down to its first 8 characters."""
    text = text.replace(secret, "***")
    while len(secret) > _SHORTEST_PART and (at := text.find(secret[:_SHORTEST_PART])) >= 0:
        end = at
        while end < len(text) and end - at < len(secret) and text[end] == secret[end - at]:
            end += 1
        text = f"{text[:at]}***{text[end:]}"
    return text


def secrets_of(url: str) -> set[str]:
    """Return every part of `url` that may be secret, in each form it may appear in."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return {url}
    user, password = parts.username or "", parts.password or ""
    found = {user, password, *(pair.partition("=")[2] for pair in parts.query.split("&"))}
    found |= {pair for pair in parts.query.split("&") if "=" not in pair}
    found |= {segment for segment in parts.path.split("/") if is_token(segment)}
    found |= {unquote(secret) for secret in found}
    if user or password:
        found.add(b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode())
    return {secret for secret in found if len(secret) >= _SHORTEST_SECRET}
