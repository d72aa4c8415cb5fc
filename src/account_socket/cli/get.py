"""`account-socket get`."""

from __future__ import annotations

from typing import Annotated

import typer

from account_socket.cli.keys import check_keys
from account_socket.cli.process import emit, run_until_signal, talk

NEEDS_ARGUMENTS = True


def command(
    pubkey: Annotated[str, typer.Argument(help="The account, base58.")],
    url: Annotated[str, typer.Option(help="The server.")] = "ws://127.0.0.1:8080/ws",
) -> None:
    """Print the newest state of an account as JSON, as the server sends it; exit 1 where nobody knows it.

    Example: [bold]account-socket get PUBKEY | jq .account.data_json[/bold]
    """
    check_keys([pubkey])
    run_until_signal(_get(pubkey, url))


async def _get(pubkey: str, url: str) -> int:
    from account_socket.client import RefusedError, connect  # noqa: PLC0415  (not for --help)

    try:
        async with connect(url) as client:
            state = await client.get(pubkey)
    except RefusedError as error:
        if error.code != "foreign":
            raise
        talk(f"{pubkey}: belongs to another program")
        return 1
    if state is None:
        talk(f"{pubkey}: no state is known")
        return 1
    emit(state.text)
    return 0
