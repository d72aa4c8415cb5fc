"""The node's HTTP, its name and its cluster fail while it streams; docs/operations.md names these tests."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from socket import EAI_AGAIN

import pytest
from tests.faults import gateway as answers
from tests.faults.gateway import Fault, Gateway, gateway_to
from tests.faults.libc_faults import LibcFaults
from tests.faults.observing import metrics, said, until_ready
from tests.faults.proxy import Proxy
from tests.faults.stage import Stage, assert_chained, busy_node, stage
from tests.running import Client
from tests.samples import KEY_A
from tests.waiting import until

pytestmark = pytest.mark.fault


async def test_one_upstream_of_two(tmp_path: Path) -> None:
    """While one of two upstreams is away nothing is missing; it is told, and comes back by itself."""
    async with busy_node() as node, Proxy(node.port) as proxy:
        env = {"RPC_URL": f"{node.ws_url},ws://127.0.0.1:{proxy.port}"}
        async with stage(tmp_path, env, node=node) as acted:
            proxy.refusing = True
            proxy.drop()
            report = await until_ready(acted.server, lambda report: report["status"] == "degraded")
            sources = report["upstream"]["sources"]
            assert [sources[name]["connected"] for name in ("rpc-0", "rpc-1")] == [True, False]
            assert {line["source"] for line in said(acted.server, "upstream lost")} == {"rpc-1"}
            assert (await metrics(acted.server))['account_socket_upstream_connected{source="rpc-1"}'] == 0
            await acted.streams()
            proxy.clear()
            await until_ready(acted.server, lambda report: report["status"] == "ok")
            await acted.streams()
            assert_chained(acted.client)


async def without_http(acted: Stage, gateway: Gateway, fault: Fault, error: str) -> None:
    """Lose the stream for a moment while HTTP fails: the gap stays open and is told, then is healed."""
    gateway.fault = fault
    acted.node.drop_connections()
    asking = asyncio.create_task(finds_nothing(acted))
    report = await until_ready(acted.server, lambda report: any(gap["error"] for gap in report["gaps"]["open"]))
    assert (report["status"], report["gaps"]["status"]) == ("degraded", "degraded")
    [gap] = report["gaps"]["open"]
    assert re.search(error, gap["error"]), gap["error"]
    assert (await metrics(acted.server))["account_socket_gaps_open"] == 1
    assert re.search(error, said(acted.server, "gap not healed yet")[0]["error"])
    await acted.streams()
    assert (await acted.learns_states()).keys() == set(acted.pubkeys)
    await asking
    assert (await metrics(acted.server))["account_socket_snapshot_lookup_errors_total"] >= 1
    errors = [line["error"] for line in said(acted.server, "accounts not read from the node")]
    assert len(set(errors)) == len(errors) > 0
    gateway.fault = None
    report = await until_ready(acted.server, lambda report: report["gaps"]["status"] == "ok")
    assert report["status"] == "ok"
    assert len(said(acted.server, "gap healed")) >= 2


async def finds_nothing(acted: Stage) -> None:
    """Subscribe to an account that only the node may know: after some seconds it is not found, and all is well."""
    async with Client(acted.server.url) as client:
        answer = await client.ask(action="subscribe", pubkey=KEY_A)
        assert (answer["type"], answer["found"]) == ("ack", [])


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (answers.limits, "429|left alone"),
        (answers.forbids, "403"),
        (answers.shows_a_page, "no JSON-RPC"),
        (answers.says_nothing, "no answer from the node"),
        (answers.never_ends, "over 33554432 bytes|no answer from the node"),
    ],
    ids=["limited", "forbidden", "html", "silent", "endless"],
)
async def test_http_fails(tmp_path: Path, fault: Fault, error: str) -> None:
    """While HTTP fails live updates go on, what cannot be read is told, and is read once HTTP works again."""
    async with (
        busy_node() as node,
        gateway_to(node.http_url) as gateway,
        stage(tmp_path, {"RPC_HTTP_URL": gateway.url}, node=node) as acted,
    ):
        await without_http(acted, gateway, fault, error)


async def test_names_do_not_resolve(tmp_path: Path, libc_faults: LibcFaults) -> None:
    """Without DNS a lost node stays lost, states are told as stale, and all comes back by itself."""
    async with busy_node() as node:
        env = {"RPC_URL": f"ws://node.test:{node.port}", "STALE_AFTER_SECONDS": "1", **libc_faults.env}
        async with stage(tmp_path, env, node=node) as acted:
            libc_faults.fail_dns(EAI_AGAIN)
            node.drop_connections()
            report = await until_ready(acted.server, lambda report: report["status"] == "stale")
            source = report["upstream"]["sources"]["rpc-0"]
            assert source["connected"] is False
            await until(lambda: any("gaierror" in line["reason"] for line in said(acted.server, "upstream lost")))
            assert (await metrics(acted.server))['account_socket_upstream_connected{source="rpc-0"}'] == 0
            async with asyncio.timeout(5):
                while not all("stale" in state for state in (await acted.learns_states()).values()):
                    pass
            libc_faults.fail_dns(0)
            await acted.streams()
            await until_ready(acted.server, lambda report: report["status"] == "ok")
            assert len([line for line in said(acted.server, "upstream lost") if "gaierror" in line["reason"]]) == 1


OTHER_CLUSTER = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"


async def test_another_cluster(tmp_path: Path) -> None:
    """A node that comes back as another cluster's ends the server with exit code 2, and so does one at the start."""
    node = busy_node()
    async with node:
        async with stage(tmp_path, node=node) as acted:
            await node.stop()
            async with busy_node(node.port, genesis_hash=OTHER_CLUSTER):
                assert await acted.server.wait() == 2
                with pytest.raises(AssertionError, match="exited 2"):
                    await acted.server.start()
    told = acted.server.stderr.decode()
    print(told)
    assert told.count(f"{node.genesis_hash}, the node to {OTHER_CLUSTER}") == 2
    assert told.count("name another database, or a node of that cluster") == 2
