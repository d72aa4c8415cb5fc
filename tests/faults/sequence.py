"""Sequences of faults: what is drawn by chance from a seed, and how they are run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults.faults import Fault, draw, faults_of, play
from tests.faults.stack import KINDS, Kind, Stack, fresh_database, surprises

WEIGHTS = {
    "pubsub": 4,
    "compared": 2,
    "processed": 3,
    "twins": 3,
    "both": 3,
    "both-processed": 2,
    "geyser": 2,
    "redis": 1,
    "process": 0.5,
}
"""How often each kind of stack is drawn; a Redis or a server as a process costs more."""
MAX_FAULTS = 5
AT_ONCE = 20
"""How many share the event loop."""


@dataclass(frozen=True)
class Sequence:
    """
    Faults that a stack of `kind` has.

    Attributes:
        seed: of everything else that is left to chance.
    """

    kind: Kind
    faults: tuple[Fault, ...]
    seed: str

    @classmethod
    def drawn(cls, seed: str) -> Sequence:
        """Return the sequence that a seed stands for."""
        random = Random(seed)
        kind = KINDS[random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]]
        return cls(kind, tuple(draw(kind, random, random.randint(1, MAX_FAULTS))), seed)

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.kind.name}: " + ", then ".join(each.name for each in self.faults)

    async def run(self, directory: Path) -> list[str]:
        """Return what was against the contract."""
        directory.mkdir()
        async with Stack(self.kind, directory, Random(self.seed)) as stack:
            await play(stack, self.faults)
            return await stack.verdict()


async def run_all(sequences: Iterable[Sequence], directory: Path) -> list[str]:
    """Run sequences side by side; return what went wrong, under the sequence's name."""
    places = asyncio.Semaphore(AT_ONCE)
    wrong: list[str] = []

    async def run(number: int, sequence: Sequence) -> None:
        async with places:
            try:
                found = await sequence.run(directory / str(number))
            except Exception as error:  # noqa: BLE001  (one that breaks must not hide the others' names)
                found = [f"{type(error).__name__}: {error}"]
            if found:
                wrong.append("\n    ".join([str(sequence), *found]))

    await fresh_database(directory)
    with surprises() as surprising:
        async with asyncio.TaskGroup() as group:
            for number, sequence in enumerate(sequences):
                group.create_task(run(number, sequence))
    return wrong + surprising


def each_fault(kind: Kind) -> list[Sequence]:
    """Return each fault by itself that a stack of this kind can have, and none of the kinds before it can."""
    before = list(KINDS.values())[: list(KINDS.values()).index(kind)]
    return [Sequence(kind, (each,), each.name) for each in faults_of(kind) if not any(map(each.applies_to, before))]
