"""Programmes, applications, reviews, offers, grants and the calendar of what is committed."""

from __future__ import annotations

revision = "pool_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
