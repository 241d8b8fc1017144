"""Which attempt told a ledger row, how far each source of events is stored, and when an attempt has told all"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # Plain ADD COLUMN: the ledger may be large, and is not to be copied.
    op.add_column("ledger", sa.Column("attempt", sa.String(length=60), nullable=True))
    op.add_column("attempts", sa.Column("closed_at", sa.DateTime(), nullable=True))
    op.create_table(
        "event_sources",
        sa.Column("job", sa.String(length=40), nullable=False),
        sa.Column("source", sa.String(length=100), nullable=False),
        sa.Column("attempt", sa.String(length=60), nullable=False),
        sa.Column("stored", NUMBER, nullable=False),
        # whoever deletes a job deletes these with it
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job", "source"),
    )


def downgrade() -> None:
    op.drop_table("event_sources")
    op.drop_column("attempts", "closed_at")
    op.drop_column("ledger", "attempt")
