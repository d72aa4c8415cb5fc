"""The light install: what the client imports, and the package with the client's dependencies alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution, requires
from pathlib import Path

from tests.integration.client.demo_server import Demo

ROOT = Path(__file__).parents[3]
STREAM = """
import asyncio, sys
from account_socket.client import connect

async def main():
    async with connect(sys.argv[1]) as client:
        async for update in client.subscribe(account_type="Pool"):
            if update.source == "realtime":
                break
        state = await client.get(update.pubkey)
        print(state.pubkey == update.pubkey, [each.pubkey async for each in client.history(update.pubkey, limit=1)])

asyncio.run(main())
"""


def test_the_client_imports_nothing_else() -> None:
    """Importing the client imports websockets, msgspec, the standard library, and little of this package."""
    program = "import sys; before = set(sys.modules); import account_socket.client; print(*set(sys.modules) - before)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    imported = set(out.split())
    ours = {name for name in imported if name.startswith("account_socket")}
    rooms = {name.split(".")[1] for name in ours if "." in name}
    assert rooms == {"client", "errors", "endpoints", "backoff"}
    # msgspec takes typing_extensions where it is there, and does without.
    others = {name.partition(".")[0] for name in imported - ours} - sys.stdlib_module_names - {"typing_extensions"}
    assert {name for name in others if not name.startswith("_")} == {"websockets", "msgspec"}


def test_the_package_with_the_clients_dependencies_alone(tmp_path: Path, demo: Demo) -> None:
    """The wheel with its unconditional dependencies alone streams and reads; its command says what is missing."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    unconditional = [each for each in requires("account-socket") or () if "extra ==" not in each]
    names = sorted(re.split(r"[\s<>=!~;]", each)[0] for each in unconditional)
    assert names == ["msgspec", "websockets"]
    for name in names:
        for file in distribution(name).files or ():
            if ".." not in file.parts:
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target)
    streamed = subprocess.run(
        [python, "-c", STREAM, demo.url], capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False
    )
    assert (streamed.stderr, streamed.stdout.split()[0]) == ("", "True")
    ran = subprocess.run([venv / "bin" / "account-socket", "demo"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "pip install '.[server]'" in ran.stderr
