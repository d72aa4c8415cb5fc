"""Going on over WebSocket where a connection broke off: what was missed, then what is live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from solders.pubkey import Pubkey
from tests.integration.server.resting import LARGE, BusyHistory, EventSource, Rested, resting
from tests.integration.server.serving import RawClient, raw_client
from tests.samples import KEY_A, KEY_B
from tests.waiting import until

from account_socket.server import catching_up, resuming


@pytest.fixture
async def rested() -> AsyncIterator[Rested]:
    async with resting() as rested:
        yield rested


async def resume(client: RawClient, after: dict[str, int], *, epoch: str = "e1", **more: Any) -> list[Any]:
    """Send a request and return what comes up to its ack, as (account, id, source); the ack is the last."""
    client.say({"action": "subscribe", "after": after, "epoch": epoch, "id": 1, **more})
    told: list[Any] = []
    while True:
        message = await client.read_message()
        if "account" not in message:
            return [*told, message]
        told.append(key_of(message))


def key_of(message: Any) -> tuple[str, int, str]:
    return message["pubkey"], message["account"]["id"], message["source"]


async def test_what_was_missed_then_the_ack_then_what_is_live(rested: Rested) -> None:
    """Everything later than each account's own id comes from history in order, then the ack, then each update once."""
    for _ in range(3):
        await rested.commit(KEY_A)
        await rested.commit(KEY_B)
    async with raw_client(rested.served) as client:
        *missed, ack = await resume(client, {KEY_A: 1, KEY_B: 4}, pubkeys=[KEY_A, KEY_B])
        assert missed == [(KEY_A, 3, "database"), (KEY_A, 5, "database"), (KEY_B, 6, "database")]
        assert ack == {
            "type": "ack",
            "id": 1,
            "action": "subscribe",
            "epoch": "e1",
            "found": [KEY_A, KEY_B],
            "foreign": [],
            "recovered": True,
        }
        for pubkey in (KEY_B, KEY_A, KEY_A):
            live = await rested.commit(pubkey)
            assert key_of(await client.read_message()) == (pubkey, live.id, "realtime")


async def test_who_missed_nothing_gets_the_ack_alone(rested: Rested) -> None:
    """An account without news is found and recovered, also where `after` alone names it, or nobody knows it."""
    await rested.commit(KEY_A)
    async with raw_client(rested.served) as client:
        (ack,) = await resume(client, {KEY_A: 1, KEY_B: 0})
        assert (ack["found"], ack["recovered"]) == ([KEY_A], True)
        live = await rested.commit(KEY_B)
        assert key_of(await client.read_message()) == (KEY_B, live.id, "realtime")


async def test_an_account_without_an_id_gets_its_state(rested: Rested) -> None:
    """Beside accounts that are resumed, a new one is subscribed to as ever; without `id` there is no ack."""
    for pubkey in (KEY_A, KEY_B, KEY_A):
        await rested.commit(pubkey)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "pubkeys": [KEY_A, KEY_B], "after": {KEY_A: 1}, "epoch": "e1"})
        told = [key_of(await client.read_message()) for _ in range(2)]
        assert sorted(told) == sorted([(KEY_B, 2, "cache"), (KEY_A, 3, "database")])
        client.say({"action": "list", "id": 2})
        answer = await client.read_message()
        assert sorted(answer["pubkeys"]) == sorted([KEY_A, KEY_B])


@pytest.mark.parametrize(("epoch", "after"), [("e2", 1), ("e1", 99), ("e1", 2**63 - 1)])
async def test_ids_that_mean_nothing_here(rested: Rested, epoch: str, after: int) -> None:
    """With ids of another epoch, or above the newest, the state comes, and the ack says of which accounts."""
    await rested.commit(KEY_A)
    await rested.commit(KEY_A)
    async with raw_client(rested.served) as client:
        *told, ack = await resume(client, {KEY_A: after}, epoch=epoch)
        assert told == [(KEY_A, 2, "cache")]
        assert (ack["recovered"], ack["unrecovered"], ack["found"]) == (False, [KEY_A], [KEY_A])
        live = await rested.commit(KEY_A)
        assert key_of(await client.read_message()) == (KEY_A, live.id, "realtime")


async def test_one_account_with_a_hole_costs_the_others_nothing(rested: Rested) -> None:
    """An account whose history does not reach back is told as new; the ones beside it are recovered."""
    for history in (True, False, True):
        await rested.commit(KEY_A, history=history)
        await rested.commit(KEY_B)
    async with raw_client(rested.served) as client:
        *told, ack = await resume(client, {KEY_A: 1, KEY_B: 2})
        assert told == [(KEY_B, 4, "database"), (KEY_B, 6, "database"), (KEY_A, 5, "cache")]
        assert (ack["recovered"], ack["unrecovered"], ack["found"]) == (False, [KEY_A], [KEY_A, KEY_B])


async def test_history_that_was_deleted(rested: Rested) -> None:
    """After rows beyond the newest of an account were deleted, who has the last deleted one is resumed, no other."""
    for _ in range(6):
        await rested.commit(KEY_A)
    await rested.store.prune_accounts([KEY_A], keep=2, limit=100)
    for after, told in ((4, [5, 6]), (3, [6])):
        async with raw_client(rested.served) as client:
            *states, ack = await resume(client, {KEY_A: after})
            assert [state[1] for state in states] == told
            assert ack["recovered"] is (after == 4)


async def test_too_much_was_missed(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more was missed than is caught up with, the accounts that missed most are told as new."""
    monkeypatch.setattr(catching_up, "MAX_MISSED", 4)
    for pubkey in (KEY_B, KEY_A, KEY_A, KEY_A, KEY_A, KEY_A, KEY_B, KEY_B):
        await rested.commit(pubkey)
    async with raw_client(rested.served) as client:
        *told, ack = await resume(client, {KEY_A: 2, KEY_B: 1})
        assert told == [(KEY_B, 7, "database"), (KEY_B, 8, "database"), (KEY_A, 6, "cache")]
        assert ack["unrecovered"] == [KEY_A]


async def test_a_database_that_cannot_be_read(rested: Rested) -> None:
    """While history cannot be read, what has news is told as new, and what has none is recovered all the same."""
    for pubkey in (KEY_A, KEY_B, KEY_B):
        await rested.commit(pubkey)
    await rested.store.close(next_id=None)
    async with raw_client(rested.served) as client:
        *told, ack = await resume(client, {KEY_A: 1, KEY_B: 2})
        assert told == [(KEY_B, 3, "cache")]
        assert ack["unrecovered"] == [KEY_B]


async def test_a_state_that_is_not_committed(rested: Rested) -> None:
    """An update without an id that history may lack makes its account new."""
    await rested.commit()
    uncommitted = rested.next_update()
    account_json = uncommitted.account_json.replace(b'"id":2', b'"id":null')
    rested.served.hub.publish(msgspec.structs.replace(uncommitted, account_json=account_json))
    async with raw_client(rested.served) as client:
        *told, ack = await resume(client, {KEY_A: 1})
        assert told == [(KEY_A, None, "cache")]
        assert ack["unrecovered"] == [KEY_A]


@pytest.mark.parametrize("form", ["websocket", "stream"])
async def test_what_is_committed_but_not_published_yet_comes_once(rested: Rested, form: str) -> None:
    """An update that history has before it is published is told when it is published, and only then."""
    await rested.commit()
    await rested.commit()
    early = rested.next_update()
    await rested.store.append([early])
    if form == "websocket":
        async with raw_client(rested.served) as client:
            *missed, _ack = await resume(client, {KEY_A: 1})
            assert [key[1] for key in missed] == [2]
            rested.served.hub.publish(early)
            last = await rested.commit()
            assert [key_of(await client.read_message())[1] for _ in range(2)] == [early.id, last.id]
    else:
        async with EventSource(rested, KEY_A, last_id="e1-1") as source:
            assert (await source.next()).key == (KEY_A, 2)
            await until(lambda: KEY_A in rested.served.hub.subscribed_pubkeys())
            rested.served.hub.publish(early)
            last = await rested.commit()
            assert [event.key[1] for event in await source.take(2)] == [early.id, last.id]


async def test_closed_and_retracted_states_are_told_as_what_they_were(rested: Rested) -> None:
    """History tells a close, and a state that a fork gave back, as they were told when they happened."""
    await rested.commit()
    restored = msgspec.structs.replace(rested.next_update(), event="retracted")
    closed = rested.next_update(data_json=b"null")
    await rested.store.append([restored, closed])
    for update in (restored, closed):
        rested.served.hub.publish(update)
    async with raw_client(rested.served) as client, EventSource(rested, KEY_A, last_id="e1-1") as source:
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1"})
        messages = [await client.read_message() for _ in range(2)]
        assert [event.data for event in await source.take(2)] == messages
    assert messages[0]["event"] == "retracted"
    assert "closed" not in messages[0]["account"]
    assert "event" not in messages[1]
    assert (messages[1]["account"]["closed"], messages[1]["account"]["data_json"]) == (True, None)


async def test_what_is_subscribed_to_already(rested: Rested) -> None:
    """Resuming what the connection is subscribed to sends the ack alone, and nothing twice from then on."""
    await rested.commit()
    async with raw_client(rested.served) as client:
        await resume(client, {KEY_A: 1})
        await rested.commit()
        assert key_of(await client.read_message())[1] == 2
        (ack,) = await resume(client, {KEY_A: 1})
        assert (ack["recovered"], ack["found"]) == (True, [KEY_A])
        client.say({"action": "subscribe", "pubkey": KEY_A, "id": 5})
        assert (await client.read_message())["id"] == 5
        for _ in range(2):
            live = await rested.commit()
            assert key_of(await client.read_message())[1] == live.id
        assert rested.served.hub.subscriptions == 1


class Gate:
    """Holds the reads of history of a store until it is opened."""

    def __init__(self, rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self._later = rested.store.later
        monkeypatch.setattr(rested.store, "later", self.later)

    async def later(self, *args: Any, **options: Any) -> list[int]:
        self.reached.set()
        await self.open.wait()
        return await self._later(*args, **options)


async def test_unsubscribing_while_it_resumes(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the ack of an unsubscribe nothing comes of its account, though it was about to be resumed."""
    for pubkey in (KEY_A, KEY_B, KEY_A, KEY_B):
        await rested.commit(pubkey)
    gate = Gate(rested, monkeypatch)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "after": {KEY_A: 1, KEY_B: 2}, "epoch": "e1", "id": 1})
        await gate.reached.wait()
        client.say({"action": "unsubscribe", "pubkey": KEY_A, "id": 2})
        assert (await client.read_message())["id"] == 2
        gate.open.set()
        assert key_of(await client.read_message()) == (KEY_B, 4, "database")
        ack = await client.read_message()
        assert (ack["id"], ack["found"], ack["recovered"]) == (1, [KEY_B], True)
        await rested.commit(KEY_A)
        live = await rested.commit(KEY_B)
        assert key_of(await client.read_message())[1] == live.id
        assert rested.served.hub.subscriptions == 1


async def test_subscribing_anew_while_it_resumes(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who unsubscribes and subscribes again while it is resumed gets the state, and each later update once."""
    await rested.commit()
    await rested.commit()
    gate = Gate(rested, monkeypatch)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "id": 1})
        await gate.reached.wait()
        client.say({"action": "unsubscribe", "pubkey": KEY_A, "id": 2})
        client.say({"action": "subscribe", "pubkey": KEY_A, "id": 3})
        assert (await client.read_message())["id"] == 2
        assert key_of(await client.read_message()) == (KEY_A, 2, "cache")
        assert (await client.read_message())["id"] == 3
        gate.open.set()
        assert (await client.read_message())["id"] == 1
        live = await rested.commit()
        assert key_of(await client.read_message())[1] == live.id
        assert rested.served.hub.subscriptions == 1


async def test_a_client_that_goes_while_it_resumes(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a client that is cut off while history is read for it, or while others wait behind it, nothing stays."""
    for pubkey in (KEY_A, KEY_B, KEY_A, KEY_B):
        await rested.commit(pubkey)
    gate = Gate(rested, monkeypatch)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "id": 1})
        client.say({"action": "subscribe", "after": {KEY_B: 2}, "epoch": "e1", "id": 2})
        await gate.reached.wait()
    await until(lambda: rested.served.listener.connections == 0)
    gate.open.set()
    hub = rested.served.hub
    await until(lambda: hub.subscriptions == 0)
    assert hub.accounts_subscribed == 0


async def test_a_numbered_subscription_is_resumed(rested: Rested) -> None:
    """A numbered subscription by name goes on like a plain one, in its own number, and ends with it."""
    for pubkey in (KEY_A, KEY_B, KEY_A, KEY_B):
        await rested.commit(pubkey)
    async with raw_client(rested.served) as client:
        *missed, ack = await resume(client, {KEY_A: 1, KEY_B: 2}, delivery="every")
        assert missed == [(KEY_A, 3, "database"), (KEY_B, 4, "database")]
        assert (ack["sub"], ack["recovered"], ack["found"]) == (1, True, [KEY_A, KEY_B])
        live = await rested.commit(KEY_B)
        assert key_of(await client.read_message()) == (KEY_B, live.id, "realtime")
        (ack,) = await resume(client, {KEY_A: 1}, delivery="every")
        assert (ack["sub"], ack["recovered"], ack["found"]) == (2, True, [KEY_A])
        client.say({"action": "unsubscribe", "sub": 1, "id": 2})
        assert (await client.read_message())["id"] == 2
        await rested.commit(KEY_B)
        live = await rested.commit(KEY_A)
        assert key_of(await client.read_message())[1] == live.id
        assert rested.served.hub.subscriptions == 1
    await until(lambda: rested.served.hub.subscriptions == 0)


async def test_a_numbered_subscription_ends_while_it_resumes(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the ack of its end nothing comes of it; a plain one of the same accounts goes on, each update once."""
    for pubkey in (KEY_A, KEY_B, KEY_A, KEY_B):
        await rested.commit(pubkey)
    gate = Gate(rested, monkeypatch)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "delivery": "every", "id": 1})
        client.say({"action": "subscribe", "after": {KEY_B: 2}, "epoch": "e1", "id": 2})
        await gate.reached.wait()
        client.say({"action": "unsubscribe", "sub": 1, "id": 3})
        assert (await client.read_message())["id"] == 3
        gate.open.set()
        ack = await client.read_message()
        assert (ack["id"], ack["found"]) == (1, [])
        assert key_of(await client.read_message()) == (KEY_B, 4, "database")
        assert (await client.read_message())["id"] == 2
        await rested.commit(KEY_A)
        live = await rested.commit(KEY_B)
        assert key_of(await client.read_message())[1] == live.id
        assert rested.served.hub.subscriptions == 1


async def test_plain_and_numbered_together(rested: Rested) -> None:
    """What comes without a number already is recovered, and comes once."""
    for _ in range(2):
        await rested.commit()
    async with raw_client(rested.served) as client:
        *missed, _ = await resume(client, {KEY_A: 1})
        assert [key[1] for key in missed] == [2]
        (ack,) = await resume(client, {KEY_A: 1}, delivery="every")
        assert (ack["sub"], ack["recovered"], ack["found"]) == (1, True, [KEY_A])
        for _ in range(2):
            live = await rested.commit()
            assert key_of(await client.read_message())[1] == live.id


async def test_plain_while_a_numbered_one_resumes(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all that was missed comes without a number meanwhile, nothing of it is told, and the ack comes at once."""
    for _ in range(2):
        await rested.commit()
    gate = Gate(rested, monkeypatch)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "delivery": "every", "id": 1})
        await gate.reached.wait()
        client.say({"action": "subscribe", "pubkey": KEY_A, "id": 2})
        assert key_of(await client.read_message()) == (KEY_A, 2, "cache")
        assert (await client.read_message())["id"] == 2
        gate.open.set()
        ack = await client.read_message()
        assert (ack["id"], ack["sub"], ack["recovered"], ack["found"]) == (1, 1, True, [KEY_A])
        live = await rested.commit()
        assert key_of(await client.read_message())[1] == live.id


async def test_more_comes_while_history_is_read_than_can_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came during a read and was too much to be held is read from history after it: no hole, no repeat."""
    async with resting(outbox_max_bytes=65_536) as rested:
        for _ in range(3):
            await rested.commit()
        history = BusyHistory(rested, monkeypatch)
        async with raw_client(rested.served) as client:
            *missed, ack = await resume(client, {KEY_A: 1})
            assert [key[1] for key in missed] == list(range(2, 16))
            assert (history.reads, ack["recovered"]) == (3, True)
            assert key_of(await client.read_message()) == (KEY_A, 16, "realtime")


async def test_a_thousand_accounts_at_once(rested: Rested) -> None:
    """A thousand accounts are resumed by one message, each with what it missed."""
    pubkeys = [str(Pubkey.from_bytes(number.to_bytes(32, "big"))) for number in range(1, 1_001)]
    updates = [rested.next_update(pubkey) for _ in range(3) for pubkey in pubkeys]
    await rested.store.append(updates)
    for update in updates:
        rested.served.hub.publish(update)
    async with raw_client(rested.served) as client:
        *missed, ack = await resume(client, {pubkey: number for number, pubkey in enumerate(pubkeys, 1)})
        assert [key[:2] for key in missed] == [(update.pubkey, update.id) for update in updates[1_000:]]
        assert (ack["recovered"], ack["found"]) == (True, pubkeys)


async def test_requests_wait_outside_while_history_is_read(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many requests to resume a few are taken while the first takes long; all are answered in their order."""
    await rested.commit()
    await rested.commit()
    later, go_on = rested.store.later, asyncio.Event()

    async def slow_later(*args: Any, **options: Any) -> list[int]:
        await go_on.wait()
        return await later(*args, **options)

    monkeypatch.setattr(rested.store, "later", slow_later)
    async with raw_client(rested.served) as client:
        for number in range(50):
            client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "id": number})
        (connection,) = rested.served.listener.clients.connections
        await until(lambda: not connection._reading)
        assert len(connection._resumer._queue) <= 2 * resuming.MAX_WAITING
        go_on.set()
        assert key_of(await client.read_message())[1] == 2
        assert [(await client.read_message())["id"] for _ in range(50)] == list(range(50))


async def test_a_slow_client_is_closed_while_it_resumes() -> None:
    """Who does not read what it missed costs a page, and is closed with 4008; others are not held up."""
    async with resting(outbox_max_bytes=65_536, slow_consumer_seconds=0.5, slow_close_seconds=0.3) as rested:
        for _ in range(300):
            await rested.commit(data_json=LARGE)
        async with raw_client(rested.served) as slow, raw_client(rested.served) as quick:
            slow.reader._transport.pause_reading()
            slow.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "id": 1})
            clients = rested.served.listener.clients
            await until(lambda: len(clients.slow) == 1)
            (stalled,) = [each for each in clients.connections if not each._writable]
            waits = stalled._transport.get_write_buffer_size() + stalled.outbox.backlog * len(LARGE)
            assert waits <= 2 * catching_up.PAGE_BYTES + len(LARGE) * catching_up.PAGE
            sent = stalled.outbox.sent
            assert sent < 300
            *missed, _ack = await resume(quick, {KEY_A: 290})
            assert len(missed) == 10
            await until(lambda: clients.closes["4008"] == 1)
            assert stalled.outbox.sent <= sent + catching_up.PAGE
            await until(lambda: rested.served.listener.connections == 1)
