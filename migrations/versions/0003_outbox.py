"""outbox"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("broker", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("routing_key", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("properties", postgresql.JSONB(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "available_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="outbox_pkey"),
        # Rows live for milliseconds, so the table is mostly dead rows: vacuum by number, often, and at full speed.
        # It stays as large as its longest queue was; to shrink it would lock everybody out each time.
        postgresql_with={
            "autovacuum_vacuum_scale_factor": 0,
            "autovacuum_vacuum_threshold": 1000,
            "autovacuum_vacuum_insert_threshold": -1,
            "autovacuum_analyze_scale_factor": 0,
            "autovacuum_analyze_threshold": 5000,
            "autovacuum_vacuum_cost_delay": 0,
            "vacuum_truncate": False,
            "toast.autovacuum_vacuum_scale_factor": 0,
            "toast.autovacuum_vacuum_threshold": 1000,
            "toast.autovacuum_vacuum_cost_delay": 0,
            "toast.vacuum_truncate": False,
        },
    )
    op.create_index("outbox_available_idx", "outbox", ["broker", "available_at", "id"])


def downgrade() -> None:
    op.drop_table("outbox")
