"""Sites, the documents for them, and what they report."""

from __future__ import annotations

revision = "pool_0004"
down_revision = "pool_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
