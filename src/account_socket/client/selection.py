"""What a subscription selects and how it is shaped, and the requests that say so (docs/protocol.md). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

Scalar: TypeAlias = str | int | bool | None
Where: TypeAlias = Mapping[str, Scalar | Sequence[Scalar]]
"""Dotted path into data_json → the value, or those of which one must be there. Several paths are AND."""
Mode: TypeAlias = Literal["full", "diff"]
Delivery: TypeAlias = Literal["every"]

KEYS_A_REQUEST = 500
"""With an id to resume after beside each key, a request stays below the server's 64 KiB."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """
    Which accounts, and in what shape; `Client.subscribe` describes the attributes.

    Raises:
        ValueError: it selects nothing, or by keys and by a filter at once.
    """

    pubkeys: tuple[str, ...] = ()
    account_type: str | None = None
    program: str | None = None
    where: Where | None = None
    fields: tuple[str, ...] | None = None
    mode: Mode | None = None
    max_rate_ms: int | None = None
    delivery: Delivery | None = None
    snapshot: bool = True

    def __post_init__(self) -> None:
        if self.pubkeys and self.by_filter:
            raise ValueError("select by pubkeys, or by account_type, program and where, not by both")
        if not self.pubkeys and not self.by_filter:
            raise ValueError("name at least one pubkey, or an account_type, a program or a where")
        if self.fields is not None and self.mode == "diff":
            raise ValueError("fields and mode='diff' are two shapes; choose one")
        if not self.snapshot and not self.by_filter:
            raise ValueError("snapshot=False goes with account_type, program and where only")

    @property
    def by_filter(self) -> bool:
        """Whether accounts are selected by what they hold."""
        return not (self.account_type is None and self.program is None and self.where is None)

    @property
    def resumable(self) -> bool:
        """Whether what was missed can be told from history: by a filter only of whole states."""
        return not self.by_filter or (self.fields is None and self.mode != "diff" and self.max_rate_ms is None)

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests that subscribe, each with an `id`: its place in the list."""
        said: dict[str, Any] = {
            name: value
            for name in ("account_type", "program", "where", "fields", "mode", "max_rate_ms", "delivery")
            if (value := getattr(self, name)) is not None
        }
        if not self.snapshot:
            said["snapshot"] = False
        if self.by_filter:
            return [{"action": "subscribe", "id": 0, **said}]
        return [
            {"action": "subscribe", "id": number, "pubkeys": self.asked(number), **said}
            for number in range(-(-len(self.pubkeys) // KEYS_A_REQUEST))
        ]

    def asked(self, number: int) -> tuple[str, ...]:
        """Return the accounts that the request with the id `number` names."""
        return self.pubkeys[number * KEYS_A_REQUEST : (number + 1) * KEYS_A_REQUEST]
