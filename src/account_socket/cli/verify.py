"""`account-socket verify`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from account_socket.cli.flags import with_settings
from account_socket.cli.keys import check_keys
from account_socket.cli.process import emit, run_until_signal, talk
from account_socket.database_url import parse_database_url
from account_socket.errors import SettingsError, WrongClusterError
from account_socket.settings import Settings, load, rows

if TYPE_CHECKING:
    from account_socket.cli.audit import Difference, Tally
    from account_socket.sources.rpc_http import RpcHttp
    from account_socket.store.stored_accounts import StoredAccounts

SAMPLE = 100
PAGE = 1_000
TELL_SECONDS = 5.0
FIRST_SECONDS = 5.0
"""For the node's first answer: whether it is there at all."""

MAX_VALUE_CHARACTERS = 90
MAX_UNKNOWN_TOLD = 20
_USED = frozenset({"RPC_URL", "RPC_HTTP_URL", "RPC_MAX_RPS", "COMMITMENT", "DATABASE_URL"})


@with_settings(without=frozenset(row.name for row in rows()) - _USED)
def command(
    flags: dict[str, str],
    pubkeys: Annotated[list[str] | None, typer.Argument(metavar="[PUBKEY]...", help="Accounts, base58.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, max=10**7, metavar="N", help=f"N accounts at random. Default: {SAMPLE}.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every account of the database.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object for each difference, then the summary.")
    ] = False,
) -> None:
    """Compare stored accounts with what the node says: owner, lamports, bytes, type, decoded fields, whether closed.

    A slot far beyond the node's differs too, and an account that is named, that the node has and that is not stored.
    Prints each difference, stored → on the node, then a summary; exit 1 where anything differs, else 0. It runs beside
    a server: an account that is just changing is looked at again before it counts as different. Over PubSub a server
    is not told that an account without subscribers was closed; such differences are counted apart too.

    Example: [bold]account-socket verify --sample 1000[/bold]
    """
    chosen = tuple(dict.fromkeys(pubkeys or ()))
    if bool(chosen) + (sample is not None) + everything > 1:
        raise SettingsError("name accounts, or --sample, or --all: one of them")
    check_keys(chosen)
    settings = load(flags)
    urls = settings.rpc_http_urls
    if not urls:
        raise SettingsError(
            "no node to compare with: neither RPC_URL nor RPC_HTTP_URL is set",
            hint="set one in the environment or in .env, for example RPC_HTTP_URL=https://host/?api-key=KEY",
        )
    place = parse_database_url(settings.database_url)
    if place.path is None:
        raise SettingsError("a database in memory ends with its server", hint="name a file: --database-url")
    count = None if everything else sample or SAMPLE
    run_until_signal(_verify(settings, urls[0], place.path.absolute(), chosen or count, as_json=as_json))


async def _verify(
    settings: Settings, url: str, path: Path, chosen: tuple[str, ...] | int | None, *, as_json: bool
) -> int:
    from account_socket.cli.audit import READ_SECONDS, Audit  # noqa: PLC0415  (not for --help)
    from account_socket.programs import load_programs  # noqa: PLC0415
    from account_socket.sources.rpc_http import RpcHttp  # noqa: PLC0415
    from account_socket.store.stored_accounts import StoredAccounts  # noqa: PLC0415

    rpc = RpcHttp(url, commitment=settings.commitment, max_rps=settings.rpc_max_rps)
    show = _show_json if as_json else _show
    try:
        with closing(StoredAccounts(path)) as stored:
            await _check_cluster(stored, rpc)
            seconds = READ_SECONDS + 2 / settings.rpc_max_rps  # waiting for the budget counts too
            audit = Audit(stored, rpc, load_programs(), read_seconds=seconds)
            progress = asyncio.create_task(_tell(audit.tally, await _total(stored, chosen)))
            try:
                async for difference in audit.compare(_chosen(stored, chosen)):
                    show(difference)
            finally:
                progress.cancel()
            _summarize(audit.tally, as_json=as_json)
            return 1 if audit.tally.different else 0
    finally:
        await rpc.close()


async def _check_cluster(stored: StoredAccounts, rpc: RpcHttp) -> None:
    """Raise WrongClusterError where the node is of another cluster than the database."""
    known = await asyncio.to_thread(stored.genesis_hash)
    genesis_hash = await rpc.get_genesis_hash(deadline=FIRST_SECONDS)
    if known not in {None, genesis_hash}:
        raise WrongClusterError(
            f"the database belongs to the cluster with genesis hash {known}, the node to {genesis_hash}",
            hint="name another database, or a node of that cluster",
        )


async def _total(stored: StoredAccounts, chosen: tuple[str, ...] | int | None) -> int:
    if isinstance(chosen, tuple):
        return len(chosen)
    count = await asyncio.to_thread(stored.count)
    return count if chosen is None else min(chosen, count)


async def _chosen(stored: StoredAccounts, chosen: tuple[str, ...] | int | None) -> AsyncIterator[str]:
    if isinstance(chosen, int):
        chosen = tuple(await asyncio.to_thread(stored.sample, chosen))
    if chosen is not None:
        for pubkey in chosen:
            yield pubkey
        return
    page = [""]
    while page := await asyncio.to_thread(stored.page, page[-1], PAGE):
        for pubkey in page:
            yield pubkey


async def _tell(tally: Tally, total: int) -> None:
    """Say on stderr how far it is, until cancelled."""
    while True:
        await asyncio.sleep(TELL_SECONDS)
        talk(f"{tally.compared:,} of {total:,} accounts compared, {tally.different:,} differ")


def _show(difference: Difference) -> None:
    slot = difference.stored_slot
    stored = "not in the database" if slot is None else f"stored at slot {slot}"
    emit(f"{difference.pubkey} {difference.account_type}: {stored}, the node's at slot {difference.node_slot}")
    for name, old, new in difference.changes:
        emit(f"  {name}: {_value(old)} → {_value(new)}")
    if difference.more:
        emit(f"  … and {difference.more} more")


def _show_json(difference: Difference) -> None:
    found = [{"field": name, "stored": old, "node": new} for name, old, new in difference.changes]
    told = {
        "pubkey": difference.pubkey,
        "account_type": difference.account_type,
        "stored_slot": difference.stored_slot,
        "node_slot": difference.node_slot,
        "differences": found,
        "more": difference.more,
    }
    emit(json.dumps(told))


def _value(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 1]}…"


def _summarize(tally: Tally, *, as_json: bool) -> None:
    equal = tally.compared - tally.different - tally.unsettled
    if as_json:
        emit(json.dumps({**asdict(tally), "equal": equal}))
        return
    for unknown in tally.unknown[:MAX_UNKNOWN_TOLD]:
        emit(f"{unknown}: neither in the database nor, as an account of the program, on the node")
    closed = f" ({tally.closed:,} of them only closed)" if tally.closed else ""
    parts = [f"{equal:,} equal", f"{tally.different:,} different{closed}"]
    if tally.unsettled:
        parts.append(f"{tally.unsettled:,} changed whenever looked at")
    if tally.unknown:
        parts.append(f"{len(tally.unknown):,} in neither")
    slots = "" if tally.first_slot is None else f" at slots {tally.first_slot} to {tally.last_slot}"
    noun = "account" if tally.compared == 1 else "accounts"
    emit(f"compared {tally.compared:,} {noun}{slots}: {', '.join(parts)}")
    if tally.closed:
        talk("PubSub does not tell of closes of accounts without subscribers: BACKFILL=known finds them at each start")
