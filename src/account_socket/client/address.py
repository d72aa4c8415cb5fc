"""Where a server is: its URL, which is shown without its secrets. Pure."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import SplitResult, unquote, urlsplit

from account_socket.endpoints import Endpoint, is_loopback
from account_socket.errors import SettingsError, scrub_url

DEFAULT_URL = "ws://127.0.0.1:8080/ws"


class Address:
    """
    A server's WebSocket URL; `str` and `repr` show it scrubbed.

    Attributes:
        url: with the path /ws where it had none; for opening a connection only.
        label: for people.
        direct: it is on this machine, and reached without a proxy.
    Raises:
        SettingsError: it is no WebSocket URL.
    """

    def __init__(self, url: str) -> None:
        parts = _parse(url)
        if parts is None:
            raise SettingsError(f"{scrub_url(url)} is not a WebSocket URL such as {DEFAULT_URL}")
        self._endpoint = Endpoint(url)
        self._parts = parts._replace(path="/ws") if parts.path in {"", "/"} else parts
        self.url = self._parts.geturl()
        self.label = self._endpoint.label
        self.direct = is_loopback(url)

    @property
    def with_status(self) -> str:
        """The URL, its query asking for status and gap frames."""
        query = self._parts.query
        return self._parts._replace(query=f"{query}&status=1" if query else "status=1").geturl()

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken there."""
        return self._parts.scheme == "wss"

    @property
    def host(self) -> str:
        """The host's name or address."""
        return self._parts.hostname or ""

    @property
    def port(self) -> int:
        """The port, that of the scheme where none is given."""
        return self._parts.port or (443 if self.secure else 80)

    @property
    def http_path(self) -> str:
        """What stands ahead of /v1 in the paths of HTTP: what stands ahead of /ws."""
        return self._parts.path.partition("/ws")[0].rstrip("/")

    @property
    def http_query(self) -> str:
        """The URL's query, without what only a WebSocket asks for."""
        return "&".join(pair for pair in self._parts.query.split("&") if pair.partition("=")[0] != "status")

    @property
    def authorization(self) -> str | None:
        """The value of the header that carries the URL's user info, as the WebSocket connection sends it."""
        username, password = self._parts.username, self._parts.password
        if username is None or password is None:
            return None
        said = f"{unquote(username)}:{unquote(password)}"
        return f"Basic {b64encode(said.encode()).decode()}"

    @property
    def without_tls(self) -> str:
        """The same without TLS, for people."""
        return self.label.replace("wss:", "ws:", 1)

    def scrub(self, text: str) -> str:
        """Return `text` without the secrets of this URL."""
        return self._endpoint.scrub(text)

    def __repr__(self) -> str:
        return f"Address({self.label!r})"

    def __str__(self) -> str:
        return self.label


def _parse(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"ws", "wss"} and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None
