"""Days of use, the ladder of idle grants, leases of providers, and how sending a mail goes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "pool_0005"
down_revision = "pool_0004"
branch_labels = None
depends_on = None

FIGURES = ("allocated", "busy", "loaded", "lost", "burst")


def upgrade() -> None:
    op.create_table(
        "grant_day",
        sa.Column("grant", sa.String(length=11), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=name == "busy") for name in FIGURES),
        sa.Column("peak", sa.Integer(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        *(sa.CheckConstraint(f"{name} >= 0", name=op.f(f"ck_grant_day_{name}")) for name in (*FIGURES, "peak")),
        sa.ForeignKeyConstraint(["grant"], ["pool_grant.id"], name=op.f("fk_grant_day_grant")),
        sa.PrimaryKeyConstraint("grant", "day", name=op.f("pk_grant_day")),
    )
    op.create_table(
        "idle_rule_set",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.CheckConstraint("number >= 1", name=op.f("ck_idle_rule_set_number")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_idle_rule_set")),
    )
    op.create_table(
        "idle_standing",
        sa.Column("grant", sa.String(length=11), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["grant"], ["pool_grant.id"], name=op.f("fk_idle_standing_grant")),
        sa.PrimaryKeyConstraint("grant", name=op.f("pk_idle_standing")),
    )
    op.create_table(
        "idle_step",
        sa.Column("grant", sa.String(length=11), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["grant"], ["pool_grant.id"], name=op.f("fk_idle_step_grant")),
        sa.PrimaryKeyConstraint("grant", "day", name=op.f("pk_idle_step")),
    )
    op.create_table(
        "idle_exemption",
        sa.Column("grant", sa.String(length=11), nullable=False),
        sa.Column("starts", sa.Date(), nullable=False),
        sa.Column("ends", sa.Date(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.CheckConstraint("ends >= starts", name=op.f("ck_idle_exemption_days")),
        sa.ForeignKeyConstraint(["grant"], ["pool_grant.id"], name=op.f("fk_idle_exemption_grant")),
        sa.PrimaryKeyConstraint("grant", "starts", name=op.f("pk_idle_exemption")),
    )
    op.create_table(
        "idle_appeal",
        sa.Column("id", sa.String(length=11), nullable=False),
        sa.Column("grant", sa.String(length=11), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("filed_by", sa.String(length=22), nullable=False),
        sa.Column("decided_by", sa.String(length=22), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.CheckConstraint("state IN ('open', 'allowed', 'denied')", name=op.f("ck_idle_appeal_state")),
        sa.CheckConstraint("(state = 'open') = (decided_by IS NULL)", name=op.f("ck_idle_appeal_decided")),
        sa.CheckConstraint("decided_by <> filed_by", name=op.f("ck_idle_appeal_two_people")),
        sa.ForeignKeyConstraint(["grant"], ["pool_grant.id"], name=op.f("fk_idle_appeal_grant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idle_appeal")),
    )
    op.create_index(op.f("ix_idle_appeal_grant"), "idle_appeal", ["grant"])
    op.create_index(op.f("ix_idle_appeal_state"), "idle_appeal", ["state"])
    op.create_table(
        "lease",
        sa.Column("id", sa.String(length=11), nullable=False),
        sa.Column("provider", sa.String(length=30), nullable=False),
        sa.Column("share", sa.String(length=92), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("starts", sa.Date(), nullable=False),
        sa.Column("ends", sa.Date(), nullable=False),
        sa.Column("asked_by", sa.String(length=22), nullable=False),
        sa.Column("decided_by", sa.String(length=22), nullable=True),
        sa.Column("hold", sa.String(length=11), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.CheckConstraint(
            "state IN ('asked', 'approved', 'refused', 'withdrawn', 'ended')", name=op.f("ck_lease_state")
        ),
        sa.CheckConstraint("gpus >= 1", name=op.f("ck_lease_gpus")),
        sa.CheckConstraint("ends >= starts", name=op.f("ck_lease_days")),
        sa.CheckConstraint(
            "state NOT IN ('approved', 'ended') OR decided_by <> asked_by", name=op.f("ck_lease_two_people")
        ),
        sa.ForeignKeyConstraint(["share"], ["pool_share.name"], name=op.f("fk_lease_share")),
        sa.ForeignKeyConstraint(["hold"], ["hold.id"], name=op.f("fk_lease_hold")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lease")),
    )
    for column in ("provider", "share", "state"):
        op.create_index(op.f(f"ix_lease_{column}"), "lease", [column])
    op.add_column("mail", sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("mail", sa.Column("try_at", UtcDateTime(), nullable=True))
    op.add_column("mail", sa.Column("fault", sa.String(length=300), nullable=False, server_default=""))
    op.create_index(op.f("ix_mail_to"), "mail", ["to"])
    op.create_index(op.f("ix_mail_try_at"), "mail", ["try_at"])
    op.execute("UPDATE mail SET try_at = written_at WHERE sent_at IS NULL")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER idle_rule_set_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON idle_rule_set "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER idle_rule_set_no_{change.lower()} BEFORE {change} ON idle_rule_set "
            "BEGIN SELECT RAISE(ABORT, 'rules that were in force are never changed'); END"
        )


def downgrade() -> None:
    op.drop_index(op.f("ix_mail_try_at"), "mail")
    op.drop_index(op.f("ix_mail_to"), "mail")
    for column in ("fault", "try_at", "tries"):
        op.drop_column("mail", column)
    for table in (
        "lease",
        "idle_appeal",
        "idle_exemption",
        "idle_step",
        "idle_standing",
        "idle_rule_set",
        "grant_day",
    ):
        op.drop_table(table)
