"""Threads with a connection of their own, and the way to them from the event loop and back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from account_socket.errors import StoreError
from account_socket.store.sqlite_errors import is_busy, store_error

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


@dataclass(frozen=True)
class Job:
    """One call to make in a worker, and who waits for its result."""

    work: Work[Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Hand the result to the loop, from the worker's thread; a closed loop waits for nothing."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._set, result, error)

    def _set(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Jobs:
    """
    A queue of jobs that one or several workers share.

    A job whose waiter was cancelled is still done: what it changes, it changes whole.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Job | None] = SimpleQueue()

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Queue `work` and return the future of its result, in the running loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(Job(work, loop, future))
        return future

    def take(self, seconds: float | None) -> Job | None:
        """Wait for the next job; None tells one worker to end. Raises Empty after `seconds`."""
        return self._queue.get(timeout=seconds)

    def end(self, workers: int = 1) -> None:
        """Let so many workers end after what is queued."""
        for _ in range(workers):
            self._queue.put(None)

    def __len__(self) -> int:
        return self._queue.qsize()


class Worker:
    """
    A daemon thread that does jobs one by one: a database that hangs keeps neither the loop nor the exit.

    It connects at its first job, and again after an error that may have left the connection unusable.
    """

    def __init__(
        self,
        jobs: Jobs,
        path: Path,
        connect: Callable[[], sqlite3.Connection],
        *,
        name: str,
        idle: Callable[[sqlite3.Connection], None] | None = None,
        idle_seconds: float = 1.0,
    ) -> None:
        self._jobs = jobs
        self._path = path
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._idle = idle
        self._idle_seconds = idle_seconds
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        wait = self._idle_seconds if self._idle else None
        while True:
            try:
                job = self._jobs.take(wait)
            except Empty:
                self._attempt(self._idle or _nothing)
                wait = None  # idle once; the next job starts the clock again
                continue
            if job is None:
                break
            job.settle(*self._attempt(job.work))
            del job  # its rows would live until the next one comes
            wait = self._idle_seconds if self._idle else None
        self._disconnect()

    def _attempt(self, work: Work[Any]) -> tuple[Any, BaseException | None]:
        """Return the result and no error, or None and the error that belongs to the caller."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            return work(self._connection), None
        except sqlite3.Error as error:
            self._recover(reconnect=not is_busy(error))
            failure = store_error(error, self._path)
            failure.__cause__ = error
            return None, failure
        except StoreError as error:
            self._recover(reconnect=False)
            return None, error
        except BaseException as error:  # noqa: BLE001  (a bug: it belongs to whoever awaits, not to this thread)
            self._recover(reconnect=True)
            return None, error

    def _recover(self, *, reconnect: bool) -> None:
        connection = self._connection
        if connection is None:
            return
        if not reconnect:
            try:
                connection.rollback()
            except sqlite3.Error:
                reconnect = True
        if reconnect:
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def _nothing(_: sqlite3.Connection) -> None:
    return
