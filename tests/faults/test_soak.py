"""
The server under load for long: 2,000 updates a second, 200 clients coming and going, a fault every 20 seconds.

`make soak` runs it for half an hour; SOAK_MINUTES says otherwise.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from random import Random

import pytest
import uvloop
from tests.faults.soak import Figures, Rig

SEED = os.environ.get("FAULT_SEED") or secrets.token_hex(4)
MINUTES = float(os.environ.get("SOAK_MINUTES") or 30)
WARM_MINUTES = 10.0
"""A shorter run says nothing of growth: caches fill up for minutes."""
MAX_GROWTH = 0.02
MAX_WAL_MIB = 300
MORE = 5
"""Descriptors, threads and tasks that a pool may hold at one moment and not at another."""


async def soak(directory: Path) -> tuple[Figures, list[str]]:
    """Return what was measured, and what was wrong."""
    async with Rig(directory, Random(SEED)) as rig:
        await rig.play(MINUTES * 60)
        wrong = await rig.verdict()
    return rig.figures, wrong


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 300)
def test_soak(tmp_path: Path) -> None:
    """In the end all is as on the node; nothing went back, came twice, grew or was leaked."""
    print(f"FAULT_SEED={SEED} SOAK_MINUTES={MINUTES:g}")
    (tmp_path / "server").mkdir()
    # Node, proxies and clients share a processor, which should not be what is measured.
    figures, wrong = uvloop.run(soak(tmp_path / "server"))
    print(figures.table())
    assert wrong == []
    assert max(figures.wal) < MAX_WAL_MIB
    assert [name for name, count in figures.before.items() if figures.after[name] > count + MORE] == []
    assert MINUTES < WARM_MINUTES or figures.growth <= MAX_GROWTH
