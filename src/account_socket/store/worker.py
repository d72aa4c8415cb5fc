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

import structlog

from account_socket.errors import StoreError
from account_socket.store.sqlite_errors import is_busy, store_error

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

log = structlog.get_logger("account_socket.database")


@dataclass(frozen=True)
class Job:
    """One call to make in a worker, and who waits for its result; without a call the worker ends."""

    work: Work[Any] | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
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

    Attributes:
        workers: how many take from it; without any nothing can be submitted.
    """

    def __init__(self) -> None:
        self.workers = 0
        self._queue: SimpleQueue[Job] = SimpleQueue()

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Queue `work` and return the future of its result, in the running loop. Raises StoreError when closed."""
        if not self.workers:
            raise StoreError("the database is not open")
        return self._put(work)

    def end(self) -> list[asyncio.Future[None]]:
        """Let the workers end after what is queued; the futures are done when their connections are closed."""
        workers, self.workers = self.workers, 0
        return [self._put(None) for _ in range(workers)]

    def _put(self, work: Work[Any] | None) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.put(Job(work, loop, future))
        return future

    def take(self, seconds: float | None) -> Job:
        """Wait for the next job. Raises Empty after `seconds`."""
        return self._queue.get(timeout=seconds)

    def __len__(self) -> int:
        return self._queue.qsize()


class Worker:
    """
    A daemon thread that does jobs one by one: a database that hangs keeps neither the loop nor the exit.

    It connects at its first job, and again after an error that may have left the connection unusable.
    After `idle_seconds` without a job it does `idle`, again and again; what goes wrong there is logged.
    """

    def __init__(
        self,
        jobs: Jobs,
        path: Path,
        connect: Callable[[], sqlite3.Connection],
        *,
        name: str,
        idle: Work[None] | None = None,
        idle_seconds: float | None = None,
    ) -> None:
        self._jobs = jobs
        self._path = path
        self._connect = connect
        self._idle = idle
        self._idle_seconds = idle_seconds
        self._connection: sqlite3.Connection | None = None
        self._trouble = ""
        jobs.workers += 1
        Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.take(self._idle_seconds)
            except Empty:
                if self._idle is not None:
                    self._report(self._attempt(self._idle)[1])
                continue
            if job.work is None:
                self._disconnect()
                job.settle()
                return
            job.settle(*self._attempt(job.work))
            del job  # its rows would live until the next one comes

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
        except BaseException as error:  # noqa: BLE001  (it belongs to whoever waits, not to this thread)
            self._recover(reconnect=not isinstance(error, StoreError))
            return None, error

    def _recover(self, *, reconnect: bool) -> None:
        if self._connection is None:
            return
        if not reconnect:
            try:
                self._connection.rollback()
            except sqlite3.Error:
                reconnect = True
        if reconnect:
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _report(self, error: BaseException | None) -> None:
        trouble = str(error) if error is not None else ""
        if trouble and trouble != self._trouble:
            with suppress(Exception):  # a log that cannot be written must not end the thread
                log.warning("database upkeep failed", reason=trouble)
        self._trouble = trouble
