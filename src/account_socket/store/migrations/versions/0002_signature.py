"""
The transaction that wrote a state, where the source tells it.

`account_state` is made anew: a column behind the account's bytes could only be read through all of them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_KEPT = (
    "pubkey, id, prev_id, slot, write_version, hash, account_type, owner, lamports, executable, rent_epoch,"
    " created_at, closed, data_json, raw"
)


def upgrade() -> None:
    """Add the column to both tables."""
    op.add_column("account_updates", sa.Column("signature", sa.Text))
    op.rename_table("account_state", "account_state_before")
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
        sa.Column("signature", sa.Text),
        sa.Column("data_json", sa.Text, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
    )
    op.execute(f"INSERT INTO account_state ({_KEPT}) SELECT {_KEPT} FROM account_state_before")  # noqa: S608  (constants)
    op.drop_table("account_state_before")
