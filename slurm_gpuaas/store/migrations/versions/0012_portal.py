"""The portal's newest documents, and in which order rows of usage changed: the portal gets what it lacks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

INDEX = "ix_usage_record_change"


def upgrade() -> None:
    op.create_table(
        "portal_set",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.Column("as_of", sa.Date(), nullable=False),
        sa.Column("documents", sa.JSON(), nullable=False),
        sa.Column("people", sa.JSON(), nullable=False),
        sa.Column("unreadable", sa.JSON(), nullable=False),
        sa.CheckConstraint("revision >= 1", name=op.f("ck_portal_set_revision")),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_portal_set")),
    )
    op.create_table(
        "portal_refusal",
        sa.Column("project", sa.String(length=30), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("project", name=op.f("pk_portal_refusal")),
    )
    op.add_column("usage_record", sa.Column("change", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(
        "UPDATE usage_record SET change = numbered.change FROM (SELECT cluster, job_id, started, "
        "row_number() OVER (ORDER BY started, job_id, cluster) AS change FROM usage_record) AS numbered "
        "WHERE usage_record.cluster = numbered.cluster AND usage_record.job_id = numbered.job_id "
        "AND usage_record.started = numbered.started"
    )
    op.create_index(op.f(INDEX), "usage_record", ["change"], unique=True)


def downgrade() -> None:
    op.drop_index(op.f(INDEX), "usage_record")
    op.drop_column("usage_record", "change")
    op.drop_table("portal_refusal")
    op.drop_table("portal_set")
