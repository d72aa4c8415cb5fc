"""WebSocket /: who is told what, in which order; what is refused, and why."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import zstandard
from tests.integration.solana.stack import FOREIGN, HEAD, OTHER, POOL, PROGRAM, Stack, socket, stack
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASE64 = {"encoding": "base64", "commitment": "confirmed"}
LIMIT = 6


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One server for many small tests."""
    async with stack(tmp_path_factory.mktemp("server"), MAX_SUBSCRIPTIONS=str(LIMIT)) as running:
        yield running


async def test_the_answer_comes_first_and_no_state_unasked(made: Stack) -> None:
    """While an account is written all the time, its subscription's answer comes before its first notification."""
    writing = True

    async def write() -> None:
        while writing:
            made.write()
            await asyncio.sleep(0.001)

    writer = asyncio.create_task(write())
    for method, target in (("accountSubscribe", POOL), ("programSubscribe", PROGRAM)) * 10:
        async with socket(made) as client:
            number = await client.ask(method, target, BASE64)
            assert (await client.read())["params"]["subscription"] == number
    writing = False
    await writer
    async with socket(made) as client:
        await client.ask("accountSubscribe", POOL, BASE64)
        written = made.write()
        told = await client.notification("accountNotification")
        while told["result"]["context"]["slot"] < written.slot:
            told = await client.notification("accountNotification")
        assert told["result"]["value"]["data"] == [base64.b64encode(written.data).decode(), "base64"]


async def test_no_answer_is_behind_a_notification(made: Stack) -> None:
    """A slot that a notification told may be asked for, of any account, also before it is announced."""
    async with socket(made) as client:
        await client.ask("accountSubscribe", POOL, BASE64)
        for _ in range(10):
            lone = made.write(announce=False)
            slot = 0
            while slot < lone.slot:
                slot = (await client.notification("accountNotification"))["result"]["context"]["slot"]
            assert await made.ask("getSlot", {"minContextSlot": slot}) >= slot
            answer = await made.ask("getAccountInfo", OTHER, BASE64 | {"minContextSlot": slot})
            assert answer["context"]["slot"] >= slot


async def test_encodings_and_filters(made: Stack) -> None:
    """Each subscription is told in its encoding, sliced as it asked, and only what its filters choose."""
    async with socket(made) as client:
        ask = client.ask
        plain = await ask("accountSubscribe", POOL)
        packed = await ask("accountSubscribe", POOL, {"encoding": "base64+zstd"})
        sliced = await ask("accountSubscribe", POOL, {"encoding": "base64", "dataSlice": {"offset": 1, "length": 2}})
        head = {"memcmp": {"offset": 0, "bytes": HEAD, "encoding": "base64"}}
        pools = await ask("programSubscribe", PROGRAM, {"encoding": "jsonParsed", "filters": [head]})
        await ask("programSubscribe", PROGRAM, BASE64 | {"filters": [head, {"dataSize": 5}]})
        written = made.write()
        told = {}
        for _ in range(4):
            params = (await client.read())["params"]
            told[params["subscription"]] = params["result"]["value"]
        assert told[plain]["data"] == "error: data too large for bs58 encoding"
        text, name = told[packed]["data"]
        assert (zstandard.decompress(base64.b64decode(text)), name) == (written.data, "base64+zstd")
        assert base64.b64decode(told[sliced]["data"][0]) == written.data[1:3]
        assert told[sliced]["space"] == len(written.data)
        assert told[pools]["pubkey"] == POOL
        assert told[pools]["account"]["data"]["parsed"]["type"] == "pool"
        assert (told[plain]["lamports"], told[plain]["owner"]) == (written.lamports, PROGRAM)


async def test_unsubscribing_and_the_limit(made: Stack) -> None:
    """Equal subscriptions are one; an unknown number and one too many are the node's errors; others go on."""
    async with socket(made) as client, socket(made) as other:
        first = await client.ask("accountSubscribe", POOL, BASE64)
        assert await client.ask("accountSubscribe", POOL, BASE64) == first
        assert await other.ask("accountSubscribe", POOL, BASE64) == first
        assert await client.ask("accountUnsubscribe", first) is True
        for wrong in (first, 2**63, 10**9):
            assert (await client.ask("accountUnsubscribe", wrong))["code"] == -32602
        assert (await client.ask("accountUnsubscribe", "1"))["code"] == -32602
        made.write()
        assert (await other.read())["params"]["subscription"] == first
        assert await client.ask("getVersion")  # had nothing before it
        for offset in range(LIMIT):
            head = {"memcmp": {"offset": offset, "bytes": "2"}}
            assert type(await client.ask("programSubscribe", PROGRAM, BASE64 | {"filters": [head]})) is int
        for method, target in (("programSubscribe", PROGRAM), ("accountSubscribe", OTHER)):
            refused = await client.ask(method, target, BASE64)
            assert refused == {
                "code": -32603,
                "message": "Internal Error: Subscription refused. Node subscription limit reached",
            }


async def test_what_is_refused(made: Stack) -> None:
    """Stronger commitments, other programs, wrong parameters and methods have the codes clients know."""
    async with socket(made) as client:
        for method, *params in (
            ("accountSubscribe", POOL, {"commitment": "finalized"}),
            ("programSubscribe", FOREIGN),
            ("accountSubscribe", "x"),
            ("accountSubscribe",),
            ("accountSubscribe", POOL, {"encoding": 5}),
            ("programSubscribe", PROGRAM, {"filters": [{"dataSize": 1}] * 5}),
            ("slotSubscribe", 1),
        ):
            assert (await client.ask(method, *params))["code"] == -32602, method
        assert (await client.ask("getAccountInfo", POOL))["code"] == -32601
        assert (await client.ask("ping"))["code"] == -32601
        await client.say({"jsonrpc": "2.0", "method": "ping"})  # web3.js, every five seconds
        await client.say("{")
        assert (await client.read())["error"]["code"] == -32700
        await client.say("[" * 50_000)
        assert (await client.read())["error"]["code"] == -32700
        await client.say([])
        assert type(await client.ask("slotSubscribe", id="text")) is int


async def test_a_batch_is_answered_at_once_and_first(made: Stack) -> None:
    """A batch is answered by one list, in its order, before anything it subscribed to is told."""
    async with socket(made) as client:
        batch = [
            {"jsonrpc": "2.0", "id": "a", "method": "accountSubscribe", "params": [POOL, BASE64]},
            {"jsonrpc": "2.0", "method": "ping"},
            {"jsonrpc": "2.0", "id": 3, "method": "accountSubscribe", "params": ["no"]},
            {"jsonrpc": "2.0", "id": 4, "method": "slotSubscribe"},
        ]
        await client.say(batch)
        answers = await client.read()
        assert [each["id"] for each in answers] == ["a", 3, 4]
        assert answers[1]["error"]["code"] == -32602
        slot = (await client.notification("slotNotification"))["result"]
        assert slot["root"] <= slot["parent"] < slot["slot"]


async def test_a_close_is_told(made: Stack) -> None:
    """A closed account is told with 0 lamports to who asked for it, and is null from then on."""
    async with socket(made) as client:
        await client.ask("accountSubscribe", OTHER, BASE64)
        await until(lambda: made.node._subscriptions.wants("account", OTHER), seconds=10)
        made.node.tell(made.node.close_account(OTHER))
        value = (await client.notification("accountNotification"))["result"]["value"]
        assert (value["lamports"], value["data"], value["space"]) == (0, ["", "base64"], 0)
        assert value["owner"] == "11111111111111111111111111111111"
        assert (await made.ask("getAccountInfo", OTHER, BASE64))["value"] is None
