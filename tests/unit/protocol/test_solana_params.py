"""What the node's methods take, as Agave checks it."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_socket.protocol import base58
from account_socket.protocol.solana_encodings import Encoding
from account_socket.protocol.solana_jsonrpc import INVALID_PARAMS, RpcFault
from account_socket.protocol.solana_params import (
    Config,
    DataSize,
    DataSlice,
    Memcmp,
    TokenAccountState,
    parse_config,
    parse_filters,
    parse_read_pubkey,
    parse_subscription_pubkey,
)

KEY = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"


@given(st.binary(max_size=200))
def test_base58_round_trip(data):
    """Bytes survive base58, leading zeros included."""
    assert base58.decode(base58.encode(data)) == data


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"", ""), (b"\0", "1"), (b"\0\0\1", "112"), (b"Hello World!", "2NEpo7TZRRrLZSi2U"), (bytes(32), "1" * 32)],
)
def test_base58_known_values(data, text):
    """The alphabet is Bitcoin's."""
    assert base58.encode(data) == text
    assert base58.decode(text) == data


@pytest.mark.parametrize("text", ["0", "O", "I", "l", "a b", "é"])
def test_base58_refuses_other_characters(text):
    """What is not in the alphabet is refused."""
    with pytest.raises(ValueError, match="is not a base58 digit"):
        base58.decode(text)


def memcmp(offset, data, encoding=None):
    return {"memcmp": {"offset": offset, "bytes": data} | ({"encoding": encoding} if encoding else {})}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ()),
        ([], ()),
        ([{"dataSize": 0}], (DataSize(0),)),
        ([{"dataSize": 1112}, "tokenAccountState"], (DataSize(1112), TokenAccountState())),
        ([memcmp(8, "2NEpo7TZRRrLZSi2U")], (Memcmp(8, b"Hello World!"),)),
        ([memcmp(8, "2NEpo7TZRRrLZSi2U", "base58")], (Memcmp(8, b"Hello World!"),)),
        ([memcmp(0, "AQID", "base64")], (Memcmp(0, b"\1\2\3"),)),
        ([memcmp(0, [1, 2, 255])], (Memcmp(0, b"\1\2\xff"),)),
        ([memcmp(0, [1], "bytes")], (Memcmp(0, b"\1"),)),
        ([memcmp(0, "")], (Memcmp(0, b""),)),
        ([memcmp(0, [7] * 128)], (Memcmp(0, b"\7" * 128),)),
        ([memcmp(0, base64.b64encode(bytes(128)).decode(), "base64")], (Memcmp(0, bytes(128)),)),
        ([{"memcmp": {"offset": 1, "bytes": "2", "encoding": None, "more": 1}}], (Memcmp(1, b"\1"),)),
    ],
)
def test_filters(given, expected):
    """Every form of a filter is understood."""
    assert parse_filters(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"dataSize": 1}] * 5, "Too many filters provided; max 4"),
        ([memcmp(0, "1" * 176)], "Invalid param: DataTooLarge"),
        ([memcmp(0, base58.encode(b"\xff" * 129)[:175] + "z")], "Invalid param: DataTooLarge"),
        ([memcmp(0, "A" * 173, "base64")], "Invalid param: DataTooLarge"),
        ([memcmp(0, [0] * 129)], "Invalid param: DataTooLarge"),
        ([memcmp(0, "1" * 129)], "Invalid param: DataTooLarge"),
        ([memcmp(0, "0")], "Invalid param: Base58DecodeError("),
        ([memcmp(0, "A", "base64")], "Invalid param: Base64DecodeError("),
        ([memcmp(0, "AQID", "bytes")], "Invalid params: "),
        ([memcmp(0, [1], "base64")], "Invalid params: "),
        ([memcmp(0, [256])], "Invalid params: "),
        ([memcmp(-1, "1")], "Invalid params: "),
        ([memcmp("0", "1")], "Invalid params: "),
        ([{"memcmp": {"offset": 0}}], "Invalid params: "),
        ([{"memcmp": "1"}], "Invalid params: "),
        ([{"dataSize": -1}], "Invalid params: "),
        ([{"dataSize": True}], "Invalid params: "),
        ([{"dataSize": "1"}], "Invalid params: "),
        ([{"dataSize": 1, "memcmp": {}}], "Invalid params: "),
        ([{}], "Invalid params: "),
        (["other"], "Invalid params: "),
        ([None], "Invalid params: "),
    ],
)
def test_bad_filters(given, message):
    """A filter that Agave refuses is refused with -32602 and its reason."""
    with pytest.raises(RpcFault) as caught:
        parse_filters(given)
    assert caught.value.code == INVALID_PARAMS
    assert caught.value.message.startswith(message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["memcmp", "dataSize", "bytes", "offset"]), inner)
    ),
    max_leaves=10,
)


@given(json_values)
def test_any_filter_is_answered(value):
    """Whatever stands for a filter, the only exception is a fault that can be answered."""
    try:
        (parsed,) = parse_filters([value])
    except RpcFault:
        return
    assert isinstance(parsed, DataSize | Memcmp | TokenAccountState)


token_account = bytes(108) + b"\1" + bytes(56)


@pytest.mark.parametrize(
    ("filter_", "data", "matches"),
    [
        (DataSize(3), b"abc", True),
        (DataSize(3), b"abcd", False),
        (Memcmp(1, b"bc"), b"abcd", True),
        (Memcmp(2, b"bc"), b"abcd", False),
        (Memcmp(3, b"de"), b"abcd", False),
        (Memcmp(4, b""), b"abcd", True),
        (Memcmp(5, b""), b"abcd", False),
        (Memcmp(2**70, b"a"), b"abcd", False),
        (TokenAccountState(), token_account, True),
        (TokenAccountState(), bytes(165), False),
        (TokenAccountState(), token_account[:-1], False),
        (TokenAccountState(), token_account + b"\2" + bytes(9), True),
        (TokenAccountState(), token_account + b"\1" + bytes(9), False),
        (TokenAccountState(), (token_account + b"\2").ljust(355, b"\0"), False),
        (TokenAccountState(), b"", False),
    ],
)
def test_matching(filter_, data, matches):
    """A filter passes what it describes, and reading beyond the data is no match."""
    assert filter_.matches(data) is matches


def test_config():
    """A config is read by its camel-case keys; null and absent are the defaults; others are ignored."""
    assert parse_config([], 0) == parse_config([None], 0) == parse_config([{"sortResults": True}], 0) == Config()
    config = {
        "encoding": "base64+zstd",
        "commitment": "confirmed",
        "dataSlice": {"offset": 1, "length": 2},
        "minContextSlot": 5,
        "filters": [{"dataSize": 1}],
        "withContext": True,
    }
    assert parse_config([KEY, config], 1) == Config(
        encoding=Encoding.BASE64_ZSTD,
        commitment="confirmed",
        data_slice=DataSlice(1, 2),
        min_context_slot=5,
        filters=[{"dataSize": 1}],
        with_context=True,
    )


@pytest.mark.parametrize(
    "config",
    [
        5,
        "base64",
        [],
        {"encoding": "base32"},
        {"encoding": 1},
        {"commitment": "sure"},
        {"minContextSlot": -1},
        {"minContextSlot": "1"},
        {"dataSlice": {"offset": 0}},
        {"dataSlice": {"offset": -1, "length": 1}},
        {"filters": {}},
        {"withContext": 1},
    ],
)
def test_bad_config(config):
    """A config of another shape is refused with -32602."""
    with pytest.raises(RpcFault, match=r"Invalid params: ") as caught:
        parse_config([config], 0)
    assert caught.value.code == INVALID_PARAMS


@pytest.mark.parametrize(
    ("value", "subscription", "read"),
    [
        ("abc", "Invalid Request: Invalid pubkey provided", "Invalid param: WrongSize"),
        ("0" * 43, "Invalid Request: Invalid pubkey provided", "Invalid param: Invalid"),
        ("", "Invalid Request: Invalid pubkey provided", "Invalid param: WrongSize"),
        (KEY + "1", "Invalid Request: Invalid pubkey provided", "Invalid param: WrongSize"),
        ("1" * 50_000, "Invalid Request: Invalid pubkey provided", "Invalid param: WrongSize"),
        (5, "Invalid params: invalid type", "Invalid params: invalid type"),
        (None, "Invalid params: invalid type", "Invalid params: invalid type"),
    ],
)
def test_bad_pubkeys(value, subscription, read):
    """PubSub and HTTP refuse a bad key, each in its own words."""
    for parse, message in ((parse_subscription_pubkey, subscription), (parse_read_pubkey, read)):
        with pytest.raises(RpcFault) as caught:
            parse(value)
        assert caught.value.code == INVALID_PARAMS
        assert caught.value.message.startswith(message)


def test_good_pubkeys():
    """A key of 32 bytes passes, all zeros too."""
    assert parse_subscription_pubkey(KEY) == parse_read_pubkey(KEY) == KEY
    assert parse_read_pubkey("1" * 32) == "1" * 32
