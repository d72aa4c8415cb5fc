"""The local node with `solana` from PyPI, unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solana.rpc.core import RPCException
from solana.rpc.jsonrpc import SolanaJsonRpcError
from solana.rpc.models import DataSliceOpts, MemcmpOpts
from solana.rpc.websocket_api import SolanaWsClient
from solders.pubkey import Pubkey
from solders.rpc.responses import AccountNotification, ProgramNotification, SlotNotification

from account_socket.devnode import GENESIS_HASH, Devnode, shipped_recording
from account_socket.model import RawAccount
from account_socket.protocol.base58 import encode
from account_socket.sources.recording import Recording, RecordingHeader

PROGRAM = Pubkey.from_string("cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG")
A = Pubkey.from_string("5rpEtPU2ZnMupnyRbt5AbLL7DGHia1YvtbQB7QjJmo4c")
EMPTY = Recording(RecordingHeader(), [])


@pytest.fixture
async def finished() -> AsyncIterator[tuple[Devnode, dict[str, RawAccount]]]:
    """A node that has replayed the shipped recording, and the open accounts at its end."""
    recording = shipped_recording()
    last = {write.account.pubkey: write.account for write in recording.writes}
    async with Devnode(recording, rate=50_000) as node:
        await asyncio.wait_for(node.finished.wait(), 10)
        yield node, {pubkey: account for pubkey, account in last.items() if account.lamports}


async def receive(client: SolanaWsClient):
    return await asyncio.wait_for(client.recv(), 5)


async def test_program_subscribe_with_filters():
    """programSubscribe delivers exactly the recorded writes that its filters choose."""
    recording = shipped_recording()
    pools = [w.account for w in recording.writes if len(w.account.data) == 1112]
    head = pools[0].data[:8]
    assert pools
    assert all(pool.data[:8] == head for pool in pools)
    async with Devnode(recording, rate=5000, start_on_subscribe=True) as node, SolanaWsClient(node.ws_url) as client:
        subscription = await client.program_subscribe(
            program_id=PROGRAM,
            commitment=Confirmed,
            encoding="base64",
            filters=[1112, MemcmpOpts(offset=0, bytes=encode(head))],
        )
        for pool in pools:
            notification = await receive(client)
            assert isinstance(notification, ProgramNotification)
            assert notification.subscription == subscription.subscription_id
            assert str(notification.result.value.pubkey) == pool.pubkey
            assert notification.result.value.account.data == pool.data
            assert notification.result.context.slot == pool.slot


async def test_account_subscribe_with_a_close():
    """accountSubscribe delivers a write and then the close."""
    async with Devnode(EMPTY) as node, SolanaWsClient(node.ws_url) as client:
        await client.account_subscribe(pubkey=A, commitment=Confirmed, encoding="base64+zstd")
        node.write(RawAccount(str(A), 0, str(PROGRAM), 5, b"\1\2\3", rent_epoch=2**64 - 1))
        node.close_account(str(A))
        written, closed = await receive(client), await receive(client)
        assert isinstance(written, AccountNotification)
        assert (written.result.value.data, written.result.value.lamports) == (b"\1\2\3", 5)
        assert written.result.value.rent_epoch == 2**64 - 1
        assert (closed.result.value.data, closed.result.value.lamports) == (b"", 0)
        assert closed.result.value.owner == Pubkey.default()


async def test_slot_subscribe_and_unsubscribe():
    """slotSubscribe delivers growing slots until it is unsubscribed."""
    async with Devnode(EMPTY) as node, SolanaWsClient(node.ws_url) as client:
        subscription = await client.slot_subscribe()
        slots = []
        for _ in range(2):
            notification = await receive(client)
            assert isinstance(notification, SlotNotification)
            slots.append(notification.result.slot)
            assert notification.result.parent < notification.result.slot
        assert slots[0] < slots[1]
        await client.unsubscribe(subscription)
        assert node.statistics()["subscriptions"] == 0
        node.advance_slots(3)
        await client.account_subscribe(pubkey=A, encoding="base64")
        node.write(RawAccount(str(A), 0, str(PROGRAM), 5, b""))
        assert isinstance(await receive(client), AccountNotification)


async def test_refused_subscription():
    """A refused subscription is an error with the node's code and text."""
    async with Devnode(EMPTY) as node, SolanaWsClient(node.ws_url) as client:
        with pytest.raises(SolanaJsonRpcError) as caught:
            await client.program_subscribe(program_id=PROGRAM, filters=[1, 2, 3, 4, 5])
        assert "Too many filters provided; max 4" in str(caught.value)


async def test_reads(finished):
    """Every read has the recorded bytes, owners and lamports."""
    node, accounts = finished
    keys = [Pubkey.from_string(pubkey) for pubkey in list(accounts)[:100]]
    async with AsyncClient(node.http_url) as client:
        info = (await client.get_account_info(keys[0])).value
        assert (info.data, info.lamports) == (accounts[str(keys[0])].data, accounts[str(keys[0])].lamports)
        assert (await client.get_account_info(A.default())).value is None

        several = await client.get_multiple_accounts([*keys[:99], Pubkey.default()], encoding="base64+zstd")
        assert several.value[-1] is None
        assert [each.data for each in several.value[:-1]] == [accounts[str(key)].data for key in keys[:99]]
        with pytest.raises(RPCException, match="Too many inputs provided; max 100"):
            await client.get_multiple_accounts([A] * 101)

        everything = (await client.get_program_accounts(PROGRAM, encoding="base64")).value
        assert {str(each.pubkey): each.account.data for each in everything} == {
            pubkey: account.data for pubkey, account in accounts.items()
        }
        chosen = await client.get_program_accounts(
            PROGRAM, encoding="base64", data_slice=DataSliceOpts(offset=0, length=8), filters=[1112]
        )
        assert {(str(each.pubkey), each.account.data) for each in chosen.value} == {
            (pubkey, account.data[:8]) for pubkey, account in accounts.items() if len(account.data) == 1112
        }


async def test_small_methods(finished):
    """Slot, health, version and genesis hash are understood."""
    node, accounts = finished
    async with AsyncClient(node.http_url) as client:
        assert (await client.get_slot(Confirmed)).value >= max(account.slot for account in accounts.values())
        assert await client.is_connected()
        assert (await client.get_version()).value.solana_core == "3.0.6"
        assert str((await client.get_genesis_hash()).value) == GENESIS_HASH
