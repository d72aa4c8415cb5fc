"""What a client may see and what not, checked against what it saw and against the node's accounts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from account_socket.model import SYSTEM_PROGRAM, RawAccount
from account_socket.programs import load_programs

REGISTRY = load_programs()
MAX_WRONG = 20
MAX_HOLES = 100_000


class Account(msgspec.Struct):
    """The `account` object of an update."""

    id: int | None
    pubkey: str
    slot: int
    account_type: str
    owner: str
    lamports: int
    data_json: msgspec.Raw
    created_at: str
    prev_id: int | None = None
    closed: bool = False

    @property
    def content(self) -> tuple[object, ...]:
        """What the account is, whenever that was written."""
        return self.closed, self.owner, self.lamports, bytes(self.data_json)


class Update(msgspec.Struct):
    """A message that carries a state."""

    pubkey: str
    source: str
    account: Account
    event: str = ""
    stale: bool = False


def content_of(raw: RawAccount | None) -> tuple[object, ...]:
    """Return the `Account.content` that clients must see of a node's account; None: there is none."""
    if raw is None:
        return True, SYSTEM_PROGRAM, 0, b"null"
    if raw.owner not in REGISTRY.programs:
        return True, raw.owner, raw.lamports, b"null"
    return False, raw.owner, raw.lamports, REGISTRY.decode(raw.owner, raw.data).data_json


@dataclass(frozen=True)
class Hole:
    """An update of `pubkey` that did not follow on the one that the client had seen before."""

    pubkey: str
    id: int
    prev_id: int | None


class Oracle:
    """
    Watches what one client sees, over all its connections.

    Args:
        serials: an account's lamports grow with every write, so that going back shows in them.
        conflates: the client may be slow, so that updates in between may be left out.
        forks: states may be retracted; who was not there then finds an older state, under a higher id.

    Attributes:
        last: the newest update of each account.
        wrong: what was against the contract, in words.
        holes: where updates were left out, to be checked against the database.
        seen: how many updates came.
    """

    def __init__(self, name: str, *, serials: bool, conflates: bool, forks: bool = False) -> None:
        self.name = name
        self.last: dict[str, Update] = {}
        self.wrong: list[str] = []
        self.holes: list[Hole] = []
        self.seen = 0
        self._serials = serials
        self._conflates = conflates
        self._forks = forks
        self._newest_id: dict[str, int] = {}
        self._followed: set[str] = set()

    def connected(self) -> None:
        """Take that a new connection begins: each account's next update is its state, which may have come before."""
        self._followed.clear()

    def take(self, update: Update) -> None:
        """Check one update."""
        self.seen += 1
        pubkey = update.pubkey
        before = self.last.get(pubkey)
        if update.account.pubkey != pubkey:
            self._say("the account is another's", update)
        self._check_id(update)
        if before is not None:
            self._check_order(before, update)
            if pubkey in self._followed:
                self._check_chain(before.account, update.account)
        self._followed.add(pubkey)
        self.last[pubkey] = update

    def _check_id(self, update: Update) -> None:
        """Ids grow; a new connection may begin with the last one again."""
        number, pubkey = update.account.id, update.pubkey
        if number is None:
            return
        newest = self._newest_id.get(pubkey, 0)
        if number < newest or (number == newest and pubkey in self._followed):
            self._say(f"the id is {number} after {newest}", update)
        self._newest_id[pubkey] = max(number, newest)

    def _check_order(self, before: Update, update: Update) -> None:
        """No state is older than the last one, and none comes twice."""
        old, new = before.account, update.account
        if update.event == "retracted" or (self._forks and update.pubkey not in self._followed):
            return
        if new.slot < old.slot:
            self._say(f"went back from slot {old.slot} to {new.slot}", update)
        if self._serials and 0 < new.lamports < old.lamports:
            self._say(f"went back from write {old.lamports} to {new.lamports}", update)
        if update.pubkey in self._followed and new.slot == old.slot and new.content == old.content:
            self._say(f"came twice in slot {new.slot}", update)

    def _check_chain(self, old: Account, new: Account) -> None:
        """What was left out is explained by an update without an id, or by a client that was too slow."""
        if new.prev_id == old.id or old.id is None or new.id is None:
            return
        if self._conflates:
            if len(self.holes) < MAX_HOLES:
                self.holes.append(Hole(new.pubkey, new.id, new.prev_id))
        else:
            self._say(f"{new.id} follows on {new.prev_id}, not on {old.id}", None)

    def _say(self, what: str, update: Update | None) -> None:
        if len(self.wrong) < MAX_WRONG:
            shown = "" if update is None else f": {_shown(update)}"
            self.wrong.append(f"{self.name}: {what}{shown}")

    def differences(self, accounts: Mapping[str, RawAccount | None]) -> list[str]:
        """Return where the last states are not those of the node; None: the node has no such account."""
        different = []
        for pubkey, raw in accounts.items():
            last = self.last.get(pubkey)
            if last is None or last.account.content != content_of(raw):
                seen = "nothing" if last is None else _shown(last)
                node = "no account" if raw is None else f"slot {raw.slot} lamports {raw.lamports} owner {raw.owner}"
                different.append(f"{self.name}: saw of {pubkey:.6} {seen}; on the node {node}")
        return different


def _shown(update: Update) -> str:
    account = update.account
    what = "closed" if account.closed else account.account_type
    return (
        f"{update.pubkey:.6} id {account.id} prev {account.prev_id} slot {account.slot} "
        f"lamports {account.lamports} {what} {update.source} {update.event}".rstrip()
    )


def check_stored(database: Path, accounts: Mapping[str, RawAccount | None]) -> list[str]:
    """Return where the stored newest states, raw bytes included, are not those of the node."""
    wrong = []
    with _reading(database) as connection:
        for pubkey, raw in accounts.items():
            row = connection.execute(
                "SELECT owner, lamports, raw, data_json FROM account_state WHERE pubkey = ?", (pubkey,)
            ).fetchone()
            closed, owner, lamports, data_json = content_of(raw)
            data = b"" if raw is None else raw.data
            if row is None and closed:
                continue  # gone before it was ever heard of
            if row is None or (row[0], row[1], row[3].encode()) != (owner, lamports, data_json):
                wrong.append(f"stored of {pubkey:.6}: {row and (row[0], row[1])}, on the node {owner} {lamports}")
            elif not closed and bytes(row[2]) != data:
                wrong.append(f"stored of {pubkey:.6}: other bytes than the node's")
    return wrong


def check_holes(database: Path, holes: Iterable[Hole]) -> list[str]:
    """Return the updates that name another update before them than the one that the database has, if it still has."""
    wrong = []
    with _reading(database) as connection:
        (oldest,) = connection.execute("SELECT coalesce(min(id), 0) FROM account_updates").fetchone()
        for hole in holes:
            (before,) = connection.execute(
                "SELECT max(id) FROM account_updates WHERE pubkey = ? AND id < ?", (hole.pubkey, hole.id)
            ).fetchone()
            pruned = before is None and hole.prev_id is not None and hole.prev_id < oldest
            if before != hole.prev_id and not pruned:
                wrong.append(f"{hole.id} of {hole.pubkey:.6} follows on {before}, and names {hole.prev_id}")
    return wrong


def _reading(database: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True))
