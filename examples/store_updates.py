"""
Keep every update of some accounts in a file, across restarts of either side: python store_updates.py FILE URL PUBKEY…

Killed between the two writes of an update it has that one twice.
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from account_socket.client import Position, connect


async def main(file: Path, url: str, pubkeys: list[str]) -> None:
    place, next_place = file.with_suffix(".position"), file.with_suffix(".next")
    position = msgspec.json.decode(place.read_bytes(), type=Position) if place.exists() else None
    async with connect(url, wait_for_server=True) as client:
        with file.open("a") as out:
            subscription = client.subscribe(*pubkeys, delivery="every", position=position)
            async for update in subscription:
                print(update.text, file=out, flush=True)
                if subscription.position is not None:
                    next_place.write_bytes(msgspec.json.encode(subscription.position))
                    next_place.replace(place)  # a kill never leaves half a position


asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
