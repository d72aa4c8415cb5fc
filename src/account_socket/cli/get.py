"""`account-socket get`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated

import typer

from account_socket.cli.keys import check_keys
from account_socket.cli.process import emit, run_until_signal, talk

NEEDS_ARGUMENTS = True
ANSWER_SECONDS = 15.0


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
    from account_socket.cli.subscription import ServerError, messages  # noqa: PLC0415  (not for --help)

    try:
        async with asyncio.timeout(ANSWER_SECONDS), aclosing(messages(url, [pubkey])) as received:
            async for text, message in received:
                if message.get("pubkey") == pubkey:
                    emit(text)
                    return 0
                if message.get("type") == "ack":
                    foreign = pubkey in message["foreign"]
                    talk(f"{pubkey}: " + ("belongs to another program" if foreign else "no state is known"))
                    return 1
    except TimeoutError:
        raise ServerError(f"{url}: no answer for {ANSWER_SECONDS:.0f} seconds") from None
    return 1
