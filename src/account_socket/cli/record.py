"""`account-socket record`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from account_socket import logs
from account_socket.cli.flags import load_with_upstream, with_settings
from account_socket.cli.process import run_until_signal, talk
from account_socket.errors import SettingsError, SourceError
from account_socket.settings import Settings, rows

if TYPE_CHECKING:
    from account_socket.model import RawAccount
    from account_socket.sources.base import Datasource
    from account_socket.sources.recorder import Recorder
    from account_socket.sources.rpc_http import RpcHttp

NEEDS_ARGUMENTS = True
MEGABYTE = 10**6
GENESIS_SECONDS = 1.5
WATCH_SECONDS = 1.0
TERMINAL_SECONDS, PIPE_SECONDS = 1.0, 5.0
"""How often progress is told."""

_USED = {
    *("RPC_URL", "RPC_HTTP_URL", "RPC_MAX_WATCHED", "GEYSER_URL", "GEYSER_X_TOKEN", "GEYSER_COMPRESSION"),
    *("GEYSER_MAX_WATCHED", "COMMITMENT", "RUST_LOG", "LOG_FORMAT"),
}


@with_settings(without=frozenset(row.name for row in rows()) - _USED)
def command(  # noqa: PLR0917  (typer's parameters are options)
    flags: dict[str, str],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Usually NAME.jsonl.zst.")],
    geyser: Annotated[bool, typer.Option("--geyser", help="Record GEYSER_URL, not RPC_URL.")] = False,
    seconds: Annotated[float | None, typer.Option(min=0.1, max=10**8, help="Stop after so long.")] = None,
    updates: Annotated[int | None, typer.Option(min=1, help="Stop after so many account updates.")] = None,
    max_mb: Annotated[float, typer.Option(min=0.001, max=10**8, help="Stop when the file has so many MB.")] = 1024,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    description: Annotated[str, typer.Option(help="A text for people, kept in the file.")] = "",
) -> None:
    """Record what the node of RPC_URL or GEYSER_URL sends, as it comes, with times: for devnode to replay.

    Goes on until Ctrl-C, SIGTERM or one of the bounds, reconnecting for ever; interruptions are marked in the file.
    The file holds no URL of ours. A key or token of 8 characters or more becomes stars where the node or --description
    repeats it: as it is, percent-encoded, or spelled with JSON escapes. Neither database nor Redis is used.

    Example: [bold]RPC_URL=wss://host/?api-key=KEY account-socket record --seconds 60 pools.jsonl.zst[/bold], then
    [bold]account-socket devnode --rate recorded pools.jsonl.zst[/bold]
    """
    if len(description) > 4096:
        raise SettingsError(f"--description has {len(description)} characters, more than 4096")
    loaded = load_with_upstream(flags)
    settings, secrets = _only_upstream(loaded, geyser=geyser), loaded.secrets
    logs.configure(settings.rust_log, log_format=settings.log_format, secrets=secrets)
    max_bytes = int(max_mb * MEGABYTE)
    session = Session(settings, updates=updates, max_bytes=max_bytes, description=description, secrets=secrets)
    with _opened(file, overwrite=overwrite) as opened:
        run_until_signal(session.record(opened, str(file), seconds))


def _only_upstream(settings: Settings, *, geyser: bool) -> Settings:
    """Return the settings with the one upstream that is recorded. Raises SettingsError."""
    if geyser:
        if not settings.geyser_url:
            raise SettingsError("--geyser: GEYSER_URL is not set")
        return settings.model_copy(update={"rpc_url": ()})
    if not settings.rpc_url:
        raise SettingsError("RPC_URL is not set", hint="To record GEYSER_URL: --geyser")
    if len(settings.rpc_url) > 1:
        talk(f"RPC_URL names {len(settings.rpc_url)} nodes: the first is recorded")
    return settings.model_copy(update={"rpc_url": settings.rpc_url[:1], "geyser_url": None})


@contextmanager
def _opened(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a file for a recording; a new one is removed where there is nothing to record. Raises SettingsError."""
    try:
        file = path.open("wb" if overwrite else "xb")
    except FileExistsError:
        raise SettingsError(f"{path} exists", hint="--overwrite replaces it.") from None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    try:
        yield file
    except SettingsError:
        if not overwrite:
            path.unlink()
        raise
    finally:
        if not overwrite and path.exists() and not path.stat().st_size:
            path.unlink()  # a signal came before the first byte


class Session:
    """
    One run of the command.

    Args:
        settings: with one upstream.
        updates: how many account updates are enough, or None.
        secrets: of all upstreams that are set: none of them may stand in the file.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        updates: int | None,
        max_bytes: int,
        description: str,
        secrets: Collection[str],
    ) -> None:
        self._settings = settings
        self._secrets = secrets
        self._limit = updates
        self._max_bytes = max_bytes
        self._description = description
        self._updates = 0
        self._watched: dict[str, None] = {}
        self._enough = asyncio.Event()

    async def record(self, file: BinaryIO, name: str, seconds: float | None) -> None:
        """
        Record until enough has come.

        Raises:
            SettingsError: the node refuses token or filters. SourceError: the disk refused, or nothing ever came.
        """
        # Not for --help.
        from account_socket.programs import load_programs  # noqa: PLC0415
        from account_socket.sources.recorder import Recorder  # noqa: PLC0415
        from account_socket.sources.recording import RecordingHeader  # noqa: PLC0415
        from account_socket.upstreams import Timing, make_rpcs, make_sources  # noqa: PLC0415

        settings = self._settings
        programs = list(load_programs().programs)
        rpcs = make_rpcs(settings)
        header = RecordingHeader(
            content="frames" if settings.rpc_url else "geyser",
            program=programs[0] if len(programs) == 1 else None,
            genesis_hash=await _genesis_hash(rpcs),
            commitment=settings.commitment,
            began_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            description=self._description,
        )
        recorder = Recorder(file, header, max_bytes=self._max_bytes, secrets=self._secrets)
        [source] = make_sources(settings, programs, rpcs, Timing(), tap=recorder)
        source.on_gap = recorder.gap
        try:
            await self._run(source, recorder, seconds)
        finally:
            for rpc in rpcs:
                await rpc.close()
            full = " (--max-mb reached)" if recorder.ended.is_set() else ""
            await _finish(recorder, name)
            if not isinstance(sys.exception(), SettingsError):
                talk(f"{name}: {self._progress(source, recorder)}{full}")
        if not recorder.messages and source.status.tip_slot is None:
            raise SourceError(f"{name}: is empty: nothing came from the node", hint="account-socket doctor says why")

    async def _run(self, source: Datasource, recorder: Recorder, seconds: float | None) -> None:
        """Return when enough has come, or the recorder has ended. Raises SettingsError."""
        parts = [
            asyncio.create_task(part)
            for part in (
                source.run(self._take),
                recorder.ended.wait(),
                self._enough.wait(),
                self._watch(source),
                self._tell(source, recorder),
            )
        ]
        try:
            done, _ = await asyncio.wait(parts, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _take(self, batch: list[RawAccount]) -> None:
        self._updates += len(batch)
        for account in batch:
            if account.lamports:
                self._watched.setdefault(account.pubkey)
            else:
                self._watched.pop(account.pubkey, None)
        if self._limit is not None and self._updates >= self._limit:
            self._enough.set()

    async def _watch(self, source: Datasource) -> None:
        """Have the accounts that were seen first watched one by one: only so their closing is told."""
        settings = self._settings
        most = settings.rpc_max_watched if settings.rpc_url else settings.geyser_max_watched
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._watched = dict.fromkeys(list(self._watched)[:most])
            source.watch(list(self._watched))

    async def _tell(self, source: Datasource, recorder: Recorder) -> None:
        in_place = sys.stderr.isatty()
        while True:
            await asyncio.sleep(TERMINAL_SECONDS if in_place else PIPE_SECONDS)
            text = self._progress(source, recorder)
            if in_place:
                # The cursor stays at the beginning, so that a log line replaces this one.
                columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
                sys.stderr.write(f"\x1b[K{text[: columns - 1]}\r")
                sys.stderr.flush()
            else:
                talk(text)

    def _progress(self, source: Datasource, recorder: Recorder) -> str:
        slot = source.status.tip_slot
        parts = [
            f"{recorder.seconds:.0f} s",
            f"{self._updates:,} updates in {recorder.messages:,} messages",
            f"{recorder.written_bytes / MEGABYTE:,.1f} MB",
            f"slot {slot}" if slot is not None else "no slot yet",
        ]
        if recorder.interruptions:
            parts.append(f"{recorder.interruptions} interruptions")
        return ", ".join(parts)


async def _genesis_hash(rpcs: list[RpcHttp]) -> str | None:
    for rpc in rpcs:
        with suppress(SourceError):
            return await rpc.get_genesis_hash(deadline=GENESIS_SECONDS)
    return None


async def _finish(recorder: Recorder, name: str) -> None:
    try:
        await recorder.finish()
    except SourceError as error:
        raise SourceError(f"{name}: {error}", hint=error.hint) from error
