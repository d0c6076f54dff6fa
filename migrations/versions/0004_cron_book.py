"""the book of the scheduler in full, and paused jobs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = "cron_run_job_scheduled_at_trigger_key"


def upgrade() -> None:
    op.create_table(
        "cron_pause",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("paused_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job", name="cron_pause_pkey"),
    )
    op.drop_constraint("cron_run_pkey", "cron_run", type_="primary")
    op.add_column("cron_run", sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False))
    op.add_column("cron_run", sa.Column("trigger", sa.Text(), server_default=sa.text("'schedule'"), nullable=False))
    op.add_column("cron_run", sa.Column("triggered_by", sa.Text(), nullable=True))
    op.add_column("cron_run", sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("cron_run", sa.Column("through", sa.DateTime(timezone=True), nullable=True))
    op.add_column("cron_run", sa.Column("progress", sa.Text(), nullable=True))
    op.add_column("cron_run", sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("cron_run", sa.Column("fence", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.alter_column("cron_run", "started_at", nullable=True)
    op.execute("UPDATE cron_run SET attempts = 1 WHERE status IN ('finished', 'failed')")
    op.create_primary_key("cron_run_pkey", "cron_run", ["id"])
    op.create_unique_constraint(KEY, "cron_run", ["job", "scheduled_at", "trigger"])
    op.create_index(
        "cron_run_lease_idx", "cron_run", ["job"], postgresql_where=sa.text("lease_expires_at IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_index("cron_run_lease_idx", table_name="cron_run")
    op.drop_constraint(KEY, "cron_run", type_="unique")
    op.drop_constraint("cron_run_pkey", "cron_run", type_="primary")
    op.execute("DELETE FROM cron_run WHERE trigger <> 'schedule' OR started_at IS NULL")
    op.alter_column("cron_run", "started_at", nullable=False)
    for column in ("fence", "lease_expires_at", "progress", "through", "attempts", "triggered_by", "trigger", "id"):
        op.drop_column("cron_run", column)
    op.create_primary_key("cron_run_pkey", "cron_run", ["job", "scheduled_at"])
    op.drop_table("cron_pause")
