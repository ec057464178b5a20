"""Example data: three weeks of a small coffee shop."""

from __future__ import annotations

from datetime import datetime, time, timedelta, timezone

from sqlalchemy import select

from . import ledger
from .database import db
from .ledger import PaymentOrder
from .models import Account

_ACCOUNTS = {
    "Opening balances": True,
    "Sales": True,
    "Bank": False,
    "Till": False,
    "Coffee beans": False,
    "Milk and pastries": False,
    "Rent": False,
    "Wages": False,
    "Savings": False,
}

# Day, hour, from, to, cents, memo. Day 0 is a Monday; the last day is the Sunday before today.
_ONCE = [
    (0, 7, "Opening balances", "Bank", 4_200_00, "Opening balance"),
    (0, 7, "Opening balances", "Till", 150_00, "Opening balance"),
    (0, 10, "Bank", "Rent", 1_180_00, "Rent for the shop"),
    (18, 15, "Bank", "Wages", 1_640_00, "Wages"),
    (19, 16, "Bank", "Savings", 500_00, "For a new grinder"),
]
_WEEKLY = [
    (0, 9, "Bank", "Coffee beans", 238_50, "Beans, 12 kg"),
    (2, 8, "Till", "Milk and pastries", 61_80, "Milk and oat drink"),
    (4, 8, "Till", "Milk and pastries", 94_40, "Pastries for the weekend"),
    (5, 18, "Till", "Bank", 700_00, "Cash to the bank"),
]
_DAYS = 21


@db.atomic(retries=3)  # another process may add the same data at the same time
def sow() -> int:
    """Add the example data if the ledger is empty; return the number of transfers added."""
    if db.session.scalar(select(Account.id).limit(1)) is not None:
        return 0
    ids = {}
    for name, may_overdraw in _ACCOUNTS.items():
        account = ledger.open_account(name, may_overdraw=may_overdraw)
        db.session.flush()
        ids[name] = account.id
    today = datetime.now(timezone.utc).date()
    monday = today - timedelta(days=today.weekday() + _DAYS)
    start = datetime.combine(monday, time())
    orders = [
        PaymentOrder(
            ids[source], ids[target], cents, memo, at=start + timedelta(days=day, hours=hour)
        )
        for day, hour, source, target, cents, memo in sorted(_transfers())
    ]
    ledger.transfer_all(db.session(), orders)
    return len(orders)


def _transfers() -> list[tuple[int, int, str, str, int, str]]:
    transfers = list(_ONCE)
    for week in range(0, _DAYS, 7):
        transfers += [(week + transfer[0], *transfer[1:]) for transfer in _WEEKLY]
    for day in range(_DAYS):
        if day % 7 != 6:  # closed on Sundays
            transfers.append(
                (day, 17, "Sales", "Till", 150_00 + day * 3719 % 8000, "Sales in cash")
            )
            transfers.append(
                (day, 17, "Sales", "Bank", 260_00 + day * 5347 % 19000, "Sales by card")
            )
    return transfers
