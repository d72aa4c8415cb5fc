"""The bar of a backfill, on a terminal that is really one."""

from __future__ import annotations

import os
import pty
import select
from collections.abc import Iterator
from typing import TextIO

import pytest

from account_socket.cli.progress_bar import ProgressBar
from account_socket.pipeline.progress import Progress


@pytest.fixture
def terminal() -> Iterator[tuple[TextIO, int]]:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        yield stream, ours
    os.close(ours)


def seen(ours: int, text: str) -> str:
    """Return what the terminal got, once that has `text` in it; fail after a while."""
    got = ""
    while text not in got:
        readable, _, _ = select.select([ours], [], [], 5)
        assert readable, f"{text!r} is not in {got!r}"
        got += os.read(ours, 65536).decode(errors="replace")
    return got


def test_a_bar_shows_how_far_it_is_and_goes_away(terminal: tuple[TextIO, int]) -> None:
    """What is read, how many of how many; when nothing is read any more the bar is taken off."""
    stream, ours = terminal
    bar = ProgressBar(stream)
    progress = Progress(bar.show)
    progress.begin("Pool", 200)
    progress.add(50)
    progress.begin("Position")
    progress.add(7)
    text = seen(ours, "0/?")
    assert "backfill: Pool" in text
    assert "0/200" in text
    assert "backfill: Position" in text
    progress.end()
    seen(ours, "\x1b[?25h")  # the cursor is back


def test_log_lines_stand_whole_with_and_without_a_bar(terminal: tuple[TextIO, int]) -> None:
    """A line is written as it is; beside a bar it stands above it, on a line of its own."""
    stream, ours = terminal
    bar = ProgressBar(stream)
    assert bar.isatty()
    bar.write("before\n")
    bar.flush()
    assert seen(ours, "\n") == "before\r\n"
    progress = Progress(bar.show)
    progress.begin("Pool", 200)
    seen(ours, "0/200")
    line = "x" * 300
    bar.write(line + "\n")
    seen(ours, "\x1b[2K" + line + "\r\n")
    progress.end()
