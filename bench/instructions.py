"""How many instructions a server executes, by callgrind: where noise hides what seconds would tell."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import rig

UNDER = (
    "valgrind",
    "--tool=callgrind",
    "--instr-atstart=no",
    "--fair-sched=yes",
    "--callgrind-out-file=/dev/null",
)
"""A command that runs another. Its threads take turns fairly: waiting for each other would be counted too."""
THREAD = re.compile(r"^ +Th +\d+ +([\d,]+)", re.MULTILINE)


def can_count() -> bool:
    """Tell whether this machine has valgrind."""
    return all(map(shutil.which, ("valgrind", "callgrind_control")))


@contextmanager
def counting(program: rig.Program) -> Iterator[None]:
    """Count for the block what a program that runs `UNDER` callgrind does; it is some fifty times slower meanwhile."""
    _control(program, "--instr=on")
    yield
    _control(program, "--instr=off")


def executed(program: rig.Program) -> int:
    """Return how many instructions all its threads have executed while they were counted."""
    return sum(int(count.replace(",", "")) for count in THREAD.findall(_control(program, "-e")))


def _control(program: rig.Program, *flags: str) -> str:
    """Return what callgrind answers. Raises RuntimeError."""
    command = ["callgrind_control", *flags, str(program.pid)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if answer.startswith("Error"):  # with exit code 0
        raise RuntimeError(answer)
    return answer
