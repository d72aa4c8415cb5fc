"""
What can go wrong between a client and its server.

    AccountSocketError
    ├── SettingsError        the URL is none
    └── ServerError          the server was not there, refused or broke off; `retryable` says whether to try again
        ├── NoAnswerError    whoever took the connection says nothing
        ├── NotAServerError  what answers is not an account-socket server
        ├── RefusedError     an error answer, with its code (docs/protocol.md)
        └── ClosedError      a close frame, with its code

No message holds what may be secret of a URL: user info, query values and long path segments are `***`.
"""

from __future__ import annotations

from account_socket.errors import AccountSocketError

FINAL_CLOSES = frozenset({1003, 1007, 1009, 4401, 4403})
"""Codes of closes after which the same requests would end the same way."""
LATER_CLOSES = frozenset({1013, 4029})
"""The server says: reconnect later."""
LATER_ERRORS = frozenset({"rate_limited", "internal", "unavailable"})
"""Codes of errors that the same request may not meet later."""


class ServerError(AccountSocketError):
    """The server was not there, refused or broke off; `retryable` says whether to try again."""


class NoAnswerError(ServerError):
    """Whoever took the connection says nothing."""


class NotAServerError(ServerError):
    """What answers is not an account-socket server."""

    def __init__(self, label: str, reason: str = "") -> None:
        told = f" ({reason})" if reason else ""
        super().__init__(f"{label}: what answers is not an account-socket server{told}")


class RefusedError(ServerError):
    """
    The server answered with an error.

    Attributes:
        code: as in docs/protocol.md, `too_many_subscriptions` for example.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}", retryable=code in LATER_ERRORS)
        self.code = code


class ClosedError(ServerError):
    """
    The connection ended.

    Attributes:
        code: of the close frame; 1006: there was none.
    """

    def __init__(self, code: int, reason: str) -> None:
        told = f"{code}: {reason}" if reason else f"{code}"
        super().__init__(f"the server closed the connection ({told})", retryable=code not in FINAL_CLOSES)
        self.code = code
