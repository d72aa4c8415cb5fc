"""GET /openapi.json says what the routes do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from tests.integration.server.resting import Rested, resting
from tests.samples import KEY_A, KEY_B

from account_socket.server import openapi
from account_socket.server.solana_connection import MAX_BATCH

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


@pytest.fixture
async def rested() -> AsyncIterator[Rested]:
    async with resting() as rested:
        yield rested


async def document(rested: Rested) -> Any:
    status, found, _ = await rested.get("/openapi.json")
    assert (status, found["openapi"]) == (200, "3.1.0")
    return found


async def test_it_is_valid_openapi(rested: Rested) -> None:
    """The document fits OpenAPI's own schema and rules."""
    OpenAPIV31SpecValidator(await document(rested)).validate()


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if "$ref" in value else set()
        return own.union(*map(references, value.values()))
    return set[str]().union(*map(references, value)) if isinstance(value, list) else set()


async def test_every_route_is_described_and_every_description_is_a_route(rested: Rested) -> None:
    """The paths and methods are those of the server, and every reference leads somewhere."""
    found = await document(rested)
    app = rested.served.listener._runner.app
    routes = {
        (resource.canonical, route.method.lower())
        for resource in app.router.resources()
        for route in resource
        if not resource.canonical.startswith("/ws") and resource.canonical != "/" and route.method != "HEAD"
    }
    described = {(path, method) for path, item in found["paths"].items() for method in item}
    assert routes == described - {("/", "post")}  # Solana's, which is not served here
    schemas = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
    assert references(found) <= schemas
    assert len(references(found)) >= 6
    assert openapi.MAX_CALLS == MAX_BATCH


async def test_answers_are_as_described(rested: Rested) -> None:
    """Each answer has exactly the fields and types that the document promises."""
    for _ in range(3):
        await rested.commit()
    rested.served.foreign.add(KEY_B)
    rested.untrusted.add(KEY_A)
    expected = [
        (f"/v1/accounts/{KEY_A}", {}, openapi.State),
        (f"/v1/accounts/{KEY_A}?slot=1", {}, openapi.State),
        (f"/v1/accounts/{KEY_A}?slot=9", {}, openapi.State),
        (f"/v1/accounts/{KEY_A}/history?limit=2", {}, openapi.History),
        ("/v1/accounts?limit=1", {}, openapi.Accounts),
        ("/v1/accounts", {"method": "POST", "json": {"pubkeys": [KEY_A, KEY_B]}}, openapi.States),
        (f"/v1/accounts/{KEY_B}", {}, openapi.Error),
        ("/v1/nothing", {}, openapi.Error),
        ("/healthz", {}, openapi.Health),
    ]
    for path, options, kind in expected:
        _, body, _ = await rested.get(path, **options)
        assert isinstance(msgspec.convert(body, kind), kind)


async def test_the_fields_described_can_be_selected_by(rested: Rested) -> None:
    """A list may be asked for by each field that is described, and by none that is not."""
    (where,) = [
        each
        for each in (await document(rested))["paths"]["/v1/accounts"]["get"]["parameters"]
        if each["name"] == "where"
    ]
    named, *blocks = where["schema"]["propertyNames"]["anyOf"]
    assert len(named["enum"]) > 100
    for name in [*named["enum"], "where.pool_fees.base_fee.anything"]:
        assert (await rested.get("/v1/accounts", params={name: "1"}))[0] == 200, name
        assert name in named["enum"] or any(re.search(block["pattern"], name) for block in blocks)


async def test_requests_as_described_are_understood(rested: Rested) -> None:
    """Every parameter that is described is taken, and every one that is not is refused."""
    await rested.commit()
    examples = {"after": KEY_A, "owner": KEY_A, "pubkey": KEY_A, "where": None, "account_type": "Pool"}
    for path, item in (await document(rested))["paths"].items():
        if not path.startswith("/v1/accounts"):
            continue
        for parameter in item["get"]["parameters"]:
            name, value = parameter["name"], examples.get(parameter["name"], "1")
            if parameter["in"] == "query" and value is not None:
                status, _, _ = await rested.get(path.replace("{pubkey}", KEY_A), params={name: value})
                assert status == 200, (path, name)
        assert await rested.refusal(path.replace("{pubkey}", KEY_A) + "?x=1") == (400, "invalid_parameter")
