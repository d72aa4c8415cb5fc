"""
Ready-made messages for the compiled programs: what a node sends of many pools, and what a client gets.

The pools' amounts are recorded ones, as they follow each other; each account has public keys of its own, as on the
chain. The programs write slot and time into each message as they send it: the time stands in `lamports`, so that
every update is news and tells a client when it left.
"""

from __future__ import annotations

import base64
import random
import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import zstandard
from decode import RECORDED, recorded_states
from solders.pubkey import Pubkey

from account_socket.hub.frames import state_message
from account_socket.model import encode_account
from account_socket.programs import load_programs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
SLOT = b"400000000"
STAMP = b"1000000000000000000"
FRAME_HEAD_BYTES = 4
"""Of a payload between 126 and 65,535 bytes."""
CREATED_AT = "2026-01-01T00:00:00.000000Z"
MESSAGES = 4_096
"""At least so many different ones, so that what a server keeps of an account's parts is not always found again."""


@dataclass(frozen=True)
class Messages:
    """
    Files for the programs in bench/native; a file of messages is as `load_messages` reads it.

    Attributes:
        accounts: how many there are.
        count: how many messages; one of each account, then the next one of each.
        keys: the public keys, one a line.
        base64, zstd: programNotifications in either encoding.
        frames: the same updates as a client gets them.
        frame_bytes: mean size of these.
    """

    accounts: int
    count: int
    keys: Path
    base64: Path
    zstd: Path
    frames: Path
    frame_bytes: float


def make(directory: Path, accounts: int, keys: Sequence[str] = ()) -> Messages:
    """Write the files for so many accounts, those of `keys` if given."""
    chance = random.Random(accounts)
    keys = keys or [str(Pubkey(chance.randbytes(32))) for _ in range(accounts)]
    owned = [[chance.randbytes(32) for _ in _key_places()] for _ in keys]
    rounds = -(-MESSAGES // accounts)
    states = pool_states()
    items = [
        (keys[account], _with_keys(states[(account + turn) % len(states)], owned[account]))
        for turn in range(rounds)
        for account in range(accounts)
    ]
    prefix = directory / str(accounts)
    files = {name: prefix.with_suffix(f".{name}") for name in ("keys", "base64", "zstd", "frames")}
    files["keys"].write_text("\n".join(keys))
    _write(files["base64"], (notification(key, data, "base64") for key, data in items))
    _write(files["zstd"], (notification(key, data, "base64+zstd") for key, data in items))
    size = _write(files["frames"], (client_message(key, data) for key, data in items))
    return Messages(accounts, len(items), **files, frame_bytes=size / len(items))


@cache
def pool_states() -> list[bytes]:
    """Return the recorded states of pools, in their order."""
    return recorded_states(RECORDED)["Pool"]


@cache
def _key_places() -> tuple[int, ...]:
    (decoder,) = load_programs().programs.values()
    return tuple(place.offset for place in decoder.layouts["Pool"].places if place.type == "pubkey")


def _with_keys(data: bytes, keys: list[bytes]) -> bytes:
    changed = bytearray(data)
    for offset, key in zip(_key_places(), keys, strict=True):
        if any(data[offset : offset + 32]):
            changed[offset : offset + 32] = key
    return bytes(changed)


def _write(path: Path, payloads: Iterable[bytes]) -> int:
    """Write the file; return the bytes of all payloads."""
    total = 0
    with path.open("wb") as file:
        for payload in payloads:
            file.write(struct.pack("=III", len(payload), payload.index(SLOT), payload.index(STAMP)) + payload)
            total += len(payload)
    return total


_compress = zstandard.ZstdCompressor(level=3, write_content_size=False).compress  # as an Agave node does


def notification(pubkey: str, data: bytes, encoding: str) -> bytes:
    """Return a programNotification as an Agave node writes it."""
    text = base64.b64encode(_compress(data) if encoding == "base64+zstd" else data)
    return (
        b'{"jsonrpc":"2.0","method":"programNotification","params":{"result":{"context":{"slot":%b},"value":'
        b'{"pubkey":"%b","account":{"lamports":%b,"data":["%b","%b"],"owner":"%b","executable":false,'
        b'"rentEpoch":18446744073709551615,"space":%d}}},"subscription":1}}'
    ) % (SLOT, pubkey.encode(), STAMP, text, encoding.encode(), PROGRAM.encode(), len(data))


def client_message(pubkey: str, data: bytes) -> bytes:
    """Return the update as a client gets it."""
    decoded = load_programs_once().decode(PROGRAM, data)
    account_json = encode_account(
        id=1_000_000,
        pubkey=pubkey,
        slot=int(SLOT),
        account_type=decoded.account_type,
        owner=PROGRAM,
        lamports=int(STAMP),
        data_json=decoded.data_json,
        created_at=CREATED_AT,
        prev_id=999_000,
        closed=False,
    )
    return state_message(pubkey, "realtime", account_json).frame[FRAME_HEAD_BYTES:]


load_programs_once = cache(load_programs)
