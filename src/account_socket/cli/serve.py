"""`account-socket serve`."""

from __future__ import annotations

from account_socket import logs
from account_socket.cli.flags import load_with_upstream, with_settings
from account_socket.cli.process import emit, explaining_the_port, run_until_signal


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
    logs.configure(settings.rust_log, log_format=settings.log_format, secrets=settings.secrets)
    from account_socket import service  # noqa: PLC0415  (every backend: only a server that starts loads them)

    with explaining_the_port(settings.websocket_host, settings.websocket_port):
        run_until_signal(service.serve(settings, on_ready=lambda url: emit(f"listening on {url}")))
