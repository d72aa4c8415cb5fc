"""The benchmarks, run as people run them, with the least numbers: their own checks of what arrived must hold."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IN_PROCESS = ("decode", "parse", "store", "known")
WITH_SERVER = ("ingest", "fanout", "compression")
OF_MANY = ("yellowstone", "sparse", "crowd", "slow", "portfolio", "stored", "filters")
"""Clients, accounts or rows, which take their time even in the least numbers."""
UNDER_VALGRIND = ("growth",)

valgrind = pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="no valgrind is installed here; .ci/run installs it"
)
pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None, reason="no C compiler is installed here; .ci/run installs one"
)


@pytest.mark.parametrize(
    "names",
    [
        *(IN_PROCESS, *zip(WITH_SERVER, strict=True)),
        *(pytest.param((name,), marks=pytest.mark.soak) for name in OF_MANY),
        pytest.param(UNDER_VALGRIND, marks=[pytest.mark.soak, valgrind]),
    ],
    ids="+".join,
)
def test_each_benchmark_runs_and_its_figures_are_numbers(names: tuple[str, ...], tmp_path: Path) -> None:
    """Each benchmark yields positive figures, in its table and as JSON, and no update was lost on the way."""
    results = tmp_path / "results.json"
    command = [
        sys.executable,
        "bench/run.py",
        *names,
        "--repetitions",
        "1",
        "--scale",
        "0.02",
        "--ingest-seconds",
        "10",
    ]
    ran = subprocess.run(
        [*command, "--json", str(results)], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert ran.returncode == 0, ran.stderr
    document = json.loads(results.read_text())
    figures = document["figures"]
    assert {figure["benchmark"] for figure in figures} == set(names)
    for figure in figures:
        assert len(figure["values"]) >= 1
        assert all(math.isfinite(value) for value in figure["values"])
        assert f"| {figure['benchmark']}" in ran.stdout
        assert figure["case"] in ran.stdout
    assert any(figure["median"] > 0 for figure in figures)
    assert document["about"]["python"] in ran.stdout


def test_a_benchmark_that_fails_leaves_the_others_their_figures(tmp_path: Path) -> None:
    """Where one benchmark fails, the figures of the others are printed and kept, and the command fails."""
    nothing_stored = tmp_path / "not-a-database"
    nothing_stored.write_bytes(b"x" * 4096)
    results = tmp_path / "results.json"
    command = [sys.executable, "bench/run.py", "parse", "store", "--repetitions", "1", "--scale", "0.01"]
    ran = subprocess.run(
        [*command, "--big", str(nothing_stored), "--json", str(results)],
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.endswith("failed: store\n")
    assert {figure["benchmark"] for figure in json.loads(results.read_text())["figures"]} >= {"parse"}


@valgrind
def test_instructions_are_counted_while_they_are_counted(tmp_path: Path) -> None:
    """A loop of twice the length takes twice the instructions, and none are counted outside of the block."""
    script = f"""
import subprocess, sys
sys.path.insert(0, {str(ROOT / "bench")!r})
import instructions, rig
LOOP = "import sys\\nfor line in sys.stdin:\\n    for _ in range(int(line)): pass\\n    print(flush=True)"
class Loop(rig.Tool):
    def __init__(self):
        rig.Program.__init__(
            self, [*instructions.UNDER, sys.executable, "-S", "-c", LOOP], core=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        )
        self._buffer = b""
    def count(self, turns):
        before = instructions.executed(self)
        self.ask(turns)
        return instructions.executed(self) - before
with Loop() as loop:
    loop.ask(1)
    with instructions.counting(loop):
        loop.ask(10)
        print(loop.count(10_000), loop.count(20_000))
    print(loop.count(10_000))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    assert ran.returncode == 0, ran.stderr
    once, twice, outside = map(int, ran.stdout.split())
    assert once > 100_000
    assert 1.95 < twice / once < 2.05
    assert outside == 0


def test_a_lost_update_fails_the_benchmark(tmp_path: Path) -> None:
    """A client that waits for more than was sent is told how many came, so that the check can fail."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT / "bench")!r})
import rig
rig.build()
with rig.made_messages(4) as made, rig.Limit(made) as limit, rig.Load(limit.port, made, 2) as load:
    load.connect(2)
    sent = limit.play(10, 1000, way="frame", spread="all", clients=2)
    print(sent, load.receive(sent), load.receive(sent + 1, 0.05), int(load.report()["least"]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.stdout.split() == ["20", "20", "20", "10"], ran.stderr
