"""The Yellowstone source against the local node's real gRPC server: order, replay, gaps, every way a stream ends."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.samples import KEY_A, KEY_B, PROGRAM
from tests.waiting import until
from tests.yellowstone import Taker, running, source_of

from account_socket.backoff import Backoff
from account_socket.devnode import Devnode, shipped_recording
from account_socket.devnode.geyser_relay import Relay
from account_socket.errors import SettingsError
from account_socket.model import SYSTEM_PROGRAM, Gap, RawAccount
from account_socket.sources.recording import Recording

RECORDING = shipped_recording()
OPEN_WRITES = [write.account for write in RECORDING.writes if write.account.lamports]


@asynccontextmanager
async def node_of(**more: Any) -> AsyncIterator[Devnode]:
    """Run a node on which only the test writes."""
    empty = Recording(RECORDING.header, [])
    async with Devnode(empty, geyser_port=0, geyser=more) as node:
        node.advance_slots(5)
        yield node


def write(node: Devnode, data: bytes, pubkey: str = KEY_A, slot: int = 0) -> RawAccount:
    return node.write(RawAccount(pubkey, slot, PROGRAM, 1, data))


async def settled(taker: Taker) -> None:
    """Return once the first slot came whole: from then on nothing is missed."""
    await until(lambda: taker.gaps)


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
@pytest.mark.parametrize("replay_slots", [4, 0], ids=["beyond the window", "replay disabled"])
async def test_what_cannot_be_replayed_is_a_gap(replay_slots: int, unary: bool) -> None:
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
    assert gap.reason
    assert gap.to_slot <= taker.accounts[-1].slot


@pytest.mark.fault
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("INTERNAL", "lagged to receive geyser messages"),
        ("INTERNAL", "lagged to send an update"),
        ("UNAVAILABLE", "server is shutting down try again later"),
        ("INTERNAL", "failed to get replay response"),
        ("UNKNOWN", "h2 protocol error"),
        ("OK", ""),
    ],
)
async def test_every_end_of_a_stream_is_survived(code: str, text: str) -> None:
    """However a node ends a stream, what follows arrives, and what was missed is replayed or told."""
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


# ---- closes, filters, forks --------------------------------------------------------------------------------


async def test_the_close_of_a_watched_account_is_seen() -> None:
    """An account that leaves its program is out of the owner's filter; watched, its close arrives."""
    async with node_of() as node:
        source = source_of(node.geyser_url)
        async with running(source) as taker:
            await settled(taker)
            write(node, b"a")
            write(node, b"b", KEY_B)
            source.watch([KEY_A])
            await until(lambda: any(len(each.filters.accounts) == 2 for each in node.geyser._streams))
            node.close_account(KEY_B)
            node.close_account(KEY_A)
            await until(lambda: len(taker.accounts) == 3)
            assert taker.accounts[2].pubkey == KEY_A
            assert (taker.accounts[2].lamports, taker.accounts[2].owner) == (0, SYSTEM_PROGRAM)
            assert source.status.reconnects == 0
            source.watch([])
            await until(lambda: all(len(each.filters.accounts) == 1 for each in node.geyser._streams))


async def test_filters_beyond_the_providers_limit_are_narrowed() -> None:
    """A node that refuses the watched accounts gets fewer of them, until it takes them; nothing is missed."""
    async with node_of(max_accounts=3) as node:
        source = source_of(node.geyser_url)
        async with running(source) as taker:
            await settled(taker)
            source.watch([KEY_A, KEY_B, PROGRAM, SYSTEM_PROGRAM, *[KEY_A] * 8])
            await until(lambda: source.status.reconnects >= 2, seconds=10)
            await until(lambda: any(each.filters for each in node.geyser._streams))
            write(node, b"a")
            node.advance_slots(2)
            await until(lambda: taker.data == [b"a"])
            node.close_account(KEY_A)
            await until(lambda: taker.accounts[-1].lamports == 0)
    assert len(taker.gaps) == 1


@pytest.mark.parametrize("tell", [True, False], ids=["dead", "a sibling is finalized"])
async def test_a_fork_that_dies_gives_the_state_before_back(tell: bool) -> None:
    """When a slot dies, by a status or because a sibling is finalized, the state before it is delivered again."""
    async with node_of() as node, running(source_of(node.geyser_url)) as taker:
        await settled(taker)
        first = write(node, b"lives")
        node.advance_slots(1)
        dying = write(node, b"dies")
        node.abandon_slot(dying.slot, tell=tell)
        node.advance_slots(40)
        await until(lambda: len(taker.accounts) == 3, seconds=10)
        back = taker.accounts[2]
        assert (back.data, back.slot, back.retracts) == (b"lives", first.slot, dying.slot)


async def test_a_fork_that_dies_with_an_unknown_account_is_a_gap() -> None:
    """A state before that was never seen is told as a gap around the dead slot."""
    async with node_of() as node, running(source_of(node.geyser_url)) as taker:
        await settled(taker)
        dying = write(node, b"dies")
        node.abandon_slot(dying.slot)
        await until(lambda: len(taker.gaps) == 2)
        gap = taker.gaps[1]
        assert gap == Gap("geyser", None, gap.to_slot, gap.reason)
        assert gap.to_slot > dying.slot


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


async def test_a_slots_level_is_told_behind_what_the_slot_wrote() -> None:
    """While the writes of a slot are not taken yet, nobody hears that it is confirmed."""
    async with node_of() as node:
        source = source_of(node.geyser_url)
        levels: list[tuple[int, str]] = []
        source.on_slot = lambda slot, level: levels.append((slot, level))
        async with running(source) as taker:
            await settled(taker)
            taker.gate.clear()
            write(node, b"holds the taker up")
            await until(lambda: taker.accounts)
            written = write(node, b"waits")
            node.advance_slots(3)
            await until(lambda: (source.status.tip_slot or 0) >= written.slot + 3)
            assert written.slot not in dict(levels)
            taker.gate.set()
            await until(lambda: (written.slot, "confirmed") in levels)
            assert taker.data[-1] == b"waits"
