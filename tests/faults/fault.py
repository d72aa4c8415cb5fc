"""
What a fault is, and the decorator that puts one into the table.

A fault is an asynchronous generator: until its `yield` it injects, after it it clears. `needs` are the traits of the
kinds of stack that it applies to, see `Kind.traits`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from tests.faults.stack import Kind, Stack

HOLD_SECONDS = (0.05, 0.5)

Play = Callable[[Stack], AsyncGenerator[None, None]]


@dataclass(frozen=True)
class Fault:
    """
    One fault.

    Attributes:
        name: a few words.
        play: see the module's docstring.
        hold: between how few and how many seconds it lasts.
        alone: no two faults of the same word go on at once.
        rare: it costs so much that random sequences seldom have it.
    """

    name: str
    play: Play
    needs: frozenset[str]
    hold: tuple[float, float]
    alone: str
    rare: bool

    async def inject(self, stack: Stack) -> Injected:
        """Begin it."""
        playing = self.play(stack)
        await anext(playing)
        return Injected(self, playing)

    def applies_to(self, kind: Kind) -> bool:
        """Whether a stack of this kind can have it."""
        return self.needs <= kind.traits


@dataclass(frozen=True)
class Injected:
    """A fault that goes on."""

    fault: Fault
    playing: AsyncGenerator[None, None]

    async def clear(self) -> None:
        """End it."""
        async for _ in self.playing:
            raise AssertionError(f"{self.fault.name}: a fault yields once")


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, *needs: str, hold: tuple[float, float] = HOLD_SECONDS, alone: str = "", rare: bool = False
) -> Callable[[Play], Play]:
    """Put the decorated generator into the table."""

    def keep(play: Play) -> Play:
        assert name not in FAULTS, name
        FAULTS[name] = Fault(name, play, frozenset(needs), hold, alone or name, rare)
        return play

    return keep
