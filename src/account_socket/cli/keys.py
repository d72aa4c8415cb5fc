"""The keys that people type."""

from __future__ import annotations

from collections.abc import Iterable

from account_socket.errors import SettingsError


def check_keys(pubkeys: Iterable[str]) -> None:
    """Raise SettingsError for the first that is no base58 public key."""
    from account_socket.protocol.messages import is_pubkey  # noqa: PLC0415  (not for --help)

    for pubkey in pubkeys:
        if not is_pubkey(pubkey):
            raise SettingsError(f"{pubkey[:60]!r} is not a base58 public key of 32 bytes")
