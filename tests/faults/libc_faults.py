"""Faults of the machine in one process: its clock jumps, its disk hangs or is full, names do not resolve."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

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

    def jump(self, seconds: int) -> None:
        """Have the wall clock jump."""
        (ahead,) = struct.unpack_from("=q", self._map, 0)
        struct.pack_into("=q", self._map, 0, ahead + seconds)

    def fail_disk(self, error: int) -> None:
        """Have whatever writes to the database fail with this errno, HANG, or 0 for neither."""
        struct.pack_into("=q", self._map, 8, error)

    def fail_dns(self, error: int) -> None:
        """Have getaddrinfo return this error for names under `.test`; 0: they are 127.0.0.1."""
        struct.pack_into("=q", self._map, 16, error)
