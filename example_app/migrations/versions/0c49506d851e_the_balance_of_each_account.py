"""the balance of each account

Each account keeps its balance, the sum of its postings, so that the database can refuse an
overdraft. This revision computes the balances of the accounts that exist.

Revision ID: 0c49506d851e
Revises: 1f5c5c938859
Create Date: 2026-11-21 11:45:31.540087

"""

import sqlalchemy as sa
from alembic import op

# revision identifiers, used by Alembic.
revision = "0c49506d851e"
down_revision = "1f5c5c938859"
branch_labels = None
depends_on = None

_LARGEST = 10**18

accounts = sa.table("accounts", sa.column("id"), sa.column("balance"))
postings = sa.table("postings", sa.column("account_id"), sa.column("amount"))


def upgrade() -> None:
    with op.batch_alter_table("accounts") as batch_op:
        batch_op.add_column(sa.Column("balance", sa.BigInteger(), nullable=True))

    total = (
        sa.select(sa.func.coalesce(sa.func.sum(postings.c.amount), 0))
        .where(postings.c.account_id == accounts.c.id)
        .scalar_subquery()
    )
    op.execute(accounts.update().values(balance=total))

    # After the balances have been filled, so that an account that is overdrawn already stops this
    # revision.
    with op.batch_alter_table("accounts") as batch_op:
        batch_op.alter_column("balance", existing_type=sa.BigInteger(), nullable=False)
        batch_op.create_check_constraint(
            batch_op.f("ck_accounts_no_overdraft"), "may_overdraw OR balance >= 0"
        )
        batch_op.create_check_constraint(
            batch_op.f("ck_accounts_within_bounds"), f"balance BETWEEN -{_LARGEST} AND {_LARGEST}"
        )


def downgrade() -> None:
    """Drop the balances. No data is lost: they can be computed from the postings again."""
    with op.batch_alter_table("accounts") as batch_op:
        batch_op.drop_constraint(batch_op.f("ck_accounts_within_bounds"), type_="check")
        batch_op.drop_constraint(batch_op.f("ck_accounts_no_overdraft"), type_="check")
        batch_op.drop_column("balance")
