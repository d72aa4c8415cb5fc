"""A server's URL: what of it goes along with requests by HTTP."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import InvalidMessage

from account_socket.client import ServerError, connect
from account_socket.client.address import Address

KEY = "11111111111111111111111111111111"


async def heads_of(url: str) -> list[str]:
    """Return the heads of a request by HTTP and of a handshake that are sent to `url`, its port taken by a server."""
    heads: list[str] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.close()

    async with await asyncio.start_server(note, "127.0.0.1", 0) as server:
        at = url.replace("PORT", str(server.sockets[0].getsockname()[1]))
        async with connect(at) as client:
            with pytest.raises(ServerError):
                await client.get(KEY)
            with pytest.raises(ServerError):
                await anext(client.history(KEY, limit=7))
        with pytest.raises((InvalidMessage, EOFError)):
            await open_websocket(at, proxy=None)
    return heads


async def test_query_and_user_info_go_along() -> None:
    """Reads by HTTP carry the URL's query and user info as the WebSocket handshake does, percent signs undone."""
    got, listed, upgrade = await heads_of("ws://us%40er:p%3Aw@127.0.0.1:PORT/at/ws?token=a%2Bb&x=1")
    assert urlsplit(got.split()[1])[2:4] == (f"/at/v1/accounts/{KEY}", "token=a%2Bb&x=1")
    assert urlsplit(listed.split()[1])[2:4] == (f"/at/v1/accounts/{KEY}/history", "limit=7&token=a%2Bb&x=1")
    assert upgrade.split()[1] == "/at/ws?token=a%2Bb&x=1"
    (sent,) = [line for line in upgrade.splitlines() if line.startswith("Authorization:")]
    assert sent in got.splitlines()
    assert sent in listed.splitlines()


@pytest.mark.parametrize("url", ["ws://host", "ws://host/ws?status=1", "ws://user@host/ws"])
def test_nothing_goes_along_where_there_is_nothing(url: str) -> None:
    """Without a query, but for `status`, and without a password nothing is added."""
    address = Address(url)
    assert (address.http_query, address.authorization) == ("", None)
