"""A subscription: an async iterator over updates that makes its connection again and goes on where it was."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self

from account_socket.backoff import Backoff
from account_socket.client.address import Address
from account_socket.client.connection import Connection, Patience, open_connection
from account_socket.client.errors import (
    LATER_CLOSES,
    ClosedError,
    NoAnswerError,
    NotAServerError,
    RefusedError,
    ServerError,
)
from account_socket.client.frames import Ack, Disconnected, Event, Frame, Refusal, SnapshotEnd, Update, read_frame
from account_socket.client.progress import Position, Progress
from account_socket.client.selection import Selection

LATER_SECONDS = 5.0
"""The least wait where the server says that it is full, or that this client asks too much."""

_log = logging.getLogger("account_socket.client")


class Subscription:
    """
    What `Client.subscribe` returns; nothing is sent before it is first asked for an update.

    It has one connection, read only while somebody asks for the next update: a slow reader holds up nobody else, and
    what waits for it stays bounded, here (16 messages) and at the server. A cancelled read loses nothing. Dropped,
    also by leaving its loop with `break`, it is unsubscribed; `async with` or `close` do it at once.

    Raises (each read):
        ServerError: the server refused for good, is none, or (without `wait_for_server`) was not there at first.
    """

    def __init__(
        self,
        address: Address,
        selection: Selection,
        patience: Patience,
        *,
        status: bool = False,
        position: Position | None = None,
        wait_for_server: bool = False,
    ) -> None:
        self._connection: Connection | None = None
        self._address = address
        self._patience = patience
        self._status = status
        self._progress = Progress(selection, position)
        self._wait_for_server = wait_for_server
        self._answered = False
        self._backoff = Backoff(patience.retry, patience.retry_most)
        self._connected_at = self._retry_at = 0.0
        self._ending = asyncio.Event()
        self._connecting = asyncio.Lock()
        self._opening: asyncio.Timeout | None = None
        self._reading = False

    @property
    def recovered(self) -> bool | None:
        """Whether the last reconnect missed nothing; None before the first one has been answered."""
        return self._progress.recovered

    @property
    def position(self) -> Position | None:
        """Where a later `subscribe(…, position=…)` can go on; None where it can only begin anew."""
        return self._progress.position

    def __aiter__(self) -> AsyncIterator[Update]:
        return self

    async def __anext__(self) -> Update:
        while not isinstance(event := await self._next(), Update):
            pass
        return event

    def events(self) -> AsyncIterator[Event]:
        """Iterate over everything that is told, in order: updates, answers, breaks, and status where asked for."""
        return _Events(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Unsubscribe; whoever reads gets the end. It may be called again."""
        if self._opening is not None and not self._ending.is_set():
            self._opening.reschedule(0.0)
        self._ending.set()
        async with self._connecting:  # a connection that is just being made is gone behind it
            await self._disconnect()

    def __del__(self) -> None:
        # Nobody can read it any more; the loop, which may be gone as well, would keep its socket.
        if (connection := getattr(self, "_connection", None)) is not None:
            connection.abort()

    async def _next(self) -> Event:
        if self._reading:
            raise RuntimeError("another task is reading this subscription; give each task one of its own")
        self._reading = True
        try:
            while True:
                if (event := await self._advance()) is not None:
                    return event
        finally:
            self._reading = False

    async def _advance(self) -> Event | None:
        if self._ending.is_set():
            raise StopAsyncIteration
        try:
            connection = self._connection or await self._connect()
            data = await connection.receive(answer_due=self._progress.waiting)
            return self._take(data)
        except ServerError as error:
            if self._ending.is_set():
                raise StopAsyncIteration from None
            await self._disconnect()
            return self._try_again(error)

    async def _connect(self) -> Connection:
        if (wait := self._retry_at - time.monotonic()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), wait)
        async with self._connecting:
            connection = await self._open()
            try:
                connection.send(self._progress.begin())
            except BaseException:
                connection.abort()
                raise
            self._connection, self._connected_at = connection, time.monotonic()
            return connection

    async def _open(self) -> Connection:
        if self._ending.is_set():
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(None) as self._opening:  # `close` lets it run out
                return await open_connection(self._address, self._patience, status=self._status)
        except TimeoutError:
            raise StopAsyncIteration from None
        finally:
            self._opening = None

    def _take(self, data: bytes) -> Event | None:
        try:
            frame = read_frame(data)
            self._answered = True
            return self._note(frame)
        except ValueError as error:
            raise NotAServerError(self._address.label) from error

    def _note(self, frame: Frame) -> Event | None:
        """Return what a frame tells. Raises ServerError: a refusal; ValueError: no server of ours sent it."""
        match frame:
            case Update():
                return frame if self._progress.see(frame) else None
            case Ack():
                return self._progress.answer(frame)
            case SnapshotEnd():
                return self._progress.end_snapshot(frame)
            case Refusal(code="invalid_message") if self._progress.give_up_resuming():
                raise ServerError("the server cannot resume this subscription", retryable=True)
            case Refusal():
                raise RefusedError(frame.code, frame.message)
        return frame

    def _try_again(self, error: ServerError) -> Disconnected:
        if not self._may_pass(error):
            self._ending.set()
            raise error
        wait = self._backoff.next(time.monotonic() - self._connected_at if self._connected_at else 0.0)
        if isinstance(error, RefusedError) or (isinstance(error, ClosedError) and error.code in LATER_CLOSES):
            wait += LATER_SECONDS
        self._connected_at, self._retry_at = 0.0, time.monotonic() + wait
        _log.info("%s; trying again in %.1f s", error, wait)
        return Disconnected(reason=str(error), retry_in=wait)

    def _may_pass(self, error: ServerError) -> bool:
        if not self._answered:
            return error.retryable and self._wait_for_server and not isinstance(error, NoAnswerError)
        # While the server is away the proxy ahead of it may answer a handshake with a page of its own.
        shook_hands = bool(self._connected_at)
        return error.retryable or (isinstance(error, NotAServerError) and not shook_hands)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class _Events(AsyncIterator[Event]):
    """Reads a subscription, and leaves out nothing; one that is cancelled loses nothing."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    async def __anext__(self) -> Event:
        return await self._subscription._next()  # noqa: SLF001  (its other half)
