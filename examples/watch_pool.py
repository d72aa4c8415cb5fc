"""Print each change of one account's price root: python examples/watch_pool.py PUBKEY [URL]."""

import asyncio
import sys

from account_socket.client import connect


async def main(pubkey: str, url: str = "ws://127.0.0.1:8080/ws") -> None:
    async with connect(url) as client:
        async for update in client.subscribe(pubkey):
            account = update.account
            if account.closed:
                return
            print(account.slot, account.data_json["sqrt_price"], flush=True)


asyncio.run(main(*sys.argv[1:]))
