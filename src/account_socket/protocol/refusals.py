"""How a request is refused while it is read, and how its own words are quoted in the answer. Pure."""

from __future__ import annotations

from typing import Any

from account_socket.protocol.codes import ErrorCode

MAX_QUOTED_CHARACTERS = 64


class RefusedError(Exception):
    """A request is answered with this error."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> RefusedError:
    """Return the refusal of what is JSON, but no request."""
    return RefusedError(ErrorCode.INVALID_MESSAGE, message)


_TYPE_NAMES: dict[type, str] = {
    list: "an array",
    str: "a string",
    int: "an integer",
    float: "a fraction",
    bool: "a boolean",
    type(None): "null",
}


def name_type(value: Any) -> str:
    """Return what JSON calls the type of `value`."""
    return _TYPE_NAMES.get(type(value), "an object")


def quote(text: str) -> str:
    """Return `text` in quotes, escaped and shortened, so that it is safe in any answer, log or terminal."""
    quoted = ascii(text[:MAX_QUOTED_CHARACTERS])
    if len(text) > MAX_QUOTED_CHARACTERS or len(quoted) > MAX_QUOTED_CHARACTERS:
        return quoted[: MAX_QUOTED_CHARACTERS - 4] + "...'"
    return quoted


def refuse_unknown_keys(
    fields: dict[str, Any], known: frozenset[str] | set[str], taken: frozenset[str] | set[str] = frozenset()
) -> None:
    """Raise RefusedError for a key that is not known; `taken` are others that could have been sent."""
    for key in fields:
        if key not in known:
            raise invalid(f"unknown key {quote(key)}; send only {', '.join(sorted(known | taken))}")
