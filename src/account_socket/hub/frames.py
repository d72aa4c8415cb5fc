"""WebSocket text frames (RFC 6455, server side: unmasked, final), built once and shared by every client."""

from __future__ import annotations

from struct import Struct

import msgspec

_MEDIUM = Struct("!BBH").pack
_LONG = Struct("!BBQ").pack
_FIN_TEXT = 0x81
_ACCOUNT = b',"account":{"id":'
_COMPRESSED = 0x40
"""RSV1 (RFC 7692, 6)."""


class Message(msgspec.Struct, frozen=True, gc=False, eq=False):
    """
    One message on its way to clients.

    Attributes:
        frame: the complete WebSocket frame.
        key: what it tells of: the pubkey of the account whose state it carries, or the topic of a notice. A newer
            one of the same key may replace it. None for an answer, which nothing replaces.
        answers: whether it belongs behind everything sent before: a state that answers a subscribe request, a notice.
        fence: whether no state sent before it may fall behind it. So it is with every answer.
        compressed: the frame for clients that take compressed ones, once somebody needed it (hub/compression.py).
        whole: of a difference the state itself, to be sent instead to a client that did not get the one before.
        left: whether it tells that an account left: then it replaces what waits of that account in every form.
    """

    frame: bytes
    key: str | None = None
    answers: bool = False
    fence: bool = False
    compressed: bytes = b""
    whole: Message | None = None
    left: bool = False


def text_frame(payload: bytes, *, compressed: bool = False) -> bytes:
    """Return `payload`, which is `compressed` or not, as one text frame."""
    first = _FIN_TEXT | _COMPRESSED if compressed else _FIN_TEXT
    size = len(payload)
    if size < 126:  # RFC 6455, 5.2
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return _MEDIUM(first, 126, size) + payload
    return _LONG(first, 127, size) + payload


def id_of(frame: bytes) -> int | None:
    """Return the id of the update that a state's frame tells, or None while it is not committed."""
    start = frame.index(_ACCOUNT) + len(_ACCOUNT)
    text = frame[start : frame.index(b",", start)]
    return None if text == b"null" else int(text)


def payload_of(frame: bytes) -> bytes:
    """Return the payload of a frame made by `text_frame`."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


def state_message(
    pubkey: str, source: str, account_json: bytes, *, event: str = "", stale: bool = False, answers: bool = False
) -> Message:
    """
    Return the message that tells a client the state of `pubkey`.

    Args:
        source, event: as in docs/protocol.md; "" for no event.
        answers: see `Message`.
        stale: upstream is silent or a gap is open, and this state may not be the newest.
    """
    beside = f'"source":"{source}"'
    if event:
        beside += f',"event":"{event}"'
    if stale:
        beside += ',"stale":true'
    payload = b'{"pubkey":"%b",%b,"account":%b}' % (pubkey.encode(), beside.encode(), account_json)
    return Message(text_frame(payload), pubkey, answers, left=event == "left")


def past_payload(pubkey: str, account_json: bytes, event: str = "") -> bytes:
    """Return what tells a client an update that it missed, from history; `event` as in docs/protocol.md."""
    beside = f',"event":"{event}"' if event else ""
    return b'{"pubkey":"%b","source":"database"%b,"account":%b}' % (pubkey.encode(), beside.encode(), account_json)


def answer_message(payload: bytes) -> Message:
    """Return the message that carries an answer (ack, error, pong, list) to one client."""
    return Message(text_frame(payload))


def notice_message(topic: str, payload: bytes, *, fence: bool = False) -> Message:
    """
    Return the message that carries a status or gap frame.

    Args:
        topic: of what it tells; two words, so that it is no pubkey. A stalled client keeps the newest of each topic.
        fence: as in `Message`; the same for every message of a topic.
    """
    return Message(text_frame(payload), topic, answers=True, fence=fence)
