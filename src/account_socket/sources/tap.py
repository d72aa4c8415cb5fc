"""Who listens in on a datasource: told of each message as it came, before anything is made of it."""

from __future__ import annotations

from typing import Protocol


class Tap(Protocol):
    """
    What a recorder gives to a datasource. No method raises.

    Times are monotonic seconds. Reasons and requests hold no secrets; messages of the node may.
    """

    def opened(self) -> None:
        """Take that a connection was opened."""

    async def received(self, message: bytes, at: float) -> None:
        """Take a message of the node. While this waits nothing more is read."""

    def sent(self, request: bytes) -> None:
        """Take a request of ours, before it is sent."""

    def lost(self, reason: str) -> None:
        """Take that the connection ended."""
