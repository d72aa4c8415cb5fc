"""Passing on to a node what we cannot answer: within a budget, and with the node's address in no error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from account_socket.errors import RpcError
from account_socket.protocol.solana_jsonrpc import INTERNAL_ERROR, METHOD_NOT_FOUND, RpcFault
from account_socket.server.rest_answers import MAX_ANSWER_BYTES
from account_socket.sources.budget import Leftover
from account_socket.sources.rpc_http import RpcHttp

FORWARD_SECONDS = 15.0
"""Until the node's answer is whole, waiting for a turn included."""
MAX_WAITING = 256
"""How many requests may be on their way at a time."""

_TURNED_AWAY = frozenset({401, 403, 429})
"""Codes of a node that does not serve us (now), whatever we ask: another may."""

_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")

_encode = msgspec.json.Encoder().encode


class Proxy:
    """
    Args:
        rpcs: the nodes, of which the first that can be reached is asked. Their budget for lookups is what is spent,
            behind the lookups of our own.

    Attributes:
        forwarded: how many requests were passed on.
    """

    def __init__(self, rpcs: Sequence[RpcHttp]) -> None:
        self._rpcs = [(rpc, Leftover(rpc.lookups)) for rpc in rpcs]
        self._waiting = 0
        self.forwarded = 0

    async def forward(self, method: str, params: list[Any]) -> bytes:
        """Return the node's result as JSON. Raises RpcFault: its error, or that there is no answer."""
        if not _METHOD.match(method):
            raise RpcFault(METHOD_NOT_FOUND, "Method not found")
        if self._waiting >= MAX_WAITING:
            raise RpcFault(INTERNAL_ERROR, "Internal error: too many requests wait for the node; try again")
        self.forwarded += 1
        self._waiting += 1
        try:
            return await self._ask(method, params)
        finally:
            self._waiting -= 1

    async def _ask(self, method: str, params: list[Any]) -> bytes:
        fault = RpcFault(INTERNAL_ERROR, "Internal error: there is no node to ask")
        for rpc, budget in self._rpcs:
            try:
                # Once: a request that the node may have taken (sendTransaction) is not ours to repeat.
                result = await rpc.call(
                    method,
                    params,
                    budget=budget,
                    deadline=FORWARD_SECONDS / len(self._rpcs),
                    attempts=1,
                    max_bytes=MAX_ANSWER_BYTES,
                )
                return _encode(result)
            except RpcError as error:
                fault = _fault(error)
                if error.said is not None and error.code not in _TURNED_AWAY:
                    break
        raise fault


def _fault(error: RpcError) -> RpcFault:
    if error.said is not None:
        return RpcFault(error.code, error.said, error.data)
    # The error's own text names the node.
    reason = f"HTTP {error.code}" if error.code else "no usable answer"
    return RpcFault(INTERNAL_ERROR, f"Internal error: the node gave {reason}; try again")
