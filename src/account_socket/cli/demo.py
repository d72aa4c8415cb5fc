"""`account-socket demo`: everything in one process, and nothing outside it."""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated
from zlib import crc32

import typer

from account_socket import logs
from account_socket.cli.flags import with_settings
from account_socket.cli.process import explaining_the_port, run_until_signal, talk
from account_socket.settings import Settings, load

if TYPE_CHECKING:
    from account_socket.sources.recorded_write import RecordedWrite
    from account_socket.sources.recording import Recording

DEFAULT_RATE = 20.0
OWN_SETTINGS = frozenset(
    {
        "RPC_URL",
        "RPC_HTTP_URL",
        "GEYSER_URL",
        "GEYSER_X_TOKEN",
        "GEYSER_COMPRESSION",
        "GEYSER_MAX_WATCHED",
    }
)
OWN_DEFAULTS = {"REDIS_URL": "memory://", "DISK_RESERVE_MB": "0", "MAX_CONNECTIONS": "1000"}
LOG_SETTINGS = ("RUST_LOG", "LOG", "LOG_FORMAT")
"""The only ones of the environment that count here: they change nothing but what is told."""


@with_settings(
    without=OWN_SETTINGS,
    defaults={**OWN_DEFAULTS, "DATABASE_URL": "a temporary file"},
    panel="Settings (by flag alone; RUST_LOG, LOG and LOG_FORMAT also from the environment)",
)
def command(
    flags: dict[str, str],
    rate: Annotated[float, typer.Option(min=0.01, max=100_000, help="Account writes per second.")] = DEFAULT_RATE,
    accounts: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Spread the recording onto this many accounts.")
    ] = None,
) -> None:
    """A local node replaying the shipped recording, and the server on it: no network, no key, no Redis.

    The database is temporary and the cache embedded, unless given by flag. .env does not count, nor does the
    environment but for what the log shows.

    Example: [bold]account-socket demo --rate 100[/bold]
    """
    demo(flags, rate=rate, accounts=accounts)


def demo(flags: dict[str, str], *, rate: float, accounts: int | None) -> None:
    """Run the demo until a signal. Raises SettingsError."""
    run_until_signal(_demo(flags, rate, accounts))


async def _demo(flags: dict[str, str], rate: float, accounts: int | None) -> None:
    # A demo that starts imports what `--help` does not need.
    from account_socket import service  # noqa: PLC0415
    from account_socket.devnode import Devnode, shipped_recording  # noqa: PLC0415

    recording, busiest = _mixed(shipped_recording())
    node = Devnode(recording, rate=rate, loop=True, accounts=accounts, start_on_subscribe=True)
    with TemporaryDirectory(prefix="account-socket-demo-") as folder:
        async with node:
            settings = _settings(flags, node.ws_url, Path(folder))
            logs.configure(settings.rust_log, log_format=settings.log_format)
            with explaining_the_port(settings.websocket_host, settings.websocket_port):
                await service.serve(settings, on_ready=lambda url: _welcome(url, busiest))


def _mixed(recording: Recording) -> tuple[Recording, str]:
    """
    Spread each account's writes evenly over the recording, in their order; return that and the busiest account.

    The recording tells one story after the other: for most of the time an account of one of them would stand still.
    """
    places: list[tuple[float, RecordedWrite]] = []
    seen: Counter[str] = Counter()
    writes = Counter(write.account.pubkey for write in recording.writes)
    for write in recording.writes:
        pubkey = write.account.pubkey
        # Some phase of its own, so that accounts of few writes do not all come at once.
        phase = crc32(pubkey.encode()) / 2**32
        places.append(((seen[pubkey] + phase) / writes[pubkey], write))
        seen[pubkey] += 1
    places.sort(key=lambda place: place[0])
    return type(recording)(recording.header, [write for _place, write in places]), writes.most_common(1)[0][0]


def _settings(flags: dict[str, str], node_url: str, folder: Path) -> Settings:
    own = {**OWN_DEFAULTS, "DATABASE_URL": f"sqlite://{folder / 'demo.db'}"}
    own |= {name: os.environ[name] for name in LOG_SETTINGS if name in os.environ}
    settings = load({**own, **flags, "RPC_URL": node_url}, flags_only=True)
    if "WEBSOCKET_PORT" in flags or _is_free(settings.websocket_host, settings.websocket_port):
        return settings
    talk(f"port {settings.websocket_port} is taken: using a free one (--websocket-port chooses)")
    return load({**own, **flags, "RPC_URL": node_url, "WEBSOCKET_PORT": "0"}, flags_only=True)


def _is_free(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        return False
    return True


def _welcome(url: str, pubkey: str) -> None:
    program = sys.argv[0] if sys.argv[0].endswith("account-socket") else "python -m account_socket"
    option = "" if url == "ws://127.0.0.1:8080/ws" else f" --url {url}"
    talk(
        f"""
The demo is streaming Meteora DAMM v2 accounts on {url}. In a second terminal:

  {program} watch {pubkey}{option}
  {program} get {pubkey}{option}

Ctrl-C stops it and deletes its database.
"""
    )
