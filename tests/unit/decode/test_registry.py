"""Program address → its decoder."""

from __future__ import annotations

import json

import pytest

from account_socket.decode.decoder import ProgramDecoder
from account_socket.decode.registry import Registry
from account_socket.errors import LayoutError


def test_decode_by_owner(idl):
    """An account is decoded by the layouts of the program that owns it, and of no other."""
    one, two = (ProgramDecoder.from_idl(idl({name: "u8"}, address=name)) for name in ("one", "two"))
    registry = Registry([one, two])
    assert list(registry.programs) == ["one", "two"]
    assert registry.programs["two"] is two
    assert registry.decode("one", b"\x01\x05").data_json == b'{"one":5}'
    assert registry.decode("two", b"\x01\x05").data_json == b'{"two":5}'


def test_unknown_program():
    """An account of a program without layouts is a value with the reason."""
    decoded = Registry([]).decode("three", b"\x01\x05")
    assert (decoded.account_type, decoded.failure) == ("Unknown", "unknown_program")
    assert json.loads(decoded.data_json) == {"raw": "AQU=", "error": "no layouts for program three"}


def test_one_address_twice(idl):
    """Two IDLs for one program are refused."""
    decoder = ProgramDecoder.from_idl(idl({"x": "u8"}))
    with pytest.raises(LayoutError, match="two IDLs"):
        Registry([decoder, ProgramDecoder.from_idl(idl({"x": "u8"}))])
