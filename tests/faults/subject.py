"""The server under test: in this event loop, or as a process that can be killed."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping

from tests.running import ServerProcess

from account_socket.service import Service
from account_socket.settings import load
from account_socket.upstreams import Timing

TIMING = Timing(
    stall=1.2, open=0.8, backoff_base=0.1, backoff_cap=0.4, restart=0.05, watch=0.05, commit=0.3, settle=0.2
)
"""Impatient, so that a fault is over soon."""


class Subject(ABC):
    """A server; `url` is where its clients connect, "" before the first start."""

    url = ""

    @abstractmethod
    async def start(self) -> None:
        """Start it and wait until its port is open."""

    @abstractmethod
    async def stop(self) -> None:
        """Drain and end it. Idempotent. Raises what it failed by."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether it ended by itself."""

    @property
    def connected(self) -> bool:
        """Whether it hears its nodes, as far as that can be seen."""
        return True


class InLoop(Subject):
    """A server in this event loop."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.service = Service(load(settings, flags_only=True), timing=TIMING)
        self._stop = asyncio.Event()

    async def start(self) -> None:
        await self.service.start()
        self._running = asyncio.ensure_future(self.service.run_until(self._stop))
        self.url = self.service.url

    async def stop(self) -> None:
        self._stop.set()
        if self.url:
            await self._running

    @property
    def ended(self) -> bool:
        return self._running.done()

    @property
    def connected(self) -> bool:
        return all(source.status.connected for source in self.service.sources)


class AsProcess(Subject):
    """A server as a process, not started yet."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self._killed = False

    async def start(self) -> None:
        try:
            await self.process.start()
        except BaseException:
            await self.process.kill()
            raise
        self._killed = False
        self.url = self.process.url

    async def kill(self) -> None:
        """End it as kill -9 does; `start` starts it again."""
        self._killed = True
        await self.process.kill()

    async def stop(self) -> None:
        if self.url and self.process.process.returncode is None:
            code = await self.process.stop()
            assert code == 0, self.process.stderr.decode()[-2000:]

    @property
    def ended(self) -> bool:
        return not self._killed and self.process.process.returncode is not None
