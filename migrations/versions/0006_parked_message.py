"""parked_message"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "parked_message",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("broker", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("properties", sa.LargeBinary(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("parked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolved_by", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("parking", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="parked_message_pkey"),
        sa.UniqueConstraint("parking", name="parked_message_parking_key"),
    )
    is_open = sa.text("status = 'open'")
    op.create_index(
        "parked_message_open_key", "parked_message", ["queue", "fingerprint"], unique=True, postgresql_where=is_open
    )
    op.create_index("parked_message_open_idx", "parked_message", ["queue", "id"], postgresql_where=is_open)
    op.create_index("parked_message_message_id_idx", "parked_message", ["queue", "message_id"])
    op.create_index("parked_message_resolved_at_idx", "parked_message", ["resolved_at"])
    op.create_table(
        "parked_act",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("parked_message_id", sa.BigInteger(), nullable=False),
        sa.Column("how_many", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("body_before", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["parked_message_id"],
            ["parked_message.id"],
            name="parked_act_parked_message_id_fkey",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="parked_act_pkey"),
    )
    op.create_index("parked_act_parked_message_id_idx", "parked_act", ["parked_message_id"])


def downgrade() -> None:
    op.drop_table("parked_act")
    op.drop_table("parked_message")
