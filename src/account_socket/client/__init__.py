"""
The Python client (docs/clients.md): needs `websockets` and `msgspec`, and nothing of the server.

    async with connect("ws://127.0.0.1:8080") as client:
        async for update in client.subscribe(pubkey):
            print(update.account.slot, update.account.data_json)
"""

from account_socket.client.client import Client, connect
from account_socket.client.connection import Patience
from account_socket.client.errors import ClosedError, NoAnswerError, NotAServerError, RefusedError, ServerError
from account_socket.client.frames import (
    Account,
    Disconnected,
    Event,
    Gap,
    SnapshotEnd,
    Status,
    Subscribed,
    Update,
    Upstream,
)
from account_socket.client.progress import Position
from account_socket.client.subscription import Subscription
from account_socket.errors import AccountSocketError, SettingsError

__all__ = [
    "Account",
    "AccountSocketError",
    "Client",
    "ClosedError",
    "Disconnected",
    "Event",
    "Gap",
    "NoAnswerError",
    "NotAServerError",
    "Patience",
    "Position",
    "RefusedError",
    "ServerError",
    "SettingsError",
    "SnapshotEnd",
    "Status",
    "Subscribed",
    "Subscription",
    "Update",
    "Upstream",
    "connect",
]
