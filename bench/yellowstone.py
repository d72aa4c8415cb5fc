"""
Yellowstone: from the node's gRPC stream to committed and sent, beside what grpcio alone takes.

The node sends as fast as HTTP/2 takes it. In one run and alternating: a client that only reads the stream (`bare`),
one that has protobuf parse it too, our datasource alone, and the whole server with one client that is subscribed to
every account. All of them have the first processor, the node the second.

Then PubSub and Yellowstone side by side: two servers, the same writes of one local node, each to its own client.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ingest
import rig
from figures import Figure, Options, Series

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from messages import Messages

ACCOUNTS = 1_000
TARGET = 10_000
LATENCY_RATE, LATENCY_SECONDS = 1_000, 2.5
READERS = {
    "default": "grpcio alone, as it comes",
    "bare": "grpcio alone",
    "parsed": "grpcio and protobuf alone",
    "source": "our datasource alone",
}
ALONE_SECONDS = 2.0
TWIN_RATE = 500
MIB = 2**20
MEMORY = 400.0
"""Of the server, in MiB, however long it goes on: the queue to the database may hold 128 of them."""


class Script(rig.Tool):
    """A program of bench in Python: one line in, one line out."""

    def __init__(self, name: str, *arguments: object, core: int, environment: Mapping[str, str] = rig.NOTHING) -> None:
        command = [sys.executable, str(Path(__file__).parent / f"{name}.py"), *map(str, arguments)]
        rig.Program.__init__(
            self,
            command,
            core=core,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._buffer = b""


class Feeder(Script):
    """The node (bench/geyser_feeder.py); with the methods of `rig.Feeder`."""

    def __init__(self, made: Messages) -> None:
        super().__init__("geyser_feeder", made.base64, core=1)
        self.port = int(self.hear().split()[1])

    def start(self, count: int = 0, rate: int = 0) -> None:
        """Begin to send `count` updates (0: until `stop`) at `rate` a second (0: as HTTP/2 takes them)."""
        self.tell("go", count, rate)

    def finish(self) -> tuple[int, float]:
        """Wait for the end; return how many were sent and the seconds it took."""
        _, sent, took, _ = self.hear().split()
        return int(sent), int(took) / 1e9

    def stop(self) -> tuple[int, float]:
        """End a run without an end; as `finish`."""
        self.tell("stop")
        return self.finish()

    def play(self, count: int, rate: int, burst: int = 1) -> tuple[int, float]:  # noqa: ARG002  (as rig.Feeder)
        """Begin and wait for the end."""
        self.start(count, rate)
        return self.finish()


def measure(options: Options) -> Iterator[Figure]:
    with rig.made_messages(options.many(ACCOUNTS)) as made:
        yield from measure_server(made, options)
        yield from measure_side_by_side(made, options)


def measure_server(made: Messages, options: Options) -> Iterator[Figure]:
    """Measure the whole server, and in turn with it each reader."""
    found, resident = Series(), []
    with (
        serving(made) as (server, feeder),
        Feeder(made) as other,
        rig.Load(server.port, made, 1) as load,
    ):
        load.connect(1)
        load.subscribe(range(1), 0, made.accounts)
        parts: Any = (server, feeder, load)
        for _ in range(options.repetitions):
            ingest.latency(parts, LATENCY_RATE, options.seconds(LATENCY_SECONDS), found)
        for _ in range(options.repetitions):
            for way in READERS:
                rate, cpu = read_alone(way, other, min(ALONE_SECONDS, options.seconds(options.ingest_seconds)))
                found.add(way, rate)
                found.add(f"{way} cpu", cpu)
            ingest.full_speed(parts, options.seconds(options.ingest_seconds), found, 1)
            resident.append(server.resident_bytes / MIB)
    yield Figure("whole server: updates", "/s", found["rate"], TARGET, ">=")
    yield Figure("whole server: server CPU an update", "µs", found["cpu"])
    yield Figure("whole server: updates a commit", "", found["group"], judge=">=")
    yield Figure("whole server: resident memory", "MiB", resident, MEMORY)
    for part in ingest.PARTS:
        yield Figure(f"whole server: latency at {LATENCY_RATE:,}/s, {part}", "ms", found[f"{LATENCY_RATE} {part}"])
    for way, case in READERS.items():
        yield Figure(f"{case}: updates", "/s", found[way], judge=">=")
        yield Figure(f"{case}: CPU an update", "µs", found[f"{way} cpu"])
        yield Figure(f"whole server: ratio to {case}", "", found.ratio("rate", way), judge=">=")


@contextmanager
def serving(made: Messages) -> Iterator[tuple[rig.Server, Feeder]]:
    """Run a feeder and a server that has nothing else upstream."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        Feeder(made) as feeder,
        rig.Server(Path(directory), feeder.port, upstream(geyser=feeder.port)) as server,
    ):
        if feeder.hear(rig.START_SECONDS) != "subscribed":
            raise RuntimeError("the server did not subscribe")
        rig.bring_states(server, feeder, made)
        server.quiet()
        yield server, feeder


def upstream(*, pubsub: int | None = None, geyser: int | None = None) -> dict[str, str]:
    """Return the settings of a server with these ports upstream."""
    return {
        "COMMITMENT": "processed",
        "RPC_URL": f"ws://127.0.0.1:{pubsub}" if pubsub else "",
        "RPC_HTTP_URL": f"http://127.0.0.1:{pubsub}" if pubsub else "",
        "GEYSER_URL": f"http://127.0.0.1:{geyser}" if geyser else "",
    }


def read_alone(way: str, feeder: Feeder, seconds: float) -> tuple[float, float]:
    """Return the updates a second, and µs of CPU an update, of a reader by itself."""
    as_it_comes = way == "default"
    environment = {"GRPC_EXPERIMENTS": ""} if as_it_comes else rig.NOTHING  # see account_socket/sources/__init__.py
    script = "bare" if as_it_comes else way
    with Script("geyser_reader", feeder.port, script, core=0, environment=environment) as reader:
        if feeder.hear(rig.START_SECONDS) != "subscribed":
            raise RuntimeError("the reader did not subscribe")
        reader.quiet()
        cpu, started = reader.cpu_seconds, time.monotonic()
        feeder.start()
        time.sleep(seconds)
        sent, _ = feeder.stop()
        while int(reader.ask("count")[0]) < sent:
            time.sleep(0.005)
        elapsed = time.monotonic() - started
        return sent / elapsed, (reader.cpu_seconds - cpu) / sent * 1e6


def measure_side_by_side(made: Messages, options: Options) -> Iterator[Figure]:
    """Measure the latency of both upstreams, from the same writes."""
    found = Series()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        node = stack.enter_context(Script("twin_node", made.base64, core=1))
        pubsub, geyser = map(int, node.hear().split()[1:])
        loads = {}
        for name, port, env in (
            ("PubSub", pubsub, upstream(pubsub=pubsub)),
            ("Yellowstone", geyser, upstream(geyser=geyser)),
        ):
            server = stack.enter_context(rig.Server(directory, port, env))
            loads[name] = stack.enter_context(rig.Load(server.port, made, 1))
            loads[name].connect(1)
            loads[name].subscribe(range(1), 0, made.accounts)
        await_first_write(node, list(loads.values()))
        for _ in range(options.repetitions):
            write_side_by_side(node, loads, options.many(round(TWIN_RATE * LATENCY_SECONDS), 100), found)
    for name in loads:
        for part in ingest.PARTS:
            yield Figure(f"side by side at {TWIN_RATE}/s: {name}, {part}", "ms", found[f"{name} {part}"])


def await_first_write(node: Script, loads: list[rig.Load]) -> None:
    """Write until every server streams."""
    until = time.monotonic() + rig.START_SECONDS
    while not all(load.receive(1, 0.2) for load in loads):
        if time.monotonic() > until:
            raise RuntimeError("a server does not stream")
        node.ask("go", 1, TWIN_RATE)


def write_side_by_side(node: Script, loads: Mapping[str, rig.Load], count: int, found: Series) -> None:
    """Have `count` writes made; keep how late they came."""
    for load in loads.values():
        load.reset()
    node.ask("go", count, TWIN_RATE)
    for name, load in loads.items():
        received = load.receive(count)
        report = load.report()
        assert received == count == report["live"], f"{name}: {received} of {count} updates were received"
        assert not report["backwards"]
        for part in ingest.PARTS:
            found.add(f"{name} {part}", report[f"{part.replace('.', '')}_us"] / 1000)
