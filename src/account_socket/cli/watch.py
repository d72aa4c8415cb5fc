"""`account-socket watch`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from account_socket.cli.keys import check_keys
from account_socket.cli.process import emit, run_until_signal, talk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from account_socket.client import Gap, Patience, Status, Subscribed, Update

NEEDS_ARGUMENTS = True


def command(
    pubkeys: Annotated[list[str], typer.Argument(metavar="PUBKEY…", help="The accounts, base58.")],
    url: Annotated[str, typer.Option(help="The server.")] = "ws://127.0.0.1:8080/ws",
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many updates.")] = None,
    status: Annotated[bool, typer.Option("--status", help="Tell on stderr how upstream is, and of gaps.")] = False,
) -> None:
    """Subscribe to accounts and print each update and what changed; JSON lines where stdout is not a terminal.

    The first line of an account is its newest state. A lost connection is made again, and what was missed follows from
    history; exit 1 where what answers is no account-socket server.

    Example: [bold]account-socket watch PUBKEY | jq .account.slot[/bold]
    """
    check_keys(pubkeys)
    show: Callable[[Update], None] = _print_line
    if sys.stdout.isatty():
        from account_socket.cli.display import Display  # noqa: PLC0415  (not for --help)

        show = Display().show
    run_until_signal(_watch(pubkeys, url, count, show, status=status))


def _print_line(update: Update) -> None:
    emit(update.text)


async def _watch(
    pubkeys: Sequence[str],
    url: str,
    count: int | None,
    show: Callable[[Update], None],
    *,
    status: bool,
    patience: Patience | None = None,
) -> None:
    from account_socket import client  # noqa: PLC0415  (not for --help)

    shown = 0
    server = client.connect(url, wait_for_server=True, patience=patience)
    async with server, server.subscribe(*pubkeys, status=status) as subscription:
        async for event in subscription.events():
            match event:
                case client.Update():
                    show(event)
                    shown += 1
                    if shown == count:
                        return
                case client.Subscribed():
                    _tell_absent(event)
                case client.Disconnected():
                    talk(f"{event.reason}; trying again in {event.retry_in:.1f} s")
                case client.Status():
                    _tell_status(event)
                case client.Gap():
                    _tell_gap(event)


def _tell_absent(answer: Subscribed) -> None:
    for pubkey in answer.foreign:
        talk(f"{pubkey}: belongs to another program")
    for pubkey in sorted({*answer.asked} - {*answer.foreign, *answer.found}):
        talk(f"{pubkey}: no state is known yet; waiting for its first update")
    for pubkey in answer.unrecovered:
        talk(f"{pubkey}: what was missed cannot be told; its newest state came instead")


def _tell_status(status: Status) -> None:
    if status.slot is not None:
        talk(f"slot {status.slot} is {status.event}")
    elif status.source is not None:
        reason = f": {status.reason}" if status.reason else ""
        talk(f"upstream {status.source} {status.event}{reason}")
    else:
        connected = [name for name, source in status.sources.items() if source.connected]
        state = "stale" if status.stale else "live"
        talk(f"upstream is {state} at slot {status.tip_slot}; connected: {', '.join(connected) or 'none'}")


def _tell_gap(gap: Gap) -> None:
    begins = "" if gap.from_slot is None else f"from slot {gap.from_slot} "
    span = f"{begins}up to {gap.to_slot}"
    if gap.healed:
        talk(f"gap of {gap.source} healed, {span}")
    elif gap.error is not None:
        talk(f"gap of {gap.source} not healed yet, {span}: {gap.error}")
    else:
        talk(f"gap of {gap.source}, {span}: {gap.reason}; states may be old until it is healed")
