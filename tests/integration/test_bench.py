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
IN_PROCESS = ("decode", "parse", "store")
WITH_SERVER = ("ingest", "yellowstone", "fanout", "sparse", "crowd", "slow", "compression", "portfolio", "stored")

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.mark.parametrize("names", [IN_PROCESS, *zip(WITH_SERVER, strict=True)], ids="+".join)
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
