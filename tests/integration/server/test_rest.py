"""Accounts by HTTP: the newest state, a past one, history."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from tests.integration.server.resting import TIP_SLOT, Rested, resting
from tests.integration.server.serving import raw_client
from tests.samples import KEY_A, KEY_B
from tests.waiting import until

from account_socket.model import StoredState
from account_socket.server import rest_answers


@pytest.fixture
async def rested() -> AsyncIterator[Rested]:
    async with resting() as rested:
        yield rested


ACCOUNT = f"/v1/accounts/{KEY_A}"


async def test_the_newest_state_is_what_a_subscriber_is_told(rested: Rested) -> None:
    """The answer has the update's shape, the account object byte for byte, and where it came from."""
    await rested.commit()
    newest = await rested.commit(data_json=b'{"a":"1"}')
    async with rested.http.get(ACCOUNT) as response:
        assert response.status == 200
        assert await response.read() == b'{"pubkey":"%b","source":"cache","account":%b}' % (
            KEY_A.encode(),
            newest.account_json,
        )
    rested.served.stored[KEY_B] = StoredState(1, b'{"id":1}')
    assert (await rested.get(f"/v1/accounts/{KEY_B}"))[1]["source"] == "database"
    assert rested.served.hub.subscriptions == 0


async def test_accounts_that_are_not_there(rested: Rested) -> None:
    """One that nobody knows is 404 not_found, one of another program 404 foreign, and what is no key is 400."""
    rested.served.foreign.add(KEY_B)
    assert await rested.refusal(ACCOUNT) == (404, "not_found")
    assert await rested.refusal(f"/v1/accounts/{KEY_B}") == (404, "foreign")
    assert await rested.refusal("/v1/accounts/abc") == (400, "invalid_pubkey")
    assert await rested.refusal(f"{ACCOUNT}%00") == (400, "invalid_pubkey")
    assert await rested.refusal(f"{ACCOUNT}/nothing") == (404, "not_found")
    assert await rested.refusal(ACCOUNT, method="DELETE") == (405, "method_not_allowed")
    assert await rested.refusal(f"{ACCOUNT}?x=1") == (400, "invalid_parameter")


async def test_an_entity_tag_saves_the_answer(rested: Rested) -> None:
    """Who names the tag of the newest state is answered 304; an update, or doubt, makes another tag."""
    await rested.commit()
    _, _, headers = await rested.get(ACCOUNT)
    tag = headers["ETag"]
    assert tag == 'W/"e1-1"'
    for known in (tag, f'"x", {tag}', '"e1-1"', "*"):
        assert (await rested.get(ACCOUNT, headers={"If-None-Match": known}))[:2] == (304, None)
    assert (await rested.get(ACCOUNT, headers={"If-None-Match": 'W/"e2-1"'}))[0] == 200
    rested.served.hub.stale = True
    status, body, headers = await rested.get(ACCOUNT, headers={"If-None-Match": tag})
    assert (status, body["stale"], headers["ETag"]) == (200, True, 'W/"e1-1-stale"')
    rested.served.hub.stale = False
    await rested.commit()
    status, body, headers = await rested.get(ACCOUNT, headers={"If-None-Match": tag})
    assert (status, "stale" in body, headers["ETag"]) == (200, False, 'W/"e1-2"')


async def test_head(rested: Rested) -> None:
    """HEAD answers as GET does, without the body."""
    await rested.commit()
    _, body, headers = await rested.get(ACCOUNT, method="HEAD")
    assert body is None
    assert int(headers["Content-Length"]) > 200


async def test_head_of_what_is_large(rested: Rested) -> None:
    """HEAD of a large answer, compressed or not, has the headers of GET and leaves the connection in order."""
    for _ in range(3):
        await rested.commit(data_json=b'"%b"' % (b"x" * 50_000))
    for path in (
        f"{ACCOUNT}/history",
        "/v1/accounts",
        "/openapi.json",
        "/asyncapi.json",
        f"/v1/stream?pubkey={KEY_A}",
    ):
        for accepted in ("identity", "gzip"):
            options = {"method": "HEAD", "headers": {"Accept-Encoding": accepted}}
            status, body, headers = await rested.get(path, **options)
            assert (status, body) == (200, None)
            assert "Access-Control-Allow-Origin" in headers
            assert path.startswith("/v1/stream") or ("Content-Encoding" in headers) is (accepted == "gzip")
    assert await rested.refusal(f"{ACCOUNT}?slot=x") == (400, "invalid_parameter")


async def test_history_in_pages(rested: Rested) -> None:
    """Following `next` finds every update of the account once, newest first."""
    made = [await rested.commit() for _ in range(7)]
    await rested.commit(KEY_B)
    found, query = [], "?limit=3"
    while True:
        status, page, _ = await rested.get(f"{ACCOUNT}/history{query}")
        assert (status, page["pubkey"], page["epoch"]) == (200, KEY_A, "e1")
        found += page["updates"]
        if page["next"] is None:
            break
        query = f"?limit=3&before_id={page['next']}"
    assert found == [json.loads(each.account_json) for each in reversed(made)]
    assert (await rested.get(f"/v1/accounts/{KEY_B}/history"))[1]["updates"][0]["id"] == 8


async def test_bad_pages(rested: Rested) -> None:
    """A page that cannot be meant is refused in words."""
    for query in ("limit=0", "limit=1001", "limit=-1", "limit=1&limit=2", "before_id=x", "after=1"):
        assert await rested.refusal(f"{ACCOUNT}/history?{query}") == (400, "invalid_parameter"), query


async def test_a_past_slot(rested: Rested) -> None:
    """`slot` asks for the state as it was then; before history and after the tip there is none."""
    for slot in (10, 20, 30):
        await rested.commit(slot=slot)
    for slot, id_ in ((10, 1), (19, 1), (20, 2), (30, 3), (TIP_SLOT, 3)):
        status, body, headers = await rested.get(f"{ACCOUNT}?slot={slot}")
        assert (status, body["account"]["id"], body["source"]) == (200, id_, "database")
        assert headers["ETag"] == f'W/"e1-{id_}"'
    assert await rested.refusal(f"{ACCOUNT}?slot=9") == (404, "not_found")
    assert await rested.refusal(f"{ACCOUNT}?slot={TIP_SLOT + 1}") == (404, "not_found")
    assert await rested.refusal(f"{ACCOUNT}?slot=1e3") == (400, "invalid_parameter")
    rested.untrusted.add(KEY_A)
    assert (await rested.get(f"{ACCOUNT}?slot=40"))[1]["stale"] is True


async def test_a_database_that_fails(rested: Rested) -> None:
    """Where history cannot be read the answer is 503, to be tried again."""
    await rested.store.close(next_id=None)
    status, body, headers = await rested.get(f"{ACCOUNT}/history")
    assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "unavailable", "1")


async def test_gzip_where_it_is_asked_for_and_pays(rested: Rested) -> None:
    """Answers of a kilobyte and more are compressed for who asks, no others."""
    await rested.commit(data_json=b'"%b"' % (b"x" * 2000))
    await rested.commit(KEY_B)
    for key, accepted, coded in ((KEY_A, "gzip", True), (KEY_A, "br, gzip;q=0", False), (KEY_B, "gzip", False)):
        status, body, headers = await rested.get(f"/v1/accounts/{key}", headers={"Accept-Encoding": accepted})
        assert (status, body["pubkey"]) == (200, key)
        assert ("Content-Encoding" in headers) is coded
        assert "Accept-Encoding" in headers["Vary"]
        assert not coded or int(headers["Content-Length"]) < 1000


async def test_a_large_answer(rested: Rested) -> None:
    """A page of megabytes arrives whole, compressed or not, and is given up on when the client is gone."""
    for _ in range(40):
        await rested.commit(data_json=b'"%b"' % (b"x" * 100_000))
    for accepted in ("identity", "gzip"):
        status, body, headers = await rested.get(f"{ACCOUNT}/history?limit=40", headers={"Accept-Encoding": accepted})
        assert (status, len(body["updates"])) == (200, 40)
        assert headers["Access-Control-Allow-Origin"] == "*"


async def test_who_does_not_read_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large answer that nobody reads is kept for a time only, and there is an end to how many are."""
    monkeypatch.setattr(rest_answers, "MAX_ANSWERS_BYTES", 9_000_000)
    async with resting(slow_consumer_seconds=0.4) as rested:
        for _ in range(40):
            await rested.commit(data_json=b'"%b"' % (b"x" * 100_000))
        clients = rested.served.listener.clients
        async with raw_client(rested.served, shake=False) as first, raw_client(rested.served, shake=False) as second:
            for client in (first, second):
                client.send(f"GET {ACCOUNT}/history HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert b" 200 OK" in await client.read_head()
            assert await rested.refusal(f"{ACCOUNT}/history") == (503, "unavailable")
            await until(lambda: clients.sockets == 1)
        assert (await rested.get(f"{ACCOUNT}/history"))[0] == 200


async def test_web_pages_may_read(rested: Rested) -> None:
    """Without ALLOWED_ORIGINS any page may read answers and errors, and preflights are answered."""
    for path in (ACCOUNT, "/v1/nothing"):
        _, _, headers = await rested.get(path, headers={"Origin": "https://a.example"})
        assert headers["Access-Control-Allow-Origin"] == "*"
    asking = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    status, body, headers = await rested.get("/v1/accounts", method="OPTIONS", headers=asking)
    assert (status, body) == (204, None)
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert "Last-Event-ID" in headers["Access-Control-Allow-Headers"]
    assert await rested.refusal("/v1/accounts", method="OPTIONS") == (405, "method_not_allowed")


async def test_only_allowed_origins_may_read() -> None:
    """With ALLOWED_ORIGINS the header names the asking origin if it is one of these, and is left out if not."""
    async with resting(allowed_origins=("https://a.example",)) as rested:
        _, _, headers = await rested.get(ACCOUNT, headers={"Origin": "https://A.example"})
        assert headers["Access-Control-Allow-Origin"] == "https://A.example"
        assert "Origin" in headers["Vary"]
        _, _, headers = await rested.get(ACCOUNT, headers={"Origin": "https://b.example"})
        assert "Access-Control-Allow-Origin" not in headers


async def test_the_rate_of_one_connection_is_limited() -> None:
    """After its burst a connection is answered 429 with when to come again; health stays free."""
    async with resting(max_requests_per_second=0.001, request_burst=3) as rested:
        await rested.commit()
        assert [(await rested.get(ACCOUNT))[0] for _ in range(3)] == [200] * 3
        assert await rested.refusal(ACCOUNT) == (429, "rate_limited")
        assert (await rested.get("/healthz"))[0] == 200


async def test_requests_are_counted(rested: Rested) -> None:
    """The metrics tell how many requests came and how many were refused."""
    await rested.commit()
    await rested.get(ACCOUNT)
    await rested.get("/v1/nothing")
    lines = rested.served.metrics.render().decode().splitlines()
    assert "account_socket_http_requests_total 2.0" in lines
    assert "account_socket_http_refused_total 1.0" in lines
