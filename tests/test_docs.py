"""The documents say what the program does: what they print is run, what they list is compared."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from tests.running import ServerProcess

from account_socket.cli import COMMANDS
from account_socket.protocol.codes import Close, ErrorCode
from account_socket.settings import load, rows

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NODE_MODULES = ROOT / "tests" / "node" / "node_modules"
NOT_BUILT = {ErrorCode.UNAUTHORIZED, Close.UNAUTHORIZED}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(name), re.MULTILINE | re.DOTALL)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- settings ----------------------------------------------------------------------------------------------


def test_generated_files_are_fresh() -> None:
    """docs/settings.md and .env.example are what `make docs` writes."""
    assert read("docs/settings.md") == generator().markdown()
    assert read(".env.example") == generator().env_example()


def test_every_setting_is_documented() -> None:
    """docs/settings.md has a row for each setting and no other."""
    documented = re.findall(r"^\| `([A-Z_]+)` \|", read("docs/settings.md"), re.MULTILINE)
    assert documented == [row.name for row in rows()]


def test_env_example_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copied .env.example gives the defaults, also with every line of it switched on."""
    for row in rows():
        for name in row.names:
            monkeypatch.delenv(name, raising=False)
    defaults = load(env_file=None).model_dump()
    env_file = tmp_path / ".env"
    env_file.write_text(read(".env.example"))
    assert load(env_file=env_file).model_dump() == defaults
    switched_on = re.sub(r"^# ([A-Z_]+=)", r"\1", read(".env.example"), flags=re.MULTILINE)
    env_file.write_text(switched_on)
    assert load(env_file=env_file).model_dump() == defaults
    assert len(re.findall(r"^[A-Z_]+=", switched_on, re.MULTILINE)) == len(defaults)


# ---- what README prints is run -----------------------------------------------------------------------------


async def printed(*command: str, environment: dict[str, str] | None = None, lines: int = 2) -> list[str]:
    """Run a program that goes on for ever until it has printed some lines."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            found = [(await process.stdout.readline()).decode() for _ in range(lines)]
        if not all(found):
            raise AssertionError((await process.stderr.read()).decode())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    return found


def demo(tmp_path: Path) -> ServerProcess:
    command = ("demo", "--websocket-port", "0", "--rate", "200")
    return ServerProcess(tmp_path, {"TMPDIR": str(tmp_path)}, command=command)


async def test_readme_python_client(tmp_path: Path) -> None:
    """README's Python client, run against the demo, prints updates."""
    [program] = blocks("README.md", "python")
    async with demo(tmp_path) as server:
        lines = await printed(sys.executable, "-c", program.replace("ws://127.0.0.1:8080/ws", server.url))
    assert all(re.fullmatch(r"(realtime|cache|database|rpc) \d+ \d+\n", line) for line in lines)


async def test_readme_node_client(tmp_path: Path) -> None:
    """README's Node.js client, run against the demo, prints updates."""
    node = shutil.which("node")
    if node is None or not NODE_MODULES.exists():
        pytest.skip("Node.js and npm are not installed here; .ci/run installs them")
    [program] = blocks("README.md", "javascript")
    async with demo(tmp_path) as server:
        program = program.replace("ws://127.0.0.1:8080/ws", server.url)
        lines = await printed(node, "-e", program, environment={"NODE_PATH": str(NODE_MODULES)})
    assert all(re.fullmatch(r"(realtime|cache|database|rpc) \d+ \d+\n", line) for line in lines)


async def test_readme_account_is_the_demos_busiest(tmp_path: Path) -> None:
    """The account that README watches is the one that the demo proposes."""
    async with demo(tmp_path) as server:
        proposed = re.search(r"watch (\w+)", server.stderr.decode())
    assert proposed is not None
    keys = set(re.findall(r"\b[1-9A-HJ-NP-Za-km-z]{43,44}\b", read("README.md")))
    assert keys == {proposed[1]}


def test_shell_blocks_name_commands_that_exist() -> None:
    """Each `account-socket COMMAND` and `make TARGET` in a shell block exists."""
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    text = "\n".join(block for document in DOCUMENTS for block in blocks(str(document), "sh"))
    commands = re.findall(r"account-socket ([a-z]+)", text)
    assert set(commands) <= set(COMMANDS)
    assert {"watch", "get", "doctor"} <= set(commands)
    made = re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)
    assert {"run", "test", "check"} <= set(made) <= targets


# ---- what documents list is compared -----------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """A relative link names a file that is there."""
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_protocol_lists_every_code() -> None:
    """docs/protocol.md has each error code and each close code that this version uses, and no other."""
    text = read("docs/protocol.md")
    errors = re.findall(r"^\| `([a-z_]+)` \|", text.partition("| error code |")[2].partition("\n\n")[0], re.MULTILINE)
    assert set(errors) == {code.value for code in ErrorCode if code not in NOT_BUILT}
    closes = re.findall(r"^\| (\d{4}) \|", text, re.MULTILINE)
    assert set(map(int, closes)) == {close.code for close in Close if close not in NOT_BUILT} | {1000}


async def test_operations_names_metrics_that_exist(tmp_path: Path) -> None:
    """Each metric in docs/operations.md is one of /metrics."""
    import aiohttp

    async with demo(tmp_path) as server, aiohttp.ClientSession() as session:
        async with session.get(f"{server.http_url}/metrics") as response:
            metrics = await response.text()
    named = set(re.findall(r"`(account_socket_[a-z_]+[a-z])`", read("docs/operations.md")))
    assert len(named) >= 10
    assert {name for name in named if f"# TYPE {name} " not in metrics} == set()


FAILURES = re.compile(r"^\| what fails \|.*?\n\n", re.MULTILINE | re.DOTALL)


def test_every_failure_in_operations_is_tested() -> None:
    """Each row of the table of failures names tests that exist, and each of those tests is named by a row."""
    found = FAILURES.search(read("docs/operations.md"))
    assert found is not None
    _head, _line, *table = found[0].strip().splitlines()
    named = [re.findall(r"\btest_\w+", " ".join(re.findall(r"<!--(.*?)-->", row))) for row in table]
    assert [row for row, tests in zip(table, named, strict=True) if not tests] == []
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    tests = {path: set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)) for path in files}
    assert {name for names in named for name in names} <= set().union(*tests.values())
    faults = set().union(*(names for path, names in tests.items() if path.name.startswith("test_failing_")))
    assert len(faults) > 15
    assert faults <= {name for names in named for name in names}


def test_what_operations_quotes_is_what_the_server_says() -> None:
    """Each log line that the table of failures quotes is in the program's text, or the operating system's."""
    found = FAILURES.search(read("docs/operations.md"))
    assert found is not None
    told = [row.split("|")[4] for row in found[0].strip().splitlines()[2:]]
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    events = {event for cell in told for event in re.findall(r'"(.+?)"', re.sub(r"`.*?`", "", cell))}
    assert len(events) > 10
    assert {event for event in events if f'"{event}"' not in source and event != os.strerror(errno.EMFILE)} == set()


# ---- locks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "dev"])
def test_locks_hold_names_versions_and_hashes_only(name: str) -> None:
    """A lock file pins every requirement with a hash, and names no address to load it from."""
    lines = read(f"requirements/{name}.txt").splitlines()
    pins = [line for line in lines if not line.startswith(" ")]
    assert all(re.match(r"[a-z0-9-]+==[^ ]+ (; .+ )?\\$", line) for line in pins)
    hashes = [line for line in lines if line.startswith(" ")]
    assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes)


def test_locks_cover_what_pyproject_asks_for() -> None:
    """Each dependency of pyproject.toml is in its lock, and run.txt's pins are dev.txt's."""
    project = tomllib.loads(read("pyproject.toml"))

    def pinned(name: str) -> dict[str, str]:
        pairs = re.findall(r"^([a-z0-9-]+)==([^ ]+)", read(f"requirements/{name}.txt"), re.MULTILINE)
        return dict(pairs)

    def named(requirements: list[str]) -> set[str]:
        return {re.split(r"[\s\[<>=!~;]", requirement)[0].lower() for requirement in requirements}

    build, runtime = project["build-system"]["requires"], project["project"]
    assert named([*runtime["dependencies"], *runtime["optional-dependencies"]["server"], *build]) <= set(pinned("run"))
    assert named(project["dependency-groups"]["dev"]) <= set(pinned("dev"))
    assert pinned("run").items() <= pinned("dev").items()
    assert set(build) <= set(read("requirements/build.in").splitlines())
