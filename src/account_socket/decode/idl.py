"""
Anchor IDL JSON (the spec of Anchor 0.30 and later) → the accounts of a program as resolved, fixed-size types.

An IDL is outside input: its size, its nesting and what it unrolls to are limited, every name is a plain identifier,
and whatever does not fit is a `LayoutError` that names the dotted path. Only types that an account reaches are
looked at; instructions, events and errors are ignored.

Two keys are extensions, so that accounts which hold an opaque block need no code (docs/adding-a-program.md):

- a type of kind "tagged": a block of bytes whose meaning one of its own bytes tells;
- `"transparent": true` beside a struct's name: it prints as its only field that is not padding.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import msgspec

from account_socket.errors import LayoutError

MAX_IDL_BYTES = 4 * 1024 * 1024
"""The largest IDLs in use are about 1 MB."""
MAX_ACCOUNTS = 256
MAX_DEPTH = 16
"""Of structs and arrays inside each other; in use: 4."""
MAX_VALUES = 8192
"""Values of one account once arrays are unrolled: each becomes a variable of the generated decoder."""
MAX_ACCOUNT_BYTES = 10 * 1024 * 1024
"""The largest account Solana allows."""
MAX_DISCRIMINATOR_BYTES = 32
ENUM_VARIANTS = 256
"""An enum without fields is one byte."""

SCALAR_BYTES = {
    "bool": 1,
    **{f"{sign}{bits}": bits // 8 for bits in (8, 16, 32, 64, 128, 256) for sign in "ui"},
    "f32": 4,
    "f64": 8,
    "pubkey": 32,
}
_ALIGNED_LIKE_BYTES = {"pubkey", "u256", "i256"}
_VARIABLE = {"string", "bytes", "option", "coption", "vec", "hashMap", "bTreeMap", "hashSet", "bTreeSet"}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PADDING = re.compile(r"_*padding_?[0-9]*")


class Scalar(msgspec.Struct, frozen=True):
    """A primitive: a key of `SCALAR_BYTES`."""

    name: str
    size: int
    values: int = 1
    height: int = 0


class ByteArray(msgspec.Struct, frozen=True):
    """`[u8; size]`."""

    size: int
    values: int = 1
    height: int = 0


class Array(msgspec.Struct, frozen=True):
    """`length` items of one type."""

    item: Type
    length: int

    @property
    def size(self) -> int:
        return self.item.size * self.length

    @property
    def values(self) -> int:
        return self.item.values * self.length

    @property
    def height(self) -> int:
        return self.item.height + 1


class Enumeration(msgspec.Struct, frozen=True):
    """An enum without fields: one byte, the index of its variant."""

    name: str
    variants: tuple[str, ...]
    size: int = 1
    values: int = 1
    height: int = 0


class Field(msgspec.Struct, frozen=True):
    """One named field of a record."""

    name: str
    type: Type

    @property
    def is_padding(self) -> bool:
        return _PADDING.fullmatch(self.name) is not None


class Record(msgspec.Struct, frozen=True):
    """
    A struct: its fields one after the other, without gaps.

    Attributes:
        transparent: it prints as its only field that is not padding.
    """

    name: str
    fields: tuple[Field, ...]
    transparent: bool
    size: int
    values: int
    height: int
    align: int


class Variant(msgspec.Struct, frozen=True):
    """What a tagged block holds when its tag byte is `tag`."""

    tag: int
    name: str
    record: Record


class Tagged(msgspec.Struct, frozen=True):
    """
    A block of `size` bytes, one of which tells what the others mean.

    Attributes:
        label: the JSON key that holds the variant's name.
        tag: the field, common to all variants, that holds the tag byte; `tag_offset` is its place in the block.
    """

    name: str
    size: int
    label: str
    tag: str
    tag_offset: int
    variants: tuple[Variant, ...]
    height: int
    values: int = 1


# Every type tells its `size` in bytes, how many `values` it unrolls to, and its `height`: how deep it nests.
Type: TypeAlias = Scalar | ByteArray | Array | Enumeration | Record | Tagged


class Account(msgspec.Struct, frozen=True):
    """An account type: the bytes it starts with, and the record that follows them."""

    name: str
    discriminator: bytes
    record: Record


class Idl(msgspec.Struct, frozen=True):
    """A program: its address (base58), its name, and its account types in the IDL's order."""

    address: str
    name: str
    accounts: tuple[Account, ...]


class _AccountSpec(msgspec.Struct):
    name: str
    discriminator: list[int]


class _StructSpec(msgspec.Struct, tag_field="kind", tag="struct"):
    fields: list[Any] = []


class _EnumSpec(msgspec.Struct, tag_field="kind", tag="enum"):
    variants: list[dict[str, Any]]


class _AliasSpec(msgspec.Struct, tag_field="kind", tag="type"):
    alias: Any


class _VariantSpec(msgspec.Struct, forbid_unknown_fields=True):
    tag: int
    name: str
    type: str


class _TaggedSpec(msgspec.Struct, tag_field="kind", tag="tagged"):
    size: int
    label: str
    tag: str
    variants: list[_VariantSpec]


class _ReprSpec(msgspec.Struct):
    kind: str
    packed: bool = False


class _TypeSpec(msgspec.Struct):
    name: str
    type: _StructSpec | _EnumSpec | _AliasSpec | _TaggedSpec
    generics: list[Any] = []
    repr: _ReprSpec | None = None
    transparent: bool = False


class _Metadata(msgspec.Struct):
    name: str = ""


class _IdlSpec(msgspec.Struct):
    address: str
    accounts: list[_AccountSpec]
    types: list[_TypeSpec]
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


def parse_idl(document: bytes | str) -> Idl:
    """
    Read an Anchor IDL.

    Args:
        document: The IDL as JSON text, at most `MAX_IDL_BYTES`.
    Raises:
        LayoutError: It is no IDL of the spec, is over a limit, or an account holds a type that has no fixed size.
    Source: Anchor IDL spec 0.1.0.
    """
    if len(document) > MAX_IDL_BYTES:
        raise LayoutError(f"the IDL is larger than {MAX_IDL_BYTES} bytes")
    try:
        spec = msgspec.json.decode(document, type=_IdlSpec)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LayoutError(f"not an Anchor IDL of 0.30 or later: {error}") from error
    if len(spec.accounts) > MAX_ACCOUNTS:
        raise LayoutError(f"the IDL has {len(spec.accounts)} accounts, more than {MAX_ACCOUNTS}")
    resolver = _Resolver(_by_name(spec.types))
    accounts = tuple(_account(account, resolver) for account in spec.accounts)
    for what, keys in (("name", [a.name for a in accounts]), ("discriminator", [a.discriminator for a in accounts])):
        if len(set(keys)) < len(keys):
            raise LayoutError(f"two accounts have the same {what}")
    return Idl(spec.address, spec.metadata.name or spec.address, accounts)


def _by_name(types: list[_TypeSpec]) -> dict[str, _TypeSpec]:
    named = {spec.name: spec for spec in types}
    if len(named) < len(types):
        raise LayoutError("two types have the same name")
    return named


def _account(spec: _AccountSpec, resolver: _Resolver) -> Account:
    name = _identifier(spec.name, "accounts")
    if not 1 <= len(spec.discriminator) <= MAX_DISCRIMINATOR_BYTES:
        raise LayoutError(f"{name}: the discriminator must have 1 to {MAX_DISCRIMINATOR_BYTES} bytes")
    if not all(0 <= byte <= 0xFF for byte in spec.discriminator):
        raise LayoutError(f"{name}: the discriminator is no list of bytes")
    record = resolver.named(name, name, 0)
    if not isinstance(record, Record) or record.transparent:
        raise LayoutError(f"{name}: an account must be a struct that is not transparent")
    return Account(name, bytes(spec.discriminator), record)


def _identifier(name: object, path: str) -> str:
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        raise LayoutError(f"{path}: {_shown(name)} is not a plain identifier")
    return name


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


class _Resolver:
    """Resolves type specs to types, each named type once; `path` says where in the account for error messages."""

    def __init__(self, specs: dict[str, _TypeSpec]) -> None:
        self._specs = specs
        self._resolved: dict[str, Type] = {}
        self._open: set[str] = set()

    def type(self, spec: object, path: str, depth: int) -> Type:
        if depth > MAX_DEPTH:
            raise LayoutError(f"{path}: nested deeper than {MAX_DEPTH}")
        match spec:
            case str() if spec in SCALAR_BYTES:
                return Scalar(spec, SCALAR_BYTES[spec])
            case {"array": [item, int(length)]} if length >= 0:
                return self._bounded(self._array(item, length, path, depth), path)
            case {"defined": {"name": str(name), **rest}} if not rest.get("generics"):
                return self.named(name, path, depth + 1)
        kind = next(iter(spec), None) if isinstance(spec, dict) else spec
        if isinstance(kind, str) and kind in _VARIABLE:
            raise LayoutError(f"{path}: {kind} has no fixed size")
        raise LayoutError(f"{path}: unknown type {_shown(spec)}")

    def _array(self, item: object, length: int, path: str, depth: int) -> Type:
        if item == "u8":
            return ByteArray(length)
        return Array(self.type(item, f"{path}[]", depth + 1), length)

    def named(self, name: str, path: str, depth: int) -> Type:
        known = self._resolved.get(name)
        if known is not None:
            return known
        spec = self._specs.get(name)
        if spec is None:
            raise LayoutError(f"{path}: type {_shown(name)} is not defined")
        if name in self._open:
            raise LayoutError(f"{path}: type {name} contains itself")
        if spec.generics:
            raise LayoutError(f"{path}: type {name} is generic")
        self._open.add(name)
        resolved = self._resolved[name] = self._bounded(self._define(spec, path, depth), path)
        self._open.discard(name)
        return resolved

    def _define(self, spec: _TypeSpec, path: str, depth: int) -> Type:
        match spec.type:
            case _StructSpec(fields):
                return self._record(spec, fields, path, depth)
            case _EnumSpec(variants):
                return _enumeration(spec.name, variants, path)
            case _AliasSpec(alias):
                return self.type(alias, path, depth + 1)
            case _TaggedSpec():
                return self._tagged(spec.name, spec.type, path, depth)

    def _record(self, spec: _TypeSpec, field_specs: list[Any], path: str, depth: int) -> Record:
        fields = []
        for field in field_specs:
            if not isinstance(field, dict) or "type" not in field:
                raise LayoutError(f"{path}: a field of {spec.name} has no name and type (tuple structs do not fit)")
            name = _identifier(field.get("name"), path)
            fields.append(Field(name, self.type(field["type"], f"{path}.{name}", depth)))
        if len({field.name for field in fields}) < len(fields):
            raise LayoutError(f"{path}: two fields have the same name")
        if spec.transparent and sum(not field.is_padding for field in fields) != 1:
            raise LayoutError(f"{path}: a transparent struct must have exactly one field that is not padding")
        align = 1
        if spec.repr is not None and spec.repr.kind == "c" and not spec.repr.packed:
            align = max((_align(field.type) for field in fields), default=1)
            _refuse_gaps(fields, align, path)
        size = sum(field.type.size for field in fields)
        values = sum(field.type.values for field in fields)
        height = 1 + max((field.type.height for field in fields), default=0)
        return Record(spec.name, tuple(fields), spec.transparent, size, values, height, align)

    def _tagged(self, name: str, spec: _TaggedSpec, path: str, depth: int) -> Tagged:
        _identifier(spec.label, path)
        variants, offsets = [], set()
        for variant in spec.variants:
            record = self.named(variant.type, f"{path}.{variant.name}", depth + 1)
            if not isinstance(record, Record) or record.size > spec.size or record.transparent:
                raise LayoutError(f"{path}: {_shown(variant.type)} is no struct of at most {spec.size} bytes")
            if any(field.name == spec.label for field in record.fields):
                raise LayoutError(f"{path}: {variant.type} has a field {spec.label!r} like the label")
            offsets.add(_tag_offset(record, spec.tag, path))
            variants.append(Variant(variant.tag, _identifier(variant.name, path), record))
        tags = {variant.tag for variant in variants}
        if not variants or len(tags) < len(variants) or not all(0 <= tag <= 0xFF for tag in tags):
            raise LayoutError(f"{path}: {name} must have variants with different tags from 0 to 255")
        if len(offsets) != 1:
            raise LayoutError(f"{path}: {spec.tag} does not lie in the same place in all variants")
        height = 1 + max(variant.record.height for variant in variants)
        return Tagged(name, spec.size, spec.label, spec.tag, offsets.pop(), tuple(variants), height)

    @staticmethod
    def _bounded(resolved: Type, path: str) -> Type:
        if resolved.size > MAX_ACCOUNT_BYTES:
            raise LayoutError(f"{path}: larger than {MAX_ACCOUNT_BYTES} bytes")
        if resolved.height > MAX_DEPTH:
            raise LayoutError(f"{path}: nested deeper than {MAX_DEPTH}")
        if resolved.values > MAX_VALUES:
            raise LayoutError(f"{path}: more than {MAX_VALUES} values")
        return resolved


def _enumeration(name: str, variants: list[dict[str, Any]], path: str) -> Enumeration:
    if not 1 <= len(variants) <= ENUM_VARIANTS:
        raise LayoutError(f"{path}: enum {name} must have 1 to {ENUM_VARIANTS} variants")
    if any(variant.get("fields") for variant in variants):
        raise LayoutError(f"{path}: enum {name} has variants with fields, so no fixed size")
    return Enumeration(name, tuple(_identifier(variant.get("name"), path) for variant in variants))


def _tag_offset(record: Record, tag: str, path: str) -> int:
    offset = 0
    for field in record.fields:
        if field.name == tag and field.type == Scalar("u8", 1):
            return offset
        offset += field.type.size
    raise LayoutError(f"{path}: {record.name} has no u8 field {_shown(tag)}")


def _align(of: Type) -> int:
    """Return what Rust aligns a type to inside a `repr(C)` struct on Solana's virtual machine (u128: 8)."""
    match of:
        case Scalar(name, size):
            return 1 if name in _ALIGNED_LIKE_BYTES else min(size, 8)
        case Array(item):
            return _align(item)
        case Record():
            return of.align
    return 1


def _refuse_gaps(fields: list[Field], align: int, path: str) -> None:
    """A `repr(C)` struct that is not packed may hold gaps which the IDL does not tell: better refused than misread."""
    offset = 0
    for field in fields:
        if offset % _align(field.type):
            raise LayoutError(f"{path}.{field.name}: not aligned, so repr(C) leaves a gap before it")
        offset += field.type.size
    if offset % align:
        raise LayoutError(f"{path}: repr(C) leaves a gap at the end")
