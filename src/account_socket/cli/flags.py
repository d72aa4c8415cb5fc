"""Turns the table of settings into flags of a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import typer

from account_socket.errors import SettingsError
from account_socket.settings import Row, Settings, load, rows


def with_settings(
    *,
    without: frozenset[str] = frozenset(),
    defaults: Mapping[str, str] = MappingProxyType({}),
    panel: str = "Settings (also from the environment or .env, by the name in brackets)",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Give a command a flag for each setting; it gets those that were typed as `flags`, by public name.

    Args:
        without: public names that this command sets itself.
        defaults: in words, by public name, where this command has others.
        panel: what stands above them in `--help`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        offered = {row.field: row for row in rows() if row.name not in without}

        def run(**typed: Any) -> None:
            flags = {row.name: typed.pop(field) for field, row in offered.items()}
            command(flags={name: value for name, value in flags.items() if value is not None}, **typed)

        own = inspect.signature(command, eval_str=True).parameters
        parameters = [*(own[name] for name in own if name != "flags"), *_parameters(offered.values(), defaults, panel)]
        # What typer reads: the function itself takes whatever they name.
        run.__doc__ = command.__doc__
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__dict__["__signature__"] = inspect.Signature(parameters)
        return run

    return decorate


def load_with_upstream(flags: dict[str, str]) -> Settings:
    """Load the settings of a server. Raises SettingsError: a bad value, or nothing to read from."""
    settings = load(flags)
    if settings.rpc_url or settings.geyser_url:
        return settings
    raise SettingsError(
        "nothing to read from: neither RPC_URL nor GEYSER_URL is set",
        hint="Set RPC_URL to a Solana PubSub URL such as wss://host/?api-key=KEY, or GEYSER_URL to a Yellowstone\n"
        "gRPC endpoint such as https://host:443, in the environment or in .env;\n"
        "or try it without a node: account-socket demo",
    )


def _parameters(table: Iterable[Row], defaults: Mapping[str, str], panel: str) -> Iterator[inspect.Parameter]:
    for row in table:
        option = typer.Option(
            None,
            row.flag,
            help=_help(row, defaults.get(row.name, row.default)),
            metavar=row.values.split(",")[0].upper() if "," not in row.values else "WORD",
            rich_help_panel=panel,
            show_default=False,
        )
        yield inspect.Parameter(row.field, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=str | None)


def _help(row: Row, default: str) -> str:
    choices = f" ({row.values})" if ", " in row.values else ""
    text = f"{row.about.help[:1].upper()}{row.about.help[1:]}{choices}. Default: {default}. ({row.name})"
    return text.replace("`", "").replace("[", r"\[")
