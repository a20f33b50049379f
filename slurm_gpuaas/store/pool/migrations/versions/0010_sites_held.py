"""What each site holds of its documents, and where its people sign in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "pool_0010"
down_revision = "pool_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("site") as table:
        table.add_column(sa.Column("held", sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(sa.Column("login_host", sa.String(length=253), nullable=True))
        table.create_check_constraint(op.f("ck_site_held"), "held >= 0")


def downgrade() -> None:
    with op.batch_alter_table("site") as table:
        table.drop_constraint(op.f("ck_site_held"), type_="check")
        table.drop_column("login_host")
        table.drop_column("held")
