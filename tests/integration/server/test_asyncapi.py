"""GET /asyncapi.json says what the WebSocket does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
from tests.integration.server.resting import Rested, resting
from tests.integration.server.serving import RawClient, raw_client, request_head
from tests.running import Client, ServerProcess
from tests.samples import KEY_A, KEY_B, PROGRAM
from tests.waiting import until

from account_socket.protocol import status
from account_socket.protocol.codes import Close
from account_socket.protocol.messages import (
    Deselect,
    ListSubscriptions,
    Ping,
    Refusal,
    Select,
    Subscribe,
    Unsubscribe,
    parse,
)

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

META_SCHEMA = Path(__file__).parents[2] / "node/node_modules/@asyncapi/specs/schemas/3.0.0.json"


@pytest.fixture
async def rested() -> AsyncIterator[Rested]:
    async with resting() as rested:
        yield rested


async def document(rested: Rested) -> Any:
    code, found, headers = await rested.get("/asyncapi.json")
    assert (code, found["asyncapi"], headers["Access-Control-Allow-Origin"]) == (200, "3.0.0", "*")
    return found


def messages_of(found: Any, operation: str) -> list[str]:
    return [each["$ref"].rpartition("/")[2] for each in found["operations"][operation]["messages"]]


def closed(schema: Any) -> Any:
    """Return the schema with every object's fields listed in full: in a test nothing may go untold."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    own = {key: closed(value) for key, value in schema.items()}
    if isinstance(own.get("properties"), dict) and own.get("type") == "object":
        own.setdefault("additionalProperties", False)
    return own


class Judge:
    """Says which message of the document a frame is."""

    def __init__(self, found: Any) -> None:
        self._document = closed(found)

    def fits(self, frame: Any, names: list[str]) -> list[str]:
        return [name for name in names if not list(self.errors(frame, name))]

    def errors(self, frame: Any, name: str) -> Iterator[jsonschema.ValidationError]:
        schema = self._document["components"]["messages"][name]["payload"]
        return jsonschema.Draft7Validator(self._document | schema).iter_errors(frame)


@pytest.mark.skipif(
    not META_SCHEMA.exists(),
    reason="Node.js and npm, which bring AsyncAPI's schema, are not installed here; .ci/run installs them",
)
async def test_it_is_valid_asyncapi(rested: Rested) -> None:
    """The document fits AsyncAPI's own schema."""
    validator = jsonschema.Draft7Validator(json.loads(META_SCHEMA.read_bytes()))
    assert [error.message for error in validator.iter_errors(await document(rested))] == []


async def test_every_reference_leads_somewhere(rested: Rested) -> None:
    """Whatever is referred to is in the document, and the codes of all closes are told."""
    found = await document(rested)

    def follow(value: Any) -> int:
        if isinstance(value, list):
            return sum(map(follow, value))
        if not isinstance(value, dict):
            return 0
        if "$ref" in value:
            target = found
            for step in value["$ref"].removeprefix("#/").split("/"):
                target = target[step]
        return ("$ref" in value) + sum(map(follow, value.values()))

    assert follow(found) > 40
    assert all(str(close.code) in found["channels"]["ws"]["description"] for close in Close)


ASKED: list[Any] = [
    {"action": "subscribe", "pubkey": KEY_A},
    {"action": "subscribe", "pubkey": KEY_A, "id": -1},
    {"action": "subscribe", "pubkeys": [KEY_A, KEY_B], "id": "x"},
    {"action": "unsubscribe", "pubkeys": [KEY_A], "id": 2**64 - 1},
    {"action": "ping", "id": 1},
    {"action": "list"},
    {"action": "subscribe", "pubkeys": [KEY_A], "pubkey": KEY_A, "id": 1},
    {"action": "subscribe", "pubkeys": [], "id": 1},
    {"action": "subscribe", "pubkeys": [KEY_A] * 1001, "id": 1},
    {"action": "subscribe", "pubkey": "abc", "id": 1},
    {"action": "subscribe", "id": 1},
    {"action": "ping", "id": 1.5},
    {"action": "ping", "id": 2**64},
    {"action": "ping", "id": "x" * 129},
    {"action": "ping", "pubkey": KEY_A},
    {"action": "jump"},
    {},
    {"action": "subscribe", "pubkeys": [KEY_A, KEY_B], "after": {KEY_A: 7}, "epoch": "e1", "id": 1},
    {"action": "subscribe", "after": {KEY_A: 7}, "epoch": "e1"},
    {"action": "subscribe", "pubkeys": [KEY_A], "after": {KEY_A: 7}},
    {"action": "subscribe", "pubkeys": [KEY_A], "after": {KEY_A: -7}, "epoch": "e1"},
    {"action": "subscribe", "pubkeys": [KEY_A], "epoch": "e1"},
    {"action": "unsubscribe", "sub": 3},
    {"action": "unsubscribe", "sub": "3"},
    {"action": "subscribe", "account_type": "Pool", "id": 1},
    {"action": "subscribe", "program": PROGRAM, "where": {"a.0": "x", "b": [1, None, True]}, "snapshot": False},
    {"action": "subscribe", "pubkeys": [KEY_A], "fields": ["a.b"], "delivery": "every"},
    {"action": "subscribe", "pubkey": KEY_A, "mode": "diff", "id": 1},
    {"action": "subscribe", "account_type": "Pool", "max_rate_ms": 1},
    {"action": "subscribe", "account_type": "Pool", "max_rate_ms": 0},
    {"action": "subscribe", "account_type": "Pool", "mode": "some"},
    {"action": "subscribe", "account_type": "Pool", "pubkeys": [KEY_A]},
    {"action": "subscribe", "mode": "diff"},
    {"action": "subscribe", "where": {}},
    {"action": "subscribe", "where": {"a": []}},
    {"action": "subscribe", "where": {"a": 1.5}},
    {"action": "subscribe", "account_type": "Pool", "fields": []},
    {"action": "subscribe", "account_type": "Pool", "after_id": 5, "epoch": "e1"},
    {"action": "subscribe", "mode": "diff", "after": {KEY_A: 5}, "epoch": "e1"},
    {"action": "subscribe", "pubkey": KEY_A, "pubkeys": [KEY_A], "after": {KEY_A: 5}, "epoch": "e1", "id": 1},
    {"action": "subscribe", "account_type": "Pool", "after_id": 5},
    {"action": "subscribe", "account_type": "Pool", "after": {KEY_A: 5}, "epoch": "e1"},
    {"action": "subscribe", "pubkeys": [KEY_A], "delivery": "every", "after": {KEY_A: 5}, "epoch": "e1"},
    {"action": "subscribe", "pubkeys": [KEY_A], "delivery": "every", "after_id": 5, "epoch": "e1"},
]


KINDS: dict[type, str] = {
    Subscribe: "subscribe",
    Select: "select",
    Unsubscribe: "unsubscribe",
    Deselect: "deselect",
    Ping: "ping",
    ListSubscriptions: "list",
}


async def test_requests_are_taken_as_described(rested: Rested) -> None:
    """What fits one of the requests is understood, and what fits none is refused."""
    found = await document(rested)
    judge = Judge(found)
    names = [name for name, each in found["operations"].items() if each["action"] == "receive"]
    assert names == ["subscribe", "select", "unsubscribe", "deselect", "ping", "list"]
    for asked in ASKED:
        understood = parse(json.dumps(asked))
        expected = [] if isinstance(understood, Refusal) else [KINDS[type(understood)]]
        assert judge.fits(asked, names) == expected, asked


async def told(client: RawClient, request: object) -> list[Any]:
    """Send a request; return everything that comes up to its answer."""
    client.say(request)
    frames = [await client.read_message()]
    while "type" not in frames[-1]:
        frames.append(await client.read_message())
    return frames


async def test_frames_are_as_described(rested: Rested) -> None:
    """Every frame of a session fits exactly the one message that it should be, with no field untold."""
    found = await document(rested)
    judge = Judge(found)
    names = messages_of(found, "tell")
    await rested.commit(KEY_A)
    rested.served.foreign.add(KEY_B)
    expected: list[tuple[object, list[str]]] = [
        ({"action": "subscribe", "pubkeys": [KEY_A, KEY_B], "id": 7}, ["update", "ack"]),
        ({"action": "list", "id": "x"}, ["subscriptions"]),
        ({"action": "ping"}, ["pong"]),
        ({"action": "unsubscribe", "pubkey": KEY_A, "id": 8}, ["unsubscribe_ack"]),
        ({"action": "subscribe", "pubkey": "abc"}, ["error"]),
        ({"action": "jump", "id": 1}, ["error"]),
    ]
    async with raw_client(rested.served, shake=False) as client:
        client.send(request_head("/ws"))
        await client.read_head()
        for stale in (False, True):
            rested.served.hub.stale = stale
            for request, kinds in expected:
                frames = await told(client, request)
                assert [judge.fits(frame, names) for frame in frames] == [[kind] for kind in kinds], frames
        await told(client, {"action": "subscribe", "pubkey": KEY_A, "id": 1})
        await rested.commit(KEY_A)
        assert judge.fits(await client.read_message(), names) == ["update"]


SHAPES: list[dict[str, Any]] = [
    {"where": {"activation_type": [0, 1]}},
    {"account_type": "Pool", "fields": ["liquidity", "token_a_mint"], "snapshot": False},
    {"program": PROGRAM, "mode": "diff"},
    {"account_type": "Pool", "max_rate_ms": 50},
]
KINDS_TOLD = {"update", "fields_update", "diff_update", "select_ack", "snapshot_end", "subscriptions", "status"}


async def test_frames_of_every_shape_are_as_described(tmp_path: Path) -> None:
    """What a server tells a client of numbered subscriptions fits one message each, until each kind has been seen."""
    seen: set[str] = set()
    async with ServerProcess(tmp_path, command=("demo", "--websocket-port", "0", "--rate", "500")) as server:
        async with aiohttp.ClientSession(server.http_url) as http, http.get("/asyncapi.json") as answer:
            found = await answer.json()
            async with http.get("/v1/accounts?limit=1") as page:
                this_epoch = (await page.json())["epoch"]
        judge, names = Judge(found), messages_of(found, "tell")
        async with Client(f"{server.url}?status=1") as client:
            for shape in SHAPES:
                assert (await client.ask(action="subscribe", **shape))["type"] == "ack"
            await client.ask(action="list")
            await until(lambda: client.updates)
            key = client.updates[0]["pubkey"]
            for epoch in (this_epoch, "another"):
                ack = await client.ask(action="subscribe", pubkeys=[key], after={key: 1}, epoch=epoch)
                assert "recovered" in ack
                await client.ask(action="subscribe", account_type="Position", after_id=1, epoch=epoch)
                await client.ask(action="unsubscribe", pubkey=key)

            def all_seen() -> bool:
                for frame in (*client.updates, *client.others):
                    kinds = judge.fits(frame, names)
                    assert len(kinds) == 1, (kinds, frame)
                    seen.add(kinds[0])
                client.updates.clear()
                return seen >= KINDS_TOLD

            await until(all_seen)


async def test_notices_are_as_described(rested: Rested) -> None:
    """Status and gap frames fit their message and no other, with and without what they may leave out."""
    found = await document(rested)
    judge, names = Judge(found), messages_of(found, "tell")
    sources = {"rpc-0": status.Upstream(connected=True, tip_slot=None)}
    frames = {
        status.status("now", stale=False, tip_slot=1, sources=sources): "status",
        status.status("lost", stale=True, tip_slot=None, sources=sources, source="rpc-0", reason="x"): "status",
        status.commitment("confirmed", 5): "commitment",
        status.gap("rpc-0", None, 5, "x", healed=False, error="y"): "gap",
        status.gap("rpc-0", 1, 5, "x", healed=True): "gap",
    }
    for frame, name in frames.items():
        assert judge.fits(json.loads(frame), names) == [name], frame
