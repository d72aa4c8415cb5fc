"""Reading by HTTP, with the standard library alone: the newest state, and history."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
from contextlib import suppress
from typing import TypeVar
from urllib.parse import quote

import msgspec

from account_socket.client.address import Address
from account_socket.client.connection import PLAIN_REASONS, TRANSIENT_STATUSES, Patience, words
from account_socket.client.errors import NoAnswerError, NotAServerError, RefusedError, ServerError
from account_socket.client.frames import Account, Update, decode, read_frame

MAX_ANSWER_BYTES = 64 * 2**20
NO_ROUTE = "there is nothing at "
"""What the answer to a path that is none begins with: the URL leads elsewhere than it should."""

_Answer = TypeVar("_Answer")


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    Some updates of one account, newest first.

    Attributes:
        next: the `before_id` of the page behind this one; None at the end.
    """

    pubkey: str
    epoch: str
    updates: tuple[Account, ...]
    next: int | None = None


class _Reason(msgspec.Struct):
    code: str
    message: str


class _Refusal(msgspec.Struct):
    error: _Reason


class Reader:
    """Makes one request after another, each on a connection of its own. All raise ServerError."""

    def __init__(self, address: Address, patience: Patience) -> None:
        self._address = address
        self._patience = patience

    async def state(self, pubkey: str) -> Update:
        """Return the newest state. Raises RefusedError: `not_found`, `foreign`, …."""
        body = await self._get(f"/v1/accounts/{quote(pubkey, safe='')}")
        try:
            frame = read_frame(body)
        except ValueError as error:
            raise NotAServerError(self._address.label) from error
        if not isinstance(frame, Update) or frame.pubkey != pubkey:
            raise NotAServerError(self._address.label)
        return frame

    async def history(self, pubkey: str, *, before_id: int | None, limit: int) -> HistoryPage:
        """Return one page of an account's updates, newest first."""
        before = "" if before_id is None else f"&before_id={before_id}"
        target = f"/v1/accounts/{quote(pubkey, safe='')}/history?limit={limit}{before}"
        page = self._decoded(await self._get(target), HistoryPage)
        if page.next is not None and before_id is not None and page.next >= before_id:  # it would have no end
            raise NotAServerError(self._address.label)
        return page

    def _decoded(self, body: bytes, type: type[_Answer]) -> _Answer:
        try:
            return decode(body, type)
        except ValueError as error:
            raise NotAServerError(self._address.label) from error

    async def _get(self, target: str) -> bytes:
        try:
            status, body = await self._exchange(self._target(target))
        except TimeoutError as error:
            seconds = self._patience.answer
            raise NoAnswerError(f"{self._address}: no answer for {seconds:.0f} seconds", retryable=True) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        if status == http.HTTPStatus.OK:
            return body
        try:
            refused = decode(body, _Refusal).error
        except ValueError:
            if status in TRANSIENT_STATUSES:
                raise ServerError(f"{self._address}: HTTP {status}", retryable=True) from None
            raise NotAServerError(self._address.label) from None
        if refused.message.startswith(NO_ROUTE):
            raise NotAServerError(self._address.label, refused.message)
        raise RefusedError(refused.code, refused.message)

    def _target(self, target: str) -> str:
        """Return a path, which may have a query, with what the server's URL has around it."""
        query = self._address.http_query
        joined = "&" if "?" in target else "?"
        return self._address.http_path + target + (joined + query if query else "")

    @property
    def _headers(self) -> dict[str, str]:
        authorization = self._address.authorization
        return {"Accept": "application/json"} | ({} if authorization is None else {"Authorization": authorization})

    async def _exchange(self, target: str) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._address.secure else http.client.HTTPConnection
        connection = kind(self._address.host, self._address.port, timeout=self._patience.open)

        def exchange() -> tuple[int, bytes]:
            try:
                connection.connect()
                connection.sock.settimeout(self._patience.answer)
                connection.request("GET", target, headers=self._headers)
                response = connection.getresponse()
                return response.status, _body(response)
            finally:
                connection.close()

        try:
            async with asyncio.timeout(self._patience.answer):
                return await asyncio.to_thread(exchange)
        finally:
            # A thread that still reads, as nobody waits for it any more, wakes up and ends.
            if (line := connection.sock) is not None:
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)

    def _unreachable(self, error: Exception) -> ServerError:
        if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
            return NotAServerError(self._address.label)
        if isinstance(error, ssl.SSLError) and error.reason in PLAIN_REASONS:
            hint = f"without TLS: {self._address.without_tls}"
            return ServerError(f"{self._address}: does not speak TLS", hint=hint)
        cut = isinstance(error, http.client.IncompleteRead)
        told = "the answer was cut off" if cut else self._address.scrub(words(error))
        return ServerError(f"{self._address}: {told}", retryable=True)


def _body(response: http.client.HTTPResponse) -> bytes:
    """
    Return an answer's body, which a connection that ends early leaves cut off.

    Raises:
        HTTPException: it is cut off, or the head was, so that nothing says how long it is.
    """
    body = response.read(MAX_ANSWER_BYTES)
    unsaid = response.length is None and not response.chunked
    if len(body) < MAX_ANSWER_BYTES and (response.length or (unsaid and not body)):
        raise http.client.IncompleteRead(body, response.length)
    return body
