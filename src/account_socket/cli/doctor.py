"""`account-socket doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from textwrap import indent

from account_socket.cli.flags import load_with_upstream, with_settings
from account_socket.cli.process import emit, run_until_signal
from account_socket.errors import AccountSocketError, SettingsError

CHECK_SECONDS = 15.0
"""Each check has its own shorter limits; this one is for what they forget."""


@with_settings()
def command(flags: dict[str, str]) -> None:
    """Check settings, RPC, Redis and database one by one and say what to do; exit 1 if anything fails.

    Nothing is changed or created.

    Example: [bold]account-socket doctor[/bold]
    """
    run_until_signal(_examine(flags))


async def _examine(flags: dict[str, str]) -> int:
    try:
        settings = load_with_upstream(flags)
    except SettingsError as error:
        _failed("settings", error)
        return 1
    emit("ok    settings")
    from account_socket.cli.checks import checks  # noqa: PLC0415  (not for --help)

    failures = 0
    running = [(name, asyncio.create_task(_limited(check))) for name, check in checks(settings)]
    for name, task in running:
        try:
            emit(f"ok    {name}: {await task}")
        except (AccountSocketError, TimeoutError) as error:
            _failed(name, error)
            failures += 1
    return min(failures, 1)


async def _limited(check: Callable[[], Awaitable[str]]) -> str:
    async with asyncio.timeout(CHECK_SECONDS):
        return await check()


def _failed(name: str, error: Exception) -> None:
    emit(f"FAIL  {name}: " + indent(str(error) or "no answer in time", " " * 6).lstrip())
    if isinstance(error, AccountSocketError) and error.hint:
        emit(indent(error.hint, " " * 6))
