"""A process that appends to a database until it is killed, and says what it has committed."""

from __future__ import annotations

import asyncio
import sys
from itertools import count

from tests.conformance.backends import changed

from account_socket.store.sqlite import SqliteStore


async def main() -> None:
    """Append groups of 1 … 50; print the first id, then the last id of each group after its commit."""
    store = SqliteStore(sys.argv[1])
    next_id = (await store.open()).next_id
    print(next_id, flush=True)
    for number in count():
        group = range(next_id, next_id + 1 + number % 50)
        await store.append([changed(n, f"key-{n % 7}") for n in group])
        next_id = group[-1] + 1
        print(group[-1], flush=True)


asyncio.run(main())
