"""the progress of each attempt

Revision ID: 7d2b6e4c9a15
Revises: 0c49506d851e
Create Date: 2026-11-29 16:10:04.221903

"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

# revision identifiers, used by Alembic.
revision = "7d2b6e4c9a15"
down_revision = "0c49506d851e"
branch_labels = None
depends_on = None

_TEXT = sa.String(200).with_variant(
    mysql.VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)


def upgrade() -> None:
    with op.batch_alter_table("attempts") as batch_op:
        batch_op.add_column(sa.Column("progress", _TEXT, nullable=True))
        batch_op.add_column(sa.Column("progress_at", sa.DateTime(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("attempts") as batch_op:
        batch_op.drop_column("progress_at")
        batch_op.drop_column("progress")
