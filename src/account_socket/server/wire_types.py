"""What clients are sent of accounts, as types: for /openapi.json and /asyncapi.json. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from account_socket.server.json_schemas import NUMBER, PUBKEY

Pubkey = Annotated[str, msgspec.Meta(pattern=PUBKEY["pattern"], extra_json_schema=PUBKEY)]
Number = Annotated[int, msgspec.Meta(ge=0, le=NUMBER["maximum"])]
Id = Annotated[int, msgspec.Meta(ge=1, le=NUMBER["maximum"])]
CreatedAt = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]


class Account(msgspec.Struct, forbid_unknown_fields=True):
    """An account's state, as in docs/protocol.md."""

    id: Id | None
    pubkey: Pubkey
    slot: Number
    account_type: str
    owner: Pubkey
    lamports: Annotated[int, msgspec.Meta(ge=0)]
    data_json: dict[str, Any] | None
    created_at: CreatedAt
    prev_id: Id | None
    closed: bool = False
    signature: str = ""


class Update(msgspec.Struct, forbid_unknown_fields=True):
    """An account's state and where it came from; `stale` where it may not be the newest."""

    pubkey: Pubkey
    source: Literal["realtime", "cache", "database", "rpc"]
    account: Account
    event: Literal["", "retracted", "left"] = ""
    stale: bool = False


class FieldsUpdate(Update, forbid_unknown_fields=True, kw_only=True):
    """An account's state with the fields alone that were asked for."""

    shape: Literal["fields"]


class DiffAccount(msgspec.Struct, forbid_unknown_fields=True):
    """What stands beside a change; `prev_id` is the id of the state that it is against."""

    id: Id | None
    pubkey: Pubkey
    slot: Number
    account_type: str
    owner: Pubkey
    lamports: Annotated[int, msgspec.Meta(ge=0)]
    created_at: CreatedAt
    prev_id: Id | None
    signature: str = ""


OldAndNew = Annotated[list[Any], msgspec.Meta(min_length=2, max_length=2)]


class DiffUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What changed of an account since the state that was told last: path → old and new value."""

    pubkey: Pubkey
    source: Literal["realtime", "cache", "database", "rpc"]
    shape: Literal["diff"]
    account: DiffAccount
    changed: dict[str, OldAndNew]
    stale: bool = False
