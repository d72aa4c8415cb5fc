"""`account-socket serve` with patience that tests can wait for; `python -m tests.faults.impatient_server` runs it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path

from tests.running import ServerProcess

ROOT = Path(__file__).parents[2]
COMMIT_SECONDS = 1.0
STALL_SECONDS = 2.0
SPACE_SECONDS = 0.3
READ_SECONDS = 1.5
RETRY_SECONDS = (0.2, 0.5)
PING_SECONDS, PONG_SECONDS = 0.3, 1.0


def impatient_server(
    directory: Path, env: Mapping[str, str] | None = None, *, through: Sequence[str] = ()
) -> ServerProcess:
    """
    Return a server whose tries last and wait less long than usual.

    It counts as degraded after COMMIT_SECONDS without a commit, leaves a node after STALL_SECONDS without a slot,
    closes a client whose pong takes longer than PONG_SECONDS, and looks for space each SPACE_SECONDS.

    Args:
        through: a command that runs it: `("prlimit", …)`.
    """
    launch = (*through, sys.executable, "-m", "tests.faults.impatient_server")
    return ServerProcess(directory, {"PYTHONPATH": str(ROOT), **(env or {})}, launch=launch)


def main() -> None:
    """Run the command line."""
    from account_socket import cli, service
    from account_socket.pipeline import healing
    from account_socket.pipeline.retention import Retention
    from account_socket.sources import nodes

    nodes.READ_SECONDS = READ_SECONDS
    healing.RETRY_SECONDS = RETRY_SECONDS
    grant = service._limits
    service._limits = lambda settings: replace(grant(settings), ping_seconds=PING_SECONDS, pong_seconds=PONG_SECONDS)
    Retention.run = partialmethod(Retention.run, every=SPACE_SECONDS)  # type: ignore[method-assign,assignment]
    service.Timing = partial(  # type: ignore[misc,assignment]  # makes one, as the class does
        service.Timing, stall=STALL_SECONDS, commit=COMMIT_SECONDS, backoff_cap=0.5
    )
    cli.main()


if __name__ == "__main__":
    main()
