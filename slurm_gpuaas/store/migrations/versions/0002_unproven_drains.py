"""Incidents remember since when their drain is one that slurmctld could still lose."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("incident", sa.Column("unproven_since", UtcDateTime(), nullable=True))


def downgrade() -> None:
    op.drop_column("incident", "unproven_since")
