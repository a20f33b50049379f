"""Usage as sites report it, and the ledger."""

from __future__ import annotations

revision = "pool_0003"
down_revision = "pool_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
