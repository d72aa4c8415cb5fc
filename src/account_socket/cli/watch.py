"""`account-socket watch`."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from account_socket.cli.keys import check_keys
from account_socket.cli.process import emit, run_until_signal, talk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NEEDS_ARGUMENTS = True
RETRY_BASE_SECONDS, RETRY_CAP_SECONDS = 0.5, 10.0


def command(
    pubkeys: Annotated[list[str], typer.Argument(metavar="PUBKEY…", help="The accounts, base58.")],
    url: Annotated[str, typer.Option(help="The server.")] = "ws://127.0.0.1:8080/ws",
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many updates.")] = None,
    status: Annotated[bool, typer.Option("--status", help="Tell on stderr how upstream is, and of gaps.")] = False,
) -> None:
    """Subscribe to accounts and print each update and what changed; JSON lines where stdout is not a terminal.

    The first line of an account is its newest state. A lost connection is made again; exit 1 where what answers is no
    account-socket server.

    Example: [bold]account-socket watch PUBKEY | jq .account.slot[/bold]
    """
    check_keys(pubkeys)
    if sys.stdout.isatty():
        from account_socket.cli.display import Display  # noqa: PLC0415  (not for --help)

        show: Callable[[str, dict[str, Any]], None] = Display().show
    else:
        show = _print_line
    run_until_signal(_watch(list(dict.fromkeys(pubkeys)), url, count, show, status=status))


def _print_line(text: str, _message: dict[str, Any]) -> None:
    emit(text)


async def _watch(
    pubkeys: list[str], url: str, count: int | None, show: Callable[[str, dict[str, Any]], None], *, status: bool
) -> None:
    from account_socket.backoff import Backoff  # noqa: PLC0415  (not for --help)
    from account_socket.cli.subscription import NoAnswerError, ServerError, messages, requested  # noqa: PLC0415

    backoff = Backoff(RETRY_BASE_SECONDS, RETRY_CAP_SECONDS)
    shown = 0
    answered = False
    while True:
        began = time.monotonic()
        try:
            async with aclosing(messages(url, pubkeys, status=status)) as received:
                async for text, message in received:
                    answered = True
                    if "account" in message:
                        show(text, message)
                        shown += 1
                        if shown == count:
                            return
                    elif message.get("type") == "ack":
                        _tell_absent(message, requested(pubkeys, message["id"]))
                    elif message.get("type") == "status":
                        _tell_status(message)
                    elif message.get("type") == "gap":
                        _tell_gap(message)
        except ServerError as error:
            if not error.retryable or (isinstance(error, NoAnswerError) and not answered):
                raise
            wait = backoff.next(time.monotonic() - began)
            talk(f"{error}; trying again in {wait:.1f} s")
            await asyncio.sleep(wait)


def _tell_absent(ack: dict[str, Any], asked: Sequence[str]) -> None:
    for pubkey in ack["foreign"]:
        talk(f"{pubkey}: belongs to another program")
    for pubkey in sorted({*asked} - {*ack["foreign"], *ack["found"]}):
        talk(f"{pubkey}: no state is known yet; waiting for its first update")


def _printable(text: str) -> str:
    """Return what a node may have written without what would steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _tell_status(status: dict[str, Any]) -> None:
    if "slot" in status:
        talk(f"slot {status['slot']} is {status['event']}")
        return
    if "source" in status:
        reason = f": {_printable(status['reason'])}" if status.get("reason") else ""
        talk(f"upstream {status['source']} {status['event']}{reason}")
    else:
        connected = [name for name, source in status["sources"].items() if source["connected"]]
        state = "stale" if status["stale"] else "live"
        talk(f"upstream is {state} at slot {status['tip_slot']}; connected: {', '.join(connected) or 'none'}")


def _tell_gap(gap: dict[str, Any]) -> None:
    begins = "" if gap["from_slot"] is None else f"from slot {gap['from_slot']} "
    span = f"{begins}up to {gap['to_slot']}"
    if gap["healed"]:
        talk(f"gap of {gap['source']} healed, {span}")
    elif "error" in gap:
        talk(f"gap of {gap['source']} not healed yet, {span}: {_printable(gap['error'])}")
    else:
        talk(f"gap of {gap['source']}, {span}: {_printable(gap['reason'])}; states may be old until it is healed")
