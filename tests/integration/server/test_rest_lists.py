"""Many accounts by HTTP: lists by their fields, and by their keys."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from solders.pubkey import Pubkey
from tests.integration.server.resting import Rested, resting
from tests.samples import KEY_A, KEY_B, PROGRAM

from account_socket.store import queries

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # what differs between loops is tested beside


@pytest.fixture
async def rested() -> AsyncIterator[Rested]:
    async with resting() as rested:
        yield rested


def key(number: int) -> str:
    return str(Pubkey(number.to_bytes(32, "big")))


async def fill(rested: Rested, count: int) -> list[str]:
    """Commit `count` pools of many shapes; return their keys, sorted."""
    for number in range(count):
        data = {
            "token_a_mint": key(number % 3),
            "pool_status": number % 2,
            "liquidity": str(number),
            "pool_fees": {"base_fee": {"mode": "RateLimiter", "base_fee_mode": number % 5}},
            "reward_infos": [{"mint": key(number % 4)}, {"mint": key(7)}],
        }
        await rested.commit(key(number + 100), data_json=json.dumps(data).encode())
    return sorted(key(number + 100) for number in range(count))


async def pages(rested: Rested, **query: str) -> list[dict[str, Any]]:
    """Return the accounts of all pages."""
    found: list[dict[str, Any]] = []
    while True:
        status, page, _ = await rested.get("/v1/accounts", params=query)
        assert (status, page["epoch"], "stale" in page) == (200, "e1", False)
        found += page["accounts"]
        if page["next"] is None:
            return found
        query["after"] = page["next"]


async def test_every_account_once(rested: Rested) -> None:
    """The pages together have every account once, in the order of their keys."""
    keys = await fill(rested, 25)
    assert [account["pubkey"] for account in await pages(rested, limit="4")] == keys
    assert [account["pubkey"] for account in await pages(rested, account_type="Pool", owner=PROGRAM)] == keys
    assert await pages(rested, account_type="Position") == []
    assert await pages(rested, owner=KEY_A) == []


BY_FIELDS: list[tuple[dict[str, str], Any]] = [
    ({"token_a_mint": key(1)}, range(1, 25, 3)),
    ({"pool_status": "1"}, range(1, 25, 2)),
    ({"liquidity": "7"}, [7]),
    ({"pool_fees.base_fee.mode": "RateLimiter", "pool_fees.base_fee.base_fee_mode": "2"}, range(2, 25, 5)),
    ({"reward_infos.0.mint": key(3), "pool_status": "1"}, range(3, 25, 4)),
    ({"reward_infos.1.mint": key(3)}, []),
    ({"liquidity": "07"}, []),
]


async def test_accounts_by_their_fields(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equality on decoded fields by dotted path; several are AND; a short scan does not hide any."""
    await fill(rested, 25)
    monkeypatch.setattr(queries, "MAX_SCANNED", 3)
    for where, numbers in BY_FIELDS:
        found = await pages(rested, **{f"where.{path}": value for path, value in where.items()})
        assert {account["pubkey"] for account in found} == {key(number + 100) for number in numbers}, where


SENSELESS = [
    ("where.nothing=1", "invalid_filter"),
    ("where.=1", "invalid_filter"),
    ("where.pool_fees=1", "invalid_filter"),
    ("where.reward_infos.9.mint=x", "invalid_filter"),
    ("where.pool_fees.base_fee.a%22b=1", "invalid_filter"),
    ("where.pool_fees.base_fee.a.b=1", "invalid_filter"),
    ("account_type=Position&where.pool_status=1", "invalid_filter"),
    ("account_type=Foo", "invalid_filter"),
    ("where.liquidity=" + "1" * 300, "invalid_filter"),
    ("&".join(f"where.reward_infos.{i % 2}.mint{'' if i < 2 else i}=1" for i in range(9)), "invalid_filter"),
    ("owner=x", "invalid_pubkey"),
    ("after=x", "invalid_pubkey"),
    ("limit=2000", "invalid_parameter"),
    ("order=asc", "invalid_parameter"),
]


async def test_selections_that_make_no_sense(rested: Rested) -> None:
    """A list that cannot be meant is refused, naming what is wrong."""
    for query, code in SENSELESS:
        assert await rested.refusal(f"/v1/accounts?{query}") == (400, code), query


async def test_a_list_says_that_it_may_be_old(rested: Rested) -> None:
    """A page with a state that may not be the newest says so."""
    keys = await fill(rested, 3)
    rested.untrusted.add(keys[1])
    assert (await rested.get("/v1/accounts"))[1]["stale"] is True
    assert "stale" not in (await rested.get("/v1/accounts?limit=1"))[1]


async def post(rested: Rested, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    status, answer, _ = await rested.get("/v1/accounts", method="POST", data=data)
    return status, answer


async def test_a_batch(rested: Rested) -> None:
    """A thousand accounts are answered at once: states in the order asked for, and who is missing or foreign."""
    keys = await fill(rested, 5)
    rested.served.foreign.add(KEY_B)
    asked = [*keys[::-1], KEY_A, KEY_B, keys[0], *(key(number + 1000) for number in range(990))]
    status, answer = await post(rested, {"pubkeys": asked})
    assert status == 200
    assert [state["pubkey"] for state in answer["accounts"]] == keys[::-1]
    assert {state["source"] for state in answer["accounts"]} == {"cache"}
    assert answer["missing"] == [KEY_A, *asked[8:]]
    assert answer["foreign"] == [KEY_B]
    assert answer["epoch"] == "e1"
    assert "stale" not in answer
    rested.served.hub.stale = True
    assert (await post(rested, {"pubkeys": keys}))[1]["stale"] is True


BAD_BATCHES: list[tuple[Any, int, str]] = [
    (b"", 400, "invalid_json"),
    (b"{", 400, "invalid_json"),
    (b'{"pubkeys":["\xff"]}', 400, "invalid_json"),
    (b"[" * 50_000, 400, "invalid_message"),
    ([], 400, "invalid_message"),
    ({"pubkeys": []}, 400, "invalid_message"),
    ({"pubkeys": [1]}, 400, "invalid_message"),
    ({"pubkeys": [KEY_A] * 1001}, 400, "invalid_message"),
    ({"pubkeys": [KEY_A], "more": 1}, 400, "invalid_message"),
    ({"pubkeys": [KEY_A, "abc"]}, 400, "invalid_pubkey"),
    (b" " * 70_000, 413, "payload_too_large"),
]


async def test_bad_batches(rested: Rested) -> None:
    """What is no list of 1 to 1,000 keys is refused whole."""
    for body, status, code in BAD_BATCHES:
        found, answer = await post(rested, body)
        assert (found, answer["error"]["code"]) == (status, code), body
        assert len(answer["error"]["message"]) < 300
