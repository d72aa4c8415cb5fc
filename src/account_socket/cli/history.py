"""`account-socket history`."""

from __future__ import annotations

from typing import Annotated

import typer

from account_socket.cli.keys import check_keys
from account_socket.cli.process import emit, run_until_signal, talk

NEEDS_ARGUMENTS = True


def command(
    pubkey: Annotated[str, typer.Argument(help="The account, base58.")],
    url: Annotated[str, typer.Option(help="The server.")] = "ws://127.0.0.1:8080/ws",
    limit: Annotated[int, typer.Option(min=1, help="At most so many states.")] = 20,
    before: Annotated[int | None, typer.Option(min=1, metavar="ID", help="Only states of lower ids.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each state as a line of JSON, fields and all.")
    ] = False,
) -> None:
    """Print the past states of an account, newest first; exit 1 where the server has none.

    Example: [bold]account-socket history PUBKEY --limit 1000 --json | jq .data_json.sqrt_price[/bold]
    """
    check_keys([pubkey])
    run_until_signal(_history(pubkey, url, limit, before, as_json=as_json))


async def _history(pubkey: str, url: str, limit: int, before: int | None, *, as_json: bool) -> int:
    from account_socket.cli.lines import account_json, account_line  # noqa: PLC0415  (not for --help)
    from account_socket.client import connect  # noqa: PLC0415  (not for --help)

    told = False
    async with connect(url) as client:
        async for account in client.history(pubkey, before_id=before, limit=limit):
            emit(account_json(account) if as_json else account_line(account))
            told = True
    if told:
        return 0
    talk(f"{pubkey}: no past state is known" + (f" before id {before}" if before else ""))
    return 1
