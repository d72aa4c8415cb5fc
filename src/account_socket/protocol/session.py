"""
One client's conversation: texts in, what to do out. Limits live here; time is an argument.

Each frame of a client takes one token of a bucket that refills at a steady rate: a text costs an answer, a ping
costs a pong, a fragment costs parsing. A text without a token is answered `rate_limited`. A client that goes on
like that, without once pausing for a second, is disconnected after a time or a number of refusals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import msgspec

from account_socket.protocol import messages
from account_socket.protocol.codes import Close, ErrorCode
from account_socket.protocol.messages import (
    Deselect,
    ListSubscriptions,
    Ping,
    Refusal,
    Subscribe,
    Unsubscribe,
)
from account_socket.protocol.selection import Select

LIMITED_SECONDS = 10.0
LIMITED_FRAMES = 2_000
"""How long, and how many refused frames long, a client may go on without a pause while it is rate limited."""
MAX_NUMBERED_CHARACTERS = 4 * 1024 * 1024
"""How long all requests of a connection's numbered subscriptions together may be: they are kept."""


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


class Begin(msgspec.Struct, frozen=True, gc=False):
    """Begin a subscription with the number `sub`."""

    sub: int
    request: Select


Action = Subscribe | Begin | Unsubscribe | Deselect | Answer | Disconnect


class Session:
    """
    Attributes:
        requests: how many texts were received.
    """

    __slots__ = (
        "_characters",
        "_check",
        "_last_sub",
        "_limited_since",
        "_limits",
        "_numbered",
        "_refilled_at",
        "_refused",
        "_tally",
        "_tokens",
        "_weight",
        "requests",
    )

    def __init__(
        self,
        limits: RequestLimits,
        tally: Tally,
        *,
        now: float,
        check: Callable[[Select], str | None] = lambda _: None,
    ) -> None:
        """
        Args:
            now: here and below, seconds of any clock that never goes back.
            check: says what in a numbered subscription names nothing there is.
        """
        self.requests = 0
        self._check = check
        self._numbered: dict[int, tuple[Select, int]] = {}
        self._last_sub = 0
        self._weight = 0
        self._characters = 0
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
        if isinstance(request, Select):
            return self._number(request, len(text), subscribed)
        return self._decide(request, subscribed)

    def receive_other(self, *, now: float) -> Disconnect | None:
        """Take one frame that is no text message (ping, pong, part of a message); return whether to go on."""
        judged = self.receive_call(now=now)
        return judged if isinstance(judged, Disconnect) else None

    def receive_call(self, *, now: float) -> bool | Disconnect:
        """Take one request in another dialect; return whether it may be served, or that the client has to go."""
        allowed = self._take_token(now)
        return allowed if allowed or not self._limited_for_long(now) else Disconnect(Close.RATE_LIMITED)

    def _number(self, request: Select, characters: int, subscribed: Collection[str]) -> Action:
        """Give a subscription its number, if it is within the limits; `characters` is how long its request is."""
        self._tally.requests[request.action] += 1
        wrong = self._check(request)
        if wrong is not None:
            return self._refuse(Refusal(request.id, ErrorCode.INVALID_FILTER, wrong))
        held, limit = len(subscribed) + self._weight, self._limits.max_subscriptions
        if held + request.weight > limit:
            return self._refuse_more(request.id, held, request.weight)
        if self._characters + characters > MAX_NUMBERED_CHARACTERS:
            message = "the numbered subscriptions of this connection are too long together; unsubscribe from some"
            return self._refuse(Refusal(request.id, ErrorCode.TOO_MANY_SUBSCRIPTIONS, message))
        self._last_sub += 1
        self._numbered[self._last_sub] = request, characters
        self._weight += request.weight
        self._characters += characters
        return Begin(self._last_sub, request)

    def _forget(self, request: Deselect) -> Action:
        if request.sub not in self._numbered:
            return Unsubscribe(request.id, ())
        select, characters = self._numbered.pop(request.sub)
        self._weight -= select.weight
        self._characters -= characters
        return request

    def _decide(
        self, request: Subscribe | Unsubscribe | Deselect | Ping | ListSubscriptions, subscribed: Collection[str]
    ) -> Action:
        self._tally.requests[request.action] += 1
        match request:
            case Deselect():
                return self._forget(request)
            case Subscribe():
                return self._within_limit(request, subscribed)
            case Unsubscribe():
                return request
            case Ping(id):
                return Answer(messages.pong(id))
            case ListSubscriptions(id):
                subs = [select.told(sub) for sub, (select, _) in self._numbered.items()]
                return Answer(messages.subscriptions(id, list(subscribed), subs))

    def _within_limit(self, request: Subscribe, subscribed: Collection[str]) -> Action:
        held = len(subscribed) + self._weight
        new = sum(pubkey not in subscribed for pubkey in request.pubkeys)
        if new == 0 or held + new <= self._limits.max_subscriptions:
            return request
        return self._refuse_more(request.id, held, new)

    def _refuse_more(self, id: messages.Id | None, held: int, new: int) -> Answer:
        limit = self._limits.max_subscriptions
        message = f"{held} subscriptions and {new} new ones are more than {limit}; unsubscribe from some"
        return self._refuse(Refusal(id, ErrorCode.TOO_MANY_SUBSCRIPTIONS, message))

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
