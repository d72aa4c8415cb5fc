"""The lock file beside a database: two servers on one would give out the same ids."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from account_socket.errors import StoreError


def take_lock(path: Path) -> int:
    """
    Return the descriptor of `account.db.lock`, which keeps every other process off until it is closed.

    Raises:
        StoreError: another process has it, or its directory cannot be written.
    """
    real = path.resolve()  # two names of one file must meet at one lock
    name = real.with_name(real.name + ".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"lock file {name}: {error.strerror}", hint="make its directory writable") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StoreError(
            f"database {path} is in use by another server", hint="stop it, or name another database"
        ) from error
    return lock
