"""Resuming: what a subscription has been told, against a server that is a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_socket.client.frames import Account, Ack, SnapshotEnd, Subscribed, Update
from account_socket.client.progress import Position, Progress
from account_socket.client.selection import Selection

KEYS = ("a", "b", "c")


def update(id: int | None, pubkey: str = "a", epoch: str = "e") -> Update:
    account = Account(id=id, pubkey=pubkey, slot=1, account_type="T", owner="o", lamports=1, created_at=f"{epoch}{id}")
    return Update(pubkey=pubkey, source="realtime", account=account, text="")


@dataclass
class Server:
    """Updates are (id, key); `answer` is what a connection is sent, up to now, as docs/protocol.md says."""

    epoch: str = "e"
    log: list[tuple[int, str]] = field(default_factory=list)

    def write(self, key: str) -> None:
        self.log.append((len(self.log) + 1, key))

    def answer(self, request: dict[str, Any]) -> list[Update | Ack | SnapshotEnd]:
        """By keys: states or what was missed, the ack. By a filter: the ack, pages or what was missed, the end."""
        known = request.get("epoch") == self.epoch
        if "pubkeys" in request:
            sent = [
                u for key in request["pubkeys"] for u in self._since(key, request.get("after", {}).get(key), known)
            ]
            recovered = known if "epoch" in request else None
            found = tuple(name for _, name in self.log)
            return [*sent, Ack(id=request["id"], epoch=self.epoch, found=found, recovered=recovered)]
        head = Ack(id=request["id"], epoch=self.epoch)
        if known:
            missed = [update(number, key, self.epoch) for number, key in self.log if number > request["after_id"]]
            return [head, *missed, SnapshotEnd(count=len(missed), recovered=True)]
        pages = [u for key in KEYS for u in self._since(key, None, known)]
        return [head, *pages, SnapshotEnd(count=len(pages), recovered=False if "epoch" in request else None)]

    def _since(self, key: str, after: int | None, known: bool) -> list[Update]:
        mine = [update(number, key, self.epoch) for number, name in self.log if name == key]
        return mine[-1:] if after is None or not known else [each for each in mine if (each.account.id or 0) > after]


def play(progress: Progress, server: Server, cut_after: int, live: list[str]) -> list[Update]:
    """One connection: what it is answered, then what is written meanwhile, cut after so many messages."""
    told = []
    (request,) = progress.begin()
    messages = server.answer(request)
    for key in live:
        server.write(key)
        messages.append(update(*server.log[-1], server.epoch))
    for message in messages[:cut_after]:
        match message:
            case Update():
                if progress.see(message):
                    told.append(message)
            case Ack():
                progress.answer(message)
            case SnapshotEnd():
                progress.end_snapshot(message)
    return told


LIVES = st.lists(st.tuples(st.integers(0, 12), st.lists(st.sampled_from(KEYS), max_size=8)), max_size=8)


@given(before=st.lists(st.sampled_from(KEYS), max_size=5), lives=LIVES, by_filter=st.booleans())
def test_cuts_make_neither_holes_nor_repeats(
    before: list[str], lives: list[tuple[int, list[str]]], by_filter: bool
) -> None:
    """However connections are cut, each account's ids come in order, none twice; none is missing once resumed."""
    server = Server()
    for key in before:
        server.write(key)
    progress = Progress(Selection(account_type="T") if by_filter else Selection(pubkeys=KEYS))
    told: dict[str, list[int]] = {key: [] for key in KEYS}
    whole_since: int | None = None
    for cut_after, live in [*lives, (1_000, [])]:
        for each in play(progress, server, cut_after, live):
            assert each.account.id is not None
            told[each.pubkey].append(each.account.id)
        if whole_since is None and progress.position is not None:
            whole_since = max((n for ids in told.values() for n in ids), default=0)
    for key, ids in told.items():
        assert ids == sorted(set(ids))
        news = [n for n, name in server.log if name == key and whole_since is not None and n > whole_since]
        assert [n for n in ids if whole_since is not None and n > whole_since] == news
        if any(name == key for _, name in server.log):
            assert ids[-1] == max(number for number, name in server.log if name == key)


@given(lives=LIVES, by_filter=st.booleans(), cut_after=st.integers(0, 4))
def test_another_epoch_begins_anew(lives: list[tuple[int, list[str]]], by_filter: bool, cut_after: int) -> None:
    """Behind a restart with a new database every account's newest state is told, and that updates were missed."""
    progress = Progress(Selection(account_type="T") if by_filter else Selection(pubkeys=KEYS))
    play(progress, Server("old", [(1, "a"), (2, "b"), (3, "c")]), 1_000, ["a", "b", "c"])
    server = Server("new", [(1, "a"), (2, "b")])
    told = play(progress, server, cut_after, [])
    for each, live in lives:
        told += play(progress, server, each, live)
    told += play(progress, server, 1_000, [])
    newest = {name: number for number, name in server.log}
    assert {each.pubkey: each.account.id for each in told} == newest
    position = progress.position
    assert position is not None
    assert position.epoch == "new"
    assert {key: id_ for key, id_ in position.after.items() if id_} == ({} if by_filter else newest)


def test_what_was_missed_is_told() -> None:
    """The first connection has no verdict; a later one says whether it missed anything."""
    progress = Progress(Selection(pubkeys=("a",)))
    assert play(progress, Server(log=[(1, "a")]), 10, []) == [update(1)]
    assert progress.recovered is None
    play(progress, Server(log=[(1, "a"), (2, "a")]), 10, [])
    assert progress.recovered is True
    play(progress, Server("f", [(1, "a")]), 10, [])
    assert progress.recovered is False


SHAPES: list[dict[str, Any]] = [{"mode": "diff"}, {"fields": ("x",)}, {"max_rate_ms": 5}]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_by_keys_go_on(shape: dict[str, Any]) -> None:
    """By keys a diff, fields and a slower rate go on where they were, also from a position."""
    progress = Progress(Selection(pubkeys=("a",), **shape))
    progress.begin()
    progress.see(update(1))
    assert progress.answer(Ack(id=0, epoch="e", found=("a",))).recovered is None
    resumes = {"pubkeys": ("a",), "after": {"a": 1}, "epoch": "e"}
    for each in (progress, Progress(Selection(pubkeys=("a",), **shape), progress.position)):
        (request,) = each.begin()
        assert resumes.items() <= request.items()
        assert each.answer(Ack(id=0, epoch="e", found=("a",), recovered=True)).recovered is True


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_by_a_filter_begin_anew(shape: dict[str, Any]) -> None:
    """By a filter a diff, fields and a slower rate cannot be told from history: they begin anew, and say so."""
    progress = Progress(Selection(account_type="T", **shape))
    progress.begin()
    progress.answer(Ack(id=0, epoch="e"))
    progress.see(update(1))
    assert progress.end_snapshot(SnapshotEnd(count=1)).recovered is None
    assert progress.position is None
    (request,) = progress.begin()
    assert not {"after_id", "epoch"} & set(request)
    progress.answer(Ack(id=0, epoch="e"))
    assert progress.end_snapshot(SnapshotEnd(count=1)).recovered is False


def test_an_answer_answers_a_request() -> None:
    """An answer to a request that was not made, or was answered before, is no answer."""
    progress = Progress(Selection(pubkeys=("a",)))
    progress.begin()
    for wrong in (1, -1, 10**30):
        with pytest.raises(ValueError, match="to no request"):
            progress.answer(Ack(id=wrong, epoch="e"))
    progress.answer(Ack(id=0, epoch="e"))
    with pytest.raises(ValueError, match="to no request"):
        progress.answer(Ack(id=0, epoch="e"))


def test_an_update_without_an_id_keeps_the_last_number() -> None:
    """Where the database could not commit, the last number stands."""
    progress = Progress(Selection(pubkeys=("a",)))
    progress.begin()
    assert all(map(progress.see, (update(4), update(None), update(None))))
    progress.answer(Ack(id=0, epoch="e", found=("a",)))
    assert progress.position == Position(epoch="e", after={"a": 4})


def test_one_of_several_requests_decides() -> None:
    """A subscription in several requests has recovered only if each of them has."""
    keys = tuple(map(str, range(501)))
    progress = Progress(Selection(pubkeys=keys), Position(epoch="e", after=dict.fromkeys(keys, 1)))
    progress.begin()
    first = progress.answer(Ack(id=0, epoch="e", recovered=False, unrecovered=("7",)))
    assert isinstance(first, Subscribed)
    assert (first.asked[0], len(first.asked), first.unrecovered) == ("0", 500, ("7",))
    assert progress.answer(Ack(id=1, epoch="e", recovered=True)).recovered is True
    assert progress.recovered is False
    assert not progress.waiting
