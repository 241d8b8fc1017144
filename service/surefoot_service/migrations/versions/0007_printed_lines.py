"""The index of printed lines: their files, and how far each source's are stored"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "log_chunks",
        sa.Column("job", sa.String(length=40), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("first", NUMBER, autoincrement=False, nullable=False),
        sa.Column("lines", NUMBER, nullable=False),
        sa.Column("num_bytes", NUMBER, nullable=False),
        sa.Column("text_bytes", NUMBER, nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("job", "first"),
    )
    op.create_table(
        "log_sources",
        sa.Column("job", sa.String(length=40), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("source", sa.String(length=120), nullable=False),
        sa.Column("below", NUMBER, nullable=False),
        sa.Column("over", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("job", "source"),
    )


def downgrade() -> None:
    op.drop_table("log_sources")
    op.drop_table("log_chunks")
