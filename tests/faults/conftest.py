"""Machines whose parts fail on demand."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.libc_faults import LibcFaults

SOURCE = Path(__file__).with_name("libc_faults.c")


@pytest.fixture(scope="session")
def libc_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library."""
    compiler = shutil.which("cc")
    if compiler is None or not compiles(compiler, "-include", "stdio.h", "-fsyntax-only", "-xc", os.devnull):
        pytest.skip("no C compiler with its headers is installed here; .ci/run installs them")
    library = tmp_path_factory.mktemp("libc") / "faults.so"
    assert compiles(compiler, "-Wall", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl")
    return library


def compiles(*command: str) -> bool:
    """Run a compiler; return whether it was content."""
    return subprocess.run(command, check=False).returncode == 0


@pytest.fixture
def libc_faults(libc_library: Path, tmp_path: Path) -> Iterator[LibcFaults]:
    """Return a machine that is well so far; it is well again when the test is over."""
    faults = LibcFaults(libc_library, tmp_path / "faults")
    yield faults
    faults.fail_disk(0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk))
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs more rights than this user has")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
