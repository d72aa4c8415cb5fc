"""Account data in each encoding, decoded by others than the code that made it."""

from __future__ import annotations

import base64
import json

import pytest
import zstandard

from account_socket.model import RawAccount
from account_socket.protocol import base58
from account_socket.protocol.solana_encodings import (
    TOO_LARGE_FOR_BASE58,
    Encoding,
    Remembered,
    encode_account,
    encode_data,
)

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"


@pytest.mark.parametrize("size", [0, 3, 128, 129, 1112, 20_000])
def test_base64(size):
    """base64, and jsonParsed for want of a parser, is the data and the word base64."""
    data = bytes(index % 251 for index in range(size))
    for encoding in (Encoding.BASE64, Encoding.JSON_PARSED):
        assert json.loads(encode_data(data, encoding)) == [base64.b64encode(data).decode(), "base64"]


@pytest.mark.parametrize("size", [0, 3, 1112, 20_000])
def test_base64_zstd(size):
    """base64+zstd is one zstd frame of the data, in base64."""
    data = bytes(index % 251 for index in range(size))
    text, name = json.loads(encode_data(data, Encoding.BASE64_ZSTD))
    assert name == "base64+zstd"
    assert zstandard.ZstdDecompressor().decompress(base64.b64decode(text, validate=True)) == data


def test_base58():
    """base58 is a pair, the encoding of none is a bare string; above 128 bytes both hold Agave's error text."""
    assert json.loads(encode_data(b"Hello World!", Encoding.BASE58)) == ["2NEpo7TZRRrLZSi2U", "base58"]
    assert json.loads(encode_data(b"Hello World!", Encoding.BINARY)) == "2NEpo7TZRRrLZSi2U"
    assert json.loads(encode_data(bytes(128), Encoding.BINARY)) == base58.encode(bytes(128))
    assert json.loads(encode_data(bytes(129), Encoding.BINARY)) == TOO_LARGE_FOR_BASE58
    assert json.loads(encode_data(bytes(129), Encoding.BASE58)) == [TOO_LARGE_FOR_BASE58, "base58"]


def test_account():
    """An account has Agave's keys; the rent epoch is a bare integer, space the size of all of the data."""
    account = RawAccount(PROGRAM, 5, "1" * 32, 7, b"\1\2\3\4", executable=True, rent_epoch=2**64 - 1)
    expected = {
        "lamports": 7,
        "data": ["AQIDBA==", "base64"],
        "owner": "1" * 32,
        "executable": True,
        "rentEpoch": 18446744073709551615,
        "space": 4,
    }
    assert json.loads(encode_account(account, Encoding.BASE64)) == expected
    sliced = json.loads(encode_account(account, Encoding.BASE64, b"\2"))
    assert sliced == expected | {"data": ["Ag==", "base64"]}


def test_what_is_remembered_is_bounded_by_its_bytes() -> None:
    """However large and many the data are, no more is kept than allowed; what is kept is given again, as it was."""
    remembered = Remembered(max_bytes=100_000)
    for number in range(1_000):
        data = number.to_bytes(2, "big") * 4_000
        encoded = remembered.encode(data, Encoding.BASE64)
        assert json.loads(encoded) == [base64.b64encode(data).decode(), "base64"]
        assert remembered.bytes <= 100_000
        assert remembered.encode(data, Encoding.BASE64) is encoded
    assert remembered.bytes > 50_000
