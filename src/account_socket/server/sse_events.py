"""
Server-Sent Events: frames of the fan-out in their other form. Pure.

An event's id is `epoch-id`: whoever comes back with it has had everything of its accounts up to there. So an event
has none while states of different accounts come in no order of ids.

Source: HTML, 9.2 Server-sent events.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from account_socket.hub.frames import id_of, past_payload, payload_of

SHARED_EVENTS = 1024
"""How many are kept to be shared among clients; some MB."""

HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-store\r\n"
    b"X-Accel-Buffering: no\r\n"
    b"Connection: close\r\n"
)
HEARTBEAT = b":\n\n"
RETRY = b"retry: 1000\n\n"
STALE = b'event: stale\ndata: {"stale":true}\n\n'
"""A client that came back has what is known, which may not be the newest."""


class EventMaker:
    """Makes the events of one epoch, each once for all clients."""

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self.update = lru_cache(SHARED_EVENTS)(self._update)

    def _update(self, frame: bytes, *, named: bool) -> bytes:
        payload = payload_of(frame)
        id_ = id_of(frame)
        name = self.position(id_) if named and id_ is not None else b""
        return b"%bevent: update\ndata: %b\n\n" % (name, payload)

    def stored(self, pubkey: str, id_: int, account_json: bytes, event: str) -> bytes:
        """Return the event of an update from history, of which `event` is what docs/protocol.md means by it."""
        payload = past_payload(pubkey, account_json, event)
        return b"%bevent: update\ndata: %b\n\n" % (self.position(id_), payload)

    def position(self, id_: int) -> bytes:
        """Return the line that says up to where a client has everything; with an empty line it is said silently."""
        return b"id: %b-%d\n" % (self._epoch.encode(), id_)

    def read_position(self, text: str) -> int | None:
        """Return the id that a client had everything up to, or None where it is of another epoch, or none."""
        epoch, _, id_ = text.rpartition("-")
        return int(id_) if epoch == self._epoch and id_.isdecimal() and id_.isascii() and len(id_) < 20 else None


def reset(reason: str) -> bytes:
    """Return the event that says: forget what you had, states follow."""
    return b"event: reset\ndata: %b\n\n" % msgspec.json.encode({"reason": reason})


def farewell(code: int, reason: str) -> bytes:
    """Return the event that says why the server ends the stream, as a close frame would."""
    return b"event: close\ndata: %b\n\n" % msgspec.json.encode({"code": code, "reason": reason})
