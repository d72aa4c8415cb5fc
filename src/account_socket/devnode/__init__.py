"""A local Solana node for the demo, the tests and the benchmarks."""

from account_socket.devnode.gate import Limits
from account_socket.devnode.node import GENESIS_HASH, Devnode, ListenError, run_devnode
from account_socket.devnode.shipped import shipped_recording

__all__ = ["GENESIS_HASH", "Devnode", "Limits", "ListenError", "run_devnode", "shipped_recording"]
