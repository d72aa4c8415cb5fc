"""
The same messages through any stubs of Yellowstone's Geyser interface: `python geyser_messages.py WHEEL MODULE`
prints them as hex, one JSON object, as the stubs inside a wheel encode them.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

MAX = 2**64 - 1
KEY = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"


def messages(pb: Any) -> dict[str, str]:
    """Return the name and the hex of each message."""
    built = {
        **requests(pb),
        **accounts(pb),
        **{
            f"slot status {number}": pb.SubscribeUpdate(filters=["slots"], slot={"slot": MAX, "status": number})
            for number in range(7)
        },
        "slot with parent": pb.SubscribeUpdate(slot={"slot": 9, "parent": 0, "status": 6, "dead_error": "why"}),
        "ping": pb.SubscribeUpdate(ping={}),
        "pong": pb.SubscribeUpdate(pong={"id": 77}),
        "replay info": pb.SubscribeReplayInfoResponse(first_available=MAX),
        "no replay": pb.SubscribeReplayInfoResponse(),
        "get slot": pb.GetSlotRequest(commitment=pb.CONFIRMED),
        "slot": pb.GetSlotResponse(slot=MAX),
        "version": pb.GetVersionResponse(version="{}"),
        "ping request": pb.PingRequest(count=1),
        "pong response": pb.PongResponse(count=2),
    }
    return {name: message.SerializeToString(deterministic=True).hex() for name, message in built.items()}


def requests(pb: Any) -> dict[str, Any]:
    whole = pb.SubscribeRequest(commitment=pb.FINALIZED, from_slot=MAX)
    found = whole.accounts["programs"]
    found.owner.append(KEY)
    found.account.extend([KEY, KEY])
    found.nonempty_txn_signature = False
    found.filters.add().memcmp.offset = 8
    # The name of this field is ours: `bytes` is a type in Python.
    memcmp = found.filters.add().memcmp
    setattr(memcmp, "raw" if hasattr(memcmp, "raw") else "bytes", b"\0\1")
    found.filters.add().memcmp.base58 = "abc"
    found.filters.add().memcmp.base64 = "AQ=="
    found.filters.add().datasize = MAX
    found.filters.add().token_account_state = True
    for comparison in ("eq", "ne", "lt", "gt"):
        setattr(found.filters.add().lamports, comparison, MAX)
    whole.slots["slots"].filter_by_commitment = True
    whole.slots["all"].interslot_updates = False
    whole.slots["empty"].SetInParent()
    whole.accounts_data_slice.add(offset=1, length=MAX)
    return {
        "whole request": whole,
        "confirmed request": pb.SubscribeRequest(commitment=pb.CONFIRMED),
        "processed request": pb.SubscribeRequest(commitment=pb.PROCESSED),
        "ping in a request": pb.SubscribeRequest(ping={"id": -1}),
        "empty request": pb.SubscribeRequest(),
    }


def accounts(pb: Any) -> dict[str, Any]:
    whole = pb.SubscribeUpdate(filters=["programs", "watched"])
    whole.created_at.seconds, whole.created_at.nanos = 1_790_000_000, 1
    whole.account.slot, whole.account.is_startup = MAX, True
    info = whole.account.account
    info.pubkey, info.owner, info.data, info.txn_signature = b"\1" * 32, b"\2" * 32, b"data", b"\3" * 64
    info.lamports = info.rent_epoch = info.write_version = MAX
    info.executable = True
    return {"account": whole, "empty account": pb.SubscribeUpdate(account={"account": {}})}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    print(json.dumps(messages(importlib.import_module(sys.argv[2])), indent=1))
