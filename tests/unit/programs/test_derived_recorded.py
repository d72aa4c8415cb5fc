"""
Derived numbers against what the real program did: each recorded transaction shows accounts before and after it.

What a swap charged, a withdrawal paid out, a claim moved and a refresh released was computed by the program itself, in
a local VM; the numbers derived from the accounts before must say the same, to the last unit.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import pytest
from tests.expected import MAINNET, PUBLIC, records

from account_socket.programs import load_programs
from account_socket.programs.meteora_damm_v2 import derived

Fields = dict[str, Any]
REGISTRY = load_programs()
DENOMINATOR = 10**9


class Transaction(NamedTuple):
    """Accounts by their key as published, before and after; `others` is every account before."""

    name: str
    slot: int
    time: int
    before: dict[str, Fields]
    after: dict[str, Fields]
    others: dict[str, Fields]

    def point(self, pool: Fields) -> int:
        return (self.slot, self.time)[pool["activation_type"]]

    def accounts(self, key: str) -> Iterator[tuple[Fields, Fields]]:
        """Yield before and after of each account that has a field of this name."""
        for pubkey, before in self.before.items():
            if key in before and key in self.after.get(pubkey, {}):
                yield before, self.after[pubkey]

    def pool_of(self, position: Fields) -> Fields:
        return self.others[position["pool"]]


def published(record: Fields) -> Fields:
    decoded: Fields = json.loads(REGISTRY.decode(record["owner"], base64.b64decode(record["data"])).data_json)
    return decoded


def transactions() -> Iterator[Transaction]:
    """Yield the recorded transactions; an account that one closed is missing from its `after`."""
    known: dict[str, Fields] = {}
    lines = map(json.loads, gzip.decompress(PUBLIC.read_bytes()).splitlines())
    for _, written in groupby(lines, key=itemgetter("signature")):
        accounts = list(written)
        others = dict(known)
        before = {account["pubkey"]: known.pop(account["pubkey"], {}) for account in accounts}
        after = {account["pubkey"]: published(account) for account in accounts if not account["closed"]}
        known |= after
        name = accounts[0]["tx"].partition(":")[0]
        yield Transaction(name, accounts[0]["slot"], accounts[0]["unix_timestamp"], before, after, others)


TRANSACTIONS = list(transactions())


def named(*names: str) -> Iterator[Transaction]:
    return (transaction for transaction in TRANSACTIONS if transaction.name in names)


def grown(before: Fields, after: Fields, *path: str) -> int:
    """Return by how much a number has grown."""
    for key in path:
        before, after = before[key], after[key]
    return int(after) - int(before)  # type: ignore[call-overload]


def charges(before: Fields, after: Fields) -> Iterator[tuple[int, int]]:
    """
    Yield the amount that a swap's fee was taken from, and the fee, as the pool's accounts tell them.

    What goes to the liquidity is counted by the pool; neighbouring fees can leave the same when the protocol has had
    its share. The reserve changes by the amount exchanged, and by the part of the fee that is compounded.
    """
    side = "a" if grown(before, after, "metrics", "total_lp_a_fee") else "b"
    kept = grown(before, after, "metrics", f"total_lp_{side}_fee")
    fees = before["pool_fees"]
    exchanged = grown(before, after, f"token_{side}_amount") - kept * fees["compounding_fee_bps"] // 10_000
    about = kept * 100 // (100 - fees["protocol_fee_percent"])
    for fee in range(about - 2, about + 3):
        if fee - fee * fees["protocol_fee_percent"] // 100 == kept:
            yield -exchanged if exchanged < 0 else exchanged + fee, fee


def is_fee(amount: int, fee: int, numerator: int) -> bool:
    """Return whether the program takes this fee: of an amount given, or so that a given amount remains."""
    given = -(-amount * numerator // DENOMINATOR)
    enough = -(-(amount - fee) * DENOMINATOR // (DENOMINATOR - numerator))
    return fee == given or amount == enough


def test_swaps_were_charged_the_derived_fee():
    """Every recorded swap paid the fee derived from the pool before it, in all five modes; some limited ones more."""
    seen: Counter[object] = Counter()
    for swap in named("swap", "swap2"):
        for before, after in swap.accounts("sqrt_price"):
            if before["layout_version"] == 0:
                continue  # its reserves were not tracked yet, so what was exchanged is not known
            numerator = derived.total_fee_numerator(before, swap.point(before))
            mode = before["pool_fees"]["base_fee"]["base_fee_mode"]
            if any(is_fee(amount, fee, numerator) for amount, fee in charges(before, after)):
                seen[mode] += 1
                seen[f"collected {before['collect_fee_mode']}"] += 1
                seen["dynamic"] += derived.dynamic_fee_numerator(before) > 0
            else:
                assert mode == 2
                assert grown(before, after, "token_b_amount") > 0
                assert all(fee * DENOMINATOR > amount * numerator for amount, fee in charges(before, after))
                seen["limited"] += 1
    modes = {0: 153, 1: 248, 2: 9, 3: 20, 4: 13}
    collected = {"collected 0": 317, "collected 1": 40, "collected 2": 86}
    assert seen == modes | collected | {"dynamic": 266, "limited": 8}


def test_withdrawals_paid_the_derived_amounts():
    """Every recorded withdrawal took out of the reserves what was derived, from pools of each kind."""
    seen: Counter[int] = Counter()
    for removal in named("remove_liquidity", "remove_all_liquidity"):
        for before, after in removal.accounts("sqrt_price"):
            if before["layout_version"] == 1:
                paid = derived.withdraw_amounts(before, -grown(before, after, "liquidity"))
                assert paid == tuple(-grown(before, after, f"token_{side}_amount") for side in "ab")
                seen[before["collect_fee_mode"]] += 1
    assert seen == {0: 22, 1: 9, 2: 5}


def test_reserves_of_new_pools():
    """The reserves of a pool are, when it is made, what the program took in; later they differ by roundings only."""
    new = 0
    for transaction in TRANSACTIONS:
        for pubkey, pool in transaction.after.items():
            if pool.get("layout_version") != 1:
                continue
            tracked = (int(pool["token_a_amount"]), int(pool["token_b_amount"]))
            reserves = derived.reserves(pool)
            if transaction.before[pubkey]:
                # The program rounds each swap in the pool's favour, and up to 250 of them were made.
                assert all(0 <= have - stand_for <= 250 for have, stand_for in zip(tracked, reserves, strict=True))
            else:
                assert reserves == tracked
                new += 1
    assert new == 34


def test_claims_paid_the_derived_fees():
    """Every recorded claim, deposit and withdrawal credited the position with the fees derived before it."""
    seen: Counter[str] = Counter()
    for transaction in named("claim_position_fee", "add_liquidity", "remove_liquidity", "remove_all_liquidity"):
        for before, after in transaction.accounts("nft_mint"):
            fees = derived.unclaimed_fees(transaction.pool_of(before), before)
            for side, fee in zip("ab", fees, strict=True):
                claimed = grown(before, after, "metrics", f"total_claimed_{side}_fee")
                assert int(after[f"fee_{side}_pending"]) + claimed == fee
            seen[transaction.name] += any(fees)
    assert seen == {"claim_position_fee": 78, "add_liquidity": 10, "remove_liquidity": 4, "remove_all_liquidity": 5}


def test_positions_ahead_of_their_pool():
    """No position is ahead of the pool it is recorded with; once credited with fees, it is ahead of an older one."""
    counters = {f"fee_{side}_per_liquidity": f"fee_{side}_per_token_checkpoint" for side in "ab"}
    credited = 0
    for transaction in TRANSACTIONS:
        for before, after in transaction.accounts("nft_mint"):
            pool = transaction.pool_of(before)
            assert not derived.is_ahead(pool, before)
            assert not derived.is_ahead(transaction.after.get(before["pool"], pool), after)
            older = pool | {counter: before[checkpoint] for counter, checkpoint in counters.items()}
            if any(before[checkpoint] != after[checkpoint] for checkpoint in counters.values()):
                assert derived.is_ahead(older, after)
                credited += 1
    assert credited == 91


def test_claims_paid_the_derived_rewards():
    """Every recorded claim, deposit and withdrawal credited the position with the rewards derived for its time."""
    seen: Counter[str] = Counter()
    for transaction in named("claim_reward", "add_liquidity", "remove_liquidity", "remove_all_liquidity"):
        for before, after in transaction.accounts("nft_mint"):
            rewards = derived.pending_rewards(transaction.pool_of(before), before, transaction.time)
            for reward, was, now in zip(rewards, before["reward_infos"], after["reward_infos"], strict=True):
                assert int(now["reward_pendings"]) + grown(was, now, "total_claimed_rewards") == reward
            seen[transaction.name] += any(rewards)
    assert seen == {"claim_reward": 8, "add_liquidity": 4, "remove_all_liquidity": 4, "remove_liquidity": 0}


def test_refreshes_released_the_derived_liquidity():
    """Every recorded refresh released what was derived, of vestings of their own account and of the position's."""
    seen: Counter[str] = Counter()
    for refresh in named("refresh_vesting"):
        for position, unlocked in refresh.accounts("nft_mint"):
            point = refresh.point(refresh.pool_of(position))
            owed = sum(
                derived.vesting_released(schedule, point) - int(schedule["inner_vesting"]["total_released_liquidity"])
                for schedule in refresh.before.values()
                if "inner_vesting" in schedule
            )
            assert grown(position, unlocked, "unlocked_liquidity") == owed
            seen["own" if int(position["inner_vesting"]["number_of_period"]) else "account"] += 1
    assert seen == {"account": 17, "own": 4}


@pytest.mark.parametrize(
    ("pubkey", "bps", "full_range"),
    [
        ("E8zRkDw3UdzRc8qVWmqyQ9MLj7jhgZDHSroYud5t25A7", 199, True),  # from 50 % down to 2 %, by 2.65 % a minute
        ("3u2BK3ykdjv1hAeGQwAkZMxjb4otV5yvW7g72uviCaZZ", 100, True),
        ("CGPxT5d1uf9a8cKVJuZaJAU76t2EfLGbTmRbfvLLZp5j", 25, False),
    ],
)
def test_mainnet_pools(pubkey, bps, full_range):
    """Pools of mainnet ask for the fee they were set up with, and over a full range hold as much of A as of B."""
    if not MAINNET.exists():
        pytest.skip("the mainnet dump is not part of the project")
    (pool,) = (published(record) for record in records(MAINNET) if record["pubkey"] == pubkey)
    assert derived.total_fee_bps(pool, 2**40) == bps
    a, b = derived.reserves(pool)
    same_value = derived.price(pool, 0, 0) == pytest.approx(Decimal(b) / a, rel=Decimal("1e-6"))
    assert same_value is full_range
