"""Capacity over time: what could start on each partition."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NUMBERS = (
    "nodes",
    "free_nodes",
    "free_gpus",
    "largest_leaf_group",
    "largest_pod",
    "largest_fabric",
    "compact",
    "idle_leaf_groups",
    "excess_leaf_groups",
)


def upgrade() -> None:
    op.create_table(
        "capacity_sample",
        sa.Column("cluster", sa.String(length=30), nullable=False),
        sa.Column("partition", sa.String(length=95), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in NUMBERS),
        sa.Column("fragmentation", sa.Float(), nullable=False),
        sa.CheckConstraint("fragmentation BETWEEN 0 AND 1", name=op.f("ck_capacity_sample_fragmentation")),
        sa.PrimaryKeyConstraint("cluster", "partition", "at", name=op.f("pk_capacity_sample")),
    )


def downgrade() -> None:
    op.drop_table("capacity_sample")
