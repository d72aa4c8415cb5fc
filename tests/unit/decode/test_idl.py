"""Anchor IDL JSON → resolved types, or a LayoutError that says where."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_socket.decode import idl as idls
from account_socket.decode.decoder import ProgramDecoder
from account_socket.decode.idl import Idl, parse_idl
from account_socket.errors import LayoutError


def named(name):
    return {"defined": {"name": name}}


def kind(name, **definition):
    return {"name": name, "type": definition}


INNER = kind("Inner", kind="struct", fields=[{"name": "deep", "type": {"option": "u8"}}])
LOOP = kind("Loop", kind="struct", fields=[{"name": "next", "type": {"array": [named("Loop"), 2]}}])
ALIAS_LOOP = kind("Loop", kind="type", alias=named("Loop"))
TUPLE = kind("Tuple", kind="struct", fields=["u8", "u64"])
RICH_ENUM = kind("Rich", kind="enum", variants=[{"name": "A", "fields": ["u8"]}])
EMPTY_ENUM = kind("None", kind="enum", variants=[])
GENERIC = kind("Generic", kind="struct", fields=[]) | {"generics": [{"kind": "type", "name": "T"}]}
TAGGED_ODD = kind("Odd", kind="tagged", size=4, label="mode", tag="tag", variants=[])
TWO_FIELDS = kind("Two", kind="struct", fields=[{"name": n, "type": "u8"} for n in "ab"]) | {"transparent": True}

REFUSED_FIELDS = [
    ("string", (), r"^Thing\.x: string has no fixed size"),
    ("bytes", (), r"^Thing\.x: bytes has no fixed size"),
    ({"option": "u8"}, (), r"^Thing\.x: option has no fixed size"),
    ({"vec": "u8"}, (), r"^Thing\.x: vec has no fixed size"),
    ({"array": [{"vec": "u8"}, 2]}, (), r"^Thing\.x\[\]: vec has no fixed size"),
    (named("Inner"), (INNER,), r"^Thing\.x\.deep: option has no fixed size"),
    (named("Loop"), (LOOP,), r"^Thing\.x\.next\[\]: type Loop contains itself"),
    (named("Loop"), (ALIAS_LOOP,), "type Loop contains itself"),
    (named("Thing"), (), r"^Thing\.x: type Thing contains itself"),
    (named("Gone"), (), r"^Thing\.x: type 'Gone' is not defined"),
    (named("Tuple"), (TUPLE,), "tuple structs do not fit"),
    (named("Rich"), (RICH_ENUM,), "variants with fields"),
    (named("None"), (EMPTY_ENUM,), "1 to 256 variants"),
    (named("Generic"), (GENERIC,), "is generic"),
    ({"defined": {"name": "Inner", "generics": [{"kind": "type", "type": "u8"}]}}, (INNER,), "unknown type"),
    (named("Odd"), (TAGGED_ODD,), "variants with different tags"),
    (named("Two"), (TWO_FIELDS,), "exactly one field"),
    ("u7", (), r"^Thing\.x: unknown type 'u7'"),
    (7, (), "unknown type 7"),
    (None, (), "unknown type None"),
    ([], (), r"unknown type \[\]"),
    ({"array": ["u8", -1]}, (), "unknown type"),
    ({"array": ["u8", "N"]}, (), "unknown type"),
    ({"array": ["u8", idls.MAX_ACCOUNT_BYTES + 1]}, (), "larger than"),
    ({"array": ["u64", idls.MAX_VALUES + 1]}, (), "more than 8192 values"),
    ({"array": [{"array": ["u64", 100]}, 100]}, (), "more than 8192 values"),
]


@pytest.mark.parametrize(("spec", "types", "reason"), REFUSED_FIELDS)
def test_refused_types(idl, spec, types, reason):
    """A type that has no fixed size, is unknown, recursive or over a limit is refused with its dotted path."""
    with pytest.raises(LayoutError, match=reason):
        parse_idl(idl({"x": spec}, *types))


@pytest.mark.parametrize(
    "name", ["", "a b", "9a", "a-b", "x\n", "a.b", '"', "__import__('os')", "ä", "a" * 200, 7, None, ["a"]]
)
def test_refused_names(idl, name):
    """A field or account name that is not a plain identifier is refused."""
    document = json.loads(idl({"x": "u8"}))
    document["types"][0]["type"]["fields"][0]["name"] = name
    with pytest.raises(LayoutError):
        parse_idl(json.dumps(document))
    with pytest.raises(LayoutError):
        parse_idl(idl({"x": "u8"}, accounts=[{"name": name, "discriminator": [1]}]))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"accounts": [{"name": "Thing"}]}, "discriminator"),
        ({"accounts": [{"name": "Thing", "discriminator": []}]}, "1 to 32 bytes"),
        ({"accounts": [{"name": "Thing", "discriminator": [1] * 33}]}, "1 to 32 bytes"),
        ({"accounts": [{"name": "Thing", "discriminator": [256]}]}, "no list of bytes"),
        ({"accounts": [{"name": "Gone", "discriminator": [1]}]}, "not defined"),
        ({"accounts": [{"name": "Thing", "discriminator": [n]} for n in (1, 2)]}, "same name"),
        ({"accounts": [{"name": f"T{n}", "discriminator": [1]} for n in range(257)]}, "more than 256"),
        ({"address": 7}, "not an Anchor IDL"),
        ({"types": [kind("A", kind="struct", fields=[])] * 2}, "two types have the same name"),
        ({"types": [kind("Thing", kind="enum", variants=[{"name": "A"}])]}, "must be a struct"),
        ({"types": [kind("Thing", kind="nonsense")]}, "not an Anchor IDL"),
        ({"types": [kind("Thing", kind="struct", fields=[{"name": "a", "type": "u8"}] * 2)]}, "same name"),
    ],
)
def test_refused_documents(idl, changes, reason):
    """An IDL that is malformed or contradicts itself is refused with a reason."""
    with pytest.raises(LayoutError, match=reason):
        parse_idl(idl({"x": "u8"}, **changes))


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", b"\xff\xfe", b"[" * 100_000, b"null", b'{"address":"x"}'])
def test_no_idl_at_all(document):
    """Bytes that are no IDL are refused as a LayoutError, not as a parser's error."""
    with pytest.raises(LayoutError, match="not an Anchor IDL"):
        parse_idl(document)


def test_too_large():
    """A document over the size limit is refused before it is parsed."""
    with pytest.raises(LayoutError, match="larger than"):
        parse_idl(b" " * (idls.MAX_IDL_BYTES + 1))


@pytest.mark.parametrize("order", [1, -1])
def test_nesting_limit(idl, struct, order):
    """A chain of structs deeper than the limit is refused, also when each of them was resolved on its own before."""
    chain = [struct(f"T{n}", {"a": named(f"T{n + 1}")}) for n in range(40)] + [struct("T40", {"a": "u8"})]
    fields = {f"x{n}": named(f"T{n}") for n in range(41)[::order]}
    with pytest.raises(LayoutError, match="nested deeper than 16"):
        parse_idl(idl(fields, *chain))


def test_nested_arrays_limit(idl):
    """Arrays inside arrays count as nesting."""
    spec = "u64"
    for _ in range(300):
        spec = {"array": [spec, 1]}
    with pytest.raises(LayoutError, match="nested deeper than 16"):
        parse_idl(idl({"x": spec}))


def test_doubling_does_not_explode(idl, struct):
    """A type that doubles at every level is refused by arithmetic, without being unrolled."""
    chain = [struct(f"T{n}", dict.fromkeys("ab", named(f"T{n + 1}"))) for n in range(15)]
    with pytest.raises(LayoutError, match="more than 8192 values"):
        parse_idl(idl({"x": named("T0")}, *chain, struct("T15", {"a": "u64"})))


def test_other_parts_are_ignored(idl):
    """Types that no account reaches, events, errors and unknown keys do not matter."""
    unused = [INNER, RICH_ENUM, TUPLE, GENERIC | {"docs": ["x"], "serialization": {"custom": "x"}}]
    parsed = parse_idl(idl({"x": "u8"}, *unused, events=[{"name": "E"}], errors=[], constants=[{"type": "string"}]))
    assert [(a.name, a.discriminator, a.record.size) for a in parsed.accounts] == [("Thing", b"\x01", 1)]
    assert parsed.name == "things"


def test_alias(idl):
    """A type of kind "type" stands for what it names."""
    parsed = parse_idl(idl({"x": named("Amount")}, kind("Amount", kind="type", alias={"array": ["u64", 3]})))
    assert parsed.accounts[0].record.size == 24


@pytest.mark.parametrize(
    ("fields", "packed", "refused"),
    [
        ({"a": "u8", "b": "u64"}, False, True),
        ({"a": "u8", "b": "u64"}, True, False),
        ({"a": "u64", "b": "u8"}, False, True),
        ({"a": "u64", "b": "u32", "c": "u16", "d": "u8", "e": "u8"}, False, False),
        ({"a": "u64", "b": "u128"}, False, False),
        ({"a": "u8", "b": "pubkey", "c": "u256"}, False, False),
        ({"a": "u8", "b": {"array": ["u16", 2]}}, False, True),
    ],
)
def test_gaps(idl, struct, fields, packed, refused):
    """A repr(C) struct in which Rust leaves gaps is refused unless it is packed."""
    document = idl({"x": named("C")}, struct("C", fields, repr={"kind": "c", "packed": packed}))
    if refused:
        with pytest.raises(LayoutError, match="leaves a gap"):
            parse_idl(document)
    else:
        parse_idl(document)


def block(**changes):
    variants = [{"tag": 0, "name": "First", "type": "A"}, {"tag": 1, "name": "Second", "type": "B"}]
    return kind("Block", kind="tagged", **{"size": 4, "label": "mode", "tag": "tag", "variants": variants} | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"size": 1}, "at most 1 bytes"),
        ({"label": "a"}, "like the label"),
        ({"label": "a b"}, "plain identifier"),
        ({"tag": "a"}, "no u8 field"),
        ({"variants": [{"tag": n, "name": "A", "type": "A"} for n in (3, 3)]}, "different tags"),
        ({"variants": [{"tag": 256, "name": "A", "type": "A"}]}, "different tags"),
        ({"variants": [{"tag": 0, "name": "a b", "type": "A"}]}, "plain identifier"),
        ({"variants": [{"tag": n, "name": "A", "type": t} for n, t in enumerate("AC")]}, "same place"),
        ({"variants": [{"tag": 0, "name": "A", "type": "E"}]}, "is no struct"),
    ],
)
def test_tagged_blocks(idl, struct, changes, reason):
    """A tagged block must fit its variants, and find its tag in the same place in all of them."""
    types = [
        struct("A", {"tag": "u8", "a": "u16"}),
        struct("B", {"tag": "u8", "b": "u8"}),
        struct("C", {"a": "u16", "tag": "u8"}),
        kind("E", kind="enum", variants=[{"name": "X"}]),
    ]
    document = idl({"x": named("Block")}, block(**changes), *types)
    if reason is None:
        assert parse_idl(document).accounts[0].record.size == 4
    else:
        with pytest.raises(LayoutError, match=reason):
            parse_idl(document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.sampled_from(["u8", "u64", "A", "struct", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "type", "array", "defined", "kind", "fields", "tag"]), inner)
    ),
    max_leaves=12,
)


@given(fields=JSON, types=st.lists(JSON, max_size=3))
def test_any_json_is_an_idl_or_refused(fields, types):
    """Whatever JSON stands where an IDL should, the answer is a decoder or a LayoutError."""
    definition = {"name": "Thing", "type": {"kind": "struct", "fields": fields}}
    document = {
        "address": "x",
        "accounts": [{"name": "Thing", "discriminator": [1]}],
        "types": [definition, *types],
    }
    try:
        parsed = parse_idl(json.dumps(document))
    except LayoutError:
        return
    assert isinstance(parsed, Idl)
    ProgramDecoder(parsed)
