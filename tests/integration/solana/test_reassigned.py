"""An account that was ours and belongs to another program now: what of it is told, and that nothing is made up."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import msgspec
from tests.integration.solana.stack import FOREIGN, OTHER, POOL, PROGRAM, Socket, Stack, socket, stack
from tests.waiting import until

from account_socket.model import RawAccount

BASE64 = {"encoding": "base64", "commitment": "confirmed"}


def reassign(made: Stack) -> RawAccount:
    """Have another program own the pool, with its bytes, and tell whoever subscribed to the account."""
    account = made.node._ledger.get(POOL)
    assert account is not None
    return made.node.write(msgspec.structs.replace(account, slot=0, owner=FOREIGN, lamports=9))


async def subscribe(made: Stack, client: Socket) -> int:
    """Subscribe to the pool, and wait until the node was asked for it."""
    number = await client.ask("accountSubscribe", POOL, BASE64)
    assert type(number) is int
    await until(lambda: made.node._subscriptions.wants("account", POOL), seconds=10)
    return number


async def until_foreign(made: Stack) -> None:
    """Wait until the server knows that the pool is no longer its program's."""
    async with asyncio.timeout(10):
        while True:
            async with made.http.get(f"{made.url}/v1/accounts/{POOL}") as response:
                answer = await response.json()
            if answer.get("account", {}).get("owner") != PROGRAM:
                return
            await asyncio.sleep(0.02)


async def test_a_reassigned_account_is_refused(tmp_path: Path) -> None:
    """Reads and new subscriptions are refused as for any other program's account; other accounts are told on."""
    async with stack(tmp_path) as made, socket(made) as client:
        await subscribe(made, client)
        reassign(made)
        await until_foreign(made)
        for method, params in (("getAccountInfo", POOL), ("getMultipleAccounts", [OTHER, POOL])):
            refused = await made.ask(method, params, BASE64)
            assert refused["code"] == -32602
            assert "served here" in refused["message"]
        listed = await made.ask("getProgramAccounts", PROGRAM, BASE64 | {"dataSlice": {"offset": 0, "length": 0}})
        assert POOL not in {each["pubkey"] for each in listed}
        assert (await made.ask("getAccountInfo", OTHER, BASE64))["value"]["owner"] == PROGRAM
        async with socket(made) as late:
            refused = await late.ask("accountSubscribe", POOL, BASE64)
            assert refused["code"] == -32602
            assert "served here" in refused["message"]


async def test_a_subscription_outlives_what_it_cannot_tell(tmp_path: Path) -> None:
    """While another program has the account nothing is told of it; given back, closed, it is told again."""
    async with stack(tmp_path) as made, socket(made) as client:
        number = await subscribe(made, client)
        reassign(made)
        await until_foreign(made)
        account = made.node._ledger.get(POOL)
        assert account is not None
        back = made.node.write(msgspec.structs.replace(account, slot=0, owner=PROGRAM, lamports=10))
        told = await client.notification("accountNotification")
        assert (told["subscription"], told["result"]["context"]["slot"]) == (number, back.slot)
        assert told["result"]["value"]["data"] == [base64.b64encode(back.data).decode(), "base64"]
        reassign(made)
        await until_foreign(made)
        made.node.close_account(POOL)
        value = (await client.notification("accountNotification"))["result"]["value"]
        assert (value["lamports"], value["space"]) == (0, 0)
        assert (await made.ask("getAccountInfo", POOL, BASE64))["value"] is None


async def test_a_reassigned_account_is_passed_on(tmp_path: Path) -> None:
    """With RPC_PROXY=1 reads of it have the node's answer, its bytes included."""
    async with stack(tmp_path, RPC_PROXY="1") as made, socket(made) as client:
        await subscribe(made, client)
        reassign(made)
        await until_foreign(made)
        for method, params in (("getAccountInfo", POOL), ("getMultipleAccounts", [OTHER, POOL])):
            ours, theirs = await made.ask_both(method, params, BASE64)
            assert ours["value"] == theirs["value"]
        assert ours["value"][1]["owner"] == FOREIGN
        assert ours["value"][1]["space"] > 0
