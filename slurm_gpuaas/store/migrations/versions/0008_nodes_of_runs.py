"""Usage knows the nodes of a run, so that telemetry of GPUs can be told by job and project."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

INDEX = "ix_usage_record_job_id"


def upgrade() -> None:
    op.add_column("usage_record", sa.Column("nodes", sa.String(), nullable=False, server_default=""))
    op.create_index(op.f(INDEX), "usage_record", ["job_id"])


def downgrade() -> None:
    op.drop_index(op.f(INDEX), "usage_record")
    op.drop_column("usage_record", "nodes")
