"""All faults, and how they are played."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from random import Random

from tests.faults import account_faults, line_faults, node_faults, part_faults
from tests.faults.fault import FAULTS, Fault
from tests.faults.stack import Kind, Stack

__all__ = ["FAULTS", "Fault", "draw", "faults_of", "play"]

MODULES = (account_faults, line_faults, node_faults, part_faults)
"""Their import fills the table."""
RARELY = 0.05
APART_SECONDS = 0.4


def faults_of(kind: Kind) -> list[Fault]:
    """Return the faults that a stack of this kind can have, in the order of the table."""
    return [each for each in FAULTS.values() if each.applies_to(kind)]


def draw(kind: Kind, random: Random, count: int) -> list[Fault]:
    """Return `count` faults by chance."""
    found = faults_of(kind)
    return random.choices(found, [RARELY if each.rare else 1.0 for each in found], k=count)


async def play(stack: Stack, faults: Sequence[Fault]) -> None:
    """Begin the faults one after the other, hold each for a while, and return when all are over."""
    alone: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def hold(each: Fault) -> None:
        async with alone[each.alone]:
            going_on = await each.inject(stack)
            await asyncio.sleep(stack.random.uniform(*each.hold))
            await going_on.clear()

    async with asyncio.TaskGroup() as group:
        for each in faults:
            group.create_task(hold(each))
            await asyncio.sleep(stack.random.uniform(0.0, APART_SECONDS))
