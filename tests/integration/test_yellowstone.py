"""The Yellowstone source against the local node's real gRPC server: order, replay, gaps, every way a stream ends."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from tests.samples import KEY_B
from tests.waiting import until
from tests.yellowstone import Taker, node_of, running, settled, source_of, write

from account_socket.backoff import Backoff
from account_socket.devnode import Devnode, shipped_recording
from account_socket.devnode.geyser_relay import Relay
from account_socket.errors import SettingsError
from account_socket.model import RawAccount
from account_socket.sources import yellowstone
from account_socket.sources.geyser_node import MAX_MESSAGE_BYTES

RECORDING = shipped_recording()
OPEN_WRITES = [write.account for write in RECORDING.writes if write.account.lamports]


def content(account: RawAccount) -> tuple[object, ...]:
    return account.pubkey, account.slot, account.owner, account.lamports, account.data, account.rent_epoch


async def test_the_corpus_arrives_at_5000_a_second_in_order() -> None:
    """At processed every write of the recording arrives once, as it was, in the order of (slot, write_version)."""
    async with Devnode(RECORDING, rate=5_000, start_on_subscribe=True, geyser_port=0) as node:
        async with running(source_of(node.geyser_url)) as taker:
            await until(lambda: len(taker.accounts) == len(OPEN_WRITES), seconds=20)
    assert [content(account) for account in taker.accounts] == [content(account) for account in OPEN_WRITES]
    places = [(account.slot, account.write_version) for account in taker.accounts]
    assert all(before < after for before, after in pairwise(places))
    assert len({account.signature for account in taker.accounts}) == len(OPEN_WRITES)


async def test_at_confirmed_the_last_write_of_each_slot_arrives() -> None:
    """At confirmed a slot comes whole when it is confirmed: of each account its last write."""
    # What closes an account is not the program's, so that its slot ends with the write before it.
    last = {(account.slot, account.pubkey): account for account in [each.account for each in RECORDING.writes]}
    wanted = {content(account) for account in last.values() if account.lamports}
    async with Devnode(RECORDING, rate=5_000, start_on_subscribe=True, geyser_port=0) as node:
        async with running(source_of(node.geyser_url, commitment="confirmed")) as taker:
            await until(lambda: len(taker.accounts) >= len(wanted), seconds=20)
    assert {content(account) for account in taker.accounts} == wanted
    assert len(taker.accounts) == len(wanted)
    slots = [account.slot for account in taker.accounts]
    assert slots == sorted(slots)


@pytest.mark.parametrize("commitment", ["processed", "confirmed"])
async def test_what_was_missed_is_replayed_without_a_gap(commitment: str) -> None:
    """After a connection was cut, what was written meanwhile arrives, nothing twice, and no gap is told."""
    async with node_of() as node:
        async with running(source_of(node.geyser_url, commitment=commitment)) as taker:
            await settled(taker)
            node.advance_slots(3)
            for number in range(3):
                write(node, b"before %d" % number)
            node.advance_slots(2)
            await until(lambda: len(taker.accounts) == 3)
            node.refuse()
            node.drop_connections()
            for number in range(20):
                write(node, b"missed %d" % number, KEY_B)
            node.advance_slots(3)
            node.refuse(False)
            await until(lambda: len(taker.accounts) >= 23)
            write(node, b"after")
            node.advance_slots(3)
            await until(lambda: b"after" in taker.data)
    assert taker.data == [b"before %d" % n for n in range(3)] + [b"missed %d" % n for n in range(20)] + [b"after"]
    assert len(taker.gaps) == 1, "only the one of the first connection"


async def test_a_slot_that_was_cut_in_the_middle_ends_with_its_last_write() -> None:
    """The writes of a slot seen before the cut come once, and those after it come too."""
    async with node_of() as node:
        async with running(source_of(node.geyser_url)) as taker:
            await settled(taker)
            slot = write(node, b"1").slot
            write(node, b"2", slot=slot)
            await until(lambda: len(taker.accounts) == 2)
            node.drop_connections()
            write(node, b"3", slot=slot)
            node.advance_slots(2)
            await until(lambda: len(taker.accounts) == 3)
            write(node, b"4")
            await until(lambda: len(taker.accounts) == 4)
    assert taker.data == [b"1", b"2", b"3", b"4"]
    assert len(taker.gaps) == 1


@pytest.mark.parametrize("unary", [True, False], ids=["asked before", "told by the stream"])
@pytest.mark.parametrize(
    ("replay_slots", "refusal"),
    [(4, "OUT_OF_RANGE: broadcast from "), (0, "INTERNAL: from_slot is not supported")],
    ids=["beyond the window", "replay disabled"],
)
async def test_what_cannot_be_replayed_is_a_gap(replay_slots: int, refusal: str, unary: bool) -> None:
    """Beyond the replay window, or without one, streaming goes on and the span is told, with its reason."""
    async with node_of(replay_slots=replay_slots) as node:
        node.geyser.unary = unary
        async with running(source_of(node.geyser_url, commitment="confirmed")) as taker:
            await settled(taker)
            known = write(node, b"1").slot
            node.advance_slots(2)
            await until(lambda: taker.accounts)
            node.refuse()
            node.drop_connections()
            for _ in range(20):
                write(node, b"lost")
            node.advance_slots(3)
            node.refuse(False)
            await until(lambda: node.geyser.streams)
            await until(lambda: node.advance_slots(1) or len(taker.gaps) == 2, seconds=10)
            write(node, b"2")
            node.advance_slots(2)
            await until(lambda: b"2" in taker.data)
    gap = taker.gaps[1]
    assert gap.from_slot is not None
    assert known <= gap.from_slot < gap.to_slot
    assert gap.reason.startswith(refusal) is not unary
    assert gap.to_slot <= taker.accounts[-1].slot


@pytest.mark.fault
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("INTERNAL", "lagged to receive geyser messages"),
        ("INTERNAL", "lagged to send an update"),
        ("UNAVAILABLE", "server is shutting down try again later"),
        ("INTERNAL", "failed to get replay response"),
        ("RESOURCE_EXHAUSTED", "rate limit exceeded"),
        ("UNKNOWN", "h2 protocol error"),
        ("OK", ""),
    ],
)
async def test_every_end_of_a_stream_is_survived(code: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a node ends a stream, what follows arrives, and what was missed is replayed or told."""
    monkeypatch.setattr(yellowstone, "LATER_SECONDS", 0.5)
    async with node_of() as node:
        async with running(source_of(node.geyser_url)) as taker:
            await settled(taker)
            write(node, b"1")
            await until(lambda: taker.accounts)
            if code == "OK":
                await node.geyser.restart()
            else:
                node.geyser.fail(code, text)
            write(node, b"2")
            node.advance_slots(2)
            await until(lambda: node.advance_slots(1) or b"2" in taker.data or len(taker.gaps) == 2, seconds=10)
            write(node, b"3")
            await until(lambda: b"3" in taker.data, seconds=10)
    assert taker.data[0] == b"1"
    assert taker.data.count(b"2") == (0 if "replay" in text else 1)
    assert len(taker.gaps) == (2 if "replay" in text else 1)


@pytest.mark.fault
async def test_a_restart_with_goaway_loses_nothing() -> None:
    """A node that says goodbye before it ends the streams is left and found again."""
    async with node_of() as node:
        source = source_of(node.geyser_url)
        async with running(source) as taker:
            await settled(taker)
            restart = asyncio.create_task(node.geyser.restart(grace=0.3))
            for number in range(10):
                write(node, b"%d" % number)
                await asyncio.sleep(0.05)
            await restart
            node.advance_slots(2)
            await until(lambda: len(taker.accounts) == 10)
    assert taker.data == [b"%d" % number for number in range(10)]
    assert len(taker.gaps) == 1
    assert source.status.reconnects >= 1


@pytest.mark.fault
async def test_silence_is_noticed_and_ended() -> None:
    """A node that keeps TCP open and says nothing is left after stale_slot_seconds, and what it held arrives."""
    async with node_of() as node:
        source = source_of(node.geyser_url, stale_slot_seconds=1.0, open_seconds=0.5)
        async with running(source) as taker:
            await settled(taker)
            node.silence()
            write(node, b"held")
            await until(lambda: "no slot for 1 s" in source.status.last_error, seconds=10)
            assert not source.status.connected
            node.silence(False)
            node.advance_slots(2)
            await until(lambda: taker.data == [b"held"], seconds=10)
            await until(lambda: source.status.connected)


@pytest.mark.fault
async def test_a_slow_taker_holds_the_node_back_and_loses_nothing() -> None:
    """While `deliver` is blocked reading stops without being taken for silence; then everything arrives."""
    async with node_of() as node:
        source = source_of(node.geyser_url, stale_slot_seconds=0.5)
        async with running(source) as taker:
            await settled(taker)
            taker.gate.clear()
            for number in range(5_000):
                write(node, b"%d" % number + bytes(1_000))
            await asyncio.sleep(1.5)
            assert len(taker.accounts) < 5_000
            taker.gate.set()
            await until(lambda: len(taker.accounts) == 5_000, seconds=20)
        assert source.status.reconnects == 0
    assert [account.data.rstrip(b"\0") for account in taker.accounts] == [b"%d" % number for number in range(5_000)]


@pytest.mark.fault
async def test_a_client_that_lagged_is_cut_off_and_replays() -> None:
    """A node whose queue for us is full ends the stream; replay brings the last state of every slot."""
    async with node_of(capacity=500) as node:
        source = source_of(node.geyser_url)
        async with running(source) as taker:
            await settled(taker)
            taker.gate.clear()
            for number in range(8_000):
                write(node, b"%d" % number + bytes(4_000), slot=0 if number % 500 == 0 else node._ledger.tip_slot)
            await until(lambda: len(next(iter(node.geyser._streams)).queue) == 500)
            taker.gate.set()
            await until(lambda: "lagged" in source.status.last_error, seconds=20)
            node.advance_slots(2)
            await until(lambda: taker.accounts[-1].data.startswith(b"7999"), seconds=20)
    places = [(account.slot, account.write_version) for account in taker.accounts]
    assert places == sorted(places)
    assert len(set(places)) == len(places)


async def test_an_account_of_10_megabytes_arrives() -> None:
    """The largest account of Solana passes grpcio's limits."""
    data = bytes(range(256)) * (10 * 1024 * 4)
    async with node_of() as node, running(source_of(node.geyser_url)) as taker:
        await settled(taker)
        write(node, data)
        await until(lambda: taker.accounts, seconds=20)
        assert taker.accounts[0].data == data


@pytest.mark.fault
async def test_a_message_beyond_the_limit_is_a_gap() -> None:
    """A message that no account needs ends the stream once; the next one begins behind it, and says so."""
    async with node_of() as node:
        source = source_of(node.geyser_url)
        async with running(source) as taker:
            await settled(taker)
            node.geyser.say(bytes(MAX_MESSAGE_BYTES + 1))
            await until(lambda: node.advance_slots(1) or len(taker.gaps) == 2, seconds=20)
            write(node, b"after")
            await until(lambda: taker.data == [b"after"], seconds=10)
    assert "larger than max" in taker.gaps[1].reason
    assert source.status.reconnects == 1


async def test_a_replayed_stream_says_that_nothing_was_missed() -> None:
    """After a cut that replay made good the source tells that it is back, once, and no gap."""
    async with node_of() as node:
        source = source_of(node.geyser_url)
        back: list[str] = []
        source.on_resumed = back.append
        async with running(source) as taker:
            await settled(taker)
            assert back == []
            node.drop_connections()
            write(node, b"meanwhile")
            await until(lambda: node.advance_slots(1) or back, seconds=10)
            await until(lambda: taker.data == [b"meanwhile"])
            assert back == ["geyser"]
    assert len(taker.gaps) == 1


async def test_gzip_can_be_asked_for() -> None:
    """With compression allowed the same states arrive."""
    async with node_of() as node, running(source_of(node.geyser_url, compression=True)) as taker:
        await settled(taker)
        write(node, bytes(50_000))
        await until(lambda: taker.data == [bytes(50_000)])


# ---- what the node refuses ---------------------------------------------------------------------------------


async def test_a_rejected_token_stops_with_a_clear_message() -> None:
    """A token that the node does not know ends the source with a SettingsError that hints at it, without the token."""
    async with node_of(token="right-token") as node:
        with pytest.raises(SettingsError) as refused:
            await asyncio.wait_for(source_of(node.geyser_url, token="wrong-token").run(Taker().deliver), 10)
        assert "No valid auth token" in str(refused.value)
        assert "GEYSER_X_TOKEN" in refused.value.hint
        assert "wrong-token" not in str(refused.value)
        async with running(source_of(node.geyser_url, token="right-token")) as taker:
            await settled(taker)


async def test_a_token_that_is_rejected_later_does_not_stop() -> None:
    """A node that was content before is asked again, not often: tokens are renewed, and balancers err."""
    async with node_of(token="a-token-of-ours") as node:
        source = source_of(node.geyser_url, token="a-token-of-ours")
        async with running(source) as taker:
            await settled(taker)
            await until(lambda: node.advance_slots(1) or source.status.tip_slot)
            node.geyser.token = "another"
            node.drop_connections()
            await until(lambda: "UNAUTHENTICATED" in source.status.last_error)


async def test_what_is_no_yellowstone_stops() -> None:
    """A gRPC server without Geyser, and filters that are refused, are settings to correct."""
    async with node_of(max_accounts=0) as node:
        source = source_of(node.geyser_url, programs=["no key"])
        with pytest.raises(SettingsError, match="failed to create filter"):
            await asyncio.wait_for(source.run(Taker().deliver), 10)


@pytest.mark.fault
async def test_nobody_there_is_tried_again() -> None:
    """A refused connection names the endpoint's fault and goes on trying until somebody answers."""
    async with node_of() as node:
        node.refuse()
        source = source_of(node.geyser_url, open_seconds=0.5)
        async with running(source) as taker:
            await until(lambda: source.status.reconnects > 1)
            assert source.status.last_error
            node.refuse(False)
            await settled(taker)


async def test_after_a_long_break_the_slot_in_the_making_comes_whole() -> None:
    """Neither replay nor stream brings its first writes, however many slots were missed: they are asked for."""
    async with node_of() as node:

        def stands_still() -> bool:
            node._announced_at = time.monotonic()  # no slot begins by itself
            return bool(node.geyser.feed.subscribers)

        async with running(source_of(node.geyser_url)) as taker:
            await settled(taker)
            write(node, b"1")
            node.advance_slots(1)
            await until(lambda: taker.accounts)
            node.refuse()
            node.drop_connections()
            await until(lambda: not node.geyser.streams)
            node.advance_slots(40)
            making = write(node, b"2", KEY_B).slot
            node.refuse(False)
            await until(stands_still)
            write(node, b"3", slot=making)
            await until(lambda: node.advance_slots(1) or {b"2", b"3"} <= set(taker.data))
    assert len(taker.gaps) == 1


@pytest.mark.fault
async def test_a_node_that_was_away_for_many_tries_is_asked_to_replay() -> None:
    """Refused connections say nothing against replay: what was written meanwhile comes without a gap."""
    async with node_of() as node:
        source = source_of(node.geyser_url, backoff=Backoff(0.01, 0.02))
        async with running(source) as taker:
            await settled(taker)
            node.refuse()
            node.drop_connections()
            write(node, b"missed")
            node.advance_slots(2)
            before = source.status.reconnects
            await until(lambda: source.status.reconnects > before + 5)
            node.refuse(False)
            await until(lambda: node.advance_slots(1) or taker.data == [b"missed"])
    assert len(taker.gaps) == 1


@pytest.mark.fault
async def test_a_stream_that_was_given_up_here_is_opened_anew() -> None:
    """gRPC tells the reader of a call that was cancelled beside it as if the reader were cancelled: it is not."""
    async with node_of() as node:
        source = source_of(node.geyser_url)
        async with running(source) as taker:
            await settled(taker)
            assert source._connection is not None
            source._connection._call.cancel()
            await until(lambda: source.status.reconnects)
            write(node, b"after")
            node.advance_slots(2)
            await until(lambda: taker.data == [b"after"])


# ---- TLS ---------------------------------------------------------------------------------------------------


def self_signed(directory: Path) -> tuple[Path, Path]:
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    try:
        subprocess.run(
            [*command, *subject, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return key, certificate


async def test_tls_with_the_systems_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With https the certificate is checked against the system's roots: one of them is taken, another refused."""
    key, certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    async with node_of() as node:
        front = Relay(("127.0.0.1", node.geyser.port))
        await front.start("127.0.0.1", 0, tls=context)
        url = f"https://localhost:{front.port}"
        stranger = source_of(url, open_seconds=1.0)
        async with running(stranger):
            await until(lambda: stranger.status.last_error, seconds=10)
            assert not stranger.status.connected
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with running(source_of(url)) as taker:
            await settled(taker)
            write(node, b"a")
            await until(lambda: taker.data == [b"a"])
        await front.stop()
