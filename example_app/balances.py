"""The balances of all accounts, for a transaction that changes many of them."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from . import money
from .ledger import PaymentOrder
from .models import LARGEST_BALANCE, Account
from .refusals import Refused


class Balances:
    """The balances of all accounts, locked until the transaction of *session* ends.

    Orders are checked here one after the other, so that a refusal names the order that is to
    blame. The constraints of the database, which see only the result, are checked as well.

    The rows are locked in the order of their ids, as :func:`ledger.transfer` changes them. SQLite
    has no row locks. There, the transaction has the only write lock of the database instead.
    """

    def __init__(self, session: Session) -> None:
        statement = select(Account).order_by(Account.id).with_for_update()
        self._accounts = {account.id: account for account in session.scalars(statement)}
        self._balances = {number: account.balance for number, account in self._accounts.items()}

    def change(self, order: PaymentOrder) -> None:
        """Change the balances here, not yet in the database.

        :raises Refused: an account has not enough money, or cannot hold that much; nothing is
            changed.
        """
        source, balance = self._accounts[order.source], self._balances[order.source]
        left = balance - order.amount
        sum_ = self._balances[order.target] + order.amount
        if left < 0 and not source.may_overdraw:
            raise Refused(
                f'"{source.name}" has only {money.show(balance)} and cannot pay'
                f" {money.show(order.amount)}."
            )
        if left < -LARGEST_BALANCE or sum_ > LARGEST_BALANCE:
            raise Refused("The account cannot hold that much.")
        self._balances[order.source] = left
        self._balances[order.target] = sum_
