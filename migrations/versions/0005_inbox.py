"""inbox"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("queue", "message_id", name="inbox_pkey"),
        postgresql_with={"autovacuum_vacuum_scale_factor": 0.01},
    )
    op.create_index("inbox_received_at_idx", "inbox", ["received_at"])


def downgrade() -> None:
    op.drop_table("inbox")
