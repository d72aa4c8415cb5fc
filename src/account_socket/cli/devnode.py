"""`account-socket devnode`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from account_socket.cli.process import run_until_signal, talk
from account_socket.errors import AccountSocketError, SettingsError

if TYPE_CHECKING:
    from account_socket.devnode import Devnode
    from account_socket.sources.recording import Recording

PUBSUB_PORT, HTTP_PORT = 8900, 8899
LOWEST_RATE, HIGHEST_RATE = 0.01, 100_000


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
    rate: Annotated[
        str, typer.Option(metavar="NUMBER|recorded", help="Account writes per second, or each at its recorded time.")
    ] = "20",
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
    pace = _rate(rate)
    # Before the loop runs, so that a signal ends a long loading too.
    loaded = _load(recording, timed=pace == "recorded")
    run_until_signal(
        _serve(
            loaded,
            host=host,
            port=port,
            http_port=http_port,
            geyser_port=geyser_port,
            rate=pace,
            loop=loop,
            accounts=accounts,
        )
    )


def _rate(text: str) -> float | Literal["recorded"]:
    if text == "recorded":
        return "recorded"
    with suppress(ValueError):
        if LOWEST_RATE <= (rate := float(text)) <= HIGHEST_RATE:
            return rate
    raise SettingsError(f"--rate {text}: neither a number from {LOWEST_RATE} to {HIGHEST_RATE}, nor `recorded`")


def _load(path: Path | None, *, timed: bool) -> Recording:
    """Return the recording in a file, or the shipped one. Raises SettingsError, which names the file."""
    from account_socket.devnode import shipped_recording  # noqa: PLC0415  (not for --help)
    from account_socket.sources.recorded_write import RecordingError  # noqa: PLC0415
    from account_socket.sources.recording import Recording  # noqa: PLC0415

    try:
        recording = Recording.load(path) if path else shipped_recording()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}") from error
    except RecordingError as error:
        raise SettingsError(f"{path}: {error}") from error
    if recording.warning:
        talk(f"{path}: {recording.warning}")
    if timed and not recording.timed:
        raise SettingsError(f"{path or 'the shipped recording'}: has no writes with times: --rate takes a number")
    return recording


async def _serve(recording: Recording, **options: object) -> None:
    from account_socket.devnode import ListenError, run_devnode  # noqa: PLC0415  (not for --help)

    def ready(node: Devnode) -> None:
        yellowstone = f", Yellowstone {node.geyser_url}" if options["geyser_port"] is not None else ""
        talk(f"PubSub {node.ws_url}, HTTP JSON-RPC {node.http_url}{yellowstone}; Ctrl-C stops it")

    try:
        await run_devnode(recording, on_ready=ready, start_on_subscribe=True, **options)
    except ListenError as error:
        raise AccountSocketError(
            f"cannot listen on {options['host']}, port {error.port}: {error}",
            hint=f"--{error.argument.replace('_', '-')} chooses another",
        ) from error
