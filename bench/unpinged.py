"""The server as it is, but that it pings nobody: pings of ten thousand clients would hide what an update costs."""

from __future__ import annotations

from account_socket.__main__ import main
from account_socket.server.clients import Clients


def leave_alone(*_: object) -> None:
    """Stand in for `Clients._ping`."""


if __name__ == "__main__":
    Clients._ping = leave_alone  # type: ignore[assignment, method-assign]
    main()
