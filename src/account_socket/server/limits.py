"""What the server grants its clients."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from account_socket.protocol.session import RequestLimits

SPARE_SOCKETS = 1024
"""How many sockets beyond the clients' may be open."""


@dataclass(frozen=True)
class Limits:
    """
    Attributes:
        max_connections: WebSocket clients at a time.
        max_sockets: everything connected to the port: HTTP, unfinished heads and refusals as well.
        max_connections_per_ip: of these, from one address; 0 means no limit.
        max_subscriptions: accounts per connection.
        max_requests_per_second: of one connection, in the long run.
        request_burst: how many requests one connection may send at once after a pause.
        allowed_origins: values of the Origin header, lower case; empty allows any. A client that sends none is no
            web page, which is what this guards against, and is let in.
        outbox_max_bytes: high water of a client's transport; low water is a quarter of it.
        slow_consumer_seconds: how long a client may stay above high water.
        ping_seconds: time between two pings.
        pong_seconds: how long a pong may take. Nothing else stands in for it: bytes of a message that never ends
            must not keep a connection alive.
        head_seconds: how long a request head may take.
        close_seconds: how long a client may take to answer a close frame, before it is cut off.
        slow_close_seconds: the same for a slow consumer, which has much to read before.
        compression: whether clients that ask for it are sent compressed frames.
    """

    max_connections: int = 20_000
    max_sockets: int = 20_000 + SPARE_SOCKETS
    max_connections_per_ip: int = 0
    max_subscriptions: int = 10_000
    max_requests_per_second: float = 100.0
    request_burst: int = 20_000
    allowed_origins: Collection[str] = ()
    outbox_max_bytes: int = 1 << 20
    slow_consumer_seconds: float = 60.0
    ping_seconds: float = 25.0
    pong_seconds: float = 10.0
    head_seconds: float = 10.0
    close_seconds: float = 5.0
    slow_close_seconds: float = 10.0
    compression: bool = False

    @cached_property
    def requests(self) -> RequestLimits:
        """What one client may ask for."""
        return RequestLimits(self.max_subscriptions, self.max_requests_per_second, self.request_burst)

    @property
    def shortest_seconds(self) -> float:
        """The shortest of all the times above."""
        return min(
            self.slow_consumer_seconds,
            self.ping_seconds,
            self.pong_seconds,
            self.head_seconds,
            self.close_seconds,
            self.slow_close_seconds,
        )
