from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.geyser_messages import messages
from tests.samples import KEY_A, KEY_B, PROGRAM

from account_socket.model import MAX_I64, RawAccount
from account_socket.sources import geyser
from account_socket.sources.geyser import OddUpdateError, Ping, SlotUpdate, Then, UpdateReader
from account_socket.sources.geyser_proto import geyser_pb2 as pb

TESTS = Path(__file__).parents[2]
GOLDEN = TESTS / "data" / "geyser_golden.json"
STUBS = ("yellowstone-fumarole-client==0.3.5", "yellowstone_fumarole_proto.geyser_pb2")


def test_our_messages_are_yellowstones_byte_for_byte() -> None:
    """Each message is encoded as Yellowstone's own stubs encoded it."""
    assert messages(pb) == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    ("message", "encoded"),
    [
        (pb.SubscribeUpdate(ping={}), "3200"),
        (pb.SubscribeUpdate(pong={"id": 77}), "4a02084d"),
        (pb.SubscribeRequest(commitment=pb.CONFIRMED), "3001"),
    ],
)
def test_known_bytes(message: pb.SubscribeUpdate, encoded: str) -> None:
    """Three messages whose bytes are published."""
    assert message.SerializeToString().hex() == encoded


def test_stubs_of_others_agree(tmp_path: Path) -> None:
    """The stubs inside a maintained package, in a process of their own, encode the same bytes."""
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    found = subprocess.run(
        [*download, "--ignore-requires-python", "--retries", "0", "--dest", str(tmp_path), STUBS[0]],
        check=False,
        capture_output=True,
    )
    if found.returncode:
        pytest.skip("the package with the stubs cannot be downloaded here")
    (wheel,) = tmp_path.glob("*.whl")
    program = [sys.executable, str(TESTS / "geyser_messages.py"), str(wheel), STUBS[1]]
    theirs = subprocess.run(program, check=True, capture_output=True, timeout=30).stdout
    assert json.loads(theirs) == messages(pb)


def test_generated_code_is_the_protos(tmp_path: Path) -> None:
    """`make proto` gives exactly the code that is committed."""
    pytest.importorskip("grpc_tools")
    source = TESTS.parent / "src"
    proto = "account_socket/sources/geyser_proto/geyser.proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source}", f"--python_out={tmp_path}"]
    subprocess.run([*command, f"--pyi_out={tmp_path}", str(source / proto)], check=True, timeout=30)
    for name in ("geyser_pb2.py", "geyser_pb2.pyi"):
        committed = (source / proto).with_name(name).read_text()
        assert (tmp_path / proto).with_name(name).read_text() == committed


# ---- what an update says -----------------------------------------------------------------------------------


def key(text: str) -> bytes:
    from solders.pubkey import Pubkey

    return bytes(Pubkey.from_string(text))


def account_update(**more: object) -> bytes:
    info = {
        "pubkey": key(KEY_A),
        "owner": key(PROGRAM),
        "lamports": 5,
        "rent_epoch": 2**64 - 1,
        "data": b"data",
        "write_version": 3,
        "executable": True,
        **more,
    }
    slot = info.pop("slot", 7)
    startup = info.pop("is_startup", False)
    return pb.SubscribeUpdate(account={"account": info, "slot": slot, "is_startup": startup}).SerializeToString()


def test_an_account_update_is_a_raw_account() -> None:
    """Every field arrives; the signature as base58."""
    signature = "5" * 87
    (account,) = [UpdateReader("geyser").read(account_update(txn_signature=b"\1" * 64), 1.5)]
    assert isinstance(account, RawAccount)
    assert len(account.signature) in range(80, 89)
    assert account.signature != signature
    assert account == RawAccount(
        KEY_A, 7, PROGRAM, 5, b"data", True, 2**64 - 1, 3, "geyser", received_at=1.5, signature=account.signature
    )


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"pubkey": b""}, "bad_pubkey"),
        ({"pubkey": b"\1" * 33}, "bad_pubkey"),
        ({"owner": b"\1" * 31}, "bad_owner"),
        ({"slot": 2**63}, "bad_slot"),
        ({"lamports": 2**63}, "bad_lamports"),
        ({"write_version": 2**64 - 1}, "bad_write_version"),
        ({"data": bytes(geyser.MAX_DATA_BYTES + 1)}, "data_oversize"),
    ],
)
def test_what_a_database_could_not_keep_is_odd(fields: dict[str, object], kind: str) -> None:
    """Keys that are no keys, numbers beyond a database's and oversized data are refused, each by its kind."""
    with pytest.raises(OddUpdateError) as odd:
        UpdateReader("geyser").read(account_update(**fields), 0.0)
    assert odd.value.kind == kind


def test_a_startup_account_has_no_place_inside_its_slot() -> None:
    """The write_versions of a snapshot mean nothing."""
    account = UpdateReader("geyser").read(account_update(is_startup=True, slot=MAX_I64), 0.0)
    assert isinstance(account, RawAccount)
    assert (account.slot, account.write_version, account.signature) == (MAX_I64, 0, "")


def test_other_updates() -> None:
    """Slots, pings and pongs are told apart; a kind that was not asked for is None."""
    reader = UpdateReader("geyser")
    slot = pb.SubscribeUpdate(slot={"slot": 4, "parent": 0, "status": pb.SLOT_DEAD})
    assert reader.read(slot.SerializeToString(), 0.0) == SlotUpdate(4, 0, pb.SLOT_DEAD)
    slot = pb.SubscribeUpdate(slot={"slot": 4})
    assert reader.read(slot.SerializeToString(), 0.0) == SlotUpdate(4, None, pb.SLOT_PROCESSED)
    assert reader.read(bytes.fromhex("3200"), 0.0) == Ping(asks=True)
    assert reader.read(bytes.fromhex("4a02084d"), 0.0) == Ping(asks=False)
    assert reader.read(b"", 0.0) is None
    assert reader.read(bytes.fromhex("3a00"), 0.0) is None  # block_meta


def mutated(at: int, patch: bytes) -> bytes:
    message = bytearray(account_update(txn_signature=b"\1" * 64))
    message[at : at + len(patch)] = patch
    return bytes(message)


@given(st.binary(max_size=200) | st.builds(mutated, st.integers(0, 400), st.binary(min_size=1)))
def test_any_bytes_are_an_update_or_odd(message: bytes) -> None:
    """Whatever arrives, the reader returns one of its values or raises OddUpdateError."""
    try:
        update = UpdateReader("geyser").read(message, 0.0)
    except OddUpdateError:
        return
    assert update is None or isinstance(update, RawAccount | SlotUpdate | Ping)
    if isinstance(update, RawAccount):
        assert 0 <= update.slot <= MAX_I64
        assert 0 <= update.lamports <= MAX_I64
        assert len(update.pubkey) in range(32, 45)


# ---- what to ask for ---------------------------------------------------------------------------------------


def test_the_request_carries_every_filter() -> None:
    """Owners, watched accounts, slots with what becomes of them, commitment and from_slot go in one request."""
    request = pb.SubscribeRequest.FromString(geyser.subscribe_request([PROGRAM], [KEY_A, KEY_B], "processed", 99))
    assert list(request.accounts["programs"].owner) == [PROGRAM]
    assert list(request.accounts["watched"].account) == [KEY_A, KEY_B]
    assert request.slots["slots"].interslot_updates
    assert (request.commitment, request.from_slot) == (pb.PROCESSED, 99)
    bare = pb.SubscribeRequest.FromString(geyser.subscribe_request([PROGRAM], [], "finalized"))
    assert set(bare.accounts) == {"programs"}, "an account filter without accounts would ask for all accounts"
    assert not bare.HasField("from_slot")
    assert bare.HasField("commitment")


def test_unary_answers() -> None:
    """Answers of unary methods are read, nonsense in them is nothing."""
    assert geyser.read_slot(pb.GetSlotResponse(slot=5).SerializeToString()) == 5
    assert geyser.read_slot(pb.GetSlotResponse(slot=2**64 - 1).SerializeToString()) is None
    assert geyser.read_slot(b"\xff") is None
    info = pb.SubscribeReplayInfoResponse
    assert geyser.read_first_available(info(first_available=3).SerializeToString()) == 3
    assert geyser.read_first_available(info().SerializeToString()) is None
    assert geyser.read_first_available(info(first_available=2**64 - 1).SerializeToString()) is None
    version = '{"version":{"package":"yellowstone-grpc-geyser","version":"15.1.2"},"extra":{}}'
    assert geyser.read_version(pb.GetVersionResponse(version=version).SerializeToString()) == "15.1.2"
    assert geyser.read_version(pb.GetVersionResponse(version="x").SerializeToString()) == "x"
    assert geyser.read_version(pb.GetVersionResponse(version="[1]").SerializeToString()) == "[1]"


@pytest.mark.parametrize(
    ("code", "details", "then"),
    [
        ("OK", "", Then.RETRY),
        ("INTERNAL", "lagged to receive geyser messages", Then.RETRY),
        ("INTERNAL", "lagged to send an update", Then.RETRY),
        ("UNAVAILABLE", "server is shutting down try again later", Then.RETRY),
        ("OUT_OF_RANGE", "broadcast from 5 is not available, last available: 9", Then.WITHOUT_REPLAY),
        ("INTERNAL", "replay from 5 is not available", Then.WITHOUT_REPLAY),
        ("INTERNAL", "from_slot is not supported", Then.WITHOUT_REPLAY),
        ("INTERNAL", "failed to get replay response", Then.WITHOUT_REPLAY),
        ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (9 vs. 8)", Then.WITHOUT_REPLAY),
        ("RESOURCE_EXHAUSTED", "max subscription limit exceeded", Then.RETRY_LATER),
        ("RESOURCE_EXHAUSTED", "rate limit exceeded", Then.RETRY_LATER),
        ("INVALID_ARGUMENT", "failed to create filter: Max amount of filters reached", Then.NARROW),
        ("UNAUTHENTICATED", "No valid auth token", Then.STOP),
        ("PERMISSION_DENIED", "", Then.STOP),
        ("UNIMPLEMENTED", "", Then.STOP),
    ],
)
def test_every_end_of_a_stream_has_its_consequence(code: str, details: str, then: Then) -> None:
    """The errors that end streams are told apart by what helps."""
    assert geyser.after(code, details) is then
