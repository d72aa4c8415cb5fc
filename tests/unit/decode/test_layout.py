"""Types → JSON: each kind of value, byte by byte."""

from __future__ import annotations

import json
import keyword
import struct as structs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_socket.decode import layout as layouts
from account_socket.decode.decoder import ProgramDecoder
from account_socket.decode.idl import SCALAR_BYTES
from account_socket.decode.layout import Memo

INTEGERS = {name: size for name, size in SCALAR_BYTES.items() if name[0] in "ui" and name[1:].isdigit()}
WIDE = {name for name, size in INTEGERS.items() if size >= 8}

VALUES = [
    ("bool", "00", False),
    ("bool", "01", True),
    ("bool", "02", True),
    ("u8", "ff", 255),
    ("i8", "ff", -1),
    ("u16", "0102", 513),
    ("i16", "ffff", -1),
    ("u32", "ffffffff", 4294967295),
    ("i32", "00000080", -2147483648),
    ("f32", "0000c03f", 1.5),
    ("f64", "000000000000f83f", 1.5),
    ("f64", "000000000000f87f", None),
    ("f64", "000000000000f07f", None),
    ("f32", "0000c07f", None),
    ("u64", "0000000000000000", "0"),
    ("u64", "ff" * 8, "18446744073709551615"),
    ("i64", "ff" * 8, "-1"),
    ("i64", "00" * 7 + "80", "-9223372036854775808"),
    ("u128", "01" + "00" * 15, "1"),
    ("u128", "00" * 8 + "01" + "00" * 7, "18446744073709551616"),
    ("u128", "ff" * 16, "340282366920938463463374607431768211455"),
    ("i128", "ff" * 16, "-1"),
    ("i128", "00" * 15 + "80", "-170141183460469231731687303715884105728"),
    ("i128", "01" + "00" * 15, "1"),
    ("u256", "00" * 32, "0"),
    ("u256", "ff" * 32, str(2**256 - 1)),
    ("i256", "ff" * 32, "-1"),
    ("i256", "00" * 31 + "80", str(-(2**255))),
    ("pubkey", "00" * 32, "11111111111111111111111111111111"),
    (
        "pubkey",
        "06ddf6e1d765a193d9cbe146ceeb79ac1cb485ed5f5b37913a8cf5857eff00a9",
        "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
    ),
    ({"array": ["u8", 3]}, "0aff00", "0aff00"),
    ({"array": ["u8", 0]}, "", ""),
    ({"array": ["i8", 2]}, "01ff", [1, -1]),
    ({"array": ["u16", 1]}, "0100", [1]),
    ({"array": ["u64", 0]}, "", []),
    ({"array": ["u64", 2]}, "01" + "00" * 7 + "02" + "00" * 7, ["1", "2"]),
    ({"array": [{"array": ["u8", 2]}, 2]}, "01020304", ["0102", "0304"]),
    ({"array": [{"array": ["u16", 2]}, 2]}, "0100020003000400", [[1, 2], [3, 4]]),
]


@pytest.mark.parametrize(("spec", "body", "value"), VALUES)
def test_values(decode, spec, body, value):
    """Each kind of value has the contract's JSON form, and takes no byte of its neighbours."""
    decoded = decode(b"\xa5" + bytes.fromhex(body) + b"\x5a", {"before": "u8", "value": spec, "after": "u8"})
    assert decoded == {"before": 0xA5, "value": value, "after": 0x5A}


def test_every_scalar_has_its_size():
    """The struct codes of a scalar take as many bytes as the IDL's reader counts."""
    sizes = {name: structs.calcsize(f"<{codes}") for name, (codes, _) in layouts._SCALARS.items()}
    assert sizes == SCALAR_BYTES


@given(data=st.data(), name=st.sampled_from(sorted(INTEGERS)))
def test_integers_survive_the_round_trip(idl, data, name):
    """Every integer comes out as the number that its bytes hold: from 64 bits on as a decimal string."""
    size, signed = INTEGERS[name], name[0] == "i"
    low, high = (-(2 ** (size * 8 - 1)), 2 ** (size * 8 - 1) - 1) if signed else (0, 2 ** (size * 8) - 1)
    value = data.draw(st.integers(low, high) | st.sampled_from([low, high]))
    decoder = ProgramDecoder.from_idl(idl({"x": name}))
    decoded = json.loads(decoder.decode(b"\x01" + value.to_bytes(size, "little", signed=signed)).data_json)
    assert decoded == {"x": str(value) if name in WIDE else value}


def test_any_identifier_is_a_key(decode):
    """Python's keywords, dunders and the generator's own names are field names like others."""
    names = [*keyword.kwlist, *keyword.softkwlist, "__init__", "__struct_fields__", "data", "unpack", "v0", "o3", "f1"]
    names = list(dict.fromkeys(names))
    assert decode(bytes(range(len(names))), dict.fromkeys(names, "u8")) == {n: i for i, n in enumerate(names)}


@pytest.mark.parametrize(
    ("name", "is_padding"),
    [
        *[(name, True) for name in ("padding", "_padding", "__padding", "padding_0", "padding2", "_padding_12")],
        *[(name, False) for name in ("padding_a", "paddings", "my_padding", "padding__0", "Padding", "pad")],
    ],
)
def test_padding(decode, name, is_padding):
    """Fields whose name says padding are left out, whatever their type; all others stay."""
    decoded = decode(b"\x01\x02\x03\x04", {"a": "u8", name: {"array": ["u8", 2]}, "b": "u8"})
    assert decoded == ({"a": 1, "b": 4} if is_padding else {"a": 1, name: "0203", "b": 4})


def test_nesting(decode, struct):
    """Structs inside structs and arrays are objects, with their keys in the IDL's order."""
    leaf = struct("Leaf", {"z": "u8", "padding": "u8", "a": "u16"})
    branch = struct("Branch", {"leaf": {"defined": {"name": "Leaf"}}, "n": "u8"})
    only_padding = struct("Void", {"_padding": "u8"})
    fields = {
        "one": {"defined": {"name": "Branch"}},
        "many": {"array": [{"defined": {"name": "Leaf"}}, 2]},
        "branches": {"array": [{"defined": {"name": "Branch"}}, 1]},
        "void": {"defined": {"name": "Void"}},
    }
    decoded = decode(bytes(range(1, 20)), fields, leaf, branch, only_padding)
    expected = {
        "one": {"leaf": {"z": 1, "a": 0x0403}, "n": 5},
        "many": [{"z": 6, "a": 0x0908}, {"z": 10, "a": 0x0D0C}],
        "branches": [{"leaf": {"z": 14, "a": 0x1110}, "n": 18}],
        "void": {},
    }
    assert json.dumps(decoded) == json.dumps(expected)


def test_large_structs(decode, struct):
    """A struct too large to be kept by its bytes decodes like a small one."""
    large = struct("Large", {"a": {"array": ["u8", layouts.MEMO_PART_BYTES]}, "b": "u8"})
    body = bytes(layouts.MEMO_PART_BYTES) + b"\x07"
    assert decode(body, {"x": {"defined": {"name": "Large"}}}, large)["x"]["b"] == 7


def test_an_account_of_padding_only(decode):
    """An account type without any field but padding is an empty object."""
    assert decode(b"\x01", {"padding": "u8"}) == {}
    assert decode(b"", {}) == {}


def test_enums(decode, idl):
    """An enum without fields is its variant's name; a byte without a variant makes the account Unknown."""
    color = {"name": "Color", "type": {"kind": "enum", "variants": [{"name": "Red"}, {"name": "Blue"}]}}
    fields = {"x": {"array": [{"defined": {"name": "Color"}}, 2]}}
    assert decode(b"\x01\x00", fields, color) == {"x": ["Blue", "Red"]}
    decoded = ProgramDecoder.from_idl(idl(fields, color)).decode(b"\x01\x00\x02")
    assert (decoded.account_type, decoded.failure) == ("Unknown", "invalid_value")
    assert decoded.error == "Thing: enum Color has no variant 2"


TAGGED = {
    "name": "Block",
    "type": {
        "kind": "tagged",
        "size": 4,
        "label": "mode",
        "tag": "tag",
        "variants": [{"tag": 0, "name": "First", "type": "A"}, {"tag": 9, "name": "Ninth", "type": "B"}],
    },
}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("01000203", {"mode": "First", "tag": 0, "a": 1, "b": 0x0302}),
        ("01090203", {"mode": "Ninth", "tag": 9, "c": 1}),
        ("01080203", {"mode": "Unknown", "tag": 8, "data": "01080203"}),
    ],
)
@pytest.mark.parametrize("transparent", [False, True])
def test_tagged_blocks(decode, struct, body, expected, transparent):
    """A tagged block prints its variant's name, the tag, then the variant's own fields; else its bytes."""
    types = [TAGGED, struct("A", {"a": "u8", "tag": "u8", "b": "u16"}), struct("B", {"c": "u8", "tag": "u8"})]
    if transparent:
        types.append(
            struct(
                "Shell", {"padding": "u8", "in": {"defined": {"name": "Block"}}, "_padding_2": "u8"}, transparent=True
            )
        )
        decoded = decode(bytes.fromhex(f"ff{body}ff07"), {"x": {"defined": {"name": "Shell"}}, "y": "u8"}, *types)
    else:
        decoded = decode(bytes.fromhex(f"{body}07"), {"x": {"defined": {"name": "Block"}}, "y": "u8"}, *types)
    assert json.dumps(decoded) == json.dumps({"x": expected, "y": 7})


def test_places(idl, struct):
    """Places tell each value's path, offset and type, padding included, without gaps."""
    inner = struct("Inner", {"a": "u16", "padding": {"array": ["u64", 2]}})
    shell = struct("Shell", {"in": {"defined": {"name": "Inner"}}, "padding": "u8"}, transparent=True)
    fields = {"x": {"array": [{"defined": {"name": "Inner"}}, 2]}, "y": {"defined": {"name": "Shell"}}, "z": "pubkey"}
    layout = ProgramDecoder.from_idl(idl(fields, inner, shell)).layouts["Thing"]
    assert [(p.path, p.offset, p.size, p.type, p.is_padding) for p in layout.places] == [
        ("x[0].a", 1, 2, "u16", False),
        ("x[0].padding", 3, 16, "bytes", True),
        ("x[1].a", 19, 2, "u16", False),
        ("x[1].padding", 21, 16, "bytes", True),
        ("y.a", 37, 2, "u16", False),
        ("y.padding", 39, 16, "bytes", True),
        ("y.padding", 55, 1, "u8", True),
        ("z", 56, 32, "pubkey", False),
    ]
    assert layout.size == 88


@given(keys=st.lists(st.binary(max_size=1), max_size=60))
def test_a_memo_is_bounded_and_true(keys):
    """A memo never holds more than its limit and always answers what its function would."""
    memo = Memo(bytes.hex, 5)
    for key in keys:
        assert memo[key] == key.hex()
        assert len(memo) <= 5
