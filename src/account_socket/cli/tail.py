"""`account-socket tail`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from account_socket.cli.process import emit, run_until_signal, talk
from account_socket.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from account_socket.client import Subscription

NEEDS_ARGUMENTS = True
_CONSTANTS = {"true": True, "false": False, "null": None}
_INTEGER = re.compile(r"-?(0|[1-9]\d*)")


def command(
    *,
    account_type: Annotated[str | None, typer.Option(help="The layout's name, Pool for example.")] = None,
    program: Annotated[str | None, typer.Option(help="The program that owns them.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="A dotted path into data_json and its value; several fields are AND, several values of one are OR.",
        ),
    ] = None,
    url: Annotated[str, typer.Option(help="The server.")] = "ws://127.0.0.1:8080/ws",
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many updates.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each update as the server sends it.")] = False,
    snapshot: Annotated[bool, typer.Option(help="First the states that match now.")] = True,
) -> None:
    """Print each update of all accounts that match, one line each, those that match now first.

    A lost connection is made again, and what was missed comes; where history does not reach, the states that match;
    exit 1 where what answers is no account-socket server.

    Example: [bold]account-socket tail --account-type Pool --where token_a_mint=MINT[/bold]
    """
    if account_type is None and program is None and not where:
        raise SettingsError("say which accounts: --account-type, --program or --where FIELD=VALUE")
    from account_socket.client import connect  # noqa: PLC0415  (not for --help)

    subscription = connect(url, wait_for_server=True).subscribe(
        account_type=account_type, program=program, where=_conditions(where or ()), snapshot=snapshot
    )
    run_until_signal(_tail(subscription, count, as_json=as_json))


def _conditions(typed: Iterable[str]) -> dict[str, list[str | int | bool | None]] | None:
    """Return what was typed as the protocol's `where`. Raises SettingsError."""
    where: dict[str, list[str | int | bool | None]] = {}
    for condition in typed:
        field, equals, value = condition.partition("=")
        if not field or not equals:
            raise SettingsError(f"--where {condition[:60]!r} is not FIELD=VALUE")
        where.setdefault(field, []).append(_value(value))
    return where or None


def _value(text: str) -> str | int | bool | None:
    """Return what was typed as JSON; an integer matches its decimal string too, so numbers need no quotes."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    return int(text) if _INTEGER.fullmatch(text) and len(text) < 100 else text


async def _tail(subscription: Subscription, count: int | None, *, as_json: bool) -> None:
    from account_socket import client  # noqa: PLC0415  (not for --help)
    from account_socket.cli.lines import update_line  # noqa: PLC0415  (not for --help)

    shown = 0
    async with subscription:
        async for event in subscription.events():
            match event:
                case client.Update():
                    emit(event.text if as_json else update_line(event))
                    shown += 1
                    if shown == count:
                        return
                case client.SnapshotEnd(recovered=None, count=0) if not shown:
                    talk("nothing matches yet; waiting")
                case client.SnapshotEnd(recovered=False, count=states):
                    instead = "; the states that match now came instead" if states else ""
                    talk(f"what was missed cannot be told{instead}")
                case client.Disconnected():
                    talk(f"{event.reason}; trying again in {event.retry_in:.1f} s")
