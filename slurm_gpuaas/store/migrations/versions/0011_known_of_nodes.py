"""What is known of nodes over time (outages, exclusions, runs, limits), parts on their way, alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "node_outage",
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=True),
        sa.Column("cause", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.CheckConstraint("cause IN ('fault', 'person', 'planned')", name=op.f("ck_node_outage_cause")),
        sa.PrimaryKeyConstraint("node", "since", name=op.f("pk_node_outage")),
    )
    op.create_index(op.f("ix_node_outage_until"), "node_outage", ["until"])
    op.create_table(
        "node_exclusion",
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("job", sa.BigInteger(), nullable=False),
        sa.Column("user", sa.String(length=32), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("node", "job", name=op.f("pk_node_exclusion")),
    )
    op.create_index(op.f("ix_node_exclusion_seen_at"), "node_exclusion", ["seen_at"])
    op.create_table(
        "node_runs",
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("single", sa.Integer(), nullable=False),
        sa.Column("multi", sa.Integer(), nullable=False),
        sa.CheckConstraint("single >= 0", name=op.f("ck_node_runs_single")),
        sa.CheckConstraint("multi >= 0", name=op.f("ck_node_runs_multi")),
        sa.PrimaryKeyConstraint("node", "day", name=op.f("pk_node_runs")),
    )
    op.create_table(
        "rma_case",
        sa.Column("id", sa.String(length=20), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("serial", sa.String(length=64), nullable=True),
        sa.Column("incident", sa.String(length=40), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("vendor_case", sa.String(length=60), nullable=False),
        sa.Column("new_serial", sa.String(length=64), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.CheckConstraint(
            "state IN ('opened', 'sent', 'replaced', 'refused', 'closed')", name=op.f("ck_rma_case_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rma_case")),
    )
    op.create_index(op.f("ix_rma_case_node"), "rma_case", ["node"])
    op.create_index(op.f("ix_rma_case_serial"), "rma_case", ["serial"])
    op.create_table(
        "alert",
        sa.Column("key", sa.String(length=120), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("condition", sa.JSON(), nullable=False),
        sa.Column("raised_at", UtcDateTime(), nullable=False),
        sa.Column("resolved_at", UtcDateTime(), nullable=True),
        sa.Column("told", sa.JSON(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('incident', 'breaker', 'spares', 'repair', 'rma', 'agents')", name=op.f("ck_alert_kind")
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_alert")),
    )


def downgrade() -> None:
    for table in ("alert", "rma_case", "node_runs", "node_exclusion", "node_outage"):
        op.drop_table(table)
