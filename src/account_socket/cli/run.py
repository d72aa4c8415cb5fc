"""`make run`: the server where there is something to read from, else the demo."""

from __future__ import annotations

from account_socket.cli.process import talk
from account_socket.settings import given


def command() -> None:
    """Serve if RPC_URL or GEYSER_URL is set, in the environment or in .env; else run the demo."""
    for name in ("RPC_URL", "GEYSER_URL"):
        if found := given(name):
            talk(f"{name} is set (from {found.origin}): starting account-socket serve")
            from account_socket.cli.serve import serve  # noqa: PLC0415  (one of the two is enough)

            serve({})
            return
    talk("neither RPC_URL nor GEYSER_URL is set in the environment or in .env: starting account-socket demo")
    from account_socket.cli.demo import DEFAULT_RATE, demo  # noqa: PLC0415  (one of the two is enough)

    demo({}, rate=DEFAULT_RATE, accounts=None)
