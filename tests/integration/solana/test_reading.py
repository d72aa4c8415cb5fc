"""POST /: what is answered, byte for byte as the node does; and what is refused, and why."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.integration.solana.stack import FOREIGN, HEAD, OTHER, POOL, PROGRAM, Stack, stack

BASE64 = {"encoding": "base64", "commitment": "confirmed"}
UNKNOWN = "5rpEtPU2ZnMupnyRbt5AbLL7DGHia1YvtbQB7QjJmo4d"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One server for many small tests."""
    async with stack(tmp_path_factory.mktemp("server")) as running:
        yield running


def request(method: object, *params: object, **changed: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params), **changed}


async def test_every_encoding_and_slice_is_as_the_node_has_it(made: Stack) -> None:
    """Accounts are told in each encoding, whole and in slices, as the node tells them; its errors are ours too."""
    for encoding in ("base58", "base64", "base64+zstd", None):  # the node has no parser for jsonParsed
        for data_slice in (None, {"offset": 8, "length": 20}, {"offset": 5000, "length": 1}):
            config = {"commitment": "confirmed", "encoding": encoding, "dataSlice": data_slice}
            ours, theirs = await made.ask_both("getAccountInfo", POOL, config)
            assert ours.get("value", ours) == theirs.get("value", theirs), config
            ours, theirs = await made.ask_both("getMultipleAccounts", [POOL, OTHER, POOL], config)
            assert ours.get("value", ours) == theirs.get("value", theirs), config
    ours, theirs = await made.ask_both("getMultipleAccounts", [POOL] * 101)
    assert ours == theirs
    parsed = (await made.ask("getAccountInfo", POOL, {"encoding": "jsonParsed"}))["value"]["data"]
    assert (parsed["program"], parsed["parsed"]["type"], parsed["space"]) == ("meteora-damm-v2", "pool", 1112)
    async with made.http.get(f"{made.url}/v1/accounts/{POOL}") as response:
        assert parsed["parsed"]["info"] == (await response.json())["account"]["data_json"]


async def test_program_accounts_are_filtered_as_the_node_does(made: Stack) -> None:
    """Each filter chooses the accounts that the node chooses; without context the list stands alone."""
    memcmp = {"offset": 0, "bytes": HEAD, "encoding": "base64"}
    choices = [
        [],
        [{"dataSize": 1112}],
        [{"memcmp": memcmp}],
        [{"memcmp": memcmp}, {"dataSize": 1112}],
        [{"memcmp": memcmp}, {"dataSize": 5}],
        [{"memcmp": {"offset": 1110, "bytes": [0, 0, 0], "encoding": "bytes"}}],
        [{"memcmp": {"offset": 1112, "bytes": ""}}],
        *([{"memcmp": memcmp | {"offset": offset}}] for offset in (2**32 - 1, 2**32, 2**63, 2**64 - 1)),
        [{"dataSize": 2**64 - 1}],
        ["tokenAccountState"],
        [{"dataSize": 1}] * 5,
        [{"memcmp": {"offset": 0, "bytes": "0"}}],
        [{"size": 1}],
    ]
    for filters in choices:
        for with_context in (True, False):
            config = BASE64 | {"filters": filters, "withContext": with_context}
            ours, theirs = await made.ask_both("getProgramAccounts", PROGRAM, config)
            if with_context and "value" in theirs:
                ours, theirs = ours["value"], theirs["value"]
            assert ours == theirs, config


WRONG = [
    b"",
    b"{",
    b"\xff",
    b"[" * 20_000,
    b"7",
    b"[]",
    b"[1,2]",
    json.dumps(request("getSlot", id=1.5)).encode(),
    json.dumps(request("getSlot", id={})).encode(),
    json.dumps(request("getSlot", id=-1)).encode(),
    json.dumps(request("getSlot", id=10**40)).encode(),
    json.dumps(request("getSlot", jsonrpc="1.0")).encode(),
    json.dumps(request("getSlot") | {"params": {}}).encode(),
    json.dumps(request(5)).encode(),
    json.dumps(request("getAccountInfo")).encode(),
    json.dumps(request("getAccountInfo", 1)).encode(),
    json.dumps(request("getAccountInfo", "0")).encode(),
    json.dumps(request("getAccountInfo", "1" * 60)).encode(),
    json.dumps(request("getAccountInfo", POOL, [])).encode(),
    json.dumps(request("getAccountInfo", POOL, {"encoding": "x"})).encode(),
    json.dumps(request("getAccountInfo", POOL, {"minContextSlot": "x"})).encode(),
    json.dumps(request("getAccountInfo", POOL, {"minContextSlot": -1})).encode(),
    json.dumps(request("getAccountInfo", POOL, {"minContextSlot": 1.5})).encode(),
    json.dumps(request("getAccountInfo", POOL, {}, 1)).encode(),
    json.dumps(request("getMultipleAccounts", POOL)).encode(),
    json.dumps(request("getSlot", {}, {})).encode(),
]


async def test_wrong_requests(made: Stack) -> None:
    """What is no request, or a wrong one, has the node's answer."""
    for body in WRONG:
        assert await made.post(body) == await made.post(body, url=made.node.http_url), body[:80]


async def test_ids_batches_and_notifications(made: Stack) -> None:
    """An id comes back with its type, a batch is answered by a list, and a request without an id by nothing."""
    for id_ in (0, 2**64 - 1, "seven", "", None):
        assert (await made.post(request("getHealth", id=id_))) == {"jsonrpc": "2.0", "result": "ok", "id": id_}
    notification = {"jsonrpc": "2.0", "method": "getHealth"}
    answers = await made.post([request("getHealth", id="a"), notification, request("x", id="b"), 5])
    assert [each["id"] for each in answers] == ["a", "b", None]
    assert answers[0]["result"] == "ok"
    assert [each["error"]["code"] for each in answers[1:]] == [-32601, -32600]
    assert await made.post(notification) is None
    assert (await made.post([request("getHealth")] * 101))["error"]["code"] == -32600


async def test_commitments_and_context(made: Stack) -> None:
    """None and weaker ones mean ours, stronger ones are refused; a slot beyond the tip is told with the tip."""
    for method, params in (("getAccountInfo", [POOL]), ("getSlot", []), ("getProgramAccounts", [PROGRAM])):
        for weak in ({}, {"commitment": "processed"}, {"commitment": "confirmed"}):
            answer = await made.ask(method, *params, weak | ({} if method == "getSlot" else {"encoding": "base64"}))
            assert "code" not in (answer if isinstance(answer, dict) else {}), (method, weak, answer)
        refused = await made.ask(method, *params, {"commitment": "finalized"})
        assert refused["code"] == -32602
        assert "finalized" in refused["message"]
        beyond = await made.ask(method, *params, {"minContextSlot": 2**62})
        assert beyond["code"] == -32016
        assert 0 < beyond["data"]["contextSlot"] <= await made.ask("getSlot")
    written = made.write()
    await until_told(made, written.slot)
    answer = await made.ask("getAccountInfo", POOL, BASE64 | {"minContextSlot": written.slot})
    assert answer["context"]["slot"] >= written.slot


async def test_the_context_slot_never_goes_back(made: Stack) -> None:
    """Where a state is ahead of the announced slots, no later answer is behind it, and its slot can be asked for."""
    last = 0
    for _ in range(10):
        lone = made.write(announce=False)
        await until_told(made, lone.slot)
        for method, *params in (
            ("getAccountInfo", POOL, BASE64),
            ("getSlot",),
            ("getAccountInfo", OTHER, BASE64 | {"minContextSlot": lone.slot}),
            ("getProgramAccounts", PROGRAM, BASE64 | {"withContext": True, "minContextSlot": lone.slot}),
            ("getSlot", {"minContextSlot": lone.slot}),
        ):
            answer = await made.ask(method, *params)
            slot = answer if method == "getSlot" else answer["context"]["slot"]
            assert slot >= max(last, lone.slot), method
            last = slot


async def until_told(made: Stack, slot: int) -> None:
    async def told() -> bool:
        async with made.http.get(f"{made.url}/v1/accounts/{POOL}") as response:
            return bool((await response.json())["account"]["slot"] >= slot)

    while not await told():
        pass


async def test_what_is_not_ours_is_refused(made: Stack) -> None:
    """Other programs' accounts, accounts nobody knows and other methods are refused, and the answer says why."""
    for answer in (
        await made.ask("getAccountInfo", UNKNOWN),
        await made.ask("getMultipleAccounts", [POOL, UNKNOWN]),
        await made.ask("getProgramAccounts", FOREIGN),
    ):
        assert answer["code"] == -32602
        assert "served here" in answer["message"] or "not known here" in answer["message"]
    assert (await made.ask("getBalance", POOL))["code"] == -32601
    assert (await made.ask("accountSubscribe", POOL))["code"] == -32601
