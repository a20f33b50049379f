"""Rates, budgets in Won, and the rules of budgets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Of the grants that are there: a budget for the whole grant, nothing carried over, no grace, the whole price.
COLUMNS = (
    ("budget_won", "BIGINT", "budget_won >= 0"),
    ("budget_period", "VARCHAR(10) DEFAULT 'grant' NOT NULL", "budget_period IN ('grant', 'month', 'quarter')"),
    ("carry_over", "INTEGER DEFAULT 0 NOT NULL", "carry_over BETWEEN 0 AND 100"),
    ("grace", "INTEGER DEFAULT 0 NOT NULL", "grace BETWEEN 0 AND 100"),
    ("price_percent", "INTEGER DEFAULT 10000 NOT NULL", "price_percent BETWEEN 0 AND 10000"),
)


def upgrade() -> None:
    op.create_table(
        "rate",
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("model", sa.String(length=30), nullable=False),
        sa.Column("won_per_gpu_hour", sa.Integer(), nullable=False),
        sa.Column("burst_discount", sa.Integer(), nullable=False),
        sa.Column("starts", sa.Date(), nullable=False),
        sa.Column("basis", sa.String(length=500), nullable=False),
        sa.CheckConstraint("won_per_gpu_hour >= 0", name=op.f("ck_rate_won_per_gpu_hour")),
        sa.CheckConstraint("burst_discount BETWEEN 0 AND 10000", name=op.f("ck_rate_burst_discount")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_rate")),
        sa.UniqueConstraint("model", "starts", name=op.f("uq_rate_model_starts")),
    )
    for name, definition, check in COLUMNS:
        # Both databases take a column with its check; batch mode would copy the table and lose the other checks.
        op.execute(
            f"ALTER TABLE gpu_grant ADD COLUMN {name} {definition} CONSTRAINT ck_gpu_grant_{name} CHECK ({check})"
        )
    op.create_index(op.f("ix_usage_record_started"), "usage_record", ["started"])


def downgrade() -> None:
    op.drop_index(op.f("ix_usage_record_started"), table_name="usage_record")
    for name, _definition, _check in reversed(COLUMNS):
        op.execute(f"ALTER TABLE gpu_grant DROP COLUMN {name}")
    op.drop_table("rate")
