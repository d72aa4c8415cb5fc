"""Faults of the lines: between server and node, each protocol for itself, and between client and server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from tests.faults.fault import Play, fault
from tests.faults.proxy import Proxy
from tests.faults.stack import Stack

LINES: dict[str, tuple[str, Callable[[Stack], Proxy | None]]] = {
    "PubSub": ("pubsub", lambda stack: stack.parts.proxies[0]),
    "the second PubSub": ("two", lambda stack: stack.parts.proxies[-1]),
    "HTTP": ("http", lambda stack: stack.parts.http),
    "Yellowstone": ("geyser", lambda stack: stack.parts.geyser),
    "a client's line": ("", lambda stack: stack.parts.line),
}
NOTICED = (0.2, 1.8)
"""Seconds of which the longer ones are taken for the node's silence."""


def _stall(proxy: Proxy, _: Stack) -> None:
    proxy.stall()


def _stall_down(proxy: Proxy, _: Stack) -> None:
    proxy.down.stall()


def _stall_up(proxy: Proxy, _: Stack) -> None:
    proxy.up.stall()


def _drop(proxy: Proxy, _: Stack) -> None:
    proxy.drop()


def _refuse(proxy: Proxy, _: Stack) -> None:
    proxy.refusing = True
    proxy.drop()


def _delay(proxy: Proxy, stack: Stack) -> None:
    proxy.up.delay = proxy.down.delay = stack.random.uniform(0.05, 0.3)


def _throttle(proxy: Proxy, stack: Stack) -> None:
    proxy.down.bytes_per_second = stack.random.uniform(5_000, 100_000)


def _truncate(proxy: Proxy, stack: Stack) -> None:
    proxy.down.left = stack.random.randint(1, 5_000)


def _noise_down(proxy: Proxy, _: Stack) -> None:
    proxy.down.noisy = True


def _noise_up(proxy: Proxy, _: Stack) -> None:
    proxy.up.noisy = True


WAYS: dict[str, Callable[[Proxy, Stack], None]] = {
    "drops": _drop,
    "is refused": _refuse,
    "stalls": _stall,
    "stalls downwards": _stall_down,
    "stalls upwards": _stall_up,
    "is slow to answer": _delay,
    "is narrow": _throttle,
    "is cut in the middle": _truncate,
    "turns into noise": _noise_down,
    "turns into noise upwards": _noise_up,
}


def _make(of: Callable[[Stack], Proxy | None], act: Callable[[Proxy, Stack], None]) -> Play:
    async def play(stack: Stack) -> AsyncGenerator[None, None]:
        proxy = of(stack)
        assert proxy is not None
        act(proxy, stack)
        yield
        proxy.clear()

    return play


for _line, (_needs, _of) in LINES.items():
    for _way, _act in WAYS.items():
        fault(f"{_line} {_way}", *filter(None, [_needs]), hold=NOTICED if "stalls" in _way else (0.05, 0.5))(
            _make(_of, _act)
        )


@fault("every line of the node drops")
async def every_line_drops(stack: Stack) -> AsyncGenerator[None, None]:
    """All at once, and all come back together."""
    lines = [*stack.parts.proxies, *filter(None, [stack.parts.http, stack.parts.geyser])]
    for proxy in lines:
        proxy.refusing = True
        proxy.drop()
    yield
    for proxy in lines:
        proxy.clear()


@fault("a client leaves")
async def client_leaves(stack: Stack) -> AsyncGenerator[None, None]:
    """Without a word."""
    stack.steady.leave()
    yield
