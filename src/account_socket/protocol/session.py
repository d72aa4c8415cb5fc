"""
One client's conversation: texts in, what to do out. Limits live here; time is an argument.

Each frame of a client takes one token of a bucket that refills at a steady rate: a text costs an answer, a ping
costs a pong, a fragment costs parsing. A text without a token is answered `rate_limited`. A client that goes on
like that, without once pausing for a second, is disconnected after a time or a number of refusals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec

from account_socket.protocol import messages
from account_socket.protocol.codes import Close, ErrorCode
from account_socket.protocol.messages import ListSubscriptions, Ping, Refusal, Request, Subscribe, Unsubscribe

LIMITED_SECONDS = 10.0
LIMITED_FRAMES = 2_000
"""How long, and how many refused frames long, a client may go on without a pause while it is rate limited."""


@dataclass(frozen=True)
class RequestLimits:
    """
    Attributes:
        max_subscriptions: accounts per connection.
        per_second: frames a second that a client may send in the long run, more than 0.
        burst: frames that a client may send at once after a pause, at least 1.
    """

    max_subscriptions: int = 10_000
    per_second: float = 100.0
    burst: int = 20_000


@dataclass
class Tally:
    """What all sessions together were asked and refused; plain counters, read by /metrics."""

    requests: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)


class Answer(msgspec.Struct, frozen=True, gc=False):
    """Send `payload` (JSON) to this client."""

    payload: bytes


class Disconnect(msgspec.Struct, frozen=True):
    """Close this connection."""

    close: Close


Action = Subscribe | Unsubscribe | Answer | Disconnect


class Session:
    """
    Attributes:
        requests: how many texts were received.
    """

    __slots__ = ("_limited_since", "_limits", "_refilled_at", "_refused", "_tally", "_tokens", "requests")

    def __init__(self, limits: RequestLimits, tally: Tally, *, now: float) -> None:
        """`now` here and below: seconds of any clock that never goes back."""
        self.requests = 0
        self._limits = limits
        self._tally = tally
        self._tokens = float(limits.burst)
        self._refilled_at = now
        self._limited_since: float | None = None
        self._refused = 0

    def receive_text(self, text: str, subscribed: Collection[str], *, now: float) -> Action:
        """
        Take one text message.

        Args:
            subscribed: the accounts this client is subscribed to, in their order.
        Returns:
            What to do: subscribe, unsubscribe (both within the limits), answer, or disconnect.
        """
        self.requests += 1
        allowed = self._take_token(now)
        if not allowed and self._limited_for_long(now):
            return Disconnect(Close.RATE_LIMITED)
        request = messages.parse(text)
        if not allowed:
            message = f"more than {self._limits.per_second:g} requests a second; wait a second"
            return self._refuse(Refusal(request.id, ErrorCode.RATE_LIMITED, message))
        if isinstance(request, Refusal):
            return self._refuse(request)
        return self._decide(request, subscribed)

    def receive_other(self, *, now: float) -> Disconnect | None:
        """Take one frame that is no text message (ping, pong, part of a message); return whether to go on."""
        if self._take_token(now) or not self._limited_for_long(now):
            return None
        return Disconnect(Close.RATE_LIMITED)

    def _decide(self, request: Request, subscribed: Collection[str]) -> Action:
        self._tally.requests[request.action] += 1
        match request:
            case Subscribe():
                return self._within_limit(request, subscribed)
            case Unsubscribe():
                return request
            case Ping(id):
                return Answer(messages.pong(id))
            case ListSubscriptions(id):
                return Answer(messages.subscriptions(id, list(subscribed)))

    def _within_limit(self, request: Subscribe, subscribed: Collection[str]) -> Action:
        limit = self._limits.max_subscriptions
        new = sum(pubkey not in subscribed for pubkey in request.pubkeys)
        if new == 0 or len(subscribed) + new <= limit:
            return request
        message = f"{len(subscribed)} subscriptions and {new} new ones are more than {limit}; unsubscribe from some"
        return self._refuse(Refusal(request.id, ErrorCode.TOO_MANY_SUBSCRIPTIONS, message))

    def _refuse(self, refusal: Refusal) -> Answer:
        self._tally.errors[refusal.code] += 1
        return Answer(messages.error(refusal.id, refusal.code, refusal.message))

    def _take_token(self, now: float) -> bool:
        limits = self._limits
        tokens = self._tokens + (now - self._refilled_at) * limits.per_second
        self._refilled_at = now
        if tokens >= max(1.0, min(limits.per_second, limits.burst)):  # it has paused for a second
            self._limited_since = None
            self._refused = 0
        if tokens < 1:
            self._tokens = tokens
            return False
        self._tokens = min(tokens, limits.burst) - 1
        return True

    def _limited_for_long(self, now: float) -> bool:
        if self._limited_since is None:
            self._limited_since = now
        self._refused += 1
        return self._refused > LIMITED_FRAMES or now - self._limited_since > LIMITED_SECONDS
