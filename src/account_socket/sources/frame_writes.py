"""The account writes that a recorded PubSub conversation tells of. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from account_socket.model import SYSTEM_PROGRAM
from account_socket.sources.pubsub import AccountNotification, FrameReader, Odd, Reply, WatchNotification
from account_socket.sources.recorded_message import Mark, RecordedMessage
from account_socket.sources.recorded_write import RecordedWrite

MAX_REQUESTS: Final = 200_000
"""Requests and subscriptions of one connection that are remembered."""

_decode_request = msgspec.json.Decoder(dict[str, Any]).decode


class FrameWrites:
    """
    Takes the messages in their order, gives the writes.

    Each programNotification that can be read is one. An accountNotification is one where it tells what
    programSubscribe does not: that the account was closed, or went to another program.

    Attributes:
        odd: how many messages could not be read.
    """

    def __init__(self, program: str | None) -> None:
        self._program = program
        self._reader = FrameReader("")
        self._asked: dict[int, str] = {}
        self._watched: dict[int, str] = {}
        self.odd = 0

    def take(self, message: RecordedMessage) -> list[RecordedWrite]:
        """Return the writes that a message tells of."""
        if message.received is not None:
            return self._receive(message.received, message.at_ms)
        if message.sent is not None:
            self._send(message.sent)
        elif message.mark == Mark.CONNECTED:
            self._asked.clear()
            self._watched.clear()
        return []

    def _receive(self, frame: bytes, at_ms: int) -> list[RecordedWrite]:
        writes: list[RecordedWrite] = []
        for event in self._reader.read(frame, 0.0):
            if type(event) is AccountNotification:
                writes.append(RecordedWrite(event.account, at_ms))
            elif type(event) is WatchNotification:
                writes += self._receive_watched(event, at_ms)
            elif type(event) is Reply:
                self._receive_reply(event)
            elif type(event) is Odd:
                self.odd += 1
        return writes

    def _receive_watched(self, event: WatchNotification, at_ms: int) -> list[RecordedWrite]:
        pubkey = self._watched.get(event.subscription)
        if pubkey is None or (event.value.lamports and event.value.owner == self._program):
            return []
        read = self._reader.watched(pubkey, event, 0.0)
        if isinstance(read, Odd):
            self.odd += 1
            return []
        account = read.account
        if not account.lamports:
            account = msgspec.structs.replace(account, owner=SYSTEM_PROGRAM, data=b"")
        return [RecordedWrite(account, at_ms)]

    def _send(self, request: bytes) -> None:
        try:
            asked = _decode_request(request)
        except (msgspec.DecodeError, RecursionError):
            self.odd += 1
            return
        match asked:
            case {"method": "accountSubscribe", "id": int(number), "params": [str(pubkey), *_]}:
                if len(self._asked) < MAX_REQUESTS:
                    self._asked[number] = pubkey

    def _receive_reply(self, reply: Reply) -> None:
        pubkey = self._asked.pop(reply.id, None)
        if pubkey is not None and type(reply.result) is int and len(self._watched) < MAX_REQUESTS:
            self._watched[reply.result] = pubkey
