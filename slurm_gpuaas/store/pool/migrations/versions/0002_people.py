"""People, sessions, tokens and the audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "pool_0002"
down_revision = "pool_0001"
branch_labels = None
depends_on = None

ROLES = "'government', 'provider-operator', 'provider-billing', 'tenant-admin', 'researcher', 'auditor'"
OFFICE = "(role IN ('tenant-admin', 'researcher')) = (organisation IS NOT NULL)"
AT_PROVIDER = "(role IN ('provider-operator', 'provider-billing')) = (provider IS NOT NULL)"


def upgrade() -> None:
    op.create_table(
        "person",
        sa.Column("id", sa.String(length=22), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("organisation", sa.String(length=30), nullable=True),
        sa.Column("provider", sa.String(length=30), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("role_from", sa.String(length=20), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("language", sa.String(length=2), nullable=True),
        sa.Column("login", sa.String(length=32), nullable=True),
        sa.Column("password_hash", sa.String(length=255), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("locked_until", UtcDateTime(), nullable=True),
        sa.Column("issuer", sa.String(length=300), nullable=True),
        sa.Column("subject", sa.String(length=255), nullable=True),
        sa.Column("invitation", sa.String(length=64), nullable=True),
        sa.Column("invitation_ends", UtcDateTime(), nullable=True),
        sa.Column("unix_user", sa.String(length=32), nullable=True),
        sa.Column("ssh_keys", sa.JSON(), nullable=False),
        sa.CheckConstraint(f"role IN ({ROLES})", name=op.f("ck_person_role")),
        sa.CheckConstraint("state IN ('invited', 'active', 'suspended')", name=op.f("ck_person_state")),
        sa.CheckConstraint("role_from IN ('portal', 'identity-provider')", name=op.f("ck_person_role_from")),
        sa.CheckConstraint("failures >= 0", name=op.f("ck_person_failures")),
        sa.CheckConstraint(OFFICE, name=op.f("ck_person_office")),
        sa.CheckConstraint(AT_PROVIDER, name=op.f("ck_person_at_provider")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person")),
        sa.UniqueConstraint("login", name=op.f("uq_person_login")),
        sa.UniqueConstraint("invitation", name=op.f("uq_person_invitation")),
        sa.UniqueConstraint("unix_user", name=op.f("uq_person_unix_user")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_person_issuer_subject")),
    )
    op.create_index(op.f("ix_person_email"), "person", ["email"])
    op.create_index(op.f("ix_person_organisation"), "person", ["organisation"])
    op.create_index(op.f("ix_person_provider"), "person", ["provider"])

    op.create_table(
        "portal_session",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("person", sa.String(length=22), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("browser", sa.String(length=200), nullable=False),
        sa.Column("issuer", sa.String(length=300), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("sid", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(["person"], ["person.id"], name=op.f("fk_portal_session_person")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_portal_session")),
    )
    op.create_index(op.f("ix_portal_session_person"), "portal_session", ["person"])

    op.create_table(
        "sign_in_flow",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("browser_digest", sa.String(length=64), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("verifier", sa.String(length=128), nullable=False),
        sa.Column("back_to", sa.String(length=500), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_sign_in_flow")),
    )

    op.create_table(
        "api_token",
        sa.Column("id", sa.String(length=20), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("person", sa.String(length=22), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("used_at", UtcDateTime(), nullable=True),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["person"], ["person.id"], name=op.f("fk_api_token_person")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_token_digest")),
    )
    op.create_index(op.f("ix_api_token_person"), "api_token", ["person"])

    op.create_table(
        "office_change",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("person", sa.String(length=22), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("organisation", sa.String(length=30), nullable=True),
        sa.Column("provider", sa.String(length=30), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("asked_by", sa.String(length=22), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("decided_by", sa.String(length=22), nullable=True),
        sa.Column("decided_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(f"role IN ({ROLES})", name=op.f("ck_office_change_role")),
        sa.CheckConstraint(
            "state IN ('open', 'approved', 'refused', 'withdrawn')", name=op.f("ck_office_change_state")
        ),
        sa.CheckConstraint(OFFICE, name=op.f("ck_office_change_office")),
        sa.CheckConstraint(AT_PROVIDER, name=op.f("ck_office_change_at_provider")),
        sa.CheckConstraint(
            "state NOT IN ('approved', 'refused') OR decided_by <> asked_by", name=op.f("ck_office_change_two_people")
        ),
        sa.CheckConstraint("(state = 'open') = (decided_by IS NULL)", name=op.f("ck_office_change_decided")),
        sa.ForeignKeyConstraint(["person"], ["person.id"], name=op.f("fk_office_change_person")),
        sa.ForeignKeyConstraint(["asked_by"], ["person.id"], name=op.f("fk_office_change_asked_by")),
        sa.ForeignKeyConstraint(["decided_by"], ["person.id"], name=op.f("fk_office_change_decided_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_office_change")),
    )
    op.create_index(op.f("ix_office_change_person"), "office_change", ["person"])

    op.create_table(
        "audit_entry",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("role", sa.String(length=40), nullable=False),
        sa.Column("on_behalf_of", sa.String(length=100), nullable=False),
        sa.Column("action", sa.String(length=100), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.String(length=2_000), nullable=False),
        sa.Column("evidence", sa.String(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("request", sa.String(length=64), nullable=False),
        sa.Column("result", sa.String(length=20), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.CheckConstraint("result IN ('done', 'refused', 'failed')", name=op.f("ck_audit_entry_result")),
        sa.CheckConstraint("seq >= 1", name=op.f("ck_audit_entry_seq")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_entry")),
    )
    for column in ("actor", "action", "subject"):
        op.create_index(op.f(f"ix_audit_entry_{column}_seq"), "audit_entry", [column, "seq"])
    op.create_index(op.f("ix_audit_entry_at"), "audit_entry", ["at"])
    _make_append_only("audit_entry")


def _make_append_only(table: str) -> None:
    """The database refuses to change or delete rows, whoever asks through it."""
    refusal = f"{table} is append only"
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{refusal}'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
    )


def downgrade() -> None:
    for table in ("audit_entry", "office_change", "api_token", "sign_in_flow", "portal_session", "person"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_entry_append_only()")
