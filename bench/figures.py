"""What a benchmark yields: named figures over repetitions, some of them with a target; and the table of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Judge = Literal["<=", ">="]


@dataclass(frozen=True)
class Options:
    """
    How much to measure.

    Attributes:
        repetitions: of each comparison; candidates alternate.
        scale: 1 for figures worth keeping; smaller ones shorten every run and thin every crowd.
        ingest_seconds: how long each run at full speed lasts.
        big: a database built by `make bench-big`, or None.
    """

    repetitions: int = 3
    scale: float = 1.0
    ingest_seconds: float = 3.0
    big: Path | None = None

    def many(self, count: int, least: int = 4) -> int:
        """Scale a number of clients, accounts or updates."""
        return max(least, round(count * self.scale))

    def seconds(self, seconds: float) -> float:
        """Scale a duration."""
        return max(0.05, seconds * self.scale)


@dataclass(frozen=True)
class Figure:
    """
    One line of the table.

    Attributes:
        case: what was measured, in words.
        unit: of `values`.
        values: one per repetition.
        target: what the median must be; None where nothing is demanded.
        judge: `<=` where less is better.
    """

    case: str
    unit: str
    values: Sequence[float]
    target: float | None = None
    judge: Judge = "<="

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def best(self) -> float:
        return max(self.values) if self.judge == ">=" else min(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without one."""
        if self.target is None:
            return None
        return self.median >= self.target if self.judge == ">=" else self.median <= self.target


@dataclass
class Series:
    """Values of several cases gathered over repetitions, in the order in which cases first came."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, case: str, value: float) -> None:
        self.values.setdefault(case, []).append(value)

    def __getitem__(self, case: str) -> list[float]:
        return self.values[case]

    def ratio(self, case: str, to: str) -> list[float]:
        """Return the ratio of two cases, repetition by repetition."""
        return [a / b for a, b in zip(self[case], self[to], strict=True)]


def number(value: float) -> str:
    """Return `value` with three digits that matter."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def row(benchmark: str, figure: Figure) -> tuple[str, ...]:
    """Return the cells of one line."""
    target = "" if figure.target is None else f"{figure.judge} {number(figure.target)}"
    met = {None: "", True: "met", False: "MISSED"}[figure.met]
    return (
        benchmark,
        figure.case,
        number(figure.best),
        number(figure.median),
        figure.unit,
        target,
        met,
    )


HEADS = ("benchmark", "case", "best", "median", "unit", "target", "")


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table, aligned for reading in a terminal."""
    lines = [HEADS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    numeric = {2, 3}

    def text(line: tuple[str, ...]) -> str:
        cells = (
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return f"| {' | '.join(cells)} |"

    rule = [f"{'-' * (width - 1)}:" if column in numeric else "-" * width for column, width in enumerate(widths)]
    return "\n".join([text(HEADS), f"| {' | '.join(rule)} |", *map(text, lines[1:])])
