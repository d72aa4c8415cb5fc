"""Hold every pool of a token, with two fields of each: python examples/follow_pools.py MINT [URL]."""

import asyncio
import sys
from typing import Any

from account_socket.client import Disconnected, SnapshotEnd, Update, connect


async def main(mint: str, url: str = "ws://127.0.0.1:8080/ws") -> None:
    pools: dict[str, Any] = {}
    async with connect(url) as client:
        pools_of_token = client.subscribe(
            account_type="Pool", where={"token_a_mint": mint}, fields=["sqrt_price", "liquidity"]
        )
        async for event in pools_of_token.events():
            match event:
                case Update(pubkey=pubkey, account=account) if account.closed or event.event == "left":
                    pools.pop(pubkey, None)
                case Update(pubkey=pubkey, account=account):
                    pools[pubkey] = account.data_json
                    print(len(pools), pubkey, account.data_json["sqrt_price"], flush=True)
                case SnapshotEnd(count=count):
                    print(f"all {count} pools are known; what follows is live", flush=True)
                case Disconnected(reason=reason):
                    print(reason, file=sys.stderr)
                    pools.clear()  # fields are told anew after a break


asyncio.run(main(*sys.argv[1:]))
