"""Jobs that lost nodes: what was promised to them, and how they came back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATES = "'promised', 'kept', 'requeued', 'placed', 'done', 'let-go', 'plain', 'holding', 'held'"


def upgrade() -> None:
    op.create_table(
        "recovery",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("restarts", sa.Integer(), nullable=False),
        sa.Column("user", sa.String(length=32), nullable=False),
        sa.Column("incident", sa.String(length=40), nullable=False),
        sa.Column("lost", sa.JSON(), nullable=False),
        sa.Column("kept", sa.JSON(), nullable=False),
        sa.Column("spares", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("begun_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("why", sa.String(), nullable=False),
        sa.CheckConstraint(f"state IN ({STATES})", name=op.f("ck_recovery_state")),
        sa.PrimaryKeyConstraint("job_id", "restarts", name=op.f("pk_recovery")),
    )
    for column in ("incident", "state", "begun_at"):
        op.create_index(op.f(f"ix_recovery_{column}"), "recovery", [column])


def downgrade() -> None:
    op.drop_table("recovery")
