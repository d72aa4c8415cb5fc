"""The bar that a terminal shows while a backfill reads; log lines go above it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

if TYPE_CHECKING:
    from account_socket.pipeline.progress import Progress

REDRAW_SECONDS = 0.2


class ProgressBar:
    """
    Draws what it is shown; a stream for log lines too.

    Args:
        stream: a terminal.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._console = Console(file=self._stream, highlight=False, markup=False, emoji=False)
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._doing = ""
        self._drawn = 0.0

    def show(self, progress: Progress) -> None:
        """Draw how far it is, at most some times a second; nothing once it does nothing."""
        if not progress.doing:
            self._stop()
            return
        if progress.doing == self._doing and time.monotonic() - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        bar = self._bar or self._start()
        if progress.doing != self._doing:
            self._doing = progress.doing
            bar.remove_task(self._task)
            self._task = bar.add_task(f"backfill: {progress.doing}", total=progress.total, rate="")
        bar.update(self._task, completed=progress.done, rate=f"{progress.rate:,.0f}/s")
        bar.refresh()

    def _start(self) -> Bar:
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=None, rate="")
        self._bar.start()
        return self._bar

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._doing = None, ""

    # ---- as a stream ---------------------------------------------------------------------------------------

    def write(self, text: str) -> int:
        """Write log lines, above the bar while there is one."""
        if self._bar is None:
            return self._stream.write(text)
        self._console.print(Text.from_ansi(text.rstrip("\n")), soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        """Let out what was written."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return self._stream.isatty()
