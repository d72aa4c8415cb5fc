"""JSON-RPC 2.0: which answer each request has."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_socket.protocol.solana_jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, RpcFault, answer, read

NO_METHOD = {"code": -32601, "message": "Method not found"}
INVALID = {"code": -32600, "message": "Invalid request"}
PARSE = {"code": -32700, "message": "Parse error"}


def call(method, params):
    match method:
        case "echo":
            return json.dumps(params).encode()
        case "fail":
            raise RpcFault(INVALID_PARAMS, "no", {"why": 1})
    raise RpcFault(METHOD_NOT_FOUND, "Method not found")


def ask(request):
    text = request if isinstance(request, bytes) else json.dumps(request).encode()
    reply = answer(text, call)
    return None if reply is None else json.loads(reply)


def fault(error, request_id=None):
    return {"jsonrpc": "2.0", "error": error, "id": request_id}


@pytest.mark.parametrize("request_id", [0, 7, 2**64 - 1, "seven", "", None])
def test_result_echoes_the_id(request_id):
    """The id comes back with its type, the params reach the method."""
    request = {"jsonrpc": "2.0", "id": request_id, "method": "echo", "params": [1, "a"]}
    assert ask(request) == {"jsonrpc": "2.0", "result": [1, "a"], "id": request_id}


def test_params_are_optional():
    """No params and null params are an empty list."""
    for extra in ({}, {"params": None}, {"params": []}):
        assert ask({"jsonrpc": "2.0", "id": 1, "method": "echo"} | extra)["result"] == []


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"", fault(PARSE)),
        (b"{", fault(PARSE)),
        (b"nonsense", fault(PARSE)),
        (b'{"a":\xff}', fault(PARSE)),
        (b"[" * 4000, fault(PARSE)),
        (b"5", fault(INVALID)),
        (b'"text"', fault(INVALID)),
        ({}, fault(INVALID)),
        ({"jsonrpc": "2.0", "id": 1}, fault(INVALID, 1)),
        ({"jsonrpc": "2.0", "id": 1, "method": 5}, fault(INVALID, 1)),
        ({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": "x"}, fault(INVALID, 1)),
        ({"jsonrpc": "2.0", "id": -1, "method": "echo"}, fault(INVALID)),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "echo"}, fault(INVALID)),
        ({"jsonrpc": "2.0", "id": True, "method": "echo"}, fault(INVALID)),
        ({"jsonrpc": "2.0", "id": [], "method": "echo"}, fault(INVALID)),
        ({"jsonrpc": "2.0", "id": 1, "method": "other"}, fault(NO_METHOD, 1)),
        (
            {"id": 1, "method": "echo"},
            fault({"code": -32600, "message": "Unsupported JSON-RPC protocol version"}, 1),
        ),
        (
            {"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"a": 1}},
            fault({"code": -32602, "message": "`params` should be an array"}, 1),
        ),
        (
            {"jsonrpc": "2.0", "id": "x", "method": "fail"},
            fault({"code": -32602, "message": "no", "data": {"why": 1}}, "x"),
        ),
    ],
)
def test_faults(request_, expected):
    """Each kind of bad request has its code, its message and the id as far as it is known."""
    assert ask(request_) == expected


@pytest.mark.parametrize("method", ["echo", "ping", "fail"])
def test_notifications_are_not_answered(method):
    """A request without an id gets no answer, not even an error: web3.js sends such pings."""
    assert ask({"jsonrpc": "2.0", "method": method}) is None


def test_batch():
    """A batch is answered by an array in the same order, without its notifications."""
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "echo"},
        {"jsonrpc": "2.0", "method": "echo"},
        5,
        {"jsonrpc": "2.0", "id": 2, "method": "other"},
    ]
    assert ask(batch) == [{"jsonrpc": "2.0", "result": [], "id": 1}, fault(INVALID), fault(NO_METHOD, 2)]


@pytest.mark.parametrize("batch", [[], [{"jsonrpc": "2.0", "method": "echo"}]])
def test_batch_of_nothing(batch):
    """A batch with nothing to answer is not answered."""
    assert ask(batch) is None


@given(st.binary(max_size=100))
def test_any_bytes(text):
    """Whatever arrives, what is sent is JSON."""
    reply = answer(text, call)
    assert reply is None or json.loads(reply)


def test_a_batch_over_the_limit_is_one_error():
    """A batch with more requests than allowed is answered by one error, and asks for nothing."""
    one = {"jsonrpc": "2.0", "id": 1, "method": "x"}
    assert len(read(json.dumps([one] * 3).encode(), max_batch=3).entries) == 3
    message = read(json.dumps([one] * 4).encode(), max_batch=3)
    (reply,) = message.entries
    assert not message.is_batch
    assert json.loads(reply)["error"]["code"] == -32600


def test_a_fault_carries_its_data():
    """A fault's data goes into the answer, whatever JSON it is; none is left out."""
    (request,) = read(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "x"}).encode()).entries
    for data in ([1], "why", {"a": None}):
        assert json.loads(request.refuse(RpcFault(-1, "no", data)))["error"]["data"] == data
    assert "data" not in json.loads(request.refuse(RpcFault(-1, "no")))["error"]
