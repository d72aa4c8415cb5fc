"""How many clients the open files are enough for, and when that is told."""

from __future__ import annotations

import resource

import pytest
import structlog

from account_socket.server import open_files
from account_socket.server.limits import Limits
from account_socket.server.open_files import within_open_files


@pytest.mark.parametrize(
    ("hard", "asked", "told"),
    [(20_000, False, False), (20_000, True, True), (4_096, False, True), (30_000, True, False)],
)
def test_what_is_missing_is_told_where_it_matters(
    hard: int, asked: bool, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that somebody chose and cannot have is told; of the default only one of less than half."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with structlog.testing.capture_logs() as logs:
        limits = within_open_files(Limits(), asked=asked)
    assert bool(logs) is told
    assert limits.max_sockets + open_files.RESERVED_FILES <= max(hard, 21_280)
    assert limits.max_connections == {20_000: 17_276, 4_096: 3_360, 30_000: 20_000}[hard]
