"""Faults of the machine in one process: its clock jumps, its disk hangs or is full, names do not resolve."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("libc_faults.c")
HANG = -1


class LibcFaults:
    """
    Attributes:
        env: what a process must be started with to be subject to these.
    """

    def __init__(self, library: Path, control: Path) -> None:
        control.write_bytes(bytes(4096))
        self.env = {"LD_PRELOAD": str(library), "FAULTS": str(control)}
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 4096)

    def set_clock(self, seconds: int) -> None:
        """Have the wall clock tell so many seconds more than it is."""
        struct.pack_into("=q", self._map, 0, seconds)

    def fail_disk(self, error: int) -> None:
        """Have whatever writes to the database fail with this errno, HANG, or 0 for neither."""
        struct.pack_into("=q", self._map, 8, error)

    def fail_dns(self, error: int) -> None:
        """Have getaddrinfo return this error for names under `.test`; 0: they are 127.0.0.1."""
        struct.pack_into("=q", self._map, 16, error)


@pytest.fixture(scope="session")
def libc_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed here; .ci/run installs one")
    library = tmp_path_factory.mktemp("libc") / "faults.so"
    subprocess.run(
        [compiler, "-Wall", "-Werror", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True
    )
    return library


@pytest.fixture
def libc_faults(libc_library: Path, tmp_path: Path) -> Iterator[LibcFaults]:
    """Return a machine that is well so far; it is well again when the test is over."""
    faults = LibcFaults(libc_library, tmp_path / "faults")
    yield faults
    faults.fail_disk(0)
