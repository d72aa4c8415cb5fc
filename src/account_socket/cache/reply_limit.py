"""What a Redis server may answer at most: it says beforehand how much will come, and must not be believed."""

from __future__ import annotations

import re
from typing import Any

from redis._parsers.hiredis import _AsyncHiredisParser
from redis.asyncio.connection import AbstractConnection

from account_socket.errors import CacheError

MAX_REPLY_BYTES = 64 * 2**20
"""A page of values is 20 MB at the most."""

_MANY_ELEMENTS = re.compile(rb"\r\n[*%~>|]\d{4}")
"""The head of an array, or of RESP3's kinds of it, of a thousand elements or more; a page has 200.

A value that begins so is refused too, and its page with it: none of ours does."""
_LONGEST_HEAD = len(b"\r\n*1234")


class LimitedParser(_AsyncHiredisParser):
    """The library's parser, but for replies that would make it take memory without bounds."""

    __slots__ = ()

    def on_connect(self, connection: AbstractConnection) -> None:
        """Begin with a new connection (redis)."""
        super().on_connect(connection)  # type: ignore[no-untyped-call]  # the library's gap
        self._reader: Any = _LimitedReader(self._reader)


class _LimitedReader:
    """hiredis reserves a place for each element as soon as a number is announced, whatever the number."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._tail = b"\r\n"
        self.gets = reader.gets
        self.has_data = reader.has_data

    def feed(self, data: bytes) -> None:
        """Take what arrived. Raises CacheError."""
        if _MANY_ELEMENTS.search(self._tail + data):
            raise CacheError("the server announces more than was asked for")
        self._tail = (self._tail + data[-_LONGEST_HEAD:])[-_LONGEST_HEAD:]
        self._reader.feed(data)
        if self._reader.len() > MAX_REPLY_BYTES:
            raise CacheError(f"the server's answer is over {MAX_REPLY_BYTES} bytes")
