"""
After each fault every client ends on what the node has, and nothing went back, came twice or was left out.

FAULT names one of them: `FAULT="PubSub drops" pytest tests/faults/test_each_fault.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.faults.faults import FAULTS
from tests.faults.sequence import each_fault, run_all
from tests.faults.stack import KINDS


@pytest.mark.fault
@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if each_fault(kind)])
async def test_after_each_fault_all_is_as_on_the_node(kind: str, tmp_path: Path) -> None:
    """One stack for each fault that no kind before this one can have."""
    only = os.environ.get("FAULT", "")
    sequences = [each for each in each_fault(KINDS[kind]) if only in each.seed]
    assert await run_all(sequences, tmp_path) == []


def test_each_fault_can_happen() -> None:
    """There is a kind of stack for each."""
    assert [each.name for each in FAULTS.values() if not any(map(each.applies_to, KINDS.values()))] == []
