"""What each command shares as a process: the event loop, signals, talk on stderr, a reader of stdout that left."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from account_socket.errors import AccountSocketError

PORT_ERRORS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


def printable(text: str) -> str:
    """
    Return lines that steer no terminal, whoever wrote them.

    What is not printable is shown as JSON escapes it, tabs and carriage returns as spaces: JSON keeps its sense.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _SHOWN.get(each) or _escaped(each) for each in text)


_SHOWN = {"\n": "\n", "\t": " ", "\r": " "}


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def talk(text: str) -> None:
    """Tell the person something; results go to stdout, talk to stderr."""
    typer.echo(printable(text), err=True)


def emit(line: str) -> None:
    """
    Write one line of the result at once, as `printable` shows it.

    Raises:
        BrokenPipeError: nobody reads stdout any more (`… | head`); `run_until_signal` ends on it quietly.
    """
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()


def run_until_signal(main: Coroutine[Any, Any, int | None]) -> None:
    """
    Run `main` on the fastest loop there is; its result is the exit code, None is 0.

    SIGINT, SIGTERM and a terminal that is closed (SIGHUP) cancel it and exit with 0, as does a closed stdout.
    """
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            code = runner.run(_cancelled_by_signals(main))
    except BrokenPipeError:
        # Python flushes stdout once more at exit; that must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    raise typer.Exit(code or 0)


@contextmanager
def explaining_the_port(host: str, port: int) -> Iterator[None]:
    """Turn the operating system's refusal of a port into an error that says what to do. Raises AccountSocketError."""
    try:
        yield
    except OSError as error:
        if error.errno not in PORT_ERRORS and not isinstance(error, socket.gaierror):
            raise
        raise AccountSocketError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}",
            hint="Choose others: WEBSOCKET_HOST and WEBSOCKET_PORT, or --websocket-host and --websocket-port.",
        ) from error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  (absent on some platforms)
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _cancelled_by_signals(main: Coroutine[Any, Any, int | None]) -> int | None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(main)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup SIGHUP is ignored, and must stay so.
        if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:
            loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if stopped:
            return 0
        raise
