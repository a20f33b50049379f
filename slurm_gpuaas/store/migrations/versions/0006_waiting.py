"""A placement decision may be to wait for a better place."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CHECK = "ck_job_placement_outcome"


def upgrade() -> None:
    _allow("'pinned', 'opened', 'waiting'")


def downgrade() -> None:
    op.execute("DELETE FROM job_placement WHERE outcome = 'waiting'")
    _allow("'pinned', 'opened'")


def _allow(outcomes: str) -> None:
    with op.batch_alter_table("job_placement") as table:
        table.drop_constraint(op.f(CHECK), type_="check")
        table.create_check_constraint(op.f(CHECK), f"outcome IN ({outcomes})")
