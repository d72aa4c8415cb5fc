"""
The first tables, beside an `account_updates` that may be there already.

Such a table keeps its rows; they get format 0. Its indexes on slot and account_type go: no query that was ever
published uses them, and they were a quarter of what a commit writes. Other indexes stay as they are.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_DROPPED = (["slot"], ["account_type"])


def upgrade() -> None:
    """Create what is missing."""
    inspector = sa.inspect(op.get_bind())
    if inspector.has_table("account_updates"):
        _adopt(inspector)
    else:
        _create_account_updates()
    op.create_table(
        "account_state",
        sa.Column("pubkey", sa.Text, primary_key=True),
        sa.Column("id", _ID, nullable=False),
        sa.Column("prev_id", _ID),
        sa.Column("slot", _ID, nullable=False),
        sa.Column("write_version", _ID, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("account_type", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("lamports", _ID, nullable=False),
        sa.Column("executable", sa.Integer, nullable=False),
        sa.Column("rent_epoch", sa.Text, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("closed", sa.Integer, nullable=False),
        sa.Column("data_json", sa.Text, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
    )
    meta = op.create_table(
        "meta",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    adopted_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    op.bulk_insert(meta, [{"key": "adopted_at", "value": adopted_at}])


def _create_account_updates() -> None:
    op.create_table(
        "account_updates",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("pubkey", sa.Text, nullable=False),
        sa.Column("slot", _ID, nullable=False),
        sa.Column("account_type", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("lamports", _ID, nullable=False),
        sa.Column("data_json", sa.Text, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("prev_id", _ID),
        sa.Column("format", sa.Integer, nullable=False, server_default="0"),
        sqlite_autoincrement=True,
    )
    op.create_index("account_updates_pubkey", "account_updates", ["pubkey"])


def _adopt(inspector: sa.Inspector) -> None:
    op.add_column("account_updates", sa.Column("prev_id", _ID))
    op.add_column("account_updates", sa.Column("format", sa.Integer, nullable=False, server_default="0"))
    by_pubkey = False
    for index in inspector.get_indexes("account_updates"):
        if index["column_names"] in _DROPPED and not index["unique"] and index["name"]:
            op.drop_index(index["name"], "account_updates")
        by_pubkey |= index["column_names"][0] == "pubkey"
    if not by_pubkey:
        op.create_index("account_updates_pubkey", "account_updates", ["pubkey"])
