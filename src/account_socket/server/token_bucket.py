"""How often one connection may ask. Pure."""

from __future__ import annotations

from account_socket.protocol.session import RequestLimits


class TokenBucket:
    """A burst of tokens that refills at a steady rate; `now` is seconds of any clock that never goes back."""

    __slots__ = ("_limits", "_refilled_at", "_tokens")

    def __init__(self, limits: RequestLimits, *, now: float) -> None:
        self._limits = limits
        self._tokens = float(limits.burst)
        self._refilled_at = now

    def take(self, now: float) -> bool:
        """Take one token; return whether there was one."""
        limits = self._limits
        self._tokens = min(limits.burst, self._tokens + (now - self._refilled_at) * limits.per_second)
        self._refilled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
