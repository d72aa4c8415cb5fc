"""
Resolved types → compiled decoders from account bytes to the public `data_json`.

An account becomes one `struct` format and one generated function that unpacks it and encodes a generated
`msgspec.Struct`. Its source holds only numbered names (`v7`, `o3`), never text of the IDL.

A struct that holds no other one, and a tagged block, is compiled on its own and its JSON kept by its bytes: most
parts of an account do not change from one update to the next (rewards, fees, vesting). Only structs that hold others
are written out in place: kept by their bytes as well, one changed value would miss at each level.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
from solders.pubkey import Pubkey

from account_socket.decode.idl import (
    Account,
    Array,
    ByteArray,
    Enumeration,
    Record,
    Scalar,
    Tagged,
    Type,
)

MEMO_PUBKEYS = 65_536
"""About 16 MB when full."""
MEMO_PARTS = 4_096
"""Per struct type; with parts of at most `MEMO_PART_BYTES`, under 6 MB when full."""
MEMO_PART_BYTES = 256

_SCALARS = {
    "bool": ("?", "{0}"),
    "u8": ("B", "{0}"),
    "i8": ("b", "{0}"),
    "u16": ("H", "{0}"),
    "i16": ("h", "{0}"),
    "u32": ("I", "{0}"),
    "i32": ("i", "{0}"),
    "f32": ("f", "{0}"),
    "f64": ("d", "{0}"),
    "u64": ("Q", "str({0})"),
    "i64": ("q", "str({0})"),
    # Two halves, because most are small: joining them only when needed beats int.from_bytes twice.
    "u128": ("Q Q", "str({1} << 64 | {0} if {1} else {0})"),
    "i128": ("Q q", "str({1} << 64 | {0} if {1} else {0})"),
    "u256": ("32s", "str(int_from({0}, 'little'))"),
    "i256": ("32s", "str(int_from({0}, 'little', signed=True))"),
    "pubkey": ("32s", "pubkeys[{0}]"),
}
"""Scalar → its struct codes, and the expression that makes its JSON value of what they unpack to."""

_encode = msgspec.json.Encoder().encode
_Value = TypeVar("_Value")


class InvalidValueError(ValueError):
    """The bytes of a value have no meaning in its type; never leaves `ProgramDecoder`."""


class Place(msgspec.Struct, frozen=True):
    """
    Where one value of an account lies.

    Attributes:
        path: dotted, as in `data_json`: `pool_fees.dynamic_fee.bin_step`, `reward_infos[0].mint`.
        offset: bytes from the start of the account data, discriminator included.
        size: bytes.
        type: the IDL's name of a scalar, enum or tagged block; `bytes` for a byte array.
        is_padding: the value is left out of `data_json`.
    """

    path: str
    offset: int
    size: int
    type: str
    is_padding: bool


class Layout(msgspec.Struct, frozen=True):
    """
    One account type, compiled.

    Attributes:
        name: the account type.
        discriminator: the bytes that its data starts with.
        size: bytes of the data, discriminator included; longer data decodes too.
        places: every value in order, padding included, without gaps.
        to_json: account data of at least `size` bytes → `data_json`; raises InvalidValueError.
    """

    name: str
    discriminator: bytes
    size: int
    places: tuple[Place, ...]
    to_json: Callable[[bytes], bytes]


class Memo(dict[bytes, _Value]):
    """What `make` made of some bytes, for at most `limit` of them; full, it starts over, so that hits stay cheap."""

    __slots__ = ("_limit", "_make")

    def __init__(self, make: Callable[[bytes], _Value], limit: int) -> None:
        super().__init__()
        self._make = make
        self._limit = limit

    def __missing__(self, key: bytes) -> _Value:
        value = self._make(key)
        if len(self) >= self._limit:
            self.clear()
        self[key] = value
        return value


_pubkeys = Memo(lambda key: str(Pubkey(key)), MEMO_PUBKEYS)


class _VariantNames(dict[int, str]):
    def __init__(self, enumeration: Enumeration) -> None:
        super().__init__(enumerate(enumeration.variants))
        self._name = enumeration.name

    def __missing__(self, index: int) -> str:
        raise InvalidValueError(f"enum {self._name} has no variant {index}")


class _Writer:
    """
    One generated function while it is written: from bytes to JSON.

    Attributes:
        format: the struct format, little-endian without gaps.
        names: a variable for each value of the format.
        scope: the objects that the source refers to.
    """

    def __init__(self, skip: int = 0) -> None:
        self.format = f"<{skip}x"
        self.names: list[str] = []
        self.scope: dict[str, object] = {"encode": _encode, "int_from": int.from_bytes, "pubkeys": _pubkeys}

    def skip(self, size: int) -> None:
        self.format += f" {size}x"

    def take(self, code: str) -> str:
        """Take one value from the bytes; return its variable."""
        self.format += f" {code}"
        self.names.append(f"v{len(self.names)}")
        return self.names[-1]

    def refer(self, value: object) -> str:
        """Make an object known to the function; return its name there."""
        name = f"o{len(self.scope)}"
        self.scope[name] = value
        return name

    def construct(self, members: list[tuple[str, str]]) -> str:
        """Return the expression of a JSON object with these (key, expression) pairs."""
        attributes = {f"f{index}": key for index, (key, _) in enumerate(members)}
        # Numbered attributes with the keys as their JSON names: any key is safe, Python's keywords too.
        kind = msgspec.defstruct("Object", [(name, Any) for name in attributes], rename=attributes, gc=False)
        return f"{self.refer(kind)}({', '.join(expression for _, expression in members)})"

    def function(self, expression: str) -> Callable[[bytes], bytes]:
        """Finish: the function from bytes, at least as long as the format, to the JSON of `expression`."""
        self.scope["unpack"] = struct.Struct(self.format).unpack_from
        variables = "".join(f"{name}, " for name in self.names)
        source = f"def to_json(data):\n    ({variables}) = unpack(data)\n    return encode({expression})\n"
        exec(compile(source, "<generated layout>", "exec"), self.scope)  # noqa: S102  (no text of the IDL in it)
        generated: Callable[[bytes], bytes] = self.scope["to_json"]  # type: ignore[assignment]
        return generated


class LayoutCompiler:
    """Compiles the accounts of one program; parts that several accounts share are compiled once."""

    def __init__(self) -> None:
        self._parts: dict[str, Memo[msgspec.Raw]] = {}

    def compile(self, account: Account) -> Layout:
        """Compile one account type. A resolved account always compiles."""
        start = len(account.discriminator)
        writer = _Writer(skip=start)
        to_json = writer.function(writer.construct(self._members(account.record, writer)))
        places = tuple(_record_places(account.record, "", start, padding=False))
        return Layout(account.name, account.discriminator, start + account.record.size, places, to_json)

    def _members(self, record: Record, writer: _Writer) -> list[tuple[str, str]]:
        members = []
        for field in record.fields:
            if field.is_padding:
                writer.skip(field.type.size)
            else:
                members.append((field.name, self._expression(field.type, writer)))
        return members

    def _expression(self, of: Type, writer: _Writer) -> str:
        """Take a value's bytes in `writer`; return the expression of its JSON value."""
        match of:
            case Scalar(name):
                codes, expression = _SCALARS[name]
                return expression.format(*map(writer.take, codes.split()))
            case ByteArray(size):
                return f"{writer.take(f'{size}s')}.hex()"
            case Array(item, length):
                return f"({''.join(f'{self._expression(item, writer)}, ' for _ in range(length))})"
            case Enumeration():
                return f"{writer.refer(_VariantNames(of))}[{writer.take('B')}]"
            case Record() | Tagged():
                return self._object(of, writer)

    def _object(self, of: Record | Tagged, writer: _Writer) -> str:
        if isinstance(of, Record):
            if of.transparent:
                ((_, expression),) = self._members(of, writer)
                return expression
            if of.size > MEMO_PART_BYTES or _holds_records(of):
                return writer.construct(self._members(of, writer))
        return f"{writer.refer(self._part(of))}[{writer.take(f'{of.size}s')}]"

    def _part(self, of: Record | Tagged) -> Memo[msgspec.Raw]:
        part = self._parts.get(of.name)
        if part is None:
            to_json = self._record(of) if isinstance(of, Record) else self._tagged(of)
            part = self._parts[of.name] = Memo(lambda data: msgspec.Raw(to_json(data)), MEMO_PARTS)
        return part

    def _record(self, record: Record) -> Callable[[bytes], bytes]:
        writer = _Writer()
        return writer.function(writer.construct(self._members(record, writer)))

    def _tagged(self, block: Tagged) -> Callable[[bytes], bytes]:
        variants = {variant.tag: self._variant(block, variant.name, variant.record) for variant in block.variants}
        offset = block.tag_offset

        def unknown(data: bytes) -> bytes:
            return _encode({block.label: "Unknown", block.tag: data[offset], "data": data.hex()})

        return lambda data: variants.get(data[offset], unknown)(data)

    def _variant(self, block: Tagged, name: str, record: Record) -> Callable[[bytes], bytes]:
        """The variant's name and its tag come first, then its other fields."""
        writer = _Writer()
        members = self._members(record, writer)
        members.sort(key=lambda member: member[0] != block.tag)
        return writer.function(writer.construct([(block.label, writer.refer(name)), *members]))


def _holds_records(record: Record) -> bool:
    def is_record(of: Type) -> bool:
        return isinstance(of, Record | Tagged) or (isinstance(of, Array) and is_record(of.item))

    return any(is_record(field.type) for field in record.fields if not field.is_padding)


def _record_places(record: Record, path: str, offset: int, *, padding: bool) -> Iterator[Place]:
    for field in record.fields:
        is_value = record.transparent and not field.is_padding
        inner = path if is_value else f"{path}.{field.name}".removeprefix(".")
        yield from _places(field.type, inner, offset, padding=padding or field.is_padding)
        offset += field.type.size


def _places(of: Type, path: str, offset: int, *, padding: bool) -> Iterator[Place]:
    match of:
        case Record():
            yield from _record_places(of, path, offset, padding=padding)
        case Array(item, length) if not padding:
            for index in range(length):
                yield from _places(item, f"{path}[{index}]", offset + index * item.size, padding=padding)
        case Scalar(name) | Enumeration(name) | Tagged(name):
            yield Place(path, offset, of.size, name, padding)
        case _:
            yield Place(path, offset, of.size, "bytes", padding)
