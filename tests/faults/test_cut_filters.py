"""Clients that select by filter, whose connections are cut two hundred times, which go on where they broke off."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.faults.test_cut_clients import WAYS, CutClient, port_of
from tests.running import ServerProcess
from tests.samples import PROGRAM
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording
from account_socket.programs import load_programs

CUTS = 200
KILLS = 3
CLIENTS = 12
WRITES_PER_SECOND = 1_000

Told = tuple[int, str]
"""The id of an update, and what became of its account: "", "left" or "closed"."""


@dataclass
class Run:
    """What a client was told behind the id up to which it had everything, without beginning anew."""

    base: int
    told: list[Told] = field(default_factory=list)


class FilterClient(CutClient):
    """
    Attributes:
        filter: what it asks for.
        runs: one for each time that it began anew.
    """

    def __init__(self, filter: dict[str, Any], random: Random) -> None:
        super().__init__([], random)
        self.filter = filter
        self.runs: list[Run] = []
        self._whole = self._began = False
        self._coming: list[Told] = []

    @property
    def reached(self) -> int | None:
        """The id up to which it has everything."""
        if not self.runs:
            return None
        run = self.runs[-1]
        return run.told[-1][0] if run.told else run.base

    def _request(self) -> dict[str, Any]:
        self._whole, self._coming = False, []
        request = {"action": "subscribe", "id": 1, **self.filter}
        return request if self.reached is None else request | {"after_id": self.reached, "epoch": self._epoch}

    def _see(self, message: dict[str, Any]) -> None:
        if "account" in message:
            account = message["account"]
            self.sources[message["source"]] += 1
            told = account["id"], "closed" if account.get("closed") else message.get("event", "")
            if not self._whole:
                self._coming.append(told)
                return
            run = self.runs[-1]
            if self._began and not run.told:  # what a state stands for, and what left before, is not told
                run.base = told[0] - 1
            run.told.append(told)
        elif message["type"] == "ack":
            self._epoch = message["epoch"]
        else:
            self._end_snapshot(message)

    def _end_snapshot(self, message: dict[str, Any]) -> None:
        assert message["type"] == "snapshot_end", message
        self._whole = True
        self._began = not message.get("recovered")
        if not self._began:
            assert message["count"] == len(self._coming)
            self.recovered += 1
            self.runs[-1].told += self._coming
        else:
            self.runs.append(Run(max([0, *(id_ for id_, _ in self._coming)])))


def sold_at(random: Random) -> list[str]:
    """Return half of the prices that pools have in the shipped recording, so that pools come and leave."""
    decoders = load_programs()
    prices: dict[str, None] = {}
    for write in shipped_recording().writes:
        decoded = decoders.decode(write.account.owner, write.account.data)
        if decoded.account_type == "Pool":
            prices[json.loads(decoded.data_json)["sqrt_price"]] = None
    return random.sample(list(prices), min(100, len(prices) // 2))


def expected(database: Path, filter: dict[str, Any]) -> list[Told]:
    """Return what a client is told that was there from the first update on."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    prices = filter.get("where", {}).get("sqrt_price")
    told: list[Told] = []
    held = set()
    rows = connection.execute("SELECT id, pubkey, account_type, data_json FROM account_updates ORDER BY id")
    for id_, pubkey, account_type, data_json in rows:
        data = json.loads(data_json)
        fits = data is not None and filter.get("account_type", account_type) == account_type
        if fits and (prices is None or data["sqrt_price"] in prices):
            told.append((id_, ""))
            held.add(pubkey)
        elif pubkey in held:
            told.append((id_, "closed" if data is None else "left"))
            held.remove(pubkey)
    connection.close()
    return told


@pytest.mark.fault
@pytest.mark.timeout(150)
async def test_two_hundred_cuts(tmp_path: Path) -> None:
    """However often clients are cut off and the server killed, what they select has no hole and no repeat."""
    random = Random(6)
    filters: list[dict[str, Any]] = [
        {"account_type": "Pool"},
        {"program": PROGRAM},
        {"account_type": "Position"},
        {"account_type": "Pool", "where": {"sqrt_price": sold_at(random)}},
    ]
    clients = [FilterClient(filters[number % len(filters)], Random(number)) for number in range(CLIENTS)]
    async with Devnode(shipped_recording(), rate=WRITES_PER_SECOND, loop=True) as node:
        async with ServerProcess(tmp_path, {"RPC_URL": node.ws_url}) as server:
            budget = count()

            async def come_and_go(client: FilterClient) -> None:
                while next(budget) < CUTS:
                    await live(server, client, random.choice(WAYS))

            async with asyncio.timeout(100), asyncio.TaskGroup() as group:
                group.create_task(kill_at_times(server, clients))
                for client in clients:
                    group.create_task(come_and_go(client))
            await catch_up(node, server, clients, tmp_path / "account.db")
    for client in clients:
        everything = expected(tmp_path / "account.db", client.filter)
        for run in client.runs:
            last = run.told[-1][0] if run.told else run.base
            assert run.told == [told for told in everything if run.base < told[0] <= last]
    how_often(clients)


def how_often(clients: list[FilterClient]) -> None:
    """Check that the test was one: recovered nearly always, from history and live, with accounts that leave."""
    kinds = Counter(kind for client in clients for run in client.runs for _, kind in run.told)
    assert min(kinds[""] // 20, kinds["left"]) > 50, kinds
    assert sum((client.sources for client in clients), Counter[str]())["database"] > 500
    assert sum(client.recovered for client in clients) > CUTS // 3
    assert all(len(client.runs) <= 2 for client in clients)  # a server that has just started may know of no state


async def live(server: ServerProcess, client: FilterClient, way: str) -> None:
    """Have a client connected once, whenever the server is there."""
    cuts = client.cuts.total()
    while client.cuts.total() == cuts:
        with suppress(OSError):
            await client.live(port_of(server), way)
        await asyncio.sleep(0)


async def kill_at_times(server: ServerProcess, clients: list[FilterClient]) -> None:
    """Kill the server and start it again each time so many connections were cut."""
    for kill in range(1, KILLS + 1):
        threshold = kill * CUTS // (KILLS + 1)
        await until(lambda: sum(each.cuts.total() for each in clients) >= threshold, seconds=20)  # noqa: B023
        await server.kill()
        await server.start()


async def catch_up(node: Devnode, server: ServerProcess, clients: list[FilterClient], database: Path) -> None:
    """Have every client read until it has the newest update of what it selects."""
    node.pause()

    async def read(client: FilterClient) -> None:
        while client.reached is None or client.reached < expected(database, client.filter)[-1][0]:
            with suppress(OSError):
                await client.live(port_of(server), "close")

    async with asyncio.timeout(30):
        await asyncio.gather(*map(read, clients))
