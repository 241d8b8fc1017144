"""Attempts that are tried again, checkpoints, injected faults"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("losses", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("progressed", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("retry_at", sa.DateTime(), nullable=True))
        batch_op.add_column(sa.Column("checkpoint", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("checkpoint_step", NUMBER, nullable=True))
        batch_op.add_column(sa.Column("model", sa.Text(), nullable=True))
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("commands_before", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.add_column(sa.Column("fault", sa.String(length=20), nullable=True))
        batch_op.add_column(sa.Column("told_at", sa.DateTime(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.drop_column("told_at")
        batch_op.drop_column("fault")
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_column("commands_before")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        for name in ("model", "checkpoint_step", "checkpoint", "retry_at", "progressed", "losses"):
            batch_op.drop_column(name)
