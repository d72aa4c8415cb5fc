"""`account-socket watch`."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from account_socket.cli.process import emit, run_until_signal, talk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NEEDS_ARGUMENTS = True
RETRY_BASE_SECONDS, RETRY_CAP_SECONDS = 0.5, 10.0


def command(
    pubkeys: Annotated[list[str], typer.Argument(metavar="PUBKEY…", help="The accounts, base58.")],
    url: Annotated[str, typer.Option(help="The server.")] = "ws://127.0.0.1:8080/ws",
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many updates.")] = None,
) -> None:
    """Subscribe to accounts and print each update and what changed; JSON lines where stdout is not a terminal.

    The first line of an account is its newest state. A lost connection is made again.

    Example: [bold]account-socket watch PUBKEY | jq .account.slot[/bold]
    """
    if sys.stdout.isatty():
        from account_socket.cli.display import Display  # noqa: PLC0415  (not for --help)

        show: Callable[[str, dict[str, Any]], None] = Display().show
    else:
        show = _print_line
    run_until_signal(_watch(list(dict.fromkeys(pubkeys)), url, count, show))


def _print_line(text: str, _message: dict[str, Any]) -> None:
    emit(text)


async def _watch(pubkeys: list[str], url: str, count: int | None, show: Callable[[str, dict[str, Any]], None]) -> None:
    from account_socket.backoff import Backoff  # noqa: PLC0415  (not for --help)
    from account_socket.cli.subscription import ServerError, messages, requested  # noqa: PLC0415

    backoff = Backoff(RETRY_BASE_SECONDS, RETRY_CAP_SECONDS)
    shown = 0
    while True:
        began = time.monotonic()
        try:
            async with aclosing(messages(url, pubkeys)) as received:
                async for text, message in received:
                    if "account" in message:
                        show(text, message)
                        shown += 1
                        if shown == count:
                            return
                    elif message.get("type") == "ack":
                        _tell_absent(message, requested(pubkeys, message["id"]))
        except ServerError as error:
            if not error.retryable:
                raise
            wait = backoff.next(time.monotonic() - began)
            talk(f"{error}; trying again in {wait:.1f} s")
            await asyncio.sleep(wait)


def _tell_absent(ack: dict[str, Any], asked: Sequence[str]) -> None:
    for pubkey in ack["foreign"]:
        talk(f"{pubkey}: belongs to another program")
    for pubkey in sorted({*asked} - {*ack["foreign"], *ack["found"]}):
        talk(f"{pubkey}: no state is known yet; waiting for its first update")
