"""`account-socket serve`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from account_socket import logs
from account_socket.cli.flags import load_with_upstream, with_settings
from account_socket.cli.process import emit, explaining_the_port, run_until_signal
from account_socket.settings import Settings

if TYPE_CHECKING:
    from account_socket.cli.progress_bar import ProgressBar


@with_settings()
def command(flags: dict[str, str]) -> None:
    """The server: reads account updates from RPC_URL and GEYSER_URL, decodes, stores and streams them to clients.

    Settings come from flags, else the environment, else .env, else defaults. Flags are visible to everybody on the
    machine: give keys and passwords in the environment or in .env. Ctrl-C and SIGTERM drain and exit.

    Example: [bold]RPC_URL=wss://host/?api-key=KEY account-socket serve[/bold]
    """
    serve(flags)


def serve(flags: dict[str, str]) -> None:
    """Run the server until a signal. Raises SettingsError."""
    settings = load_with_upstream(flags)
    bar = _progress_bar(settings)
    logs.configure(settings.rust_log, log_format=settings.log_format, secrets=settings.secrets, stream=bar)
    from account_socket import service  # noqa: PLC0415  (every backend: only a server that starts loads them)

    with explaining_the_port(settings.websocket_host, settings.websocket_port):
        run_until_signal(
            service.serve(settings, on_ready=lambda url: emit(f"listening on {url}"), show=bar.show if bar else None)
        )


def _progress_bar(settings: Settings) -> ProgressBar | None:
    """Return what draws a backfill where somebody looks on; elsewhere log lines tell of it."""
    if settings.backfill == "subscribed" or settings.log_format == "json" or not sys.stderr.isatty():
        return None
    from account_socket.cli.progress_bar import ProgressBar  # noqa: PLC0415  (start-up without rich is faster)

    return ProgressBar()
