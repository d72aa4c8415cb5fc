"""How many sockets the operating system lets this process have, and how many clients that is enough for."""

from __future__ import annotations

import resource
from dataclasses import replace

import structlog

from account_socket.server.limits import Limits

RESERVED_FILES = 256
"""For the database, the cache and the nodes: clients must not take away what they live on."""

log = structlog.get_logger("account_socket.server")


def within_open_files(limits: Limits, *, asked: bool) -> Limits:
    """
    Raise the soft limit of open files as far as `limits` needs; return what the hard limit leaves of them.

    Args:
        asked: whether somebody chose the number of connections; else it is told only if less than half is left.
    """
    wanted = limits.max_sockets + RESERVED_FILES
    allowed = _allow(wanted)
    if allowed >= wanted:
        return limits
    sockets = allowed - min(RESERVED_FILES, allowed // 2)
    connections = min(limits.max_connections, sockets - sockets // 8)
    if asked or connections < limits.max_connections // 2:
        log.warning(
            "too few open files are allowed for MAX_CONNECTIONS",
            allowed=allowed,
            max_connections=connections,
            hint=f"ulimit -n {wanted}, or LimitNOFILE={wanted} in a systemd unit",
        )
    return replace(limits, max_connections=connections, max_sockets=sockets)


def _allow(wanted: int) -> int:
    """Return how many files may be open, after having it raised to `wanted` if that is possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (ValueError, OSError):  # a system that says one thing and means another
        return soft
    return raised
