"""How far a long reading is, for /readyz, for a bar on a terminal, else for a log line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

LOG_SECONDS = 5.0

log = structlog.get_logger("account_socket.upstream")


@dataclass
class Progress:
    """
    Attributes:
        show: draws it, a few times a second and once more at the end; None: log lines.
        doing: what is being read, in words; "" while nothing is.
        done, total: accounts of that; total None where nobody knows.
        accounts: how many states were read since the start.
    """

    show: Callable[[Progress], None] | None = None
    doing: str = ""
    done: int = 0
    total: int | None = None
    accounts: int = 0
    _began: float = field(default_factory=time.monotonic)
    _told: float = field(default_factory=time.monotonic)

    def begin(self, doing: str, total: int | None = None) -> None:
        """Begin to read something."""
        self.doing, self.total, self.done = doing, total, 0
        self._began = time.monotonic()
        self._tell()

    def add(self, count: int, *, whole: bool = True) -> None:
        """Take that so many more accounts were read: their states, or only that they are there (not `whole`)."""
        self.done += count
        self.accounts += count if whole else 0
        if self.show is not None or time.monotonic() - self._told >= LOG_SECONDS:
            self._tell()

    def end(self) -> None:
        """Take that nothing is being read any more."""
        self.doing = ""
        if self.show is not None:
            self.show(self)

    @property
    def rate(self) -> float:
        """Accounts a second."""
        return self.done / max(0.001, time.monotonic() - self._began)

    def _tell(self) -> None:
        self._told = time.monotonic()
        if self.show is not None:
            self.show(self)
        elif self.done:
            log.info("backfill goes on", doing=self.doing, done=self.done, total=self.total, rate=round(self.rate))
