"""Where history is whole, and an index of accounts by type: what clients need that begin anew or go on by a filter."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the index, for which a million accounts take some seconds; of what was there before nothing is promised."""
    op.create_index("account_state_type", "account_state", ["account_type", "pubkey"])
    connection = op.get_bind()
    reserved = connection.execute(text("SELECT value FROM meta WHERE key = 'id_reserved'")).scalar()
    newest = connection.execute(text("SELECT max(id) FROM account_updates")).scalar()
    whole_above = max(int(reserved or 1) - 1, newest or 0)
    connection.execute(text("INSERT INTO meta VALUES ('history_whole_above', :value)"), {"value": str(whole_above)})
