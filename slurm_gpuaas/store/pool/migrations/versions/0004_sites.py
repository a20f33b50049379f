"""Sites, the documents for them, and what they report."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "pool_0004"
down_revision = "pool_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "site",
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("cluster", sa.String(length=30), nullable=False),
        sa.Column("provider", sa.String(length=30), nullable=False),
        sa.Column("key_number", sa.Integer(), nullable=False),
        sa.Column("acknowledged", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("key_number >= 1", name=op.f("ck_site_key_number")),
        sa.CheckConstraint("acknowledged >= 0", name=op.f("ck_site_acknowledged")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_site")),
        sa.UniqueConstraint("cluster", name=op.f("uq_site_cluster")),
    )
    op.create_table(
        "site_documents",
        sa.Column("site", sa.String(length=30), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("documents", sa.JSON(), nullable=False),
        sa.Column("people", sa.JSON(), nullable=False),
        sa.CheckConstraint("revision >= 1", name=op.f("ck_site_documents_revision")),
        sa.ForeignKeyConstraint(["site"], ["site.name"], name=op.f("fk_site_documents_site")),
        sa.PrimaryKeyConstraint("site", name=op.f("pk_site_documents")),
    )
    op.create_table(
        "site_report",
        sa.Column("site", sa.String(length=30), nullable=False),
        sa.Column("sent_at", UtcDateTime(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["site"], ["site.name"], name=op.f("fk_site_report_site")),
        sa.PrimaryKeyConstraint("site", name=op.f("pk_site_report")),
    )


def downgrade() -> None:
    for table in ("site_report", "site_documents", "site"):
        op.drop_table(table)
