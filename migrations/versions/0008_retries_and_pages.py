"""retries and pages"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "idempotency_key",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("headers", postgresql.JSONB(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("caller", "key", name="idempotency_key_pkey"),
    )
    op.create_index("idempotency_key_created_at_idx", "idempotency_key", ["created_at"])
    op.create_table(
        "secret",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="secret_pkey"),
    )
    op.add_column("student", sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.drop_index("student_active_idx", table_name="student")
    op.create_index("student_active_idx", "student", ["active", "id"])
    op.create_index("student_name_idx", "student", ["name"], postgresql_ops={"name": "text_pattern_ops"})


def downgrade() -> None:
    op.drop_index("student_name_idx", table_name="student")
    op.drop_index("student_active_idx", table_name="student")
    op.create_index("student_active_idx", "student", ["id"], postgresql_where=sa.text("active"))
    op.drop_column("student", "version")
    op.drop_table("secret")
    op.drop_table("idempotency_key")
