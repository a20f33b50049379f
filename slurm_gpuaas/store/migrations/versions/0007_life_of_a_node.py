"""Incidents follow a node's whole life, with every step of it; GPUs are known as cards."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATES = "'suspect', 'draining', 'drained', 'repairing', 'verifying', 'probation', 'rma', 'closed'"


def upgrade() -> None:
    with op.batch_alter_table("incident") as table:
        table.drop_constraint(op.f("ck_incident_state"), type_="check")
        table.add_column(sa.Column("fault_class", sa.String(length=20), nullable=False, server_default="unknown"))
        table.add_column(sa.Column("serials", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(sa.Column("attempts", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(sa.Column("verification", sa.JSON(), nullable=True))
        table.add_column(sa.Column("acknowledged_by", sa.String(length=100), nullable=True))
        table.add_column(sa.Column("held_by", sa.String(length=100), nullable=True))
    op.execute("UPDATE incident SET state = 'suspect' WHERE state = 'open'")
    with op.batch_alter_table("incident") as table:
        table.create_check_constraint(op.f("ck_incident_state"), f"state IN ({STATES})")
    _events("'xid', 'sxid', 'fallen', 'check'", "'nvml', 'kernel-log', 'check'")
    with op.batch_alter_table("node_event") as table:
        table.add_column(sa.Column("jobs", sa.JSON(), nullable=False, server_default="[]"))
    op.create_index(op.f("ix_node_event_seen_at"), "node_event", ["seen_at"])

    op.create_table(
        "incident_transition",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("incident", sa.String(length=40), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("before", sa.String(length=20), nullable=True),
        sa.Column("after", sa.String(length=20), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.CheckConstraint(f"after IN ({STATES})", name=op.f("ck_incident_transition_after")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_incident_transition")),
    )
    op.create_index(op.f("ix_incident_transition_incident"), "incident_transition", ["incident"])
    op.create_index(op.f("ix_incident_transition_at"), "incident_transition", ["at"])
    op.create_index(op.f("ix_incident_transition_node_at"), "incident_transition", ["node", "at"])
    op.create_table(
        "gpu_stay",
        sa.Column("serial", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("first_seen", UtcDateTime(), nullable=False),
        sa.Column("last_seen", UtcDateTime(), nullable=False),
        sa.Column("pci", sa.String(length=20), nullable=False),
        sa.Column("uuid", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("serial", "node", "index", "first_seen", name=op.f("pk_gpu_stay")),
    )
    op.create_index(op.f("ix_gpu_stay_node"), "gpu_stay", ["node"])


def downgrade() -> None:
    op.drop_table("gpu_stay")
    op.drop_table("incident_transition")
    op.execute("DELETE FROM node_event WHERE kind = 'check' OR source = 'check'")
    op.drop_index(op.f("ix_node_event_seen_at"), "node_event")
    with op.batch_alter_table("node_event") as table:
        table.drop_column("jobs")
    _events("'xid', 'sxid', 'fallen'", "'nvml', 'kernel-log'")
    with op.batch_alter_table("incident") as table:
        table.drop_constraint(op.f("ck_incident_state"), type_="check")
        for name in ("held_by", "acknowledged_by", "verification", "attempts", "serials", "fault_class"):
            table.drop_column(name)
    op.execute("UPDATE incident SET state = 'open' WHERE state IN ('suspect', 'probation')")
    op.execute("UPDATE incident SET state = 'drained' WHERE state IN ('repairing', 'verifying', 'rma')")
    with op.batch_alter_table("incident") as table:
        table.create_check_constraint(op.f("ck_incident_state"), "state IN ('open', 'draining', 'drained', 'closed')")


def _events(kinds: str, sources: str) -> None:
    checks = {"kind": kinds, "source": sources}
    with op.batch_alter_table("node_event") as table:
        for column, values in checks.items():
            table.drop_constraint(op.f(f"ck_node_event_{column}"), type_="check")
            table.create_check_constraint(op.f(f"ck_node_event_{column}"), f"{column} IN ({values})")
