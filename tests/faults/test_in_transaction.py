"""The witness of open transactions, on which other tests rely."""

from __future__ import annotations

from sqlalchemy import insert

from tests.support.backends import in_transaction
from tests.support.databases import TestDatabase, on
from tests.support.models import Base, User
from tests.support.pools import make_engine


@on("postgresql", "mariadb")
def test_open_transactions_are_seen_at_once_and_no_longer(database: TestDatabase) -> None:
    """Also by a caller that asks again and again, for which InnoDB keeps its last reply."""
    engine = make_engine(database.url)
    other = make_engine(database.url, isolation_level="AUTOCOMMIT")
    Base.metadata.create_all(engine)
    with other.connect() as witness, engine.connect() as connection:
        for number in range(3):
            assert in_transaction(witness) == []
            connection.execute(insert(User).values(name=f"{number}"))
            assert len(in_transaction(witness)) == 1
            connection.commit()
    engine.dispose()
    other.dispose()
