"""People, sessions, tokens and the audit trail."""

from __future__ import annotations

revision = "pool_0002"
down_revision = "pool_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
