"""A stream that goes on where an earlier one broke off, or starts over with the states, and says so."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from account_socket.protocol.codes import Close
from account_socket.server.catching_up import Past
from account_socket.server.sse import EventStream
from account_socket.server.sse_events import STALE, EventMaker
from account_socket.store.base import StoredUpdate

log = structlog.get_logger("account_socket.stream")


class Resumption:
    """
    Args:
        max_bytes: the most that may wait for the client.
        after: the id up to which the client has everything.
    """

    def __init__(self, stream: EventStream, events: EventMaker, past: Past, *, max_bytes: int, after: int) -> None:
        self._stream = stream
        self._events = events
        self._catch_up = past.catch_up(dict.fromkeys(stream.pubkeys, after), max_bytes=max_bytes, tell=self._tell)

    async def run(self) -> None:
        """Resume the stream, or have it start over: its accounts share one position, so all go on or none."""
        try:
            await self._resume()
        except Exception:  # our bug must cost this client only, and not leave it waiting
            log.exception("stream not resumed", conn=self._stream.number)
            self._stream.close(Close.INTERNAL)

    async def _resume(self) -> None:
        stream, catch_up = self._stream, self._catch_up
        if stream.ended:
            return
        stream.end_resuming = catch_up.end
        await catch_up.run()
        if catch_up.lost:
            catch_up.end()
            stream.start_over(next(iter(catch_up.lost.values())))
        elif not stream.ended:
            if catch_up.answered.stale:
                stream.write(STALE)
            stream.follow(max(catch_up.reached.values()), catch_up.hand_over(stream.outbox))

    async def _tell(self, updates: Sequence[StoredUpdate]) -> None:
        stream, events = self._stream, self._events
        if self._catch_up.lost:
            self._catch_up.end()
            return
        stream.write(
            b"".join([events.stored(each.pubkey, each.id, each.account_json, each.event) for each in updates])
        )
        stream.outbox.sent += len(updates)
        await stream.writable.wait()  # who takes too long is closed, which ends the waiting too
