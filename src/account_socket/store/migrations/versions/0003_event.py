"""What happened beside a write (`retracted`), so that who catches up from history is told what it would have been."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; of what was there before it is not known."""
    op.add_column("account_updates", sa.Column("event", sa.Text))
