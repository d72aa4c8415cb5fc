"""`account-socket devnode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from account_socket.cli.process import run_until_signal, talk
from account_socket.errors import AccountSocketError, SettingsError

PUBSUB_PORT, HTTP_PORT = 8900, 8899


def command(  # noqa: PLR0917  (typer's parameters are options)
    recording: Annotated[
        Path | None, typer.Argument(help="A recording (docs/recording.md); none: the shipped one.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of PubSub; 0 picks a free one.")] = PUBSUB_PORT,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of HTTP JSON-RPC; 0 picks one.")] = HTTP_PORT,
    geyser_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of Yellowstone gRPC; 0 picks one, none: not served.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.01, max=100_000, help="Account writes per second.")] = 20,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end; slots go on growing.")] = False,
    accounts: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Spread the recording onto this many accounts.")
    ] = None,
) -> None:
    """Only the local node: Solana PubSub, HTTP JSON-RPC and Yellowstone, replaying a recording to who subscribes.

    The replay begins with the first subscription to a program.

    Example: [bold]account-socket devnode --loop --rate 500[/bold], and in a second terminal
    [bold]RPC_URL=ws://127.0.0.1:8900 account-socket serve[/bold]
    """
    run_until_signal(
        _serve(
            recording,
            host=host,
            port=port,
            http_port=http_port,
            geyser_port=geyser_port,
            rate=rate,
            loop=loop,
            accounts=accounts,
        )
    )


async def _serve(path: Path | None, **options: object) -> None:
    from account_socket.devnode import Devnode, run_devnode, shipped_recording  # noqa: PLC0415  (not for --help)
    from account_socket.sources.recording import Recording  # noqa: PLC0415

    def ready(node: Devnode) -> None:
        yellowstone = f", Yellowstone {node.geyser_url}" if options["geyser_port"] is not None else ""
        talk(f"PubSub {node.ws_url}, HTTP JSON-RPC {node.http_url}{yellowstone}; Ctrl-C stops it")

    try:
        recording = Recording.load(path) if path else shipped_recording()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    if recording.warning:
        talk(f"{path}: {recording.warning}")
    try:
        await run_devnode(recording, on_ready=ready, start_on_subscribe=True, **options)
    except OSError as error:
        raise AccountSocketError(f"cannot listen: {error}", hint="--port and --http-port choose others") from error
