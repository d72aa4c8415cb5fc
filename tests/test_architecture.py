"""The shape of the source tree: who may import whom, what is pure, how long a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "account_socket"
ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / PACKAGE
FILES = sorted(SOURCE.rglob("*.py"))

TIERS: tuple[frozenset[str], ...] = (
    frozenset({"", "errors", "backoff", "metrics", "logs", "endpoints", "database_url"}),
    frozenset({"model"}),
    frozenset({"settings", "settings_values"}),
    frozenset({"sources", "decode", "programs", "cache", "protocol", "hub"}),
    frozenset({"store", "client"}),
    frozenset({"pipeline", "server", "devnode"}),
    frozenset({"service", "cluster", "upstreams", "measures"}),
    frozenset({"cli", "__main__"}),
)
"""Rooms, lowest first: one may import what is in a lower tier. Files at the top of the package are rooms too."""

NEIGHBOURS = frozenset(
    {"", "errors", "backoff", "metrics", "logs", "endpoints", "database_url"}
    | {"settings", "settings_values", "measures", "upstreams", "cluster", "service"}
)
"""Rooms that may import others of their own tier: single files without an inside."""

ONE_ROOM = {"programs": "decode", "__main__": "cli"}
"""A room that counts as part of another: programs are data that `decode` compiles."""

PURE = (
    "sources/pubsub.py",
    "decode/idl.py",
    "decode/layout.py",
    "decode/decoder.py",
    "decode/registry.py",
    "pipeline/ordering.py",
    "hub/outbox.py",
    "hub/frames.py",
    "protocol/messages.py",
    "protocol/codes.py",
    "protocol/session.py",
)
"""Always pure; so is each file whose first docstring says `Pure.`."""

IMPURE_MODULES = frozenset({
    *("asyncio", "socket", "ssl", "select", "selectors", "time", "threading", "subprocess", "multiprocessing"),
    *("signal", "logging", "structlog", "uvloop", "aiohttp", "httpx", "websockets", "grpc"),
    *("sqlite3", "sqlalchemy", "alembic", "aiosqlite", "asyncpg", "redis"),
})  # fmt: skip

MAX_LINES = 500
BAD_NAMES = frozenset({"utils", "helpers", "common", "manager", "misc", "util", "helper"})


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the absolute name of each import in `source`, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            # `from package import room` names a room just as `from package.room import thing` does.
            names = [f"{module}.{alias.name}" for alias in node.names] if module == PACKAGE else [module]
            yield from ((node.lineno, name) for name in names)


def room_of(module: str) -> str:
    """Return the room that a dotted name inside the package belongs to."""
    room = module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]
    return "" if room == "__version__" else room


def tier_of(room: str) -> int:
    """Return the tier of a room; StopIteration where no tier names it, which fails whoever asks."""
    return next(tier for tier, rooms in enumerate(TIERS) if room in rooms)


def forbidden_imports(source: str, module: str) -> list[str]:
    """Return what `source`, being `module` (a dotted name), imports against the tiers."""
    room = ONE_ROOM.get(room_of(module), room_of(module))
    package = module.rpartition(".")[0] or PACKAGE
    wrong = []
    for line, name in imports(source, package):
        if name.partition(".")[0] != PACKAGE:
            continue
        other = ONE_ROOM.get(room_of(name), room_of(name))
        same = other == room or (tier_of(other) == tier_of(room) and {room, other} <= NEIGHBOURS)
        if not same and tier_of(other) >= tier_of(room):
            wrong.append(f"{module}:{line} imports {name}")
    return wrong


def impure_imports(source: str) -> list[str]:
    """Return the imports of `source` that a pure file must not have."""
    return [name for _line, name in imports(source, PACKAGE) if name.partition(".")[0] in IMPURE_MODULES]


def says_pure(source: str) -> bool:
    """Return whether the first docstring promises purity."""
    return "Pure." in (ast.get_docstring(ast.parse(source)) or "")


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_file_keeps_the_house_rules(path: Path) -> None:
    """A source file imports only from lower tiers, stays pure where it says so, is short and has a telling name."""
    source = path.read_text(encoding="utf-8")
    assert forbidden_imports(source, module_of(path)) == []
    if says_pure(source) or path.relative_to(SOURCE).as_posix() in PURE:
        assert impure_imports(source) == []
    assert source.count("\n") <= MAX_LINES
    assert path.stem not in BAD_NAMES


def test_pure_files_exist() -> None:
    """Every file that is named as pure is there: a renamed one would go unchecked."""
    assert [name for name in PURE if not (SOURCE / name).is_file()] == []


def test_every_room_has_a_tier() -> None:
    """A new file or folder at the top of the package is put into a tier before anything else."""
    rooms = {room_of(module_of(path)) for path in FILES}
    assert rooms <= frozenset[str]().union(*TIERS)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_test_files_are_short(path: Path) -> None:
    """A test file has at most 500 lines too."""
    assert path.read_text(encoding="utf-8").count("\n") <= MAX_LINES


# ---- the rules themselves can fail -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "allowed"),
    [
        ("account_socket.model", "from account_socket.errors import SettingsError", True),
        ("account_socket.errors", "from account_socket.model import RawAccount", False),
        ("account_socket.logs", "from account_socket.errors import SettingsError", True),
        ("account_socket.logs", "from account_socket.settings import load", False),
        ("account_socket.settings", "from account_socket import settings_values as values", True),
        ("account_socket.settings", "from account_socket import logs", True),
        ("account_socket.settings", "from account_socket import service", False),
        ("account_socket.model", "import account_socket.cache.base", False),
        ("account_socket.cache.redis", "from account_socket.cache.base import Cache", True),
        ("account_socket.cache.redis", "from .base import Cache", True),
        ("account_socket.cache.redis", "from ..hub import frames", False),
        ("account_socket.cache.redis", "from .. import hub", False),
        ("account_socket.cache.redis", "from account_socket.hub.frames import text_frame", False),
        ("account_socket.sources.pubsub", "from account_socket.decode.registry import Registry", False),
        ("account_socket.programs", "from account_socket.decode.registry import Registry", True),
        ("account_socket.store.sqlite", "from account_socket.cache.base import Cache", True),
        ("account_socket.hub.hub", "from account_socket.store.base import Store", False),
        ("account_socket.pipeline.pipeline", "from account_socket.server.listener import Listener", False),
        ("account_socket.server.http", "def late():\n    from account_socket import service", False),
        ("account_socket.server.http", "if TYPE_CHECKING:\n    from account_socket.service import Service", False),
        ("account_socket.service", "from account_socket.cli import main", False),
        ("account_socket.service", "from account_socket.server.listener import Listener", True),
        ("account_socket.cli.serve", "from account_socket import __version__, service", True),
        ("account_socket.__main__", "from account_socket.cli import main", True),
        ("account_socket.hub.hub", "import asyncio, os", True),
    ],
)
def test_the_import_rule(module: str, source: str, allowed: bool) -> None:
    """The rule lets lower tiers in and nothing else, whatever way the import is written."""
    assert (forbidden_imports(source, module) == []) is allowed


@pytest.mark.parametrize(
    ("source", "pure"),
    [
        ("import struct\nfrom collections import deque", True),
        ("import msgspec, zstandard", True),
        ("import asyncio", False),
        ("import asyncio.events", False),
        ("from time import monotonic", False),
        ("def late():\n    import sqlite3", False),
        ("from redis.asyncio import Redis", False),
    ],
)
def test_the_purity_rule(source: str, pure: bool) -> None:
    """The rule finds impure imports anywhere in a file."""
    assert (impure_imports(source) == []) is pure


def test_the_promise_of_purity_is_found() -> None:
    """A first docstring that says `Pure.` is a promise; other mentions are not."""
    assert says_pure('"""Frames. Pure."""')
    assert not says_pure('"""Frames."""\nx = "Pure."')
