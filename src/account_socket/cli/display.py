"""How `watch` shows updates on a terminal."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from account_socket.cli.changes import changes
from account_socket.cli.process import printable
from account_socket.client import Update

MAX_VALUE_CHARACTERS = 48


class Display:
    """Prints each update's head line and the fields that changed since the one before it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._last: dict[str, dict[str, Any]] = {}

    def show(self, update: Update) -> None:
        """Print one update as the server sent it."""
        message = json.loads(update.text)
        account = message["account"]
        before = self._last.get(account["pubkey"])
        self._last[account["pubkey"]] = account
        if before is not None and before["id"] == account["id"] is not None:
            return  # a reconnect brings the newest state again
        closed = " closed" if account.get("closed") else ""
        self._console.print(
            Text.assemble(
                (printable(str(account["created_at"])), "dim"),
                (printable(f" {account['account_type']}{closed} "), "bold red" if closed else "bold cyan"),
                printable(str(account["pubkey"])),
                (printable(f" slot {account['slot']} id {account['id']} {message['source']}"), "dim"),
            ),
            soft_wrap=True,
        )
        if before is not None:
            self._console.print(_table(before, account))


def _table(before: dict[str, Any], account: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="green")
    table.add_column(justify="right", style="red")
    table.add_column()
    table.add_column(style="bold")
    for path, old, new in changes(_watched(before), _watched(account)):
        table.add_row("  " + printable(path.removeprefix("data_json.")), _value(old), "→", _value(new))
    return table


def _watched(account: dict[str, Any]) -> dict[str, Any]:
    return {key: account[key] for key in ("owner", "lamports", "data_json")}


def _value(value: object) -> str:
    text = printable(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 1]}…"
