"""The TypeScript client (clients/typescript): its own tests and its README, against the server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
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


async def run(*command: str, seconds: float, **environment: str) -> str:
    """Run a program in the package; its output, which the failure shows if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=PACKAGE,
        env={**os.environ, **environment},
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
    """Make `dist`, if it is older than its source: tests beside this one may be reading it."""
    made = PACKAGE / "dist" / "index.js"
    newest = max(path.stat().st_mtime for path in (PACKAGE / "src").iterdir())
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
    output = await run("npm", "test", seconds=40, ACCOUNT_SOCKET_URL=servers[0], ACCOUNT_SOCKET_OTHER_URL=servers[1])
    assert "skipped 0" in output


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
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(20):
            seen = await told
    finally:
        browser.kill()
        await browser.wait()
        await runner.cleanup()
    assert {"subscribed", "update", "snapshotEnd"} <= set(seen)
