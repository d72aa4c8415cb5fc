"""The TypeScript client (clients/typescript): its own tests and its README, against the server."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from tests.running import ServerProcess

from account_socket.devnode import Devnode, shipped_recording

PACKAGE = Path(__file__).parents[2] / "clients" / "typescript"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(
    NODE is None or not (PACKAGE / "node_modules").exists(),
    reason="Node.js and npm are not installed here; .ci/run installs them",
)


async def run(
    *command: str, seconds: float, folder: Path = PACKAGE, environment: Mapping[str, str] | None = None
) -> str:
    """Run a program in the package, or another folder; its output, which the failure shows if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def build() -> None:
    """Make `dist`, if it is older than its source; tests in other processes wait for it and do not make it again."""
    made = PACKAGE / "dist" / "index.js"
    newest = max(path.stat().st_mtime for path in (PACKAGE / "src").iterdir())
    with (PACKAGE / "node_modules" / ".building").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        if not made.exists() or made.stat().st_mtime < newest:
            await run("npm", "run", "build", seconds=30)


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """The URLs of two servers on one node, each with a database of its own."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(Devnode(shipped_recording(), rate=1500, loop=True))
        urls = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            server = ServerProcess(tmp_path / name, {"RPC_URL": node.ws_url})
            urls.append((await stack.enter_async_context(server)).url)
        yield urls[0], urls[1]


async def test_npm_test(servers: tuple[str, str]) -> None:
    """The package is built, and its tests pass against a server."""
    await build()
    environment = {
        "ACCOUNT_SOCKET_URL": servers[0],
        "ACCOUNT_SOCKET_OTHER_URL": servers[1],
        "ACCOUNT_SOCKET_WS": str(PACKAGE.parents[1] / "tests" / "node" / "node_modules" / "ws" / "wrapper.mjs"),
    }
    output = await run("npm", "test", seconds=40, environment=environment)
    assert "skipped 0" in output


async def test_another_project_installs_it(tmp_path: Path) -> None:
    """One `npm install` of the package's folder, as it is cloned, into a project of one's own builds it for use."""
    folder, own = tmp_path / "account-socket" / "clients" / "typescript", tmp_path / "own"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    own.mkdir()
    (own / "package.json").write_text('{"name": "own"}')
    printed = re.search(r"^npm install \S+$", (PACKAGE / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert printed is not None
    await run(*printed[0].split(), seconds=50, folder=own)
    program = "import('account-socket').then(({ connect }) => console.log(connect.name))"
    output = await run("node", "--eval", program, seconds=10, folder=own)
    assert output == "connect\n"


async def test_readme_blocks_work_as_printed(servers: tuple[str, str], tmp_path: Path) -> None:
    """Each JavaScript block of the package's README and of docs/clients.md prints lines against a server."""
    documents = [PACKAGE / "README.md", PACKAGE.parents[1] / "docs" / "clients.md"]
    text = "\n".join(document.read_text(encoding="utf-8") for document in documents)
    blocks = re.findall(r"^```js\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    await build()
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "account-socket").symlink_to(PACKAGE)
    for block in blocks:
        assert "ws://127.0.0.1:8080/ws" in block
        # A program that goes on for ever ends itself after two lines.
        ending = "let lines = 0; const say = console.log; console.log = (...words) => { say(...words);"
        ending += " if (++lines === 2) process.exit(0); };\n"
        program = tmp_path / "program.mjs"
        program.write_text(ending + block.replace("ws://127.0.0.1:8080/ws", servers[0]))
        output = await run("node", str(program), seconds=15)
        assert all(re.match(r"(realtime|cache|database|rpc) \d+", line) for line in output.splitlines()), output
        assert len(output.splitlines()) == 2


PAGE = """<!doctype html><script type="module">
import { connect } from "/dist/index.js";
const seen = [];
for await (const event of connect(SERVER).subscribe({ accountType: "Pool" }).events()) {
  seen.push(event.type);
  if (event.type === "snapshotEnd") break;
}
await fetch("/told", { method: "POST", body: JSON.stringify(seen) });
</script>"""


async def test_a_web_page_uses_it_unbundled(servers: tuple[str, str], tmp_path: Path) -> None:
    """The built module, loaded by a page in Chromium as it is, subscribes and is told states."""
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed here; .ci/run installs it")
    await build()
    told: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=PAGE.replace("SERVER", json.dumps(servers[0])), content_type="text/html")

    async def take(request: web.Request) -> web.Response:
        told.set_result(await request.json())
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/", page), web.post("/told", take), web.static("/dist", PACKAGE / "dist")])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    browser = await asyncio.create_subprocess_exec(
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"),
        *(f"--user-data-dir={tmp_path / 'profile'}", f"http://127.0.0.1:{port}/"),
        stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(20):
            seen = await told
    finally:
        os.killpg(browser.pid, signal.SIGKILL)  # Chromium is many processes
        await browser.wait()
        await runner.cleanup()
    assert {"subscribed", "update", "snapshotEnd"} <= set(seen)


FOLLOW = """
import { connect } from "account-socket";
for await (const event of connect("SERVER", { maxRetryMs: 100 }).subscribe({ pubkeys: PUBKEYS }).events()) {
  const { id, prev_id } = event.update?.account ?? {};
  const { type, recovered, update } = event;
  console.log(JSON.stringify({ type, recovered, pubkey: update?.pubkey, id, prev_id }));
}
"""


async def test_it_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    """Across a SIGKILL of the server each update names the one before, and the client is told that it recovered."""
    await build()
    recording = shipped_recording()
    pubkeys = sorted({write.account.pubkey for write in recording.writes})
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "account-socket").symlink_to(PACKAGE)
    async with (
        Devnode(recording, rate=500, loop=True) as node,
        ServerProcess(tmp_path, {"RPC_URL": node.ws_url}) as server,
    ):
        server.env["WEBSOCKET_PORT"] = server.url.split(":")[2].removesuffix("/ws")
        program = tmp_path / "follow.mjs"
        program.write_text(FOLLOW.replace("SERVER", server.url).replace("PUBKEYS", json.dumps(pubkeys)))
        follower = await asyncio.create_subprocess_exec("node", str(program), stdout=asyncio.subprocess.PIPE)
        assert follower.stdout is not None
        newest: dict[str, int] = {}
        recovered: list[bool] = []
        told_since, killed = 0, False
        try:
            async with asyncio.timeout(20):
                while told_since < 100:
                    event = json.loads(await follower.stdout.readline())
                    if event["type"] == "update":
                        told_since += bool(recovered)
                        assert event["prev_id"] == newest.get(event["pubkey"], event["prev_id"])
                        newest[event["pubkey"]] = event["id"]
                    if event["type"] == "resumed":
                        recovered.append(event["recovered"])
                    if len(newest) > 20 and event["type"] == "update" and not killed:
                        killed = True
                        await server.kill()
                        await server.start()
        finally:
            follower.kill()
            await follower.communicate()
    assert set(recovered) == {True}
