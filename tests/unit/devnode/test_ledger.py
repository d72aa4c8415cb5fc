"""The node's reads: shapes, slices, filters and faults."""

from __future__ import annotations

import base64
import json

import pytest

from account_socket.devnode.ledger import Ledger
from account_socket.model import SYSTEM_PROGRAM, RawAccount
from account_socket.protocol import base58
from account_socket.protocol.solana_jsonrpc import RpcFault

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
A = "5rpEtPU2ZnMupnyRbt5AbLL7DGHia1YvtbQB7QjJmo4c"
B = "4QhNxceXm2LnDQnzxTt7FS9jGbUGUJ8eRM7D8N4Q8n7q"
DATA = bytes(range(200))


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger(tip_slot=100, genesis_hash="hash")
    ledger.apply(RawAccount(A, 90, PROGRAM, 7, DATA, rent_epoch=2**64 - 1))
    ledger.apply(RawAccount(B, 91, PROGRAM, 8, b"\1\2\3"))
    return ledger


def call(ledger, method, *params):
    return json.loads(ledger.call(method, list(params)))


def account_json(data, *, lamports=7, space=200, rent_epoch=2**64 - 1):
    return {
        "lamports": lamports,
        "data": data,
        "owner": PROGRAM,
        "executable": False,
        "rentEpoch": rent_epoch,
        "space": space,
    }


def b64(data):
    return [base64.b64encode(data).decode(), "base64"]


CONTEXT = {"apiVersion": "3.0.6", "slot": 100}


def test_get_account_info(ledger):
    """An account is read in the encoding asked for, in a context; one that is not there is null."""
    expected = account_json(b64(DATA))
    assert call(ledger, "getAccountInfo", A, {"encoding": "base64"}) == {"context": CONTEXT, "value": expected}
    assert call(ledger, "getAccountInfo", PROGRAM) == {"context": CONTEXT, "value": None}


def test_default_encoding_is_the_legacy_string(ledger):
    """Without an encoding the data is a bare base58 string, as on Agave."""
    assert call(ledger, "getAccountInfo", B)["value"]["data"] == base58.encode(b"\1\2\3")


def test_base58_of_much_data_is_refused(ledger):
    """Above 128 bytes base58 is a fault over HTTP, unless a slice is short enough."""
    for config in ({}, {"encoding": "base58"}):
        with pytest.raises(RpcFault, match=r"Encoded binary \(base 58\) data should be less than 128 bytes") as caught:
            ledger.call("getAccountInfo", [A, config])
        assert caught.value.code == -32600
    sliced = {"encoding": "base58", "dataSlice": {"offset": 2, "length": 3}}
    assert call(ledger, "getAccountInfo", A, sliced)["value"]["data"] == [base58.encode(b"\2\3\4"), "base58"]


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 8, DATA[:8]), (195, 100, DATA[195:]), (200, 5, b""), (10**20, 1, b""), (0, 0, b"")],
)
def test_data_slice(ledger, offset, length, expected):
    """A slice is cut to the data; space stays the whole size."""
    config = {"encoding": "base64", "dataSlice": {"offset": offset, "length": length}}
    assert call(ledger, "getAccountInfo", A, config)["value"] == account_json(b64(expected))


def test_get_multiple_accounts(ledger):
    """Accounts come in the order asked for, null for what is not there; base64 when no encoding is given."""
    result = call(ledger, "getMultipleAccounts", [B, PROGRAM, A, A])
    first = account_json(b64(b"\1\2\3"), lamports=8, space=3, rent_epoch=0)
    assert result == {"context": CONTEXT, "value": [first, None, *[account_json(b64(DATA))] * 2]}
    assert call(ledger, "getMultipleAccounts", [])["value"] == []


def test_get_multiple_accounts_limit(ledger):
    """100 keys pass, 101 do not."""
    assert len(call(ledger, "getMultipleAccounts", [A] * 100)["value"]) == 100
    with pytest.raises(RpcFault, match="Too many inputs provided; max 100"):
        ledger.call("getMultipleAccounts", [[A] * 101])


def test_get_program_accounts(ledger):
    """A program's accounts come sorted by key, filtered by all of their data, bare or in a context."""
    config = {"encoding": "base64"}
    bare = call(ledger, "getProgramAccounts", PROGRAM, config)
    assert [each["pubkey"] for each in bare] == sorted([A, B])
    assert {each["pubkey"]: each["account"] for each in bare}[A] == account_json(b64(DATA))
    assert call(ledger, "getProgramAccounts", PROGRAM, config | {"withContext": True}) == {
        "context": CONTEXT,
        "value": bare,
    }
    sliced = {
        "encoding": "base64",
        "dataSlice": {"offset": 0, "length": 1},
        "filters": [{"dataSize": 200}, {"memcmp": {"offset": 100, "bytes": [100, 101]}}],
    }
    assert call(ledger, "getProgramAccounts", PROGRAM, sliced) == [{"pubkey": A, "account": account_json(b64(b"\0"))}]
    assert call(ledger, "getProgramAccounts", A, config) == []


def test_closing(ledger):
    """A closed account is gone from every read; one that lives again is back."""
    assert ledger.apply(RawAccount(A, 95, SYSTEM_PROGRAM, 0, b"")) is True
    assert ledger.apply(RawAccount(A, 96, SYSTEM_PROGRAM, 0, b"")) is False
    assert call(ledger, "getAccountInfo", A)["value"] is None
    assert call(ledger, "getMultipleAccounts", [A])["value"] == [None]
    assert [each["pubkey"] for each in call(ledger, "getProgramAccounts", PROGRAM)] == [B]
    assert call(ledger, "getProgramAccounts", SYSTEM_PROGRAM) == []
    assert ledger.apply(RawAccount(A, 97, PROGRAM, 1, b"")) is False
    assert len(call(ledger, "getProgramAccounts", PROGRAM)) == 2


def test_reassigning(ledger):
    """An account that changes its owner leaves one program and joins the other."""
    assert ledger.apply(RawAccount(A, 95, B, 7, b"")) is True
    assert [each["pubkey"] for each in call(ledger, "getProgramAccounts", PROGRAM)] == [B]
    assert [each["pubkey"] for each in call(ledger, "getProgramAccounts", B)] == [A]


@pytest.mark.parametrize(
    ("method", "params"),
    [("getAccountInfo", [A]), ("getMultipleAccounts", [[A]]), ("getProgramAccounts", [PROGRAM])],
)
def test_min_context_slot(ledger, method, params):
    """A read that asks for a later slot than the node has is refused with the slot it has."""
    base = {"encoding": "base64"}
    assert ledger.call(method, [*params, base | {"minContextSlot": 100}])
    with pytest.raises(RpcFault, match="Minimum context slot has not been reached") as caught:
        ledger.call(method, [*params, base | {"minContextSlot": 101}])
    assert (caught.value.code, caught.value.data) == (-32016, {"contextSlot": 100})


def test_small_methods(ledger):
    """Slot, health, version and genesis hash have Agave's shapes."""
    assert call(ledger, "getSlot") == 100
    assert call(ledger, "getSlot", {"commitment": "processed"}) == 100
    assert call(ledger, "getHealth") == "ok"
    assert call(ledger, "getVersion") == {"feature-set": 2891131721, "solana-core": "3.0.6"}
    assert call(ledger, "getGenesisHash") == "hash"


@pytest.mark.parametrize(
    ("method", "params", "code", "message"),
    [
        ("getBlock", [], -32601, "Method not found"),
        ("programSubscribe", [PROGRAM], -32601, "Method not found"),
        ("getAccountInfo", [], -32602, "`params` should have at least 1 argument(s)"),
        ("getAccountInfo", [A, {}, 1], -32602, "`params` should have at most 2 argument(s)"),
        ("getAccountInfo", ["abc"], -32602, "Invalid param: WrongSize"),
        ("getAccountInfo", [A, {"encoding": "x"}], -32602, "Invalid params: "),
        ("getMultipleAccounts", ["abc"], -32602, "Invalid params: "),
        ("getMultipleAccounts", [["abc"]], -32602, "Invalid param: WrongSize"),
        ("getMultipleAccounts", [[5]], -32602, "Invalid params: "),
        (
            "getProgramAccounts",
            [PROGRAM, {"filters": [{"dataSize": 1}] * 5}],
            -32602,
            "Too many filters provided; max 4",
        ),
        ("getSlot", [{}, 1], -32602, "`params` should have at most 1 argument(s)"),
        ("getSlot", [{"minContextSlot": 101}], -32016, "Minimum context slot has not been reached"),
    ],
)
def test_faults(ledger, method, params, code, message):
    """What a read does not take is refused with the code and the text for it."""
    with pytest.raises(RpcFault) as caught:
        ledger.call(method, params)
    assert caught.value.code == code
    assert caught.value.message.startswith(message)


def test_pages_of_a_programs_accounts(ledger):
    """getProgramAccountsV2 gives pages by key until there is no next one, with or without a context."""
    ledger.has_pages = True
    config = {"encoding": "base64", "limit": 1}
    first = call(ledger, "getProgramAccountsV2", PROGRAM, config)
    assert [each["pubkey"] for each in first["accounts"]] == [min(A, B)]
    second = call(
        ledger,
        "getProgramAccountsV2",
        PROGRAM,
        config | {"paginationKey": first["paginationKey"], "withContext": True},
    )
    assert second["context"] == CONTEXT
    assert [each["pubkey"] for each in second["value"]["accounts"]] == [max(A, B)]
    assert second["value"]["paginationKey"] is None
    changed = call(ledger, "getProgramAccountsV2", PROGRAM, {"encoding": "base64", "changedSinceSlot": 91})
    assert [each["pubkey"] for each in changed["accounts"]] == [B]


@pytest.mark.parametrize("limit", [0, 10_001])
def test_a_page_has_limits(ledger, limit):
    """A page holds at least one account and at most 10,000."""
    ledger.has_pages = True
    with pytest.raises(RpcFault, match="limit"):
        ledger.call("getProgramAccountsV2", [PROGRAM, {"limit": limit}])


def test_pages_are_not_offered_unless_asked_for(ledger):
    """Agave does not know the method."""
    with pytest.raises(RpcFault, match="Method not found"):
        ledger.call("getProgramAccountsV2", [PROGRAM])
