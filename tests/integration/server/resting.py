"""A real listener with a real database behind it, for tests of HTTP reads and streams."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from tests.integration.server.serving import Served, serving
from tests.samples import KEY_A, update

from account_socket.model import AccountUpdate
from account_socket.programs import load_programs
from account_socket.server.rest_parameters import Fields
from account_socket.server.rest_reading import Reads
from account_socket.store.base import Store
from account_socket.store.sqlite import SqliteStore

TIP_SLOT = 10_000
LARGE = b'"%b"' % (b"x" * 20_000)
LAYOUTS = {name: each for decoder in load_programs().programs.values() for name, each in decoder.layouts.items()}


@dataclass
class Rested:
    """
    Attributes:
        served: the server.
        http: a client of it.
        untrusted: accounts whose state may not be the newest.
    """

    served: Served
    store: Store
    http: aiohttp.ClientSession
    untrusted: set[str] = field(default_factory=set)
    _newest: dict[str, int] = field(default_factory=dict)

    async def commit(self, pubkey: str = KEY_A, *, history: bool = True, **fields: Any) -> AccountUpdate:
        """Commit and publish a new update of `pubkey`."""
        made = self.next_update(pubkey, **fields)
        await self.store.append([made], history=history)
        self.served.hub.publish(made)
        return made

    def next_update(self, pubkey: str = KEY_A, **fields: Any) -> AccountUpdate:
        self.served.last_id += 1
        id_ = self.served.last_id
        made = update(id_, pubkey, prev_id=self._newest.get(pubkey), **{"slot": id_, **fields})
        self._newest[pubkey] = id_
        return made

    async def get(self, path: str, **options: Any) -> tuple[int, Any, Mapping[str, str]]:
        """Return status, JSON body (None where there is no body) and headers."""
        async with self.http.request(options.pop("method", "GET"), path, **options) as response:
            body = await response.read()
            return response.status, json.loads(body) if body else None, response.headers

    async def refusal(self, path: str, **options: Any) -> tuple[int, str]:
        """Return status and code of a request that is refused."""
        status, body, headers = await self.get(path, **options)
        assert headers["Content-Type"].startswith("application/json")
        assert set(body) == {"error"}
        assert set(body["error"]) == {"code", "message"}
        return status, body["error"]["code"]


class BusyHistory:
    """
    Commits updates while history is read: more than 64 KiB in each of the first two reads, one in every later one.

    Attributes:
        reads: how often history was looked for.
    """

    def __init__(self, rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        self._rested = rested
        self._later = rested.store.later
        monkeypatch.setattr(rested.store, "later", self.later)

    async def later(self, *args: Any, **options: Any) -> list[int]:
        self.reads += 1
        found = await self._later(*args, **options)
        for _ in range(6 if self.reads < 3 else 1):
            await self._rested.commit(data_json=LARGE)
        return found


_empty: list[bytes] = []


async def _empty_database() -> bytes:
    """Return a database as migrations make it, which takes half a second once."""
    if not _empty:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "account.db")
            store = SqliteStore(path)
            await store.open()
            await store.close(next_id=None)
            _empty.append(path.read_bytes())
    return _empty[0]


@asynccontextmanager
async def resting(**limits: Any) -> AsyncIterator[Rested]:
    """Run a listener and a database for the block, with these `Limits`."""
    rested: Rested | None = None
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "account.db")
        path.write_bytes(await _empty_database())
        store = SqliteStore(path, readers=3)
        await store.open()
        reads = Reads(
            store=store,
            trusts=lambda pubkey, _: rested is None or pubkey not in rested.untrusted,
            tip_slot=lambda: TIP_SLOT,
            newest_id=lambda: 0 if rested is None else rested.served.last_id,
            committed_id=lambda: 0 if rested is None else rested.served.last_id,
            fields=Fields(LAYOUTS, load_programs().programs),
        )
        async with serving(reads=reads, **limits) as served, aiohttp.ClientSession(served.base) as http:
            rested = Rested(served, store, http)
            yield rested
        await store.close(next_id=None)


@dataclass
class Event:
    """One Server-Sent Event as the standard has it; `id` is the last one that was told when it came."""

    name: str
    data: Any
    id: str

    @property
    def key(self) -> tuple[str, int]:
        account = self.data["account"]
        return account["pubkey"], account["id"]


class EventSource:
    """
    A client of /v1/stream that reads as browsers do (HTML, 9.2.6); an async context manager.

    Attributes:
        last_id: what a browser would send as Last-Event-ID.
        comments: how many came.
        dispatched: the events that were taken.
    """

    def __init__(self, rested: Rested, *pubkeys: str, last_id: str = "", headers: Mapping[str, str] | None = None):
        self._rested = rested
        self._pubkeys = pubkeys
        self._headers = {**(headers or {}), **({"Last-Event-ID": last_id} if last_id else {})}
        self.last_id = last_id
        self.comments = 0

    async def __aenter__(self) -> Self:
        query = [("pubkey", pubkey) for pubkey in self._pubkeys]
        self.response = await self._rested.http.get("/v1/stream", params=query, headers=self._headers)
        assert self.response.status == 200
        assert self.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.response.close()

    async def next(self, seconds: float = 5.0) -> Event:
        """Return the next event. Raises EOFError at the end of the stream."""
        name, data = "", []
        async with asyncio.timeout(seconds):
            while True:
                line = (await self.response.content.readline()).decode()
                if not line:
                    raise EOFError
                key, _, value = line.rstrip("\n").partition(":")
                value = value.removeprefix(" ")
                if line == "\n":
                    if data:
                        return Event(name, json.loads("\n".join(data)), self.last_id)
                    name = ""
                elif not key:
                    self.comments += 1
                elif key == "id":
                    self.last_id = value
                elif key == "event":
                    name = value
                elif key == "data":
                    data.append(value)

    async def take(self, count: int) -> list[Event]:
        """Return the next events."""
        return [await self.next() for _ in range(count)]

    async def position(self, after: int) -> None:
        """Read until it was told that everything up to an id has come; no event may come before."""
        async with asyncio.timeout(5):
            while not self.last_id or int(self.last_id.rpartition("-")[2]) < after:
                line = (await self.response.content.readline()).decode()
                assert not line.startswith("event"), line
                if line.startswith("id: "):
                    self.last_id = line[4:].strip()
