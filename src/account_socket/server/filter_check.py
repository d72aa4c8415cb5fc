"""Whether a filter names what there is: account types, programs, fields. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from account_socket.hub.filters import Filter, keys_of
from account_socket.hub.shapes import Shape
from account_socket.protocol.refusals import quote
from account_socket.protocol.selection import Select
from account_socket.server.rest_parameters import Fields
from account_socket.store.base import Selection


def find_unknown(select: Select, fields: Fields) -> str | None:
    """Return what is wrong with a numbered subscription, or None."""
    if select.account_type is not None and select.account_type not in fields.types:
        return f"there is no account type {quote(select.account_type)}; there are {', '.join(fields.types)}"
    if select.program is not None and select.program not in fields.programs:
        return f"no accounts of {quote(select.program)} are kept here; those of {', '.join(fields.programs)} are"
    of_type = select.account_type
    for path in (*(path for path, _ in select.where), *select.fields):
        if not (path in fields if of_type is None else fields.has(of_type, path)):
            near = _nearest(path, (each for each in fields.paths if of_type is None or fields.has(of_type, each)))
            owner = "no account" if of_type is None else f"no {of_type}"
            return f"{owner} has a field {quote(path)}; the nearest is {near}"
    return None


def _nearest(path: str, known: Iterable[str]) -> str:
    return max(known, key=lambda each: (_alike(path, each), _alike(path[::-1], each[::-1])))


def _alike(one: str, other: str) -> int:
    """Return how many characters two paths begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def filter_of(select: Select) -> Filter:
    """Return the filter of a subscription: the same for all that say the same."""
    where = tuple(sorted((tuple(path.split(".")), keys_of(values)) for path, values in select.where))
    return Filter(select.account_type, select.program, where)


def shape_of(select: Select) -> Shape:
    """Return the shape that a subscription asks for."""
    return Shape(select.fields, select.mode == "diff", select.max_rate_ms)


def stored(filter: Filter) -> Selection:
    """Return what the store finds a filter's accounts by: some that do not fit are among them, none is left out."""
    among = tuple((path, tuple({key.removeprefix('"') for key in keys})) for path, keys in filter.where)
    return Selection(filter.account_type, filter.program, among=among)
