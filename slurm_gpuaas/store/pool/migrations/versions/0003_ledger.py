"""Usage as sites report it, and the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurm_gpuaas.store.columns import UtcDateTime

revision = "pool_0003"
down_revision = "pool_0002"
branch_labels = None
depends_on = None

APPEND_ONLY = ("ledger_entry", "statement", "closed_month", "pool_rate", "grant_terms")
"""A later migration that copies one of these tables (batch mode) must make its triggers again."""


def upgrade() -> None:
    op.create_table(
        "closed_month",
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("month", name=op.f("pk_closed_month")),
    )
    op.create_table(
        "grant_terms",
        sa.Column("grant_name", sa.String(length=60), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.CheckConstraint("version >= 1", name=op.f("ck_grant_terms_version")),
        sa.PrimaryKeyConstraint("grant_name", "version", name=op.f("pk_grant_terms")),
    )
    op.create_table(
        "ledger_entry",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("organisation", sa.String(length=30), nullable=True),
        sa.Column("provider", sa.String(length=30), nullable=True),
        sa.Column("programme", sa.String(length=30), nullable=True),
        sa.Column("grant_name", sa.String(length=60), nullable=True),
        sa.Column("of_month", sa.String(length=7), nullable=True),
        sa.Column("cluster", sa.String(length=30), nullable=True),
        sa.Column("account", sa.String(length=95), nullable=True),
        sa.Column("model", sa.String(length=30), nullable=True),
        sa.Column("service", sa.String(length=10), nullable=True),
        sa.Column("fault", sa.Boolean(), nullable=False),
        sa.Column("rate", sa.String(length=60), nullable=True),
        sa.Column("percent", sa.Integer(), nullable=True),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("preempted", sa.BigInteger(), nullable=False),
        sa.Column("list_won", sa.BigInteger(), nullable=False),
        sa.Column("won", sa.BigInteger(), nullable=False),
        sa.Column("refers", sa.String(length=60), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("asked_by", sa.String(length=22), nullable=True),
        sa.Column("approved_by", sa.String(length=22), nullable=True),
        sa.Column("command", sa.String(length=64), nullable=True),
        sa.CheckConstraint(
            "(kind IN ('charge', 'correction')) = (of_month IS NOT NULL)", name=op.f("ck_ledger_entry_used")
        ),
        sa.CheckConstraint("kind <> 'charge' OR of_month = month", name=op.f("ck_ledger_entry_charge")),
        sa.CheckConstraint(
            "kind <> 'correction' OR (of_month < month AND refers = of_month)", name=op.f("ck_ledger_entry_correction")
        ),
        sa.CheckConstraint("kind <> 'credit' OR won < 0", name=op.f("ck_ledger_entry_credit")),
        sa.CheckConstraint("kind <> 'payment' OR won < 0", name=op.f("ck_ledger_entry_payment")),
        sa.CheckConstraint(
            "kind IN ('charge', 'correction') OR (gpu_seconds = 0 AND preempted = 0 AND list_won = won)",
            name=op.f("ck_ledger_entry_won"),
        ),
        sa.CheckConstraint(
            "kind IN ('charge', 'correction', 'credit', 'adjustment', 'payment')", name=op.f("ck_ledger_entry_kind")
        ),
        sa.CheckConstraint(
            "kind NOT IN ('credit', 'adjustment')"
            " OR (asked_by IS NOT NULL AND approved_by IS NOT NULL AND asked_by <> approved_by)",
            name=op.f("ck_ledger_entry_two_people"),
        ),
        sa.CheckConstraint("percent BETWEEN 0 AND 10000", name=op.f("ck_ledger_entry_percent")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_ledger_entry")),
        sa.UniqueConstraint("command", name=op.f("uq_ledger_entry_command")),
    )
    op.create_index(
        op.f("ix_ledger_entry_cluster_account_of_month"), "ledger_entry", ["cluster", "account", "of_month"]
    )
    op.create_index(
        op.f("ix_ledger_entry_month_organisation_provider"), "ledger_entry", ["month", "organisation", "provider"]
    )
    op.create_index(op.f("ix_ledger_entry_of_month"), "ledger_entry", ["of_month"])
    op.create_table(
        "pool_rate",
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("model", sa.String(length=30), nullable=False),
        sa.Column("share", sa.String(length=30), nullable=False),
        sa.Column("programme", sa.String(length=30), nullable=False),
        sa.Column("won_per_gpu_hour", sa.Integer(), nullable=False),
        sa.Column("burst_discount", sa.Integer(), nullable=False),
        sa.Column("starts", sa.Date(), nullable=False),
        sa.Column("basis", sa.String(length=500), nullable=False),
        sa.CheckConstraint("burst_discount BETWEEN 0 AND 10000", name=op.f("ck_pool_rate_burst_discount")),
        sa.CheckConstraint("won_per_gpu_hour >= 0", name=op.f("ck_pool_rate_won_per_gpu_hour")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pool_rate")),
        sa.UniqueConstraint(
            "model", "share", "programme", "starts", name=op.f("uq_pool_rate_model_share_programme_starts")
        ),
    )
    op.create_table(
        "reported_run",
        sa.Column("cluster", sa.String(length=30), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("started", UtcDateTime(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("user", sa.String(length=32), nullable=False),
        sa.Column("account", sa.String(length=95), nullable=False),
        sa.Column("qos", sa.String(length=95), nullable=False),
        sa.Column("partition", sa.String(length=95), nullable=False),
        sa.Column("model", sa.String(length=30), nullable=True),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("ended", UtcDateTime(), nullable=True),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=40), nullable=False),
        sa.Column("nodes", sa.String(), nullable=False),
        sa.CheckConstraint("ended >= started", name=op.f("ck_reported_run_times")),
        sa.CheckConstraint("gpu_seconds >= 0", name=op.f("ck_reported_run_gpu_seconds")),
        sa.CheckConstraint("gpus >= 1", name=op.f("ck_reported_run_gpus")),
        sa.PrimaryKeyConstraint("cluster", "job_id", "started", name=op.f("pk_reported_run")),
    )
    op.create_index(op.f("ix_reported_run_cluster_account_ended"), "reported_run", ["cluster", "account", "ended"])
    op.create_table(
        "statement",
        sa.Column("number", sa.String(length=60), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("organisation", sa.String(length=30), nullable=False),
        sa.Column("provider", sa.String(length=30), nullable=False),
        sa.Column("issued_at", UtcDateTime(), nullable=False),
        sa.Column("vat_percent", sa.Integer(), nullable=False),
        sa.Column("carried", sa.BigInteger(), nullable=False),
        sa.Column("supply", sa.BigInteger(), nullable=False),
        sa.Column("vat", sa.BigInteger(), nullable=False),
        sa.Column("paid", sa.BigInteger(), nullable=False),
        sa.Column("titles", sa.JSON(), nullable=False),
        sa.CheckConstraint("paid >= 0", name=op.f("ck_statement_paid")),
        sa.CheckConstraint("vat_percent BETWEEN 0 AND 100", name=op.f("ck_statement_vat_percent")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_statement")),
        sa.UniqueConstraint("month", "organisation", "provider", name=op.f("uq_statement_month_organisation_provider")),
    )
    op.create_index(op.f("ix_statement_organisation_provider"), "statement", ["organisation", "provider"])
    op.create_table(
        "unbooked",
        sa.Column("cluster", sa.String(length=30), nullable=False),
        sa.Column("account", sa.String(length=95), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.PrimaryKeyConstraint("cluster", "account", "month", name=op.f("pk_unbooked")),
    )
    op.create_table(
        "use_sum",
        sa.Column("cluster", sa.String(length=30), nullable=False),
        sa.Column("account", sa.String(length=95), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", sa.String(length=30), nullable=False),
        sa.Column("service", sa.String(length=10), nullable=False),
        sa.Column("ending", sa.String(length=10), nullable=False),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("ending IN ('used', 'preempted', 'fault')", name=op.f("ck_use_sum_ending")),
        sa.CheckConstraint("service IN ('guaranteed', 'burst')", name=op.f("ck_use_sum_service")),
        sa.CheckConstraint("gpu_seconds >= 0", name=op.f("ck_use_sum_gpu_seconds")),
        sa.PrimaryKeyConstraint(
            "cluster", "account", "month", "day", "model", "service", "ending", name=op.f("pk_use_sum")
        ),
    )
    op.create_table(
        "won_request",
        sa.Column("command", sa.String(length=64), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("asked_by", sa.String(length=22), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("verdict", sa.String(length=10), nullable=False),
        sa.Column("decided_by", sa.String(length=22), nullable=True),
        sa.Column("decided_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("(verdict = 'open') = (decided_by IS NULL)", name=op.f("ck_won_request_decided")),
        sa.CheckConstraint("verdict IN ('open', 'approved', 'refused')", name=op.f("ck_won_request_verdict")),
        sa.CheckConstraint("decided_by <> asked_by", name=op.f("ck_won_request_two_people")),
        sa.PrimaryKeyConstraint("command", name=op.f("pk_won_request")),
    )
    op.create_index(op.f("ix_won_request_verdict"), "won_request", ["verdict"])
    if op.get_bind().dialect.name == "sqlite":
        _guard_sqlite()
    else:
        _guard_postgresql()


def _guard_sqlite() -> None:
    for table in APPEND_ONLY:
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    op.execute(
        "CREATE TRIGGER ledger_entry_month BEFORE INSERT ON ledger_entry "
        "WHEN EXISTS (SELECT 1 FROM closed_month WHERE month >= NEW.month) "
        "BEGIN SELECT RAISE(ABORT, 'the month is closed'); END"
    )


def _guard_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        "CREATE FUNCTION refuse_closed_month() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF EXISTS (SELECT 1 FROM closed_month WHERE month >= NEW.month) "
        "THEN RAISE EXCEPTION 'the month is closed'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER ledger_entry_month BEFORE INSERT ON ledger_entry "
        "FOR EACH ROW EXECUTE FUNCTION refuse_closed_month()"
    )


def downgrade() -> None:
    op.drop_table("won_request")
    op.drop_table("use_sum")
    op.drop_table("unbooked")
    op.drop_table("statement")
    op.drop_table("reported_run")
    op.drop_table("pool_rate")
    op.drop_table("ledger_entry")
    op.drop_table("grant_terms")
    op.drop_table("closed_month")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION refuse_change()")
        op.execute("DROP FUNCTION refuse_closed_month()")
