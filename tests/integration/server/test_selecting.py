"""Subscriptions by filter: what was there, then what happens, and who learns that an account left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from solders.pubkey import Pubkey
from tests.integration.server.resting import Rested, resting
from tests.integration.server.serving import RawClient, raw_client
from tests.samples import KEY_A, KEY_B, PROGRAM
from tests.waiting import until

from account_socket.errors import StoreError

MINT_A, MINT_B = "So11111111111111111111111111111111111111112", "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
KEYS = sorted(str(Pubkey.from_bytes(index.to_bytes(32, "big"))) for index in range(1, 1001))


def pool(mint: str = MINT_A, **fields: Any) -> bytes:
    """Return decoded fields of a pool."""
    return json.dumps({"token_a_mint": mint, "pool_status": 0, **fields}).encode()


@asynccontextmanager
async def selecting(**limits: Any) -> AsyncIterator[tuple[Rested, RawClient]]:
    async with resting(**limits) as rested, raw_client(rested.served) as client:
        yield rested, client


async def select(client: RawClient, **request: Any) -> int:
    """Subscribe by filter, without what is there already; return the number."""
    client.say({"action": "subscribe", "id": 1, "snapshot": False, **request})
    ack = await client.read_message()
    assert ack == {"type": "ack", "id": 1, "action": "subscribe", "epoch": "e1", "sub": ack["sub"]}
    assert await client.read_message() == {"type": "snapshot_end", "sub": ack["sub"], "count": 0}
    return ack["sub"]


async def follow(client: RawClient, until: object) -> list[dict[str, Any]]:
    """Return the messages up to the answer to a ping with this id."""
    client.say({"action": "ping", "id": until})
    messages = []
    while (message := await client.read_message()) != {"type": "pong", "id": until}:
        messages.append(message)
    return messages


def told(message: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a state's message says in short."""
    account = message["account"]
    return account["pubkey"], account["id"], message.get("event"), account.get("closed", False)


async def test_a_selection_brings_what_was_there_and_then_what_happens() -> None:
    """The ack has a number, then come the states that fit, snapshot_end counts them, then live updates that fit."""
    async with selecting() as (rested, client):
        await rested.commit(KEY_A, data_json=pool(MINT_A))
        await rested.commit(KEY_B, data_json=pool(MINT_B))
        client.say({"action": "subscribe", "id": "x", "account_type": "Pool", "where": {"token_a_mint": MINT_A}})
        assert (await client.read_message())["sub"] == 1
        state = await client.read_message()
        assert (state["source"], told(state)) == ("database", (KEY_A, 1, None, False))
        assert await client.read_message() == {"type": "snapshot_end", "sub": 1, "count": 1}
        await rested.commit(KEY_B, data_json=pool(MINT_B, x=1))
        await rested.commit(KEY_A, data_json=pool(MINT_A, x=1))
        live = await client.read_message()
        assert (live["source"], told(live)) == ("realtime", (KEY_A, 4, None, False))


@pytest.mark.parametrize(
    ("where", "data", "fits"),
    [
        ({"pool_status": 1}, {"pool_status": 1}, True),
        ({"liquidity": 12}, {"liquidity": "12"}, True),
        ({"liquidity": "12"}, {"liquidity": "12"}, True),
        ({"pool_status": "1"}, {"pool_status": 1}, False),
        ({"pool_status": [2, 1]}, {"pool_status": 1}, True),
        ({"pool_status": [2, 3]}, {"pool_status": 1}, False),
        ({"pool_status": True}, {"pool_status": 1}, False),
        ({"pool_status": None}, {"pool_status": None}, True),
        ({"pool_status": None}, {}, False),
        ({"reward_infos.1.mint": MINT_A}, {"reward_infos": [{"mint": MINT_B}, {"mint": MINT_A}]}, True),
        ({"reward_infos.0.mint": MINT_A}, {"reward_infos": [{"mint": MINT_B}, {"mint": MINT_A}]}, False),
        ({"pool_status": 1, "liquidity": 5}, {"pool_status": 1, "liquidity": "5"}, True),
        ({"pool_status": 1, "liquidity": 5}, {"pool_status": 1, "liquidity": "6"}, False),
        ({"pool_fees.base_fee.mode": "RateLimiter"}, {"pool_fees": {"base_fee": {"mode": "RateLimiter"}}}, True),
    ],
)
async def test_pages_and_updates_agree_on_what_fits(where: dict[str, Any], data: dict[str, Any], fits: bool) -> None:
    """The same accounts are selected among what is stored and among what happens."""
    async with selecting() as (rested, client):
        await rested.commit(KEY_A, data_json=json.dumps(data).encode())
        client.say({"action": "subscribe", "where": where})
        messages: list[dict[str, Any]] = []
        while not messages or "type" not in messages[-1]:
            messages.append(await client.read_message())
        assert messages[-1] == {"type": "snapshot_end", "sub": 1, "count": int(fits)}
        await rested.commit(KEY_B, data_json=json.dumps(data).encode())
        live = await follow(client, 1)
        assert ([KEY_A] if fits else [], [KEY_B] if fits else []) == (
            [message["pubkey"] for message in messages[:-1]],
            [message["pubkey"] for message in live],
        )


async def test_by_type_and_by_program() -> None:
    """An account type, a program, and both select by what the account is."""
    async with selecting() as (rested, client):
        for by in ({"account_type": "Position"}, {"program": PROGRAM}, {"account_type": "Config", "program": PROGRAM}):
            sub = await select(client, **by)
            for account_type in ("Pool", "Position", "Config"):
                await rested.commit(KEY_A, account_type=account_type)
                await rested.commit(KEY_A, closed=True)
            seen = [
                each["account"]["account_type"] for each in await follow(client, 1) if "closed" not in each["account"]
            ]
            assert seen == ([by["account_type"]] if "account_type" in by else ["Pool", "Position", "Config"])
            client.say({"action": "unsubscribe", "sub": sub})


async def test_an_account_that_leaves_is_told_once_and_a_close_to_who_had_it() -> None:
    """An account that stops matching every subscription comes once more with `left`; a closed one as closed."""
    async with selecting() as (rested, client):
        await select(client, where={"token_a_mint": MINT_A})
        await select(client, where={"pool_status": 1})
        await rested.commit(KEY_A, data_json=pool(MINT_A, pool_status=1))
        await rested.commit(KEY_A, data_json=pool(MINT_B, pool_status=1))
        await rested.commit(KEY_A, data_json=pool(MINT_B))
        await rested.commit(KEY_A, data_json=pool(MINT_B))
        await rested.commit(KEY_B, data_json=pool(MINT_A))
        await rested.commit(KEY_B, closed=True)
        await rested.commit(KEY_B, closed=True)
        await rested.commit(KEY_B, data_json=pool(MINT_A))
        assert [told(message) for message in await follow(client, 1)] == [
            (KEY_A, 1, None, False),
            (KEY_A, 2, None, False),
            (KEY_A, 3, "left", False),
            (KEY_B, 5, None, False),
            (KEY_B, 6, None, True),
            (KEY_B, 8, None, False),
        ]


async def test_what_a_page_told_of_is_told_to_have_left_or_closed() -> None:
    """An account that only a page told of leaves and closes as one that an update told of."""
    async with selecting() as (rested, client):
        await rested.commit(KEY_A, data_json=pool(MINT_A))
        await rested.commit(KEY_B, data_json=pool(MINT_A))
        client.say({"action": "subscribe", "where": {"token_a_mint": MINT_A}})
        while (await client.read_message()).get("type") != "snapshot_end":
            pass
        await rested.commit(KEY_A, data_json=pool(MINT_B))
        await rested.commit(KEY_B, closed=True)
        assert [told(each) for each in await follow(client, 1)] == [(KEY_A, 3, "left", False), (KEY_B, 4, None, True)]


async def test_an_update_is_sent_once_however_many_subscriptions_it_fits() -> None:
    """Plain, by name and by several filters: one frame."""
    async with selecting() as (rested, client):
        await rested.commit(KEY_A, data_json=pool())
        client.say({"action": "subscribe", "pubkey": KEY_A})
        client.say({"action": "subscribe", "pubkeys": [KEY_A], "mode": "full", "id": 5})
        assert told(await client.read_message()) == (KEY_A, 1, None, False)
        ack = await client.read_message()
        assert (ack["found"], ack["foreign"], ack["sub"]) == ([KEY_A], [], 1)
        await select(client, account_type="Pool")
        await select(client, where={"pool_status": 0})
        await rested.commit(KEY_A, data_json=pool())
        assert [told(each) for each in await follow(client, 1)] == [(KEY_A, 2, None, False)]
        client.say({"action": "unsubscribe", "pubkey": KEY_A})
        await rested.commit(KEY_A, data_json=pool())
        assert [told(each) for each in await follow(client, 2)] == [(KEY_A, 3, None, False)]
        for sub in (1, 2):
            client.say({"action": "unsubscribe", "sub": sub})
        await follow(client, 3)
        await rested.commit(KEY_A, data_json=pool())
        client.say({"action": "unsubscribe", "sub": 3, "id": 9})
        assert told(await client.read_message()) == (KEY_A, 4, None, False)
        assert await client.read_message() == {"type": "ack", "id": 9, "action": "unsubscribe", "epoch": "e1"}
        await rested.commit(KEY_A, data_json=pool())
        assert await follow(client, 4) == []
        assert rested.served.hub.subscriptions == 0
        assert not rested.served.hub.selections.active


async def test_numbers_are_listed_and_never_used_again() -> None:
    """`list` says what was asked for; an unknown number is a success; the next number is a new one."""
    async with selecting() as (_, client):
        await select(client, account_type="Pool", where={"pool_status": [0, 1]}, fields=["liquidity"])
        assert await select(client, program=PROGRAM) == 2
        client.say({"action": "unsubscribe", "sub": 2})
        client.say({"action": "unsubscribe", "sub": 2, "id": 8})
        assert (await client.read_message())["type"] == "ack"
        assert await select(client, program=PROGRAM, max_rate_ms=5) == 3
        client.say({"action": "list", "id": 1})
        assert await client.read_message() == {
            "type": "subscriptions",
            "id": 1,
            "pubkeys": [],
            "subs": [
                {"sub": 1, "account_type": "Pool", "where": {"pool_status": [0, 1]}, "fields": ["liquidity"]},
                {"sub": 3, "program": PROGRAM, "max_rate_ms": 5},
            ],
        }


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        ({"where": {"token_a_mnt": MINT_A}}, "token_a_mint"),
        ({"account_type": "Position", "where": {"token_a_mint": MINT_A}}, "token_a_mint"),
        ({"account_type": "Pol"}, "Pool"),
        ({"program": KEY_A}, PROGRAM),
        ({"account_type": "Pool", "fields": ["liquidty"]}, "liquidity"),
        ({"where": {"a..b": 1}}, "a..b"),
    ],
)
async def test_a_filter_that_names_nothing_is_refused(request_: dict[str, Any], names: str) -> None:
    """An unknown path, type or program is `invalid_filter`; the message names it or something near."""
    async with selecting() as (_, client):
        client.say({"action": "subscribe", "id": 3, **request_})
        error = await client.read_message()
        assert (error["type"], error["id"], error["code"]) == ("error", 3, "invalid_filter")
        assert names in error["message"]


async def test_subscriptions_count_toward_the_limit() -> None:
    """A filter counts as one, a list of accounts as so many, and what is unsubscribed no more."""
    async with selecting(max_subscriptions=3) as (_, client):
        first = await select(client, account_type="Pool")
        client.say({"action": "subscribe", "pubkeys": [KEY_A, KEY_B], "mode": "diff", "id": 2})
        assert (await client.read_message())["sub"] == 2
        for request in ({"pubkey": KEY_A, "id": 4}, {"account_type": "Config", "id": 4}):
            client.say({"action": "subscribe", **request})
            assert (await client.read_message())["code"] == "too_many_subscriptions"
        client.say({"action": "unsubscribe", "sub": first})
        assert await select(client, account_type="Config") == 3


async def test_a_snapshot_of_a_thousand_accounts_while_they_change() -> None:
    """No account is missing, none is stale in the end, none comes twice with one id, ids of each grow."""
    async with selecting() as (rested, client):
        made = [rested.next_update(key, data_json=pool(n=0)) for key in KEYS]
        await rested.store.append(made)
        for each in made:
            rested.served.hub.publish(each)
        truth = {each.pubkey: each.id for each in made}
        stop = asyncio.Event()

        async def change() -> None:
            turn = 0
            while not stop.is_set():
                for key in KEYS[turn % 7 :: 97]:
                    # Some leave, and some of these come back.
                    mint = MINT_A if (turn + len(key)) % 3 else MINT_B
                    truth[key] = (await rested.commit(key, data_json=pool(mint, n=turn))).id
                turn += 1
                await asyncio.sleep(0.01)

        changing = asyncio.create_task(change())
        client.say({"action": "subscribe", "id": 1, "where": {"token_a_mint": MINT_A}})
        newest: dict[str, int] = {}
        ended = 0
        while ended == 0 or len(newest) < len(KEYS):
            message = await client.read_message()
            if message.get("type") == "snapshot_end":
                ended = message["count"]
            elif "account" in message:
                account = message["account"]
                assert account["id"] > newest.get(account["pubkey"], 0)
                newest[account["pubkey"]] = account["id"]
        stop.set()
        await changing
        for message in await follow(client, "end"):
            account = message["account"]
            assert account["id"] > newest[account["pubkey"]]
            newest[account["pubkey"]] = account["id"]
        out = {key for key in KEYS if await _is_out(rested, key)}
        assert {key: newest[key] for key in KEYS if key not in out} == {k: v for k, v in truth.items() if k not in out}
        assert ended <= len(KEYS)


async def _is_out(rested: Rested, key: str) -> bool:
    state = rested.served.hub.newest(key)
    assert state is not None
    return MINT_B.encode() in state.account_json


async def test_a_client_that_asks_for_thousands_of_filters_and_leaves_costs_nothing_afterwards() -> None:
    """Nothing is kept of the filters of a client that is gone."""
    async with resting() as rested:
        async with raw_client(rested.served) as client:
            for index in range(3_000):
                client.say({"action": "subscribe", "where": {"token_a_mint": str(index)}, "snapshot": index % 2 == 0})
            await follow(client, 1)
            assert len(rested.served.hub.selections) == 3_000
        await until(lambda: not rested.served.listener.clients.connections)
        assert len(rested.served.hub.selections) == 0
        assert not rested.served.hub.selections.active


async def test_a_client_that_does_not_read_is_told_no_further_page() -> None:
    """Pages stop while the client is behind, go on when it reads, and then everything was told."""
    async with selecting(outbox_max_bytes=64 * 1024) as (rested, client):
        made = [rested.next_update(key, data_json=pool(filler="x" * 8_000)) for key in KEYS]
        await rested.store.append(made)
        hub = rested.served.hub
        hub.published_id = made[-1].id
        client.say({"action": "subscribe", "account_type": "Pool"})
        (connection,) = rested.served.listener.clients.connections
        await until(lambda: hub.messages > 100)
        before = 0
        while hub.messages != before:  # a page takes some milliseconds
            before = hub.messages
            await asyncio.sleep(0.25)
        assert before <= len(KEYS) / 2
        assert connection.outbox.conflated == 0
        seen = []
        while (message := await client.read_message()).get("type") != "snapshot_end":
            seen.append(message["pubkey"])
        assert seen == KEYS
        assert message["count"] == len(KEYS)


async def test_a_page_that_cannot_be_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database fails nothing is called complete; afterwards the states come."""
    monkeypatch.setattr("account_socket.server.selecting.AGAIN_SECONDS", 0.01)
    async with selecting() as (rested, client):
        await rested.commit(KEY_A, data_json=pool())
        find, failed = rested.store.find, 0

        async def fail_at_first(*arguments: Any, **options: Any) -> Any:
            nonlocal failed
            failed += 1
            if failed < 4:
                raise StoreError("the disk is gone", retryable=True)
            return await find(*arguments, **options)

        monkeypatch.setattr(rested.store, "find", fail_at_first)
        client.say({"action": "subscribe", "account_type": "Pool"})
        assert told(await client.read_message()) == (KEY_A, 1, None, False)
        assert await client.read_message() == {"type": "snapshot_end", "sub": 1, "count": 1}
        assert failed == 4


async def test_what_is_committed_but_not_published_yet_comes_once() -> None:
    """A state that the database has before it is published is told when it is published, and only then."""
    async with selecting() as (rested, client):
        await rested.commit(KEY_A, data_json=pool())
        early = rested.next_update(data_json=pool(x=1))
        await rested.store.append([early])
        client.say({"action": "subscribe", "account_type": "Pool"})
        assert await client.read_message() == {"type": "snapshot_end", "sub": 1, "count": 0}
        rested.served.hub.publish(early)
        assert [told(message) for message in await follow(client, 1)] == [(KEY_A, early.id, None, False)]


async def test_unsubscribing_while_states_are_told_ends_them() -> None:
    """Behind the ack nothing comes of a subscription whose states were not all told, also no snapshot_end."""
    async with selecting() as (rested, client):
        await rested.store.append([rested.next_update(key, data_json=pool()) for key in KEYS])
        client.say({"action": "subscribe", "account_type": "Pool"})
        await client.read_message()
        client.say({"action": "unsubscribe", "sub": 1, "id": "end"})
        while (await client.read_message()).get("id") != "end":
            pass
        await rested.commit(KEY_A, data_json=pool())
        assert await follow(client, 1) == []
        assert not rested.served.hub.selections.active


async def test_a_state_that_may_not_be_the_newest_says_so() -> None:
    """In a page too."""
    async with selecting() as (rested, client):
        await rested.commit(KEY_A, data_json=pool())
        rested.untrusted.add(KEY_A)
        client.say({"action": "subscribe", "account_type": "Pool"})
        assert (await client.read_message())["stale"] is True


async def test_who_was_never_told_of_an_account_is_not_told_that_it_left() -> None:
    """Without a snapshot only what was told since leaves or closes, whatever others with the same filter know."""
    wanted = {"account_type": "Pool", "where": {"pool_status": 0}}
    async with selecting() as (rested, client), raw_client(rested.served) as late:
        await select(client, **wanted)
        for key in (KEY_A, KEY_B):
            await rested.commit(key, data_json=pool())
        await select(late, **wanted)
        await rested.commit(KEY_A, data_json=pool(pool_status=1))
        await rested.commit(KEY_B, data_json=pool(x=1))
        await rested.commit(KEY_B, closed=True)
        events = [told(message)[1:] for message in await follow(late, 2)]
        assert events == [(4, None, False), (5, None, True)]
        events = [told(message)[1:] for message in await follow(client, 2)]
        assert events == [(1, None, False), (2, None, False), (3, "left", False), (4, None, False), (5, None, True)]
