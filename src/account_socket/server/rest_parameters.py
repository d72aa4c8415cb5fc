"""What a client may ask for by HTTP: the values of a path, a query and a body, checked. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated

import msgspec

from account_socket.decode.decoder import UNKNOWN
from account_socket.decode.layout import Layout, Place
from account_socket.model import MAX_I64
from account_socket.protocol.codes import ErrorCode
from account_socket.protocol.messages import MAX_PUBKEYS, is_pubkey
from account_socket.store.base import Selection

MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100
MAX_CONDITIONS = 8
MAX_STREAM_PUBKEYS = 250
"""More would not fit the head of a request."""
MAX_VALUE_CHARACTERS = 256
WHERE = "where."

_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}|[0-9]{1,4}")
_PLAIN = re.compile(r"[uif][0-9]+|bool|pubkey|bytes")
_INTEGER = re.compile(r"0|[1-9][0-9]{0,18}")

Parameters = Mapping[str, str]


class RefusedError(Exception):
    """A request is answered with this error."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


def invalid(name: str, expected: str) -> RefusedError:
    """Return the refusal of a parameter's value."""
    return RefusedError(400, "invalid_parameter", f"{name} must be {expected}")


def read_pairs(pairs: Collection[tuple[str, str]], known: Collection[str]) -> dict[str, str]:
    """Return the parameters of a query. Raises RefusedError for a name that is unknown or comes twice."""
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise RefusedError(400, "invalid_parameter", "a parameter comes twice; send each once")
    for name in parameters:
        if name not in known and not (WHERE in known and name.startswith(WHERE)):
            listed = ", ".join(sorted(known)) or "none"
            raise RefusedError(400, "invalid_parameter", f"unknown parameter {name[:32]!a}; known here: {listed}")
    return parameters


def read_pubkey(text: str) -> str:
    """Return `text` if it is a public key. Raises RefusedError."""
    if not is_pubkey(text):
        message = f"{text[:50]!a} is not a base58 public key of 32 bytes"
        raise RefusedError(400, ErrorCode.INVALID_PUBKEY, message)
    return text


def read_integer(parameters: Parameters, name: str, *, least: int = 0, most: int = MAX_I64) -> int | None:
    """Return a whole number from `least` to `most`, or None where it is not given. Raises RefusedError."""
    text = parameters.get(name)
    if text is None:
        return None
    value = int(text) if _INTEGER.fullmatch(text) else most + 1
    if not least <= value <= most:
        raise invalid(name, f"a whole number from {least} to {most}")
    return value


def read_limit(parameters: Parameters) -> int:
    """Return how many rows a page may have. Raises RefusedError."""
    limit = read_integer(parameters, "limit", least=1, most=MAX_LIMIT)
    return DEFAULT_LIMIT if limit is None else limit


def read_after(parameters: Parameters) -> str:
    """Return the pubkey that a page of accounts begins after, or "". Raises RefusedError."""
    return read_pubkey(parameters["after"]) if "after" in parameters else ""


def read_pubkeys(pubkeys: Collection[str]) -> tuple[str, ...]:
    """Return the accounts of a stream, each once. Raises RefusedError."""
    if not 1 <= len(pubkeys) <= MAX_STREAM_PUBKEYS:
        raise invalid("pubkey", f"given 1 to {MAX_STREAM_PUBKEYS} times")
    return tuple(dict.fromkeys(map(read_pubkey, pubkeys)))


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    pubkeys: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_PUBKEYS)]


_decode_batch = msgspec.json.Decoder(_Batch).decode


def read_batch(body: bytes) -> tuple[str, ...]:
    """Return the accounts that a body asks for, each once. Raises RefusedError."""
    try:
        pubkeys = _decode_batch(body).pubkeys
    except msgspec.ValidationError as error:
        raise RefusedError(400, ErrorCode.INVALID_MESSAGE, str(error)[:200]) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RefusedError(400, ErrorCode.INVALID_JSON, "the body is not JSON") from error
    return tuple(dict.fromkeys(map(read_pubkey, pubkeys)))


class Fields:
    """
    The decoded fields of all account types, by their dotted paths (`reward_infos.0.mint`).

    A block whose fields depend on its content (the base fee of DAMM v2) may have any.
    """

    def __init__(self, layouts: Mapping[str, Layout], programs: Collection[str] = ()) -> None:
        self.programs = tuple(programs)
        self.types = (*layouts, UNKNOWN)
        self._paths: dict[str, set[str]] = {UNKNOWN: {"raw", "error", "size", "sha256"}}
        self._blocks: dict[str, set[str]] = {UNKNOWN: set()}
        for name, layout in layouts.items():
            told = [place for place in layout.places if not place.is_padding]
            self._paths[name] = {_dotted(place.path) for place in told}
            self._blocks[name] = {_dotted(place.path) for place in told if _is_block(place)}

    @property
    def paths(self) -> list[str]:
        """All paths that are known by name."""
        return sorted(set().union(*self._paths.values()))

    @property
    def blocks(self) -> list[str]:
        """The paths below which there may be any field."""
        return sorted(set().union(*self._blocks.values()))

    def __contains__(self, path: str) -> bool:
        return any(self.has(name, path) for name in self.types)

    def has(self, account_type: str, path: str) -> bool:
        """Whether accounts of this type may have a field at `path`."""
        return path in self._paths[account_type] or path.rpartition(".")[0] in self._blocks[account_type]


def _is_block(place: Place) -> bool:
    return place.size > 1 and _PLAIN.fullmatch(place.type) is None  # an enum, the other named type, has one byte


def _dotted(path: str) -> str:
    return path.replace("[", ".").replace("]", "")


def read_selection(parameters: Parameters, fields: Fields) -> Selection:
    """Return which accounts a list asks for. Raises RefusedError."""
    account_type = parameters.get("account_type")
    if account_type is not None and account_type not in fields.types:
        known = ", ".join(fields.types)
        raise _invalid_filter(f"there is no account type {account_type[:32]!a}; there are {known}")
    owner = parameters.get("owner")
    conditions = [(name.removeprefix(WHERE), value) for name, value in parameters.items() if name.startswith(WHERE)]
    if len(conditions) > MAX_CONDITIONS:
        raise _invalid_filter(f"more than {MAX_CONDITIONS} conditions")
    for path, value in conditions:
        known_path = path in fields if account_type is None else fields.has(account_type, path)
        if not known_path or not all(map(_STEP.fullmatch, path.split("."))):
            raise _invalid_filter(f"no account has a field {path[:64]!a}")
        if len(value) > MAX_VALUE_CHARACTERS:
            raise _invalid_filter(f"the value of {path} is longer than {MAX_VALUE_CHARACTERS} characters")
    where = tuple((tuple(path.split(".")), value) for path, value in conditions)
    return Selection(account_type, None if owner is None else read_pubkey(owner), where)


def _invalid_filter(message: str) -> RefusedError:
    return RefusedError(400, ErrorCode.INVALID_FILTER, message)


def accepts_gzip(header: str) -> bool:
    """Return whether an Accept-Encoding header asks for gzip."""
    offers = {}
    for offer in header.lower().split(","):
        coding, _, parameters = offer.partition(";")
        offers[coding.strip()] = parameters.replace(" ", "").rstrip("0.") != "q="
    return offers.get("gzip", offers.get("*", False))


def matches(header: str, tag: str) -> bool:
    """Return whether an If-None-Match header names the (weak) entity tag `tag`."""
    names = [name.strip().removeprefix("W/") for name in header.split(",")]
    return "*" in names or tag.removeprefix("W/") in names
