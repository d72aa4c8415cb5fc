"""What the Yellowstone source asks a node for, and what it makes of closes, forks and levels of slots."""

from __future__ import annotations

import pytest
from tests.samples import KEY_A, KEY_B, PROGRAM
from tests.waiting import until
from tests.yellowstone import node_of, running, settled, source_of, write

from account_socket.model import SYSTEM_PROGRAM, Gap


async def test_the_close_of_a_watched_account_is_seen() -> None:
    """An account that leaves its program is out of the owner's filter; watched, its close arrives."""
    async with node_of() as node:
        source = source_of(node.geyser_url)
        async with running(source) as taker:
            await settled(taker)
            write(node, b"a")
            write(node, b"b", KEY_B)
            source.watch([KEY_A])
            await until(lambda: any(len(each.filters.accounts) == 2 for each in node.geyser._streams))
            node.close_account(KEY_B)
            node.close_account(KEY_A)
            await until(lambda: len(taker.accounts) == 3)
            assert taker.accounts[2].pubkey == KEY_A
            assert (taker.accounts[2].lamports, taker.accounts[2].owner) == (0, SYSTEM_PROGRAM)
            assert source.status.reconnects == 0
            source.watch([])
            await until(lambda: all(len(each.filters.accounts) == 1 for each in node.geyser._streams))


async def test_filters_beyond_the_providers_limit_are_narrowed() -> None:
    """A node that refuses the watched accounts gets fewer of them, until it takes them; nothing is missed."""
    async with node_of(max_accounts=3) as node:
        source = source_of(node.geyser_url)
        async with running(source) as taker:
            await settled(taker)
            source.watch([KEY_A, KEY_B, PROGRAM, SYSTEM_PROGRAM, *[KEY_A] * 8])
            await until(lambda: source.status.reconnects >= 2, seconds=10)
            await until(lambda: any(each.filters for each in node.geyser._streams))
            write(node, b"a")
            node.advance_slots(2)
            await until(lambda: taker.data == [b"a"])
            node.close_account(KEY_A)
            await until(lambda: taker.accounts[-1].lamports == 0)
    assert len(taker.gaps) == 1


@pytest.mark.parametrize("tell", [True, False], ids=["dead", "a sibling is finalized"])
async def test_a_fork_that_dies_gives_the_state_before_back(tell: bool) -> None:
    """When a slot dies, by a status or because a sibling is finalized, the state before it is delivered again."""
    async with node_of() as node, running(source_of(node.geyser_url)) as taker:
        await settled(taker)
        first = write(node, b"lives")
        node.advance_slots(1)
        dying = write(node, b"dies")
        node.abandon_slot(dying.slot, tell=tell)
        node.advance_slots(40)
        await until(lambda: len(taker.accounts) == 3, seconds=10)
        back = taker.accounts[2]
        assert (back.data, back.slot, back.retracts) == (b"lives", first.slot, dying.slot)


async def test_a_fork_that_dies_with_an_unknown_account_is_a_gap() -> None:
    """A state before that was never seen is told as a gap around the dead slot, and the account as doubtful."""
    async with node_of() as node:
        source = source_of(node.geyser_url)
        doubts: list[tuple[int, list[str]]] = []
        async with running(source) as taker:
            source.on_doubt = lambda pubkeys: doubts.append((len(taker.accounts), list(pubkeys)))
            await settled(taker)
            dying = write(node, b"dies")
            node.abandon_slot(dying.slot)
            await until(lambda: len(taker.gaps) == 2 and doubts)
        assert doubts == [(1, [KEY_A])], "told before the state that it concerns was delivered"
        gap = taker.gaps[1]
        assert gap == Gap("geyser", None, gap.to_slot, gap.reason)
        assert gap.to_slot > dying.slot


async def test_a_slots_level_is_told_behind_what_the_slot_wrote() -> None:
    """While the writes of a slot are not taken yet, nobody hears that it is confirmed."""
    async with node_of() as node:
        source = source_of(node.geyser_url)
        levels: list[tuple[int, str]] = []
        source.on_slot = lambda slot, level: levels.append((slot, level))
        async with running(source) as taker:
            await settled(taker)
            taker.gate.clear()
            write(node, b"holds the taker up")
            await until(lambda: taker.accounts)
            written = write(node, b"waits")
            node.advance_slots(3)
            await until(lambda: (source.status.tip_slot or 0) >= written.slot + 3)
            assert written.slot not in dict(levels)
            taker.gate.set()
            await until(lambda: (written.slot, "confirmed") in levels)
            assert taker.data[-1] == b"waits"
