"""
The benchmarks: one table, and the same figures as JSON.

    python bench/run.py [NAME…] [--repetitions N] [--scale X] [--ingest-seconds S] [--json FILE] [--big FILE]

Everything runs on this machine and stops by itself. The server has the first processor, everything else the second;
candidates alternate; a table of a busy machine is worth little. `best` is the least disturbed repetition, targets
are judged by the median.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import rig
import stored
from figures import Options, row, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from figures import Figure

NAMES = (
    "decode",
    "parse",
    "store",
    "ingest",
    "yellowstone",
    "fanout",
    "sparse",
    "crowd",
    "slow",
    "compression",
    "portfolio",
    "stored",
    "known",
    "growth",
    "filters",
)
RESULTS = rig.BUILT / "results.json"
BIG = rig.BUILT / "big.db"
LIBRARIES = ("uvloop", "websockets", "aiohttp", "msgspec", "pybase64", "zstandard", "redis", "hiredis")


def main() -> None:
    arguments = parse()
    rig.build()
    if arguments.make_big:
        make_big()
        return
    rig.raise_file_limit()
    options = Options(
        repetitions=arguments.repetitions,
        scale=arguments.scale,
        ingest_seconds=arguments.ingest_seconds,
        big=arguments.big or (BIG if BIG.exists() and arguments.scale >= 1 else None),
    )
    about = machine()
    for name, value in about.items():
        print(f"{name}: {value}")
    figures, failed = run(arguments.names or NAMES, options)
    print()
    print(table(row(name, figure) for name, figure in figures))
    about["load after"] = f"{os.getloadavg()[0]:.2f}"
    missed = sum(figure.met is False for _, figure in figures)
    judged = sum(figure.met is not None for _, figure in figures)
    print(
        f"\n{judged - missed} of {judged} targets met; load {about['load before']} before, {about['load after']} after"
    )
    save(arguments.json, about, figures)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run(names: Sequence[str], options: Options) -> tuple[list[tuple[str, Figure]], list[str]]:
    """Return the figures of these benchmarks, each with its benchmark's name, and the names of those that failed."""
    figures: list[tuple[str, Figure]] = []
    failed = []
    for name in names:
        started = time.monotonic()
        try:
            figures += ((name, figure) for figure in importlib.import_module(name).measure(options))
        except Exception:  # noqa: BLE001  (the others' figures are worth having)
            traceback.print_exc()
            failed.append(name)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return figures, failed


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*NAMES, []], help=", ".join(NAMES))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: shorter runs and fewer clients")
    parser.add_argument("--ingest-seconds", type=float, default=3.0, help="length of each run at full speed")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    parser.add_argument(
        "--big",
        type=existing,
        help=f"a database of --make-big; by default {BIG.relative_to(rig.ROOT)} if there is one and the scale is 1",
    )
    parser.add_argument("--make-big", action="store_true", help="make a database of 10 million rows, then end")
    return parser.parse_args()


def existing(path: str) -> Path:
    """Return the absolute path of a file. Raises ArgumentTypeError if there is none."""
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    return Path(path).resolve()


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=rig.ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": f"account-socket {version('account-socket')} {commit}".rstrip(),
        "machine": f"{model}, {len(rig.CORES)} processors, Linux {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "python": f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "command": " ".join(["python", "bench/run.py", *sys.argv[1:]]),
    }


def make_big() -> None:
    """Make the database that `stored`, `store` and `growth` use where it exists; takes minutes and 4 GB."""
    making = BIG.with_suffix(".making.db")
    making.unlink(missing_ok=True)
    stored.fill(making, stored.BIG_ACCOUNTS, stored.BIG_ROWS)
    making.rename(BIG)
    print(f"{BIG}: {BIG.stat().st_size / 2**30:.1f} GiB")


def save(path: Path, about: dict[str, str], figures: list[tuple[str, Figure]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "about": about,
        "figures": [
            {
                "benchmark": name,
                "case": figure.case,
                "unit": figure.unit,
                "best": figure.best,
                "median": figure.median,
                "values": list(figure.values),
                "target": figure.target,
                "met": figure.met,
            }
            for name, figure in figures
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"also in {path}")


if __name__ == "__main__":
    main()
