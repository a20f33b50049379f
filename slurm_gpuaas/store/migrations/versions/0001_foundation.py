"""Foundation: policy, nodes, events, incidents, placements, usage, audit, journal, marks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_entry",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("action", sa.String(length=100), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entry")),
    )
    op.create_index(op.f("ix_audit_entry_action"), "audit_entry", ["action"])
    op.create_index(op.f("ix_audit_entry_at"), "audit_entry", ["at"])
    op.create_index(op.f("ix_audit_entry_subject"), "audit_entry", ["subject"])

    op.create_table(
        "effect",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("controller", sa.String(length=60), nullable=False),
        sa.Column("kind", sa.String(length=100), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("intended_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.CheckConstraint("outcome IN ('open', 'done', 'failed', 'interrupted')", name=op.f("ck_effect_outcome")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_effect")),
    )
    op.create_index(op.f("ix_effect_controller"), "effect", ["controller"])
    op.create_index(op.f("ix_effect_outcome"), "effect", ["outcome"])

    op.create_table(
        "incident",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("drain", sa.String(length=20), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("headline", sa.String(), nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("closed_at", UtcDateTime(), nullable=True),
        sa.Column("event_ids", sa.JSON(), nullable=False),
        sa.Column("requeued_jobs", sa.JSON(), nullable=False),
        sa.CheckConstraint("drain IN ('no', 'when_idle', 'now', 'review')", name=op.f("ck_incident_drain")),
        sa.CheckConstraint("state IN ('open', 'draining', 'drained', 'closed')", name=op.f("ck_incident_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_incident")),
    )
    op.create_index(op.f("ix_incident_node_state"), "incident", ["node", "state"])

    op.create_table(
        "job_placement",
        sa.Column("cluster", sa.String(length=30), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("restarts", sa.Integer(), nullable=False),
        sa.Column("decided_at", UtcDateTime(), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("nodes", sa.JSON(), nullable=False),
        sa.Column("leaf_groups", sa.Integer(), nullable=False),
        sa.Column("cost", sa.Float(), nullable=False),
        sa.Column("runner_up_cost", sa.Float(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.CheckConstraint("outcome IN ('pinned', 'opened')", name=op.f("ck_job_placement_outcome")),
        sa.PrimaryKeyConstraint("cluster", "job_id", "restarts", name=op.f("pk_job_placement")),
    )
    op.create_table(
        "mark",
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_mark")),
    )
    op.create_table(
        "node",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=30), nullable=True),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=100), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("gpus >= 0", name=op.f("ck_node_gpus")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_node")),
    )
    op.create_table(
        "node_event",
        sa.Column("event_id", sa.String(length=200), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("code", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=20), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.CheckConstraint("kind IN ('xid', 'sxid', 'fallen')", name=op.f("ck_node_event_kind")),
        sa.CheckConstraint("source IN ('nvml', 'kernel-log')", name=op.f("ck_node_event_source")),
        sa.CheckConstraint("code >= 0", name=op.f("ck_node_event_code")),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_node_event")),
    )
    op.create_index(op.f("ix_node_event_node"), "node_event", ["node"])

    op.create_table(
        "organisation",
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_organisation")),
    )
    op.create_table(
        "policy_revision",
        sa.Column("revision", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("applied_at", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_policy_revision")),
    )
    op.create_table(
        "pool",
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("cluster", sa.String(length=30), nullable=False),
        sa.Column("model", sa.String(length=30), nullable=False),
        sa.Column("gpus_per_node", sa.Integer(), nullable=False),
        sa.Column("max_seconds", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("gpus_per_node >= 1", name=op.f("ck_pool_gpus_per_node")),
        sa.CheckConstraint("max_seconds >= 1", name=op.f("ck_pool_max_seconds")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pool")),
    )
    op.create_table(
        "usage_record",
        sa.Column("cluster", sa.String(length=30), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("started", UtcDateTime(), nullable=False),
        sa.Column("user", sa.String(length=32), nullable=False),
        sa.Column("account", sa.String(length=95), nullable=False),
        sa.Column("qos", sa.String(length=95), nullable=False),
        sa.Column("partition", sa.String(length=95), nullable=False),
        sa.Column("model", sa.String(length=30), nullable=True),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("ended", UtcDateTime(), nullable=True),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=40), nullable=False),
        sa.CheckConstraint("ended >= started", name=op.f("ck_usage_record_times")),
        sa.CheckConstraint("gpu_seconds >= 0", name=op.f("ck_usage_record_gpu_seconds")),
        sa.CheckConstraint("gpus >= 0", name=op.f("ck_usage_record_gpus")),
        sa.PrimaryKeyConstraint("cluster", "job_id", "started", name=op.f("pk_usage_record")),
    )
    op.create_index(op.f("ix_usage_record_account_started"), "usage_record", ["account", "started"])
    op.create_index(op.f("ix_usage_record_ended"), "usage_record", ["ended"])

    op.create_table(
        "pool_share",
        sa.Column("pool", sa.String(length=30), nullable=False),
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("nodes", sa.String(), nullable=False),
        sa.Column("partition", sa.String(length=95), nullable=True),
        sa.ForeignKeyConstraint(["pool"], ["pool.name"], name=op.f("fk_pool_share_pool")),
        sa.PrimaryKeyConstraint("pool", "name", name=op.f("pk_pool_share")),
        sa.UniqueConstraint("pool", "position", name=op.f("uq_pool_share_pool_position")),
    )
    op.create_table(
        "project",
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("organisation", sa.String(length=30), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["organisation"], ["organisation.name"], name=op.f("fk_project_organisation")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_project")),
    )
    op.create_index(op.f("ix_project_organisation"), "project", ["organisation"])

    op.create_table(
        "gpu_grant",
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("project", sa.String(length=30), nullable=False),
        sa.Column("pool", sa.String(length=30), nullable=False),
        sa.Column("share", sa.String(length=30), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("borrow_limit", sa.Integer(), nullable=True),
        sa.Column("starts", sa.Date(), nullable=False),
        sa.Column("ends", sa.Date(), nullable=False),
        sa.Column("budget_gpu_hours", sa.BigInteger(), nullable=True),
        sa.Column("max_gpus_per_job", sa.Integer(), nullable=True),
        sa.Column("max_seconds", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("borrow_limit >= 0", name=op.f("ck_gpu_grant_borrow_limit")),
        sa.CheckConstraint("budget_gpu_hours >= 0", name=op.f("ck_gpu_grant_budget_gpu_hours")),
        sa.CheckConstraint("ends >= starts", name=op.f("ck_gpu_grant_days")),
        sa.CheckConstraint("gpus >= 0", name=op.f("ck_gpu_grant_gpus")),
        sa.CheckConstraint("max_gpus_per_job >= 1", name=op.f("ck_gpu_grant_max_gpus_per_job")),
        sa.CheckConstraint("max_seconds >= 1", name=op.f("ck_gpu_grant_max_seconds")),
        sa.ForeignKeyConstraint(
            ["pool", "share"], ["pool_share.pool", "pool_share.name"], name=op.f("fk_gpu_grant_pool_share")
        ),
        sa.ForeignKeyConstraint(["project"], ["project.name"], name=op.f("fk_gpu_grant_project")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_gpu_grant")),
    )
    op.create_index(op.f("ix_gpu_grant_project"), "gpu_grant", ["project"])

    op.create_table(
        "member",
        sa.Column("project", sa.String(length=30), nullable=False),
        sa.Column("user", sa.String(length=32), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.CheckConstraint("role IN ('researcher', 'tenant-admin')", name=op.f("ck_member_role")),
        sa.ForeignKeyConstraint(["project"], ["project.name"], name=op.f("fk_member_project")),
        sa.PrimaryKeyConstraint("project", "user", name=op.f("pk_member")),
    )


def downgrade() -> None:
    op.drop_table("member")
    op.drop_index(op.f("ix_gpu_grant_project"), table_name="gpu_grant")

    op.drop_table("gpu_grant")
    op.drop_index(op.f("ix_project_organisation"), table_name="project")

    op.drop_table("project")
    op.drop_table("pool_share")
    op.drop_index(op.f("ix_usage_record_ended"), table_name="usage_record")
    op.drop_index(op.f("ix_usage_record_account_started"), table_name="usage_record")

    op.drop_table("usage_record")
    op.drop_table("pool")
    op.drop_table("policy_revision")
    op.drop_table("organisation")
    op.drop_index(op.f("ix_node_event_node"), table_name="node_event")

    op.drop_table("node_event")
    op.drop_table("node")
    op.drop_table("mark")
    op.drop_table("job_placement")
    op.drop_index(op.f("ix_incident_node_state"), table_name="incident")

    op.drop_table("incident")
    op.drop_index(op.f("ix_effect_outcome"), table_name="effect")
    op.drop_index(op.f("ix_effect_controller"), table_name="effect")

    op.drop_table("effect")
    op.drop_index(op.f("ix_audit_entry_subject"), table_name="audit_entry")
    op.drop_index(op.f("ix_audit_entry_at"), table_name="audit_entry")
    op.drop_index(op.f("ix_audit_entry_action"), table_name="audit_entry")

    op.drop_table("audit_entry")
