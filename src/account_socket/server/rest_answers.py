"""What every answer under /v1 has: CORS, the rate limit, errors as JSON, gzip, entity tags."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from aiohttp import hdrs, web

from account_socket.server.http import HttpProtocol, error_response, explained
from account_socket.server.limits import Limits
from account_socket.server.rest_parameters import RefusedError, accepts_gzip, matches

GZIP_BYTES = 1024
"""Smaller answers are not compressed."""
GZIP_AT_ONCE_BYTES = 16 * 1024
"""Larger ones are compressed in a thread."""
PREFLIGHT_SECONDS = 600
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_ANSWERS_BYTES = 256 * 1024 * 1024
"""What all answers together may hold that clients have not read yet."""
SMALL_BYTES = 64 * 1024

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Answers:
    """
    Attributes:
        requests: how many came.
        refused: how many were answered with an error.
        bytes: what the large answers hold that are on their way.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.requests = 0
        self.refused = 0
        self.bytes = 0

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Serve a request of a route under /v1, or for a description; pass on every other (aiohttp)."""
        if not request.path.startswith(("/v1/", "/openapi.json", "/asyncapi.json")):
            return await handler(request)
        self.requests += 1
        response = await self._answer(request, handler)
        if not response.prepared:
            response.headers.update(self.sharing(request))
        return response

    async def _answer(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            self._take_token(request)
            if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
                return _preflight()
            return await handler(request)
        except RefusedError as refused:
            self.refused += 1
            return error_response(refused.status, str(refused), refused.headers, code=refused.code)
        except web.HTTPError as error:
            self.refused += 1
            return explained(error, request)

    def _take_token(self, request: web.Request) -> None:
        protocol = request.protocol
        if isinstance(protocol, HttpProtocol) and not protocol.budget.take(monotonic()):
            message = f"more than {self._limits.max_requests_per_second:g} requests a second; wait a second"
            raise RefusedError(429, "rate_limited", message, {"Retry-After": "1"})

    def sharing(self, request: web.Request) -> dict[str, str]:
        """Return the CORS headers: which web pages may read the answer."""
        allowed = self._limits.allowed_origins
        headers = {"Access-Control-Expose-Headers": "ETag, Retry-After"}
        if not allowed:
            return headers | {"Access-Control-Allow-Origin": "*"}
        origin = request.headers.get("Origin", "")
        if origin.lower() in allowed:
            headers["Access-Control-Allow-Origin"] = origin
        return headers | {"Vary": "Origin, Accept-Encoding"}

    async def send(
        self, request: web.Request, parts: Sequence[bytes], *, tag: str | None = None
    ) -> web.StreamResponse:
        """
        Answer 200 with JSON, or 304 where the client has what `tag` names.

        Args:
            parts: the body, in pieces.
        Raises:
            RefusedError: it is too large, or too much is on its way to slow readers.
        """
        headers = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if tag is not None:
            headers["ETag"] = tag
            if matches(request.headers.get(hdrs.IF_NONE_MATCH, ""), tag):
                return web.Response(status=304, headers=headers)
        size = sum(map(len, parts))
        if size > MAX_ANSWER_BYTES:
            raise RefusedError(413, "answer_too_large", f"the answer is over {MAX_ANSWER_BYTES} bytes; ask for less")
        response = web.Response(
            body=b"".join(parts),
            content_type="application/json",
            headers=headers,
            zlib_executor_size=GZIP_AT_ONCE_BYTES,
        )
        if size >= GZIP_BYTES and accepts_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
            response.enable_compression(web.ContentCoding.gzip)
        return response if size < SMALL_BYTES else await self._send_large(request, response, size)

    async def _send_large(self, request: web.Request, response: web.Response, size: int) -> web.StreamResponse:
        if self.bytes + size > MAX_ANSWERS_BYTES:
            message = "too much is on its way to slow readers; try again"
            raise RefusedError(503, "unavailable", message, {"Retry-After": "1"})
        response.headers.update(self.sharing(request))
        self.bytes += size
        try:
            await response.prepare(request)
            await response.write_eof()
        finally:
            self.bytes -= size
        return response


def _preflight() -> web.Response:
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": "GET, HEAD, POST",
            "Access-Control-Allow-Headers": "Content-Type, If-None-Match, Last-Event-ID",
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        },
    )
