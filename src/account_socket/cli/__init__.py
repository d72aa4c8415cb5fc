"""The command line: `account-socket COMMAND`. One file here per command, imported when it is typed."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from account_socket import __version__
from account_socket.errors import AccountSocketError, SettingsError, WrongClusterError

COMMANDS = {
    "serve": "The server: reads RPC_URL and GEYSER_URL, decodes, stores, streams to WebSocket clients.",
    "demo": "A local node replaying a recording, and the server on it: no network, no key, no Redis.",
    "devnode": "Only the local node: Solana PubSub, HTTP JSON-RPC and Yellowstone gRPC.",
    "record": "Record what a node sends, for devnode to replay.",
    "watch": "Subscribe to accounts, print each update and what changed.",
    "get": "Print the newest state of an account.",
    "history": "Print the past states of an account.",
    "tail": "Print each update of the accounts that match a filter.",
    "decode": "Decode account bytes to JSON.",
    "doctor": "Check settings, upstreams, Redis and database one by one.",
    "verify": "Compare stored accounts with what the node says.",
    "db": "Look at the database, delete history, give space back.",
}
EXIT_FAILED, EXIT_USAGE = 1, 2


class _CommandsOnDemand(TyperGroup):
    """Lists commands without importing them, so that `--help` is quick."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _load(name) if name else command, rest


def _load(name: str) -> Any:
    module = import_module(f"account_socket.cli.{name}")
    if isinstance(group := getattr(module, "group", None), typer.Typer):
        return typer.main.get_command(group)
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command(name, no_args_is_help=getattr(module, "NEEDS_ARGUMENTS", False))(module.command)
    return typer.main.get_command(single)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _application() -> typer.Typer:
    application = typer.Typer(
        name="account-socket",
        cls=_CommandsOnDemand,
        add_completion=False,
        # Tracebacks with local variables would show URLs and tokens.
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @application.callback(no_args_is_help=True)
    def account_socket(
        version: bool = typer.Option(
            False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ) -> None:
        """Live, decoded Solana account state over WebSocket.

        Example: [bold]account-socket demo[/bold], then in a second terminal what it prints.
        """

    for name, help_text in COMMANDS.items():
        application.command(name, help=help_text)(_listed)
    application.command("run", hidden=True)(_listed)
    return application


def _listed() -> None:
    """Stand in for a command in the list; `_CommandsOnDemand` runs the real one."""


def main() -> None:
    """Run what the command line says; exit 0 done, 1 failed, 2 wrong usage or settings."""
    # gRPC's core tells stderr of every broken connection, in lines of its own; what matters of them is logged here.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Until a command sets handlers of its own there is nothing to drain.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _application()()
    except AccountSocketError as error:
        from account_socket.cli.process import talk  # noqa: PLC0415  (not for --help)

        for line in filter(None, [str(error), error.hint]):
            talk(line)
        sys.exit(EXIT_USAGE if isinstance(error, SettingsError | WrongClusterError) else EXIT_FAILED)
