"""The private names of SQLAlchemy that the package uses exist; CI runs this on several versions."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from sqlalchemy import Engine, String, Text, create_engine, event
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.pool import Pool, QueuePool

from flask_uow._transaction import sqlalchemy_private
from tests.support.models import User


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine that asks for an isolation level."""
    engine = create_engine("sqlite://", isolation_level="SERIALIZABLE", poolclass=QueuePool)
    yield engine
    engine.dispose()


def test_what_a_subclass_replaces_is_there() -> None:
    """A renamed method would never be called."""
    classes = {"Pool": Pool, "scoped_session": scoped_session}
    assert set(sqlalchemy_private.OVERRIDDEN) == set(classes)
    for name, attributes in sqlalchemy_private.OVERRIDDEN.items():
        assert all(attribute in vars(classes[name]) for attribute in attributes)


@pytest.mark.parametrize("name", ["before_commit", "after_commit"])
def test_the_listeners_for_a_commit(name: str, engine: Engine) -> None:
    """They can be counted and called."""
    with Session(engine) as session:
        assert not sqlalchemy_private.is_commit_heard(session)
        event.listen(session, name, heard := Mock())
        assert sqlalchemy_private.is_commit_heard(session)
        getattr(sqlalchemy_private, f"send_{name}")(session)
        heard.assert_called_once_with(session)


def test_a_session_begun_by_with(engine: Engine) -> None:
    """It is one while the block runs."""
    with Session(engine) as session:
        assert not sqlalchemy_private.is_begun_by_with(session)
        with session.begin():
            assert sqlalchemy_private.is_begun_by_with(session)
        assert not sqlalchemy_private.is_begun_by_with(session)


def test_the_state_of_an_object() -> None:
    """A mapped object has one."""
    assert sqlalchemy_private.state_of(User(name="a")) is not None
    assert sqlalchemy_private.state_of("a") is None


def test_the_isolation_level_of_an_engine(engine: Engine) -> None:
    """It is known before the first connection."""
    assert sqlalchemy_private.isolation_level_of(engine.dialect) == "SERIALIZABLE"


def test_the_variants_of_a_type() -> None:
    """By the name of the dialect."""
    kind = String().with_variant(Text(), "mysql")
    assert list(sqlalchemy_private.variants_of(kind)) == ["mysql"]
    assert not sqlalchemy_private.variants_of(Text())


def test_the_proxy_of_an_entry(engine: Engine) -> None:
    """It is there while the connection is checked out."""
    entries = []
    event.listen(engine, "connect", lambda _connection, entry: entries.append(entry))
    with engine.connect() as connection:
        assert sqlalchemy_private.proxy_of(entries[0]) is connection.connection
    assert sqlalchemy_private.proxy_of(entries[0]) is None


def test_an_entry_can_be_put_into_a_pool(engine: Engine) -> None:
    """It can be checked out then."""
    engine.connect().close()
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    before = pool.checkedin()
    sqlalchemy_private.return_to(pool, pool._create_connection())
    assert pool.checkedin() == before + 1
