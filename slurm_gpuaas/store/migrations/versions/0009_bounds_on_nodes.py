"""Trips of the circuit breaker, and nodes that take small jobs only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "breaker_trip",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("scope", sa.String(length=100), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("reset_at", UtcDateTime(), nullable=True),
        sa.Column("reset_by", sa.String(length=100), nullable=False),
        sa.Column("reset_reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_breaker_trip")),
    )
    op.create_index(op.f("ix_breaker_trip_scope"), "breaker_trip", ["scope"])
    op.create_table(
        "node_limit",
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("largest_job", sa.Integer(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.CheckConstraint("kind IN ('probation', 'lemon')", name=op.f("ck_node_limit_kind")),
        sa.CheckConstraint("largest_job >= 0", name=op.f("ck_node_limit_largest_job")),
        sa.PrimaryKeyConstraint("node", "kind", name=op.f("pk_node_limit")),
    )


def downgrade() -> None:
    op.drop_table("node_limit")
    op.drop_table("breaker_trip")
