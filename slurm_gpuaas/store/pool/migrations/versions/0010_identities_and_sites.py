"""What each site holds of its documents and where its people sign in; who people are on sites stands in `unix_identity`
alone."""

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
    with op.batch_alter_table("person") as table:
        table.drop_constraint(op.f("uq_person_unix_user"), type_="unique")
        table.drop_column("unix_user")
        table.drop_column("ssh_keys")


def downgrade() -> None:
    with op.batch_alter_table("person") as table:
        table.add_column(sa.Column("ssh_keys", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(sa.Column("unix_user", sa.String(length=32), nullable=True))
        table.create_unique_constraint(op.f("uq_person_unix_user"), ["unix_user"])
    with op.batch_alter_table("site") as table:
        table.drop_constraint(op.f("ck_site_held"), type_="check")
        table.drop_column("login_host")
        table.drop_column("held")
