"""A node's HTTP JSON-RPC behind a gateway, as providers have one, that turns requests away in several ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import aiohttp
from aiohttp import web

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

JSON = {"Content-Type": "application/json"}
HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"


class Gateway:
    """
    Attributes:
        fault: answers in the node's place, if it does; None: the node answers.
        url: where it listens.
    """

    def __init__(self, node_url: str) -> None:
        self.fault: Fault | None = None
        self.url = ""
        self._node_url = node_url

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        while self.fault is not None:
            answer = await self.fault(request)
            if answer is not None:
                return answer
        async with (
            aiohttp.ClientSession() as session,
            session.post(self._node_url, data=await request.read(), headers=JSON) as got,
        ):
            return web.Response(body=await got.read(), status=got.status, content_type="application/json")


@asynccontextmanager
async def gateway_to(node_url: str) -> AsyncIterator[Gateway]:
    """Run a gateway for the block."""
    gateway = Gateway(node_url)
    app = web.Application()
    app.router.add_post("/{path:.*}", gateway.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield gateway
    finally:
        await runner.cleanup()


async def limits(_request: web.Request) -> web.StreamResponse:
    """Have too many requests, for a second."""
    return web.Response(status=429, text="slow down", headers={"Retry-After": "1"})


async def forbids(_request: web.Request) -> web.StreamResponse:
    """Refuse the key."""
    return web.json_response({"error": "forbidden"}, status=403)


async def shows_a_page(_request: web.Request) -> web.StreamResponse:
    """Answer for people, and say that all is well."""
    return web.Response(text=HTML, content_type="text/html")


async def says_nothing(_request: web.Request) -> None:
    """Hold the request back."""
    await asyncio.sleep(0.05)


async def never_ends(request: web.Request) -> web.StreamResponse:
    """Answer without an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(b" " * 2**20)
    return response
