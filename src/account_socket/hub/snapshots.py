"""The messages that told states lately, so that clients who subscribe to the same account share one. Pure."""

from __future__ import annotations

from collections import OrderedDict

from account_socket.hub.frames import Message, state_message
from account_socket.model import StoredState

ROOM = 256
"""How many are kept; of pools, 1 MB, their compressed frames included."""


class SharedSnapshots:
    """Makes the message of a state in memory, once for as long as it is the same state."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[StoredState, bool, Message]] = OrderedDict()

    def message(self, pubkey: str, state: StoredState, *, stale: bool) -> Message:
        """Return the message that answers a subscription with `state`; `stale` as in `state_message`."""
        kept = self._kept.pop(pubkey, None)
        if kept is None or kept[0] is not state or kept[1] != stale:
            message = state_message(pubkey, "cache", state.account_json, stale=stale, answers=True)
            kept = (state, stale, message)
            if len(self._kept) >= ROOM:
                self._kept.popitem(last=False)
        self._kept[pubkey] = kept
        return kept[2]
