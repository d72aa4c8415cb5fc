"""The tables, once for every database engine. Migrations make them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text

metadata = MetaData()

_Id = BigInteger().with_variant(Integer, "sqlite")

account_updates = Table(
    "account_updates",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("pubkey", Text, nullable=False),
    Column("slot", _Id, nullable=False),
    Column("account_type", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("lamports", _Id, nullable=False),
    Column("data_json", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("prev_id", _Id),
    Column("format", Integer, nullable=False, server_default="0"),
    Column("signature", Text),
    Column("event", Text),
    Index("account_updates_pubkey", "pubkey"),
    sqlite_autoincrement=True,
)
"""One row per update. `format` 1 is written by this program, 0 was there before it. `signature`: the transaction.
`event`: what happened beside a write, as in the protocol."""

account_state = Table(
    "account_state",
    metadata,
    Column("pubkey", Text, primary_key=True),
    Column("id", _Id, nullable=False),
    Column("prev_id", _Id),
    Column("slot", _Id, nullable=False),
    Column("write_version", _Id, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("account_type", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("lamports", _Id, nullable=False),
    Column("executable", Integer, nullable=False),
    Column("rent_epoch", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("closed", Integer, nullable=False),
    Column("signature", Text),
    Column("data_json", Text, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Index("account_state_type", "account_type", "pubkey"),
)
"""The newest state of each account; small columns first, so that reading them touches no overflow page."""

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""
epoch, genesis_hash, adopted_at, note:… (`Store.remember`); id_reserved: every id below it may have been used;
history_whole_above: every update with a higher id that was committed has its row in `account_updates`.
"""
