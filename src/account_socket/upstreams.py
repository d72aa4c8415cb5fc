"""The datasources and nodes that the settings name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from account_socket.backoff import Backoff
from account_socket.settings import Settings
from account_socket.sources.base import Datasource
from account_socket.sources.rpc_http import RpcHttp
from account_socket.sources.rpc_websocket import BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS, OPEN_SECONDS, RpcWebSocket
from account_socket.sources.tap import Tap


@dataclass(frozen=True)
class Timing:
    """
    How patient the server is, in seconds.

    Attributes:
        stall: without a new slot for so long a connection to a node is dead whatever TCP says.
        open: for TCP, TLS and the handshake with a node.
        backoff_base, backoff_cap: the waits between connections to a node.
        restart: before a datasource that failed by a bug of ours runs again.
        watch: how soon the sources hear of which accounts clients are subscribed to.
        commit: how long a database may not commit before updates go on without ids.
        settle: how long a doubted state may still be replaced by the stream before the node is asked.
    """

    stall: float = 10.0
    open: float = OPEN_SECONDS
    backoff_base: float = BACKOFF_BASE_SECONDS
    backoff_cap: float = BACKOFF_CAP_SECONDS
    restart: float = 1.0
    watch: float = 0.5
    commit: float = 5.0
    settle: float = 1.0

    def backoff(self) -> Backoff:
        """Return the waits of one source."""
        return Backoff(self.backoff_base, self.backoff_cap)


def make_rpcs(settings: Settings) -> list[RpcHttp]:
    """Return the HTTP JSON-RPC beside each PubSub URL, in their order, or the one beside Yellowstone alone."""
    return [
        RpcHttp(
            url,
            max_rps=settings.rpc_max_rps,
            name=f"rpc-{number}",
            lookups_per_second=settings.rpc_lookups_per_second,
            commitment=settings.commitment,
        )
        for number, url in enumerate(settings.rpc_http_urls)
    ]


def make_sources(
    settings: Settings,
    programs: Collection[str],
    rpcs: Collection[RpcHttp],
    timing: Timing,
    *,
    tap: Tap | None = None,
) -> list[Datasource]:
    """Return every datasource: PubSub, each with its node's HTTP JSON-RPC, then Yellowstone."""
    sources: list[Datasource] = [
        RpcWebSocket(
            url,
            name=f"rpc-{number}",
            programs=list(programs),
            commitment=settings.commitment,
            rpc=rpc,
            max_watched=settings.rpc_max_watched,
            strict=len(settings.rpc_url) + bool(settings.geyser_url) > 1,
            stale_slot_seconds=timing.stall,
            open_seconds=timing.open,
            backoff=timing.backoff(),
            tap=tap,
        )
        for number, (url, rpc) in enumerate(zip(settings.rpc_url, rpcs, strict=False))  # one more beside Yellowstone
    ]
    if settings.geyser_url:
        sources.append(_make_yellowstone(settings.geyser_url, settings, programs, timing, tap))
    return sources


def _make_yellowstone(
    url: str, settings: Settings, programs: Collection[str], timing: Timing, tap: Tap | None
) -> Datasource:
    from account_socket.sources.yellowstone import Yellowstone  # noqa: PLC0415  (start-up without gRPC is faster)

    return Yellowstone(
        url,
        name="geyser",
        programs=list(programs),
        commitment=settings.commitment,
        token=settings.geyser_x_token or "",
        compression=settings.geyser_compression == "gzip",
        max_watched=settings.geyser_max_watched,
        stale_slot_seconds=timing.stall,
        open_seconds=timing.open,
        backoff=timing.backoff(),
        tap=tap,
    )
