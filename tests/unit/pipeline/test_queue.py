from __future__ import annotations

import asyncio

from tests.samples import KEY_A, KEY_B, update

from account_socket.pipeline.queue import CALM_UPDATES, GROUP_UPDATES, CommitQueue


def ids(updates: object) -> list[int]:
    return [each.id for each in updates]  # type: ignore[attr-defined]


async def test_a_group_is_what_has_arrived_up_to_its_bound() -> None:
    """A group holds the oldest updates, at most GROUP_UPDATES, which stay queued until done."""
    queue = CommitQueue()
    queue.extend([update(n) for n in range(1, GROUP_UPDATES + 11)])
    group = queue.group()
    assert ids(group) == list(range(1, GROUP_UPDATES + 1))
    assert len(queue) == GROUP_UPDATES + 10
    assert queue.done(group) == 0
    assert ids(queue.group()) == list(range(GROUP_UPDATES + 1, GROUP_UPDATES + 11))


async def test_a_large_group_is_cut_by_bytes() -> None:
    """Updates of megabytes do not pile up in one commit."""
    queue = CommitQueue()
    queue.extend([update(n, data=bytes(3 << 20)) for n in range(10)])
    assert len(queue.group()) <= 4


async def test_bytes_are_given_back_exactly() -> None:
    """A queue that was emptied counts no bytes and is not ready."""
    queue = CommitQueue()
    queue.extend([update(1), update(2)])
    assert queue.bytes > 0
    queue.done(queue.group())
    assert (queue.bytes, queue.empty) == (0, True)
    arrived = asyncio.ensure_future(queue.arrived())
    await asyncio.sleep(0)
    assert not arrived.done()
    arrived.cancel()


async def test_a_full_queue_makes_its_filler_wait_until_a_commit() -> None:
    """room() waits above the bound and returns when a commit makes room."""
    queue = CommitQueue(max_updates=3)
    queue.extend([update(n) for n in range(4)])
    room = asyncio.ensure_future(queue.room())
    await asyncio.sleep(0)
    assert not room.done()
    queue.done(queue.group())
    await asyncio.wait_for(room, 1)


async def test_published_updates_of_a_committed_group_are_counted() -> None:
    """done() tells how many of the group were published without ids before."""
    queue = CommitQueue()
    queue.extend([update(1), update(2)])
    assert ids(queue.unpublished()) == [1, 2]
    queue.extend([update(3)])
    assert ids(queue.unpublished()) == [3]
    queue.extend([update(4)])
    assert queue.done(queue.group()) == 3
    assert ids(queue.unpublished()) == []


async def test_shedding_keeps_the_group_in_flight_and_the_newest_of_each_account() -> None:
    """Over its bound the queue drops superseded updates first, never what is being committed."""
    queue = CommitQueue(max_updates=6)
    queue.extend([update(1, KEY_A), update(2, KEY_A)])
    in_flight = queue.group()
    queue.extend([update(n, KEY_A) for n in range(3, 8)] + [update(8, KEY_B), update(9, KEY_A)])
    list(queue.unpublished())
    queue.shed()
    assert ids(in_flight) == [1, 2]
    assert (queue.shed_total, queue.shed_id) == (6, 8)
    assert queue.done(in_flight) == 2
    assert ids(queue.group()) == [9]


async def test_shedding_drops_the_oldest_when_every_account_is_different() -> None:
    """With no superseded updates the oldest go, down to half the bound."""
    queue = CommitQueue(max_updates=10)
    queue.extend([update(n, f"key-{n}") for n in range(11)])
    list(queue.unpublished())
    queue.shed()
    assert ids(queue.group()) == list(range(6, 11))
    assert (queue.shed_total, queue.shed_id) == (6, 5)


async def test_what_nobody_waits_for_waits_until_hardly_anything_is_queued() -> None:
    """Calm is when fewer than CALM_UPDATES wait, and comes back as they are committed."""
    queue = CommitQueue()
    queue.extend([update(n) for n in range(CALM_UPDATES - 1)])
    await queue.calm()
    queue.extend([update(CALM_UPDATES)])
    calm = asyncio.ensure_future(queue.calm())
    await asyncio.sleep(0)
    assert not calm.done()
    queue.done(queue.group())
    await calm
