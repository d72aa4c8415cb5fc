"""The HTTP side of the port: health, metrics, and errors as JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from account_socket.metrics import Metrics
from account_socket.server.handshake import MAX_HEAD_BYTES, error_body
from account_socket.server.token_bucket import TokenBucket

MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0
"""How long a request's body may take."""
SERVER_NAME = "account-socket"

Readiness = Callable[[], tuple[int, Mapping[str, Any]]]
"""Returns the status code and the JSON object of /readyz."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger("account_socket.http")

_CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "payload_too_large",
    426: "upgrade_required",
    429: "rate_limited",
    431: "head_too_large",
    500: "internal",
    503: "unavailable",
}


def error_response(
    status: int, message: str, headers: Mapping[str, str] | None = None, *, code: str | None = None
) -> web.Response:
    """Return an error as every HTTP client of ours gets it; with the status's own code where none is given."""
    body = error_body(code or _CODES.get(status, "error"), message)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def make_app(*, readiness: Readiness, metrics: Metrics) -> web.Application:
    """Return the application with /healthz, /readyz and /metrics; more may be added before it starts."""

    async def healthz(_: web.Request) -> web.Response:
        return _json(200, {"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        status, parts = readiness()
        return _json(status, parts)

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": metrics.content_type})

    app = web.Application(middlewares=[_errors_as_json], client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(_name_server)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)
    return app


async def read_body(request: web.Request) -> bytes:
    """Return a request's body. Raises web.HTTPError: it is too large, or does not come in time."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


def _json(status: int, value: Mapping[str, Any]) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER_NAME  # not which library, in which version


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPError as error:
        return explained(error, request)


def explained(error: web.HTTPError, request: web.Request) -> web.Response:
    """Return what aiohttp answers, in the shape of all our errors."""
    kept = {name: error.headers[name] for name in ("Allow", "Retry-After") if name in error.headers}
    return error_response(error.status, _explain(error, request), kept)


def _explain(error: web.HTTPError, request: web.Request) -> str:
    match error.status:
        case 404:
            return f"there is nothing at {request.path[:64]!a}"
        case 405:
            return f"{request.method[:16]!a} is not allowed here; see the Allow header"
        case 408:
            return f"the body did not come within {BODY_SECONDS:g} seconds"
        case 413:
            return f"the body is over {MAX_BODY_BYTES} bytes"
    return error.reason


class HttpProtocol(RequestHandler):
    """
    One HTTP connection, with errors of the HTTP layer itself (a malformed head) as JSON too.

    Attributes:
        budget: of requests for accounts.
    """

    __slots__ = ("_broken", "budget")

    def __init__(self, server: web.Server, budget: TokenBucket, *, head_seconds: float, linger_seconds: float) -> None:
        """
        Args:
            head_seconds: how long the next request head may take, counted from the last answer.
            linger_seconds: how long the rest of a body that nobody wants is read, so that the answer is not lost
                to a reset.
        """
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=head_seconds,
            max_line_size=MAX_HEAD_BYTES,
            access_log=None,  # type: ignore[arg-type]  # the signature forgets what its body allows
            lingering_time=linger_seconds,
            logger=log,
        )
        self._broken = False
        self.budget = budget

    def data_received(self, data: bytes) -> None:
        """Take what arrived (asyncio); what follows a malformed request is not looked at."""
        if self._broken:
            return
        super().data_received(data)
        # aiohttp would go on parsing and queue an error, with the bytes that made it, for each piece that comes.
        self._broken = bool(self._messages) and isinstance(self._messages[-1][0], _ErrInfo)

    @property
    def reading_paused(self) -> bool:
        """Whether it has asked its transport to stop reading for a while."""
        return bool(self._reading_paused)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what no handler could answer (aiohttp)."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of the answer was sent already")
        del message  # quotes the client's bytes at any length
        explained = "the request is not well formed HTTP/1.1"
        if status >= 500:
            log.error("request handling failed", exc_info=exc)
            explained = "internal error"
        elif isinstance(exc, LineTooLong):
            status, explained = 431, "a line of the request head is too long"
        response = error_response(status, explained, {"Server": SERVER_NAME})
        response.force_close()
        return response
