"""What a numbered subscription asks for: which accounts, in which shape, how delivered. Pure."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

import msgspec

from account_socket.protocol.codes import ErrorCode
from account_socket.protocol.refusals import RefusedError, invalid, name_type, quote, refuse_unknown_keys
from account_socket.protocol.resume import Resume

MAX_CONDITIONS = 16
MAX_VALUES = 100
"""The most values that one condition may list."""
MAX_FIELDS = 64
MAX_PATH_CHARACTERS = 128
MAX_VALUE_CHARACTERS = 256
MAX_RATE_MS = 3_600_000

Value = str | int | bool | None
Condition = tuple[str, tuple[Value, ...]]

_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}|0|[1-9][0-9]{0,3}")
_BY_FILTER = frozenset({"account_type", "program", "where"})
SHAPING = frozenset({"fields", "mode", "max_rate_ms", "delivery"})
_ALWAYS = frozenset({"action", "id"})


class Select(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """
    A numbered subscription, as a client says it: by `pubkeys`, or by all the others that are given.

    Attributes:
        where: dotted path → the values it may have.
        fields: dotted paths; told alone.
        snapshot: whether a subscription by filter is told what is there already.
        resume: what the client has already.
    """

    action: ClassVar[str] = "subscribe"
    id: str | int | None = None
    pubkeys: tuple[str, ...] = ()
    account_type: str | None = None
    program: str | None = None
    where: tuple[Condition, ...] = ()
    fields: tuple[str, ...] = ()
    mode: Literal["full", "diff"] = "full"
    max_rate_ms: int = 0
    delivery: Literal["latest", "every"] = "latest"
    snapshot: bool = True
    resume: Resume | None = None

    @property
    def is_whole(self) -> bool:
        """Whether states are told as they are, each when it comes."""
        return not self.fields and self.mode == "full" and not self.max_rate_ms

    @property
    def weight(self) -> int:
        """What it counts toward MAX_SUBSCRIPTIONS."""
        return len(self.pubkeys) or 1

    def told(self, sub: int) -> dict[str, Any]:
        """Return what an answer to `list` says of it."""
        where = {path: values[0] if len(values) == 1 else list(values) for path, values in self.where}
        said: dict[str, Any] = {"sub": sub, "pubkeys": list(self.pubkeys), "account_type": self.account_type}
        said |= {"program": self.program, "where": where, "fields": list(self.fields)}
        said |= {"max_rate_ms": self.max_rate_ms}
        said = {key: value for key, value in said.items() if value}
        if self.mode != "full":
            said["mode"] = self.mode
        if self.delivery != "latest":
            said["delivery"] = self.delivery
        return said


def is_numbered(fields: dict[str, Any]) -> bool:
    """Whether a subscribe request asks for a numbered subscription."""
    return not fields.keys().isdisjoint(_BY_FILTER | SHAPING)


def read_select(fields: dict[str, Any], id: str | int | None, pubkeys: tuple[str, ...]) -> Select:
    """
    Return what a request asks for.

    Args:
        pubkeys: those it names, checked; none for one by filter.
    Raises:
        RefusedError: whatever is wrong with it.
    """
    by_filter = fields.keys() & _BY_FILTER
    if pubkeys and by_filter:
        raise invalid(f"send either pubkeys or {', '.join(sorted(by_filter))}, not both")
    if not pubkeys and not by_filter:
        raise invalid("say which accounts: pubkeys, account_type, program or where")
    names = {"pubkey", "pubkeys"} if pubkeys else {*_BY_FILTER, "snapshot"}
    refuse_unknown_keys(fields, _ALWAYS | SHAPING | names)
    select = Select(
        id,
        pubkeys,
        _read_text(fields, "account_type"),
        _read_text(fields, "program"),
        _read_where(fields),
        _read_fields(fields),
        _read_choice(fields, "mode", "full", "diff"),
        _read_rate(fields),
        _read_choice(fields, "delivery", "latest", "every"),
        _read_snapshot(fields),
    )
    shaping = [bool(select.fields), select.mode == "diff", bool(select.max_rate_ms)]
    if sum(shaping) > 1:
        raise invalid('send only one of fields, mode "diff" and max_rate_ms')
    if select.max_rate_ms and select.delivery == "every":
        raise invalid('delivery "every" cannot be had together with max_rate_ms')
    return select


def _read_text(fields: dict[str, Any], name: str) -> str | None:
    if name not in fields:
        return None
    value = fields[name]
    if not isinstance(value, str):
        raise invalid(f"{name} must be a string, not {name_type(value)}")
    return value


def _read_where(fields: dict[str, Any]) -> tuple[Condition, ...]:
    where = fields.get("where", {})
    if not isinstance(where, dict):
        raise invalid(f"where must be an object of paths and values, not {name_type(where)}")
    if type(where) is not dict:
        raise invalid("a path appears twice in where; list its values in an array")
    if len(where) > MAX_CONDITIONS:
        raise invalid(f"where holds {len(where)} conditions; send at most {MAX_CONDITIONS}")
    if "where" in fields and not where:
        raise invalid("where is empty; name at least one path, or leave it out")
    return tuple((_read_path(path, "where"), _read_values(path, where[path])) for path in sorted(where))


def _read_path(path: Any, name: str) -> str:
    if not isinstance(path, str):
        raise invalid(f"{name} must hold strings, not {name_type(path)}")
    if len(path) > MAX_PATH_CHARACTERS or not all(map(_STEP.fullmatch, path.split("."))):
        raise RefusedError(
            ErrorCode.INVALID_FILTER, f"{quote(path)} is no path; send names and indexes joined by dots"
        )
    return path


def _read_values(path: str, value: Any) -> tuple[Value, ...]:
    values = value if isinstance(value, list) else [value]
    if not 1 <= len(values) <= MAX_VALUES:
        raise invalid(f"the values of {quote(path)} must be 1 to {MAX_VALUES}, not {len(values)}")
    for each in values:
        if each is not None and not isinstance(each, (str, int)):
            raise invalid(f"a value of {quote(path)} must be a string, an integer, a boolean or null")
        if isinstance(each, str) and len(each) > MAX_VALUE_CHARACTERS:
            raise invalid(f"a value of {quote(path)} is longer than {MAX_VALUE_CHARACTERS} characters")
        if isinstance(each, int) and not -(2**256) <= each < 2**256:
            raise invalid(f"a value of {quote(path)} does not fit 256 bits")
    return tuple(values)


def _read_fields(fields: dict[str, Any]) -> tuple[str, ...]:
    if "fields" not in fields:
        return ()
    paths = fields["fields"]
    if not isinstance(paths, list):
        raise invalid(f"fields must be an array of paths, not {name_type(paths)}")
    if not 1 <= len(paths) <= MAX_FIELDS:
        raise invalid(f"fields holds {len(paths)} paths; send 1 to {MAX_FIELDS}")
    return tuple(sorted({_read_path(path, "fields") for path in paths}))


def _read_choice(fields: dict[str, Any], name: str, default: Any, other: Any) -> Any:
    value = fields.get(name, default)
    if not isinstance(value, str) or value not in {default, other}:
        found = quote(value) if isinstance(value, str) else name_type(value)
        raise invalid(f'{name} must be "{default}" or "{other}", not {found}')
    return value


def _read_rate(fields: dict[str, Any]) -> int:
    if "max_rate_ms" not in fields:
        return 0
    value = fields["max_rate_ms"]
    if type(value) is not int or not 1 <= value <= MAX_RATE_MS:
        raise invalid(f"max_rate_ms must be an integer from 1 to {MAX_RATE_MS}")
    return value


def _read_snapshot(fields: dict[str, Any]) -> bool:
    value = fields.get("snapshot", True)
    if not isinstance(value, bool):
        raise invalid(f"snapshot must be true or false, not {name_type(value)}")
    return value
