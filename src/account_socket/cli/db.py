"""`account-socket db stats` and `account-socket db prune`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

from account_socket.cli.flags import with_settings
from account_socket.cli.process import emit, talk
from account_socket.database_url import parse_database_url
from account_socket.errors import SettingsError
from account_socket.settings import Settings, given, rows
from account_socket.store import housework
from account_socket.store.summary import Summary, summarize

COUNT_SECONDS = 1.5
TELL_SECONDS = 5.0
MEGABYTE = 10**6
_OTHER_SETTINGS = frozenset(row.name for row in rows()) - {"DATABASE_URL"}

group = typer.Typer(
    name="db",
    add_completion=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    help="Look at the database, delete history, give space back: beside a running server or without one.\n\n"
    "Example: [bold]account-socket db stats[/bold]",
)


@group.command("stats")
@with_settings(without=_OTHER_SETTINGS)
def stats(
    flags: dict[str, str],
    exact: Annotated[bool, typer.Option("--exact", help="Count everything, however long it takes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object; sizes in bytes.")] = False,
) -> None:
    """Tell what the database holds, within seconds; what takes longer to count is told as such.

    Example: [bold]account-socket db stats --json | jq .database_bytes[/bold]
    """
    summary = summarize(_path(flags), seconds=None if exact else COUNT_SECONDS)
    if as_json:
        emit(json.dumps(_json(summary)))
        return
    lines = list(_lines(summary))
    width = max(len(name) for name, _value in lines) + 2
    for name, value in lines:
        emit(f"{name:<{width}}{value}")


@group.command("prune")
@with_settings(without=_OTHER_SETTINGS)
def prune(
    flags: dict[str, str],
    days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="Delete history older than this.", show_default=False)
    ] = None,
    rows_per_account: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**9, help="Keep only so many of the newest rows of each account.", show_default=False
        ),
    ] = None,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Give the space of deleted rows back to the disk, after deleting.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many rows would go.")] = False,
) -> None:
    """Delete history, in small transactions beside a running server. The newest state of each account always stays.

    --vacuum needs no stop either, but for a database that an earlier version made: that is rewritten once.

    Example: [bold]account-socket db prune --days 3 --rows-per-account 1000 --vacuum[/bold]
    """
    if days is None and rows_per_account is None and not vacuum:
        raise SettingsError(
            "nothing to do: neither --days nor --rows-per-account nor --vacuum is given",
            hint="for example: account-socket db prune --days 3 --dry-run",
        )
    path = _path(flags)
    before = None if days is None else (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if dry_run:
        count = housework.count_prunable(path, before=before, keep=rows_per_account)
        emit(f"would delete {count:,} rows of history")
        return
    if days is not None or rows_per_account is not None:
        gone = housework.prune(path, before=before, keep=rows_per_account, tell=_Progress("rows deleted"))
        emit(f"deleted {gone:,} rows of history")
    if vacuum:
        emit(f"gave {_size(housework.give_back(path, _Progress('bytes given back')))} back to the disk")


class _Progress:
    """Tells on stderr how far it is, every TELL_SECONDS."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._due = monotonic() + TELL_SECONDS

    def __call__(self, done: int) -> None:
        if monotonic() >= self._due:
            self._due = monotonic() + TELL_SECONDS
            talk(f"{done:,} {self._what}")


def _path(flags: dict[str, str]) -> Path:
    """Return where the database lies. Raises SettingsError."""
    found = given("DATABASE_URL", flags)
    url = parse_database_url(found.value if found else Settings.model_fields["database_url"].default)
    if url.path is None:
        raise SettingsError("a database in memory ends with its server", hint="name a file: --database-url")
    return url.path.absolute()


def _json(summary: Summary) -> dict[str, object]:
    counts = {name: {"open": opened, "closed": closed} for name, (opened, closed) in (summary.types or {}).items()}
    return {**asdict(summary), "types": None if summary.types is None else counts}


def _lines(summary: Summary) -> Iterator[tuple[str, str]]:
    back = "goes back to the disk by itself" if summary.gives_back else "`db prune --vacuum` gives it back"
    yield "database", summary.path
    yield "  file", f"{_size(summary.database_bytes)}, {_size(summary.free_bytes)} of it free ({back})"
    yield "  WAL", _size(summary.wal_bytes)
    known = summary.rows is not None
    yield "history", f"{summary.rows:,} rows" if known else f"at most {summary.most_rows:,} rows (--exact counts them)"
    if summary.oldest and summary.newest:
        yield "  oldest", summary.oldest
        yield "  newest", summary.newest
    yield "accounts", "many (--exact counts them)" if summary.accounts is None else f"{summary.accounts:,}"
    for name, (opened, closed) in (summary.types or {}).items():
        yield f"  {name}", f"{opened + closed:,}" + (f", {closed:,} of them closed" if closed else "")
    if summary.types is None and summary.accounts is not None:
        yield "  by type", "takes long (--exact counts them)"
    yield "epoch", summary.epoch or "none yet"
    yield "cluster", f"genesis hash {summary.genesis_hash}" if summary.genesis_hash else "none yet"
    yield "ids", f"newest {summary.newest_id}, below {summary.reserved_id} reserved"


def _size(size: int) -> str:
    return f"{size / MEGABYTE:,.1f} MB"
