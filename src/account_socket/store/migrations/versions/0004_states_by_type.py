"""The accounts of one type can be found without looking at all the others."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the index; a million accounts take some seconds, once."""
    op.create_index("account_state_type", "account_state", ["account_type", "pubkey"])
