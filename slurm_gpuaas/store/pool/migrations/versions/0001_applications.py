"""Programmes, applications, reviews, offers, grants and the calendar of what is committed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "pool_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "application_draft",
        sa.Column("person", sa.String(length=22), nullable=False),
        sa.Column("programme", sa.String(length=30), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("person", "programme", name=op.f("pk_application_draft")),
    )
    op.create_table(
        "counter",
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counter")),
    )
    op.create_table(
        "done_command",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("asked", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_done_command")),
    )
    op.create_table(
        "mail",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("to", sa.String(length=22), nullable=False),
        sa.Column("template", sa.String(length=60), nullable=False),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.Column("written_at", UtcDateTime(), nullable=False),
        sa.Column("sent_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_mail")),
    )
    op.create_table(
        "organisation",
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("region", sa.String(length=30), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.CheckConstraint(
            "kind IN ('university', 'research-institute', 'young-firm', 'firm')", name=op.f("ck_organisation_kind")
        ),
        sa.CheckConstraint(
            "region IN ('seoul', 'busan', 'daegu', 'incheon', 'gwangju', 'daejeon', "
            "'ulsan', 'sejong', 'gyeonggi', 'gangwon', 'chungbuk', 'chungnam', 'jeonbuk', "
            "'jeonnam', 'gyeongbuk', 'gyeongnam', 'jeju')",
            name=op.f("ck_organisation_region"),
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_organisation")),
    )
    op.create_table(
        "pool_share",
        sa.Column("name", sa.String(length=92), nullable=False),
        sa.Column("provider", sa.String(length=30), nullable=False),
        sa.Column("cluster", sa.String(length=30), nullable=False),
        sa.Column("pool", sa.String(length=30), nullable=False),
        sa.Column("share", sa.String(length=30), nullable=False),
        sa.Column("model", sa.String(length=30), nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=False),
        sa.CheckConstraint("capacity >= 0", name=op.f("ck_pool_share_capacity")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pool_share")),
    )
    op.create_table(
        "programme",
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_programme")),
    )
    op.create_table(
        "site_revision",
        sa.Column("cluster", sa.String(length=30), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.CheckConstraint("revision >= 0", name=op.f("ck_site_revision_revision")),
        sa.PrimaryKeyConstraint("cluster", name=op.f("pk_site_revision")),
    )
    op.create_table(
        "unix_identity",
        sa.Column("person", sa.String(length=22), nullable=False),
        sa.Column("login", sa.String(length=32), nullable=False),
        sa.Column("uid", sa.Integer(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("person", name=op.f("pk_unix_identity")),
        sa.UniqueConstraint("login", name=op.f("uq_unix_identity_login")),
        sa.UniqueConstraint("uid", name=op.f("uq_unix_identity_uid")),
    )
    op.create_table(
        "application",
        sa.Column("id", sa.String(length=11), nullable=False),
        sa.Column("programme", sa.String(length=30), nullable=False),
        sa.Column("organisation", sa.String(length=30), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.CheckConstraint(
            "state IN ('submitted', 'in review', 'waiting', 'awarded', 'refused', 'withdrawn')",
            name=op.f("ck_application_state"),
        ),
        sa.ForeignKeyConstraint(["organisation"], ["organisation.name"], name=op.f("fk_application_organisation")),
        sa.ForeignKeyConstraint(["programme"], ["programme.name"], name=op.f("fk_application_programme")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_application")),
    )
    op.create_index(op.f("ix_application_organisation"), "application", ["organisation"])
    op.create_index(op.f("ix_application_programme"), "application", ["programme"])
    op.create_index(op.f("ix_application_state"), "application", ["state"])
    op.create_table(
        "award",
        sa.Column("id", sa.String(length=11), nullable=False),
        sa.Column("programme", sa.String(length=30), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("drafted_by", sa.String(length=22), nullable=False),
        sa.Column("decided_by", sa.String(length=22), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.CheckConstraint("state <> 'approved' OR decided_by <> drafted_by", name=op.f("ck_award_two_people")),
        sa.CheckConstraint("state IN ('drafted', 'approved', 'dropped')", name=op.f("ck_award_state")),
        sa.ForeignKeyConstraint(["programme"], ["programme.name"], name=op.f("fk_award_programme")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_award")),
    )
    op.create_index(op.f("ix_award_programme"), "award", ["programme"])
    op.create_index(op.f("ix_award_state"), "award", ["state"])
    op.create_table(
        "commitment",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("holder", sa.String(length=11), nullable=False),
        sa.Column("share", sa.String(length=92), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("starts", sa.Date(), nullable=False),
        sa.Column("ends", sa.Date(), nullable=False),
        sa.CheckConstraint("ends >= starts", name=op.f("ck_commitment_days")),
        sa.CheckConstraint("gpus >= 1", name=op.f("ck_commitment_gpus")),
        sa.ForeignKeyConstraint(["share"], ["pool_share.name"], name=op.f("fk_commitment_share")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_commitment")),
    )
    op.create_index(op.f("ix_commitment_holder"), "commitment", ["holder"])
    op.create_index(op.f("ix_commitment_share"), "commitment", ["share"])
    op.create_table(
        "hold",
        sa.Column("id", sa.String(length=11), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("share", sa.String(length=92), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("starts", sa.Date(), nullable=False),
        sa.Column("ends", sa.Date(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.CheckConstraint("kind IN ('lease', 'reservation')", name=op.f("ck_hold_kind")),
        sa.CheckConstraint("ends >= starts", name=op.f("ck_hold_days")),
        sa.CheckConstraint("gpus >= 1", name=op.f("ck_hold_gpus")),
        sa.ForeignKeyConstraint(["share"], ["pool_share.name"], name=op.f("fk_hold_share")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hold")),
    )
    op.create_index(op.f("ix_hold_share"), "hold", ["share"])
    op.create_table(
        "membership",
        sa.Column("person", sa.String(length=22), nullable=False),
        sa.Column("organisation", sa.String(length=30), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.CheckConstraint("role IN ('researcher', 'tenant-admin')", name=op.f("ck_membership_role")),
        sa.ForeignKeyConstraint(["organisation"], ["organisation.name"], name=op.f("fk_membership_organisation")),
        sa.PrimaryKeyConstraint("person", "organisation", name=op.f("pk_membership")),
    )
    op.create_index(op.f("ix_membership_organisation"), "membership", ["organisation"])
    op.create_table(
        "offer",
        sa.Column("id", sa.String(length=11), nullable=False),
        sa.Column("application", sa.String(length=11), nullable=False),
        sa.Column("organisation", sa.String(length=30), nullable=False),
        sa.Column("programme", sa.String(length=30), nullable=False),
        sa.Column("share", sa.String(length=92), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("starts", sa.Date(), nullable=False),
        sa.Column("ends", sa.Date(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.CheckConstraint("state IN ('made', 'accepted', 'declined', 'lapsed')", name=op.f("ck_offer_state")),
        sa.CheckConstraint("ends >= starts", name=op.f("ck_offer_days")),
        sa.CheckConstraint("gpus >= 1", name=op.f("ck_offer_gpus")),
        sa.ForeignKeyConstraint(["application"], ["application.id"], name=op.f("fk_offer_application")),
        sa.ForeignKeyConstraint(["organisation"], ["organisation.name"], name=op.f("fk_offer_organisation")),
        sa.ForeignKeyConstraint(["programme"], ["programme.name"], name=op.f("fk_offer_programme")),
        sa.ForeignKeyConstraint(["share"], ["pool_share.name"], name=op.f("fk_offer_share")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_offer")),
    )
    op.create_index(op.f("ix_offer_application"), "offer", ["application"])
    op.create_index(op.f("ix_offer_organisation"), "offer", ["organisation"])
    op.create_index(op.f("ix_offer_programme"), "offer", ["programme"])
    op.create_index(op.f("ix_offer_share"), "offer", ["share"])
    op.create_index(op.f("ix_offer_state"), "offer", ["state"])
    op.create_table(
        "review",
        sa.Column("application", sa.String(length=11), nullable=False),
        sa.Column("reviewer", sa.String(length=22), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["application"], ["application.id"], name=op.f("fk_review_application")),
        sa.PrimaryKeyConstraint("application", "reviewer", name=op.f("pk_review")),
    )
    op.create_index(op.f("ix_review_reviewer"), "review", ["reviewer"])
    op.create_table(
        "pool_grant",
        sa.Column("id", sa.String(length=11), nullable=False),
        sa.Column("offer", sa.String(length=11), nullable=False),
        sa.Column("application", sa.String(length=11), nullable=False),
        sa.Column("organisation", sa.String(length=30), nullable=False),
        sa.Column("programme", sa.String(length=30), nullable=False),
        sa.Column("project", sa.String(length=30), nullable=False),
        sa.Column("share", sa.String(length=92), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("starts", sa.Date(), nullable=False),
        sa.Column("ends", sa.Date(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.CheckConstraint("state IN ('scheduled', 'active', 'ending', 'ended')", name=op.f("ck_pool_grant_state")),
        sa.CheckConstraint("ends >= starts", name=op.f("ck_pool_grant_days")),
        sa.CheckConstraint("gpus >= 1", name=op.f("ck_pool_grant_gpus")),
        sa.ForeignKeyConstraint(["application"], ["application.id"], name=op.f("fk_pool_grant_application")),
        sa.ForeignKeyConstraint(["offer"], ["offer.id"], name=op.f("fk_pool_grant_offer")),
        sa.ForeignKeyConstraint(["organisation"], ["organisation.name"], name=op.f("fk_pool_grant_organisation")),
        sa.ForeignKeyConstraint(["programme"], ["programme.name"], name=op.f("fk_pool_grant_programme")),
        sa.ForeignKeyConstraint(["share"], ["pool_share.name"], name=op.f("fk_pool_grant_share")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pool_grant")),
        sa.UniqueConstraint("offer", name=op.f("uq_pool_grant_offer")),
        sa.UniqueConstraint("project", name=op.f("uq_pool_grant_project")),
    )
    op.create_index(op.f("ix_pool_grant_application"), "pool_grant", ["application"])
    op.create_index(op.f("ix_pool_grant_organisation"), "pool_grant", ["organisation"])
    op.create_index(op.f("ix_pool_grant_programme"), "pool_grant", ["programme"])
    op.create_index(op.f("ix_pool_grant_share"), "pool_grant", ["share"])
    op.create_index(op.f("ix_pool_grant_state"), "pool_grant", ["state"])
    op.create_table(
        "grant_change",
        sa.Column("id", sa.String(length=11), nullable=False),
        sa.Column("grant", sa.String(length=11), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("asked_by", sa.String(length=22), nullable=False),
        sa.Column("decided_by", sa.String(length=22), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.CheckConstraint("state <> 'approved' OR decided_by <> asked_by", name=op.f("ck_grant_change_two_people")),
        sa.CheckConstraint("state IN ('asked', 'approved', 'refused', 'dropped')", name=op.f("ck_grant_change_state")),
        sa.ForeignKeyConstraint(["grant"], ["pool_grant.id"], name=op.f("fk_grant_change_grant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grant_change")),
    )
    op.create_index(op.f("ix_grant_change_grant"), "grant_change", ["grant"])
    op.create_index(op.f("ix_grant_change_state"), "grant_change", ["state"])


def downgrade() -> None:
    op.drop_index(op.f("ix_grant_change_state"), table_name="grant_change")
    op.drop_index(op.f("ix_grant_change_grant"), table_name="grant_change")
    op.drop_table("grant_change")
    op.drop_index(op.f("ix_pool_grant_state"), table_name="pool_grant")
    op.drop_index(op.f("ix_pool_grant_share"), table_name="pool_grant")
    op.drop_index(op.f("ix_pool_grant_programme"), table_name="pool_grant")
    op.drop_index(op.f("ix_pool_grant_organisation"), table_name="pool_grant")
    op.drop_index(op.f("ix_pool_grant_application"), table_name="pool_grant")
    op.drop_table("pool_grant")
    op.drop_index(op.f("ix_review_reviewer"), table_name="review")
    op.drop_table("review")
    op.drop_index(op.f("ix_offer_state"), table_name="offer")
    op.drop_index(op.f("ix_offer_share"), table_name="offer")
    op.drop_index(op.f("ix_offer_programme"), table_name="offer")
    op.drop_index(op.f("ix_offer_organisation"), table_name="offer")
    op.drop_index(op.f("ix_offer_application"), table_name="offer")
    op.drop_table("offer")
    op.drop_index(op.f("ix_membership_organisation"), table_name="membership")
    op.drop_table("membership")
    op.drop_index(op.f("ix_hold_share"), table_name="hold")
    op.drop_table("hold")
    op.drop_index(op.f("ix_commitment_share"), table_name="commitment")
    op.drop_index(op.f("ix_commitment_holder"), table_name="commitment")
    op.drop_table("commitment")
    op.drop_index(op.f("ix_award_state"), table_name="award")
    op.drop_index(op.f("ix_award_programme"), table_name="award")
    op.drop_table("award")
    op.drop_index(op.f("ix_application_state"), table_name="application")
    op.drop_index(op.f("ix_application_programme"), table_name="application")
    op.drop_index(op.f("ix_application_organisation"), table_name="application")
    op.drop_table("application")
    op.drop_table("unix_identity")
    op.drop_table("site_revision")
    op.drop_table("programme")
    op.drop_table("pool_share")
    op.drop_table("organisation")
    op.drop_table("mail")
    op.drop_table("done_command")
    op.drop_table("counter")
    op.drop_table("application_draft")
