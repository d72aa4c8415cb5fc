"""Every error code and every close code, in one table each (docs/protocol.md)."""

from __future__ import annotations

from enum import Enum, StrEnum


class ErrorCode(StrEnum):
    """The `code` of an error answer. An error does not close the connection."""

    INVALID_JSON = "invalid_json"
    INVALID_MESSAGE = "invalid_message"
    UNKNOWN_ACTION = "unknown_action"
    INVALID_PUBKEY = "invalid_pubkey"
    INVALID_FILTER = "invalid_filter"
    TOO_MANY_SUBSCRIPTIONS = "too_many_subscriptions"
    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    INTERNAL = "internal"


class Close(Enum):
    """
    Why the server closes a connection.

    Attributes:
        code: the WebSocket close code; one code may have several reasons.
        reason: what to do about it in words; at most 123 bytes of UTF-8 (RFC 6455, 5.5).
    """

    GOING_AWAY = 1001, "server is shutting down; reconnect"
    BINARY = 1003, "binary messages are not accepted; send JSON as text"
    BAD_UTF8 = 1007, "text is not valid UTF-8"
    TOO_BIG = 1009, "message is over 64 KiB; split the request"
    INTERNAL = 1011, "internal error of the server; reconnect"
    SERVER_FULL = 1013, "server is full; reconnect later"
    ADDRESS_FULL = 1013, "too many connections from your address; close some first"
    SLOW_CONSUMER = 4008, "slow consumer: too much was waiting for too long; read faster or subscribe to less"
    NO_PONG = 4012, "no pong came; reconnect"
    RATE_LIMITED = 4029, "rate limited for long; reconnect later and send fewer requests"
    UNAUTHORIZED = 4401, "unauthorized; reconnect with valid credentials"
    ORIGIN_REFUSED = 4403, "origin refused; do not reconnect"

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason


ABNORMAL_CLOSURE = 1006
"""Stands in logs and metrics for a connection that ended without a close frame; never sent (RFC 6455, 7.4.1)."""
