"""What a Redis server may announce."""

from __future__ import annotations

import hiredis
import pytest

from account_socket.cache import reply_limit
from account_socket.cache.reply_limit import _LimitedReader
from account_socket.errors import CacheError


def feed(*pieces: bytes) -> list[object]:
    """Return the replies in `pieces`."""
    reader = _LimitedReader(hiredis.Reader(notEnoughData=None))
    replies = []
    for piece in pieces:
        reader.feed(piece)
        while (reply := reader.gets()) is not None:
            replies.append(reply)
    return replies


@pytest.mark.parametrize("head", [b"*1000000000\r\n", b"%1000\r\n", b"~99999999999\r\n", b">1000\r\n", b"|5000\r\n"])
def test_many_elements_are_refused_however_they_arrive(head: bytes) -> None:
    """An array of a thousand elements or more is refused at its head, wherever that is cut in pieces."""
    data = b"+OK\r\n" + head
    for at in range(len(data) - len(head) + 6):
        with pytest.raises(CacheError, match="announces"):
            feed(data[:at], data[at:])
    with pytest.raises(CacheError, match="announces"):
        feed(*(bytes((byte,)) for byte in data))


def test_what_is_asked_for_passes() -> None:
    """A page of values passes, whatever they hold, and however they arrive."""
    value = b"{*1234 %5678 >1000 a,b\n*9999"
    data = b"*200\r\n" + b"$%d\r\n%b\r\n" % (len(value), value) * 200 + b":7\r\n"
    assert feed(data) == feed(*(bytes((byte,)) for byte in data)) == [[value] * 200, 7]


def test_an_endless_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not end is given up at a limit."""
    monkeypatch.setattr(reply_limit, "MAX_REPLY_BYTES", 1000)
    with pytest.raises(CacheError, match="over 1000 bytes"):
        feed(b"$1000000000000\r\n", *(b"x" * 100 for _ in range(11)))
