"""
After 200 random sequences of faults every client ends on what the node has, and nothing went back.

FAULT_SEED brings the same sequences again (`7c1e`), or one of them alone (`7c1e-42`), as a failing one prints it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from tests.faults.sequence import Sequence, run_all

SEED = os.environ.get("FAULT_SEED") or secrets.token_hex(4)
SEQUENCES = 200
PARTS = 4
"""So that several workers can share them."""


@pytest.mark.fault
@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", range(PARTS))
async def test_after_random_faults_all_is_as_on_the_node(part: int, tmp_path: Path) -> None:
    """Sequences of one to five faults, which may overlap, on all kinds of stacks."""
    seed, _, number = SEED.partition("-")
    numbers = range(part, SEQUENCES, PARTS)
    if number:
        numbers = range(int(number), int(number) + 1) if int(number) in numbers else range(0)
    print(f"FAULT_SEED={seed}: sequences {list(numbers)}")
    wrong = await run_all([Sequence.drawn(f"{seed}-{each}") for each in numbers], tmp_path)
    assert wrong == [], f"FAULT_SEED={seed}\n" + "\n".join(wrong)
