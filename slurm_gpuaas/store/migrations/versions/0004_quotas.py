"""Quotas: who lends how much, who comes first, spare nodes, and how burst jobs end."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# What is there lends all, weighs the same, and gives burst jobs the 20 s that they had.
COLUMNS = (
    ("organisation", "weight", "INTEGER DEFAULT 1 NOT NULL", "weight >= 0"),
    ("organisation", "priority", "INTEGER DEFAULT 0 NOT NULL", None),
    ("pool", "min_run_seconds", "INTEGER DEFAULT 0 NOT NULL", "min_run_seconds >= 0"),
    ("pool", "grace_seconds", "INTEGER DEFAULT 20 NOT NULL", "grace_seconds >= 0"),
    ("pool_share", "spares", "INTEGER DEFAULT 0 NOT NULL", "spares >= 0"),
    ("gpu_grant", "lend_limit", "INTEGER", "lend_limit >= 0"),
    ("gpu_grant", "weight", "INTEGER DEFAULT 1 NOT NULL", "weight >= 0"),
    ("gpu_grant", "priority", "INTEGER DEFAULT 0 NOT NULL", None),
)


def upgrade() -> None:
    for table, name, definition, check in COLUMNS:
        # Both databases take a column with its check; batch mode would copy the table and lose the other checks.
        constraint = f" CONSTRAINT ck_{table}_{name} CHECK ({check})" if check else ""
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition}{constraint}")


def downgrade() -> None:
    for table, name, _definition, _check in reversed(COLUMNS):
        op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
