"""What trainers use: a sample a trainer and minute"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0008"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "system_samples",
        sa.Column("job", sa.String(length=40), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("minute", NUMBER, autoincrement=False, nullable=False),
        sa.Column("trainer", sa.String(length=60), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("sample", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job", "minute", "trainer"),
    )


def downgrade() -> None:
    op.drop_table("system_samples")
