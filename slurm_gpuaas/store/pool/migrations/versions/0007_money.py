"""Sums of entries, proposals of rates, and when the ledger was last shown to be right."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "pool_0007"
down_revision = "pool_0005"
branch_labels = None
depends_on = None

_PARTS = (
    ("month", 7),
    ("kind", 10),
    ("of_month", 7),
    ("organisation", 30),
    ("provider", 30),
    ("programme", 30),
    ("grant_name", 60),
    ("model", 30),
    ("service", 10),
)
_NAMES = tuple(name for name, _ in _PARTS)


def upgrade() -> None:
    op.create_table(
        "booked_sum",
        *(sa.Column(name, sa.String(length=length), nullable=False) for name, length in _PARTS),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("preempted", sa.BigInteger(), nullable=False),
        sa.Column("faults", sa.BigInteger(), nullable=False),
        sa.Column("list_won", sa.BigInteger(), nullable=False),
        sa.Column("won", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('charge', 'correction', 'credit', 'adjustment', 'payment')", name=op.f("ck_booked_sum_kind")
        ),
        sa.PrimaryKeyConstraint(*_NAMES, name=op.f("pk_booked_sum")),
    )
    op.create_index(op.f("ix_booked_sum_of_month"), "booked_sum", ["of_month"])
    alike = ", ".join(f"COALESCE({name}, '')" for name in _NAMES)
    op.execute(
        f"INSERT INTO booked_sum ({', '.join(_NAMES)}, gpu_seconds, preempted, faults, list_won, won) "  # noqa: S608
        f"SELECT {alike}, SUM(gpu_seconds), SUM(preempted), SUM(CASE WHEN fault THEN gpu_seconds ELSE 0 END), "
        f"SUM(list_won), SUM(won) FROM ledger_entry GROUP BY {alike}"
    )
    op.create_table(
        "rate_request",
        sa.Column("command", sa.String(length=64), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("asked_by", sa.String(length=22), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("verdict", sa.String(length=10), nullable=False),
        sa.Column("decided_by", sa.String(length=22), nullable=True),
        sa.Column("decided_at", UtcDateTime(), nullable=True),
        sa.Column("why", sa.String(length=500), nullable=False),
        sa.CheckConstraint("(verdict = 'open') = (decided_by IS NULL)", name=op.f("ck_rate_request_decided")),
        sa.CheckConstraint("verdict IN ('open', 'approved', 'refused')", name=op.f("ck_rate_request_verdict")),
        sa.CheckConstraint("decided_by <> asked_by", name=op.f("ck_rate_request_two_people")),
        sa.PrimaryKeyConstraint("command", name=op.f("pk_rate_request")),
    )
    op.create_index(op.f("ix_rate_request_verdict"), "rate_request", ["verdict"])
    op.add_column("won_request", sa.Column("why", sa.String(length=500), nullable=False, server_default=""))
    op.create_table(
        "reconciliation",
        sa.Column("cluster", sa.String(length=30), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("equal_at", UtcDateTime(), nullable=True),
        sa.Column("runs", sa.BigInteger(), nullable=False),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("different", sa.Integer(), nullable=False),
        sa.Column("differences", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("cluster", "month", name=op.f("pk_reconciliation")),
    )


def downgrade() -> None:
    op.drop_table("reconciliation")
    op.drop_column("won_request", "why")
    op.drop_table("rate_request")
    op.drop_table("booked_sum")
