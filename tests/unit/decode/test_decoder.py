"""Bytes that do not decode are values with a reason."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_socket.decode.decoder import MAX_RAW_BYTES, ProgramDecoder


@pytest.fixture(scope="module")
def decoder(idl, struct) -> ProgramDecoder:
    inner = struct("Inner", {"b": "u16", "c": "u64"})
    return ProgramDecoder.from_idl(idl({"a": "u8", "inner": {"defined": {"name": "Inner"}}}, inner))


BODY = bytes.fromhex("01 07 0200 0300000000000000")


def test_decoded(decoder):
    """Whole data decodes without an error, and so does longer data."""
    for data in (BODY, BODY + b"more", BODY + bytes(1_000_000)):
        decoded = decoder.decode(data)
        assert (decoded.account_type, decoded.error, decoded.failure) == ("Thing", None, None)
        assert decoded.data_json == b'{"a":7,"inner":{"b":2,"c":"3"}}'


@pytest.mark.parametrize(
    ("data", "failure", "reason"),
    [
        (b"", "empty", "the account has no data"),
        (b"\x02", "unknown_discriminator", "no account type of things starts with 02"),
        (b"\x02\x03", "unknown_discriminator", "no account type of things starts with 02"),
        (BODY[:1], "too_short", "Thing: 1 of 12 bytes; a at byte 1 is missing"),
        (BODY[:2], "too_short", "Thing: 2 of 12 bytes; inner.b at byte 2 is missing"),
        (BODY[:3], "too_short", "Thing: 3 of 12 bytes; inner.b at byte 2 is missing"),
        (BODY[:11], "too_short", "Thing: 11 of 12 bytes; inner.c at byte 4 is missing"),
    ],
)
def test_failures(decoder, data, failure, reason):
    """What does not fit is Unknown with its raw bytes, the reason, and the reason's kind."""
    decoded = decoder.decode(data)
    assert (decoded.account_type, decoded.error, decoded.failure) == ("Unknown", reason, failure)
    assert json.loads(decoded.data_json) == {"raw": base64.b64encode(data).decode(), "error": reason}


@pytest.mark.parametrize("excess", [0, 1])
def test_large_raw_data(decoder, excess):
    """Up to 64 KiB the raw bytes are given; above, their size and hash."""
    data = bytes(MAX_RAW_BYTES + excess)
    fields = json.loads(decoder.decode(data).data_json)
    if excess:
        assert list(fields) == ["raw", "size", "sha256", "error"]
        assert fields["raw"] is None
        assert (fields["size"], fields["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    else:
        assert base64.b64decode(fields["raw"]) == data


def test_discriminators_of_any_length(idl, struct):
    """Discriminators may have any length; where two fit, the longer one is meant."""
    accounts = [
        {"name": name, "discriminator": discriminator}
        for name, discriminator in [("Thing", [1]), ("Long", [1, 2, 3]), ("Other", [9, 9])]
    ]
    types = [struct("Long", {"x": "u8"}), struct("Other", {"x": "u8"})]
    decoder = ProgramDecoder.from_idl(idl({"x": "u8"}, *types, accounts=accounts))
    types = [decoder.decode(bytes(data)).account_type for data in ([1, 2], [1, 2, 3, 4], [9, 9, 9], [9, 8, 7])]
    assert types == ["Thing", "Long", "Other", "Unknown"]
    assert decoder.decode(b"\x01\x02\x03").failure == "too_short"


def test_no_accounts(idl):
    """A program without account types decodes nothing and raises nothing."""
    decoder = ProgramDecoder.from_idl(idl({}, accounts=[]))
    assert decoder.decode(b"\x01").failure == "unknown_discriminator"


@given(data=st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: b"\x01" + tail))
def test_any_bytes_are_a_value(decoder, data):
    """Whatever the bytes, the answer is valid JSON, and Unknown exactly when there is an error."""
    decoded = decoder.decode(data)
    fields = json.loads(decoded.data_json)
    assert (decoded.account_type == "Unknown") == (decoded.error is not None) == (decoded.failure is not None)
    if decoded.error is not None:
        assert fields == {"raw": base64.b64encode(data).decode(), "error": decoded.error}
