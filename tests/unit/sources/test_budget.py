from __future__ import annotations

import asyncio
from time import monotonic

from hypothesis import given
from hypothesis import strategies as st

from account_socket.sources.budget import Budget, Leftover, TokenBucket


def test_a_full_bucket_gives_its_burst_then_the_rate() -> None:
    """The burst is free, and the next token is due after one interval."""
    bucket = TokenBucket(5.0, 2.0)
    assert [bucket.take(0.0), bucket.take(0.0), bucket.take(0.0)] == [0.0, 0.0, 0.2]
    assert bucket.take(0.25) == 0.0


@given(st.floats(0.5, 100), st.floats(1, 50), st.lists(st.floats(0, 1), max_size=200))
def test_no_more_than_the_rate_and_the_burst(rate: float, burst: float, pauses: list[float]) -> None:
    """However it is asked, a bucket gives at most its burst and what the rate has added."""
    bucket, now, taken = TokenBucket(rate, burst), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now) == 0.0
    assert taken <= burst + rate * now + 1e-6


async def test_waiters_are_served_in_their_order() -> None:
    """Who came first is served first, at the rate."""
    budget = Budget(50.0)
    served: list[int] = []

    async def take(number: int) -> None:
        await budget.take()
        served.append(number)

    began = monotonic()
    await asyncio.gather(*(take(number) for number in range(60)))
    assert served == list(range(60))
    assert monotonic() - began >= 10 / 50 * 0.99


async def test_a_cancelled_waiter_holds_nobody_up() -> None:
    """A waiter that is cancelled takes no token, and the one behind it gets its turn."""
    budget = Budget(10.0)
    for _ in range(10):
        await budget.take()
    first, second = asyncio.create_task(budget.take()), asyncio.create_task(budget.take())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 5)
    assert first.cancelled()


async def test_what_is_left_of_a_budget_is_taken_after_the_others() -> None:
    """Whoever takes from the budget directly goes first; who takes what is left does not starve."""
    budget = Budget(50.0)
    leftover = Leftover(budget, patience=0.2)
    for _ in range(50):
        await budget.take()
    order: list[str] = []

    async def take(turns: Budget | Leftover, name: str) -> None:
        await turns.take()
        order.append(name)

    first = asyncio.ensure_future(take(budget, "other"))
    await asyncio.sleep(0)
    await asyncio.gather(first, take(leftover, "left"), *(take(budget, "other") for _ in range(4)))
    assert order == ["other"] * 5 + ["left"]
    order.clear()
    await asyncio.gather(*(take(budget, "other") for _ in range(30)), take(leftover, "left"))
    assert 5 < order.index("left") < 31
