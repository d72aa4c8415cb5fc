"""Values that several tests build on."""

from __future__ import annotations

from account_socket.model import AccountUpdate, Origin, RawAccount, encode_account

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
KEY_A = "HLnpSz9h2S4hiLQ43rnSD9XkcUThA7B8hQMKmDaiTLcC"
KEY_B = "4QhNxzg7bjqzSgkzMzGBvdZSvYpZZBpMKfYfSZJqWcBM"


def raw(pubkey: str = KEY_A, slot: int = 1, data: bytes = b"one", **more: object) -> RawAccount:
    """Return an account state of the program, pushed by the source `rpc-0`."""
    values = {"owner": PROGRAM, "lamports": 1, "source": "rpc-0", **more}
    return RawAccount(pubkey=pubkey, slot=slot, data=data, **values)


def update(
    id: int,
    pubkey: str = KEY_A,
    *,
    prev_id: int | None = None,
    slot: int = 1,
    data_json: bytes = b"{}",
    origin: Origin = Origin.LIVE,
    data: bytes = b"",
    account_type: str = "Pool",
    owner: str = PROGRAM,
    lamports: int = 1,
    closed: bool = False,
    event: str = "",
) -> AccountUpdate:
    """Return an update with its account object encoded."""
    data_json = b"null" if closed else data_json
    created_at = "2026-01-01T00:00:00.000000Z"
    account_json = encode_account(
        id=id,
        pubkey=pubkey,
        slot=slot,
        account_type=account_type,
        owner=owner,
        lamports=lamports,
        data_json=data_json,
        created_at=created_at,
        prev_id=prev_id,
        closed=closed,
    )
    return AccountUpdate(
        id=id,
        prev_id=prev_id,
        pubkey=pubkey,
        slot=slot,
        write_version=0,
        content_hash=b"h" * 16,
        account_type=account_type,
        owner=owner,
        lamports=lamports,
        executable=False,
        rent_epoch=2**64 - 1,
        data=data,
        data_json=data_json,
        created_at=created_at,
        closed=closed,
        origin=origin,
        received_at=0.0,
        account_json=account_json,
        event=event,
    )
