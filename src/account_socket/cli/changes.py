"""What changed between two states of an account: dotted paths, from, to. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Change = tuple[str, Any, Any]
"""A dotted path, the old value, the new value; None where there is none."""


def changes(old: object, new: object, path: str = "") -> Iterator[Change]:
    """Yield each leaf that differs, in the order of `new`; then what only `old` has."""
    old_items, new_items = _items(old), _items(new)
    if old_items is None or new_items is None:
        if old != new:
            yield path, old, new
        return
    for key, value in new_items.items():
        yield from changes(old_items.get(key), value, f"{path}.{key}" if path else key)
    for key, value in old_items.items():
        if key not in new_items:
            yield f"{path}.{key}" if path else key, value, None


def _items(value: object) -> dict[str, Any] | None:
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return {str(index): item for index, item in enumerate(value)}
    return None
