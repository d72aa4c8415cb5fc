"""The bar of a backfill, on a terminal that is really one."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from typing import TextIO

import pytest

from account_socket.cli.progress_bar import ProgressBar
from account_socket.pipeline.progress import Progress


@pytest.fixture
def terminal() -> Iterator[tuple[TextIO, int]]:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    with os.fdopen(theirs, "w") as stream:
        yield stream, ours
    os.close(ours)


def seen(ours: int) -> str:
    try:
        return os.read(ours, 65536).decode()
    except BlockingIOError:
        return ""


def test_a_bar_shows_how_far_it_is_and_goes_away(terminal: tuple[TextIO, int]) -> None:
    """What is read, how many of how many; when nothing is read any more the bar is taken off."""
    stream, ours = terminal
    bar = ProgressBar(stream)
    progress = Progress(bar.show)
    progress.begin("Pool", 200)
    progress.add(50)
    progress.begin("Position")
    progress.add(7)
    text = seen(ours)
    assert "backfill: Pool" in text
    assert "0/200" in text
    assert "backfill: Position" in text
    progress.end()
    assert seen(ours).endswith("\x1b[2K")


def test_log_lines_stand_whole_with_and_without_a_bar(terminal: tuple[TextIO, int]) -> None:
    """A line is written as it is; beside a bar it stands above it, on a line of its own."""
    stream, ours = terminal
    bar = ProgressBar(stream)
    assert bar.isatty()
    bar.write("before\n")
    bar.flush()
    assert seen(ours) == "before\r\n"
    progress = Progress(bar.show)
    progress.begin("Pool", 200)
    seen(ours)
    line = "x" * 300
    bar.write(line + "\n")
    assert line + "\r\n" in seen(ours)
    progress.end()
