"""The items of a list of a program's accounts: which can be used, and whether they bring anything new. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from account_socket.model import Origin, RawAccount
from account_socket.sources.account_json import AccountReader, OddAccountError

MAX_NAMED = 1_000
"""Unusable items of one answer that are worth being read one by one."""

MAX_SAMPLE = 1 << 16


@dataclass
class LeftOut:
    """
    Items of one answer that could not be used.

    Attributes:
        pubkeys: the accounts they speak of: these can be read otherwise; at most MAX_NAMED.
        others: how many speak of none, or were too many.
    """

    pubkeys: list[str] = field(default_factory=list)
    others: int = 0

    def __len__(self) -> int:
        return len(self.pubkeys) + self.others

    def add(self, pubkey: str | None) -> None:
        """Take an item; None: it names no account."""
        if pubkey is None or len(self.pubkeys) >= MAX_NAMED:
            self.others += 1
        else:
            self.pubkeys.append(pubkey)


class ItemReader:
    """
    Args:
        source: name of the datasource, goes into each RawAccount.

    Attributes:
        odd: items that could not be used, by kind.
    """

    def __init__(self, source: str) -> None:
        self.odd: Counter[str] = Counter()
        self._reader = AccountReader(source)

    def read(self, items: list[Any], program: str, slot: int, now: float, left_out: LeftOut) -> list[RawAccount]:
        """Return the accounts of `program` among parsed JSON, whatever it is; what is none goes to `left_out`."""
        accounts = []
        for item in items:
            pubkey, value = (item.get("pubkey"), item.get("account")) if isinstance(item, dict) else (None, None)
            try:
                raw, _ = self._reader.account(pubkey, value, slot, origin=Origin.REREAD, received_at=now)
                if raw.owner != program or not raw.lamports:
                    raise OddAccountError("not_of_the_program")  # noqa: TRY301  (counted as the others are)
            except OddAccountError as odd:
                self.odd[odd.kind] += 1
                left_out.add(self._named(pubkey))
            else:
                accounts.append(raw)
        self._reader.known.clear()  # all of them are new; what they would be looked up for happens elsewhere
        return accounts

    def _named(self, pubkey: object) -> str | None:
        try:
            return self._reader.pubkey(pubkey)
        except OddAccountError:
            return None


class SeenKeys:
    """A sample of the public keys of a list, of bounded size: every key of a short list, fewer of a long one."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._mask = 0

    def add(self, accounts: list[RawAccount]) -> bool:
        """Take what arrived; return whether there was an account among it that was not there before."""
        mask = self._mask
        sample = {key for raw in accounts if not (key := hash(raw.pubkey)) & mask}
        new = not sample <= self._seen
        self._seen |= sample
        while len(self._seen) > MAX_SAMPLE:
            self._mask = self._mask << 1 | 1
            self._seen = {key for key in self._seen if not key & self._mask}
        return new
