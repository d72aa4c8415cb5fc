"""Selections and the requests they become."""

from __future__ import annotations

import json
from typing import Any

import pytest
from solders.pubkey import Pubkey
from tests.samples import KEY_A

from account_socket.client import SettingsError
from account_socket.client.address import Address
from account_socket.client.progress import Position, Progress
from account_socket.client.selection import Selection


def test_plain() -> None:
    """Keys alone are a plain request."""
    assert Selection(pubkeys=(KEY_A,)).requests() == [{"action": "subscribe", "id": 0, "pubkeys": (KEY_A,)}]


def test_filter_and_shape() -> None:
    """A filter and a shape are said as they were given, and nothing else is."""
    selection = Selection(account_type="Pool", where={"a.0": [1, "x"]}, fields=("b",), max_rate_ms=5, snapshot=False)
    assert selection.requests() == [
        {
            "action": "subscribe",
            "id": 0,
            "account_type": "Pool",
            "where": {"a.0": [1, "x"]},
            "fields": ("b",),
            "max_rate_ms": 5,
            "snapshot": False,
        }
    ]


def test_the_largest_request_fits() -> None:
    """Ten thousand keys with the largest ids to resume after go out in messages below 64 KiB, each key once."""
    keys = tuple(str(Pubkey.new_unique()) for _ in range(10_000))
    position = Position(epoch="e" * 64, after=dict.fromkeys(keys, 2**63 - 1))
    requests = Progress(Selection(pubkeys=keys), position).begin()
    assert max(len(json.dumps(request)) for request in requests) < 64 * 1024
    assert tuple(key for request in requests for key in request["pubkeys"]) == keys
    assert [request["id"] for request in requests] == list(range(20))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"fields": ("a",)},
        {"pubkeys": (KEY_A,), "account_type": "Pool"},
        {"account_type": "Pool", "fields": ("a",), "mode": "diff"},
        {"pubkeys": (KEY_A,), "snapshot": False},
    ],
)
def test_wrong_selections(wrong: dict[str, Any]) -> None:
    """A selection of nothing, or in two ways, is refused at once."""
    with pytest.raises(ValueError, match=r"."):
        Selection(**wrong)


@pytest.mark.parametrize(
    "url", ["", "http://h", "ws://", "ws://h:x", "ws://h:0", "h:1", "wss://[h/?api-key=s3cr3ts3cr3t"]
)
def test_wrong_addresses(url: str) -> None:
    """What is no WebSocket URL is refused, without its secrets."""
    with pytest.raises(SettingsError, match="is not a WebSocket URL") as refused:
        Address(url)
    assert "s3cr3t" not in str(refused.value)


def test_addresses() -> None:
    """A path and the way of HTTP are found, and secrets are not shown."""
    assert Address("ws://h:1").url == Address("ws://h:1/").url == "ws://h:1/ws"
    secret = Address("wss://user:passw0rd@h/base/ws?api-key=s3cr3ts3cr3t")
    assert secret.http_path == "/base"
    assert (secret.host, secret.port, secret.secure, secret.direct) == ("h", 443, True, False)
    assert secret.with_status.endswith("&status=1")
    for shown in (repr(secret), str(secret), secret.without_tls, secret.scrub(f"refused by {secret.url}")):
        assert "s3cr3t" not in shown
        assert "passw0rd" not in shown
