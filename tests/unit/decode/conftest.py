"""Small IDLs with one account, `Thing`, whose data starts with the byte 01."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from account_socket.decode.decoder import ProgramDecoder


def write_idl(fields: list[dict[str, Any]], *types: dict[str, Any], **changes: Any) -> str:
    thing = {"name": "Thing", "type": {"kind": "struct", "fields": fields}}
    document = {
        "address": "Thing1111111111111111111111111111111111111",
        "metadata": {"name": "things", "version": "0.1.0", "spec": "0.1.0"},
        "instructions": [],
        "accounts": [{"name": "Thing", "discriminator": [1]}],
        "types": [thing, *types],
    }
    return json.dumps(document | changes)


def field(name: str, kind: Any) -> dict[str, Any]:
    return {"name": name, "type": kind}


@pytest.fixture(scope="session")
def idl() -> Callable[..., str]:
    """(fields as {name: type}, *types, **top-level changes) → the IDL as JSON text."""
    return lambda fields, *types, **changes: write_idl(
        [field(name, kind) for name, kind in fields.items()], *types, **changes
    )


@pytest.fixture(scope="session")
def struct() -> Callable[..., dict[str, Any]]:
    """(name, fields as {name: type}, **other keys) → a struct's type definition."""
    return lambda name, fields, **others: {
        "name": name,
        "type": {"kind": "struct", "fields": [field(key, kind) for key, kind in fields.items()]},
        **others,
    }


@pytest.fixture(scope="session")
def decode(idl: Callable[..., str]) -> Callable[..., Any]:
    """(bytes after the discriminator, fields, *types) → the decoded object, its keys in order."""

    def decode(body: bytes, fields: dict[str, Any], *types: dict[str, Any]) -> Any:
        decoded = ProgramDecoder.from_idl(idl(fields, *types)).decode(b"\x01" + body)
        assert decoded.error is None, decoded.error
        return json.loads(decoded.data_json)

    return decode
