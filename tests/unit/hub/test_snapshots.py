"""Messages of states in memory, shared by who asks for the same."""

from __future__ import annotations

import json

from account_socket.hub.frames import payload_of
from account_socket.hub.snapshots import ROOM, SharedSnapshots
from account_socket.model import StoredState

STATE = StoredState(1, b'{"id":1}')


def test_the_same_state_is_the_same_message() -> None:
    """Whoever subscribes while a state is the newest is sent one shared message that answers, from the cache."""
    snapshots = SharedSnapshots()
    message = snapshots.message("KEY", STATE, stale=False)
    assert snapshots.message("KEY", STATE, stale=False) is message
    assert json.loads(payload_of(message.frame)) == {"pubkey": "KEY", "source": "cache", "account": {"id": 1}}
    assert (message.key, message.answers) == ("KEY", True)


def test_a_newer_state_and_a_stale_one_have_messages_of_their_own() -> None:
    """A message is never older than the state, and says `stale` exactly when it is."""
    snapshots = SharedSnapshots()
    snapshots.message("KEY", STATE, stale=False)
    stale = snapshots.message("KEY", STATE, stale=True)
    assert json.loads(payload_of(stale.frame))["stale"] is True
    assert "stale" not in json.loads(payload_of(snapshots.message("KEY", STATE, stale=False).frame))
    newer = snapshots.message("KEY", StoredState(1, b'{"id":1,"x":2}'), stale=False)
    assert json.loads(payload_of(newer.frame))["account"]["x"] == 2


def test_only_so_many_are_kept() -> None:
    """Beyond ROOM the one asked for least recently is made anew."""
    snapshots = SharedSnapshots()
    first, second = (snapshots.message(key, STATE, stale=False) for key in ("first", "second"))
    for number in range(ROOM - 2):
        snapshots.message(str(number), STATE, stale=False)
    assert snapshots.message("first", STATE, stale=False) is first
    snapshots.message("one more", STATE, stale=False)
    assert snapshots.message("second", STATE, stale=False) is not second
    assert snapshots.message("first", STATE, stale=False) is first
