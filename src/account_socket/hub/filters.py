"""
Which updates a filter is about, and which of many filters an update concerns. Pure.

A filter is looked up by one of its conditions, the one that the fewest others share; the others are then compared.
So an update costs a walk through those of its fields that any filter names, and a look at those that it may concern.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

Value = str | int | bool | None
Path = tuple[str, ...]
Condition = tuple[Path, tuple[str, ...]]
"""A path and the keys (`key_of`) of the values that it may have there."""


def key_of(value: Any) -> str | None:
    """Return what stands for a value of `data_json` in comparisons; None for objects and arrays."""
    if type(value) is str:
        return '"' + value
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    return None if isinstance(value, (dict, list)) else str(value)


def keys_of(wanted: Iterable[Value]) -> tuple[str, ...]:
    """Return the keys that fit any of these values: an integer also fits the decimal string of it."""
    keys: dict[str, None] = {}
    for value in wanted:
        keys[key_of(value) or ""] = None
        if type(value) is int:
            keys[f'"{value}'] = None
    return tuple(sorted(keys))


@dataclass(frozen=True, slots=True)
class Filter:
    """
    What a client selects by; equal for all clients that say the same, in whatever order. Each part narrows it.

    Attributes:
        account_type, program: None for any.
        where: sorted; each path once.
    """

    account_type: str | None = None
    program: str | None = None
    where: tuple[Condition, ...] = ()

    def fits(self, account_type: str, program: str, data: Any) -> bool:
        """Whether an account with these decoded fields is selected; closed ones are never asked for."""
        return self.fits_kind(account_type, program) and all(
            key_of(_look(data, path)) in keys for path, keys in self.where
        )

    def fits_kind(self, account_type: str, program: str) -> bool:
        """The same, without its fields."""
        return self.account_type in {None, account_type} and self.program in {None, program}


_NOTHING = object()


def _look(data: Any, path: Path) -> Any:
    for step in path:
        if isinstance(data, dict):
            data = data.get(step, _NOTHING)
        elif isinstance(data, list) and step.isdecimal() and int(step) < len(data):
            data = data[int(step)]
        else:
            return _NOTHING
    return data


_F = TypeVar("_F", bound="Filtered")


class Filtered:
    """Something with a filter."""

    __slots__ = ()

    filter: Filter


@dataclass(slots=True)
class _Step(Generic[_F]):
    """The filters that are looked up by a value at one path, and the steps that lead on from there."""

    further: dict[str, _Step[_F]] = field(default_factory=dict)
    by_key: dict[str, dict[_F, None]] = field(default_factory=dict)

    def add(self, keys: Iterable[str], filtered: _F) -> None:
        for key in keys:
            self.by_key.setdefault(key, {})[filtered] = None

    def discard(self, keys: Iterable[str], filtered: _F) -> None:
        for key in keys:
            of_key = self.by_key[key]
            del of_key[filtered]
            if not of_key:
                del self.by_key[key]


class FilterIndex(Generic[_F]):
    """Finds among many filters those that an update fits."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str | None, str | None], dict[_F, None]] = {}
        self._types: Counter[str | None] = Counter()
        self._root: _Step[_F] = _Step()
        self._chosen: dict[_F, Condition] = {}
        self._decode = msgspec.json.Decoder().decode

    def add(self, filtered: _F) -> None:
        """Have `filtered` found from now on."""
        wanted = filtered.filter
        if not wanted.where:
            self._kinds.setdefault((wanted.account_type, wanted.program), {})[filtered] = None
            return
        chosen = min(wanted.where, key=self._crowd)
        self._chosen[filtered] = chosen
        self._types[wanted.account_type] += 1
        step = self._root
        for name in chosen[0]:
            step = step.further.setdefault(name, _Step())
        step.add(chosen[1], filtered)

    def _crowd(self, condition: Condition) -> tuple[int, int]:
        """Return how many filters share a condition; of two alike, the one with the longer values tells more."""
        path, keys = condition
        step = self._root
        for name in path:
            further = step.further.get(name)
            if further is None:
                return 0, -max(map(len, keys))
            step = further
        return sum(len(step.by_key.get(key, ())) for key in keys), -max(map(len, keys))

    def discard(self, filtered: _F) -> None:
        """Have `filtered`, which was added, found no more."""
        wanted = filtered.filter
        if not wanted.where:
            kind = wanted.account_type, wanted.program
            del self._kinds[kind][filtered]
            if not self._kinds[kind]:
                del self._kinds[kind]
            return
        path, keys = self._chosen.pop(filtered)
        self._types[wanted.account_type] -= 1
        if not self._types[wanted.account_type]:
            del self._types[wanted.account_type]
        steps = [self._root]
        for name in path:
            steps.append(steps[-1].further[name])
        steps[-1].discard(keys, filtered)
        while len(steps) > 1 and not steps[-1].by_key and not steps[-1].further:
            steps.pop()
            del steps[-1].further[path[len(steps) - 1]]

    def find(self, account_type: str, program: str, data_json: bytes) -> list[_F]:
        """Return everything that an update fits which has not closed its account."""
        found: list[_F] = []
        kinds = self._kinds
        if kinds:
            for kind in ((account_type, program), (account_type, None), (None, program), (None, None)):
                found += kinds.get(kind, ())
        if account_type in self._types or None in self._types:
            data = self._decode(data_json)
            maybe: dict[_F, None] = {}
            _collect(self._root, data, maybe)
            found += [each for each in maybe if each.filter.fits(account_type, program, data)]
        return found


def _collect(step: _Step[_F], data: Any, found: dict[_F, None]) -> None:
    """Add everything that is looked up by a value in `data`; bounded by the size of `data`, not by what is asked."""
    further = step.further
    if isinstance(data, dict):
        names: Mapping[str, Any] = further if len(further) <= len(data) else data
        for name in names:
            if name in further and name in data:
                _take(further[name], data[name], found)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            under = further.get(str(index))
            if under is not None:
                _take(under, value, found)


def _take(step: _Step[_F], value: Any, found: dict[_F, None]) -> None:
    if step.by_key and (key := key_of(value)) is not None:
        found.update(step.by_key.get(key, {}))
    if step.further:
        _collect(step, value, found)
