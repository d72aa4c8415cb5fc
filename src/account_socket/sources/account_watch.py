"""
The account subscriptions of one PubSub connection: which accounts are watched, what to ask for the next. Pure.

programSubscribe tells of no closes, accountSubscribe does. What a node refuses is not asked for again on the same
connection: it has a limit, and polling finds the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from account_socket.sources.pubsub import Reply, account_subscribe, account_unsubscribe

ENCODING = "base64"
"""Understood by every node; of a closed account there is no data, and the data of others is not looked at."""


class AccountWatch:
    """
    Args:
        commitment: processed, confirmed or finalized.
    """

    def __init__(self, commitment: str) -> None:
        self._commitment = commitment
        self._wanted: frozenset[str] = frozenset()
        self._asked: dict[int, str] = {}
        self._ending: dict[int, int] = {}  # request id → subscription
        self._pubkeys: dict[int, str] = {}
        self._subscriptions: dict[str, int] = {}
        self._refused: set[str] = set()

    def choose(self, pubkeys: Collection[str], new_id: Callable[[], int]) -> list[bytes]:
        """Watch these accounts and no others; return the requests that this takes."""
        self._wanted = frozenset(pubkeys)
        self._refused &= self._wanted
        underway = {*self._asked.values(), *self._subscriptions, *self._refused}
        requests = [
            self._unsubscribe(pubkey, new_id()) for pubkey in [*self._subscriptions] if pubkey not in self._wanted
        ]
        for pubkey in pubkeys:
            if pubkey not in underway:
                request_id = new_id()
                self._asked[request_id] = pubkey
                requests.append(account_subscribe(request_id, pubkey, encoding=ENCODING, commitment=self._commitment))
        return requests

    def pubkey(self, subscription: int) -> str | None:
        """Return the account of a subscription, None for one that is not ours."""
        return self._pubkeys.get(subscription)

    def ended(self, subscription: int) -> bool:
        """Return whether a subscription is being ended: what comes of it meanwhile is not odd."""
        return subscription in self._ending.values()

    def expects(self, request_id: int) -> bool:
        """Return whether a reply answers one of these requests."""
        return request_id in self._asked or request_id in self._ending

    def receive_reply(self, reply: Reply, new_id: Callable[[], int]) -> list[bytes]:
        """Take the reply to one of the requests; return what is to be asked now."""
        if self._ending.pop(reply.id, None) is not None:
            return []
        pubkey = self._asked.pop(reply.id)
        if reply.code is not None or type(reply.result) is not int:
            self._refused.add(pubkey)
            return []
        self._pubkeys[reply.result] = pubkey
        self._subscriptions[pubkey] = reply.result
        return [] if pubkey in self._wanted else [self._unsubscribe(pubkey, new_id())]

    def _unsubscribe(self, pubkey: str, request_id: int) -> bytes:
        subscription = self._subscriptions.pop(pubkey)
        del self._pubkeys[subscription]
        self._ending[request_id] = subscription
        return account_unsubscribe(request_id, subscription)
