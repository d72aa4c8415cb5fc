"""What connections that asked for it are told beside accounts (docs/protocol.md, status frames). Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

MAX_TEXT_CHARACTERS = 300
"""Of what a node wrote; a page of HTML would go to every client that asked."""


class Upstream(msgspec.Struct, frozen=True, gc=False):
    """
    One upstream as it is now.

    Attributes:
        connected: subscribed, and slots are arriving.
        tip_slot: the newest slot that it confirmed, or None before the first.
    """

    connected: bool
    tip_slot: int | None


class _Status(msgspec.Struct, tag="status", tag_field="type", gc=False):
    event: str
    source: str | msgspec.UnsetType
    reason: str | msgspec.UnsetType
    stale: bool
    tip_slot: int | None
    sources: Mapping[str, Upstream]


class _Commitment(msgspec.Struct, tag="status", tag_field="type", gc=False):
    event: str
    slot: int


class _Gap(msgspec.Struct, tag="gap", tag_field="type", gc=False):
    source: str
    from_slot: int | None
    to_slot: int
    reason: str
    healed: bool
    error: str | msgspec.UnsetType


NOTICES: dict[str, type[msgspec.Struct]] = {"status": _Status, "commitment": _Commitment, "gap": _Gap}
"""The types of all frames, for /asyncapi.json."""

_encode = msgspec.json.Encoder().encode


def status(
    event: str,
    *,
    stale: bool,
    tip_slot: int | None,
    sources: Mapping[str, Upstream],
    source: str | None = None,
    reason: str | None = None,
) -> bytes:
    """
    Return the frame that tells how upstream is now.

    Args:
        event: what changed: `now` (nothing), `stale`, `recovered`, `lost`, `connected`.
        source: the upstream that was lost or is connected.
        reason: why it was lost.
    """
    return _encode(
        _Status(
            event,
            msgspec.UNSET if source is None else source,
            msgspec.UNSET if reason is None else _tame(reason),
            stale,
            tip_slot,
            sources,
        )
    )


def commitment(level: str, slot: int) -> bytes:
    """Return the frame that tells that a slot came to a level (`confirmed`, `finalized`)."""
    return _encode(_Commitment(level, slot))


def gap(source: str, from_slot: int | None, to_slot: int, reason: str, *, healed: bool, error: str = "") -> bytes:
    """
    Return the frame of a gap; the fields as in `model.Gap`.

    Args:
        healed: what was missed was read again.
        error: why the last try to read it failed, or "".
    """
    return _encode(_Gap(source, from_slot, to_slot, _tame(reason), healed, _tame(error) if error else msgspec.UNSET))


def _tame(text: str) -> str:
    """Return what a node may have written, short and as valid Unicode."""
    return text[:MAX_TEXT_CHARACTERS].encode("utf-8", "replace").decode()
