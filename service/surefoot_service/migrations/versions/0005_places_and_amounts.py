"""Where a job's checkpoints lie, whatever the settings say later, and how much its attempts have told"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("checkpoint_place", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("told_bytes", NUMBER, nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("told_bytes")
        batch_op.drop_column("checkpoint_place")
