"""Forks that die while nobody looks, with one upstream covering what the other one missed."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from tests.faults.stack import KINDS, SETTLE_SECONDS, Stack, fresh_database


@pytest.mark.fault
async def test_a_state_that_one_upstream_told_alone_is_retracted_after_both_broke_off(tmp_path: Path) -> None:
    """Yellowstone never saw the dead slot, and PubSub not its death; the states before it are told again."""
    directory = tmp_path / "stack"
    directory.mkdir()
    await fresh_database(tmp_path)
    async with Stack(KINDS["both-processed"], directory, Random(1)) as stack:
        stack.traffic.pause()
        (pubsub,), geyser = stack.parts.proxies, stack.parts.geyser
        assert geyser is not None
        geyser.refusing = True
        geyser.drop()
        await stack.wait(lambda: not geyser.connections, SETTLE_SECONDS)
        stack.traffic.write_all()
        dying = int(stack.node.statistics()["tip_slot"])
        assert await stack.wait(lambda: not stack.differences(), SETTLE_SECONDS)
        pubsub.refusing = True
        pubsub.drop()
        stack.node.abandon_slot(dying)
        stack.node.advance_slots(3)
        geyser.clear()
        await stack.wait(lambda: stack.server.service.sources[1].status.connected, SETTLE_SECONDS)  # type: ignore[attr-defined]
        pubsub.clear()
        assert await stack.verdict() == []
        assert {update.event for update in stack.steady.oracle.last.values()} == {"retracted"}
