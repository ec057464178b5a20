"""The private names of SQLAlchemy that the package uses exist; CI runs this on several versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Engine,
    Select,
    String,
    Text,
    create_engine,
    event,
    inspect,
    join,
    literal_column,
    outerjoin,
    select,
    text,
)
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    contains_eager,
    joinedload,
    load_only,
    mapped_column,
    scoped_session,
    selectinload,
)
from sqlalchemy.orm.exc import UnmappedClassError
from sqlalchemy.pool import Pool, QueuePool

from flask_uow import SetupError
from flask_uow._transaction import sqlalchemy_private
from tests.support.models import Post, User


class Unknown(ColumnElement[bool]):
    """An element that SQLAlchemy cannot tell apart from others."""

    inherit_cache = False


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


def test_a_select_without_locks() -> None:
    """A copy, or the select itself if it locks nothing."""
    locking = select(User.name).order_by(User.name).with_for_update()
    free = sqlalchemy_private.without_locks(locking)
    assert "FOR UPDATE" in str(locking)
    assert str(free) == str(select(User.name).order_by(User.name))
    assert sqlalchemy_private.without_locks(free) is free


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


def test_the_mappers_of_a_registry() -> None:
    """Also while there is a class whose mapping has failed."""

    class Base(DeclarativeBase):
        pass

    class Thing(Base):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)

    with pytest.raises(SetupError) as kept:
        type("Wrong", (Base,), {"__tablename__": "wrong", "__bind_key__": 1})
    with pytest.raises(UnmappedClassError):
        Base.registry.mappers  # noqa: B018
    assert sqlalchemy_private.mappers_of(Base.registry) == [inspect(Thing)]
    assert sqlalchemy_private.registry_of(Base) is Base.registry
    assert sqlalchemy_private.registry_of(Thing) is Base.registry
    assert sqlalchemy_private.registry_of("a") is None
    assert kept.value is not None


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


def test_a_transaction_that_has_forgotten_its_connection_gets_another(engine: Engine) -> None:
    """The first one can be closed, and the transaction of the session continues."""
    with Session(engine) as session:
        first = session.connection()
        transaction = session.get_transaction()
        sqlalchemy_private.forget_connections(session)
        first.close()
        assert session.connection() is not first
        assert session.get_transaction() is transaction


def test_rows_can_be_read_before_they_are_fetched(engine: Engine) -> None:
    """Their connection may be closed then."""
    read: list[object] = []

    def note(cursor: sqlite3.Cursor, statement: str, _: object, context: ExecutionContext) -> bool:
        assert not sqlalchemy_private.is_locking(context)
        cursor.execute(statement)
        sqlalchemy_private.read_all_rows(context, cursor)
        read.append(cursor.fetchone())
        return True

    event.listen(engine, "do_execute", note)
    with engine.connect() as connection:
        result = connection.execute(text("SELECT 1 UNION ALL SELECT 2"))
        assert read == [None]
    assert result.scalars().all() == [1, 2]


def test_a_statement_that_locks_rows(engine: Engine) -> None:
    """It was written with ``with_for_update()``, which SQLite's text does not have."""
    seen = []

    def note(_cursor: object, _statement: str, _: object, context: ExecutionContext) -> None:
        seen.append(sqlalchemy_private.is_locking(context))

    event.listen(engine, "do_execute", note)
    with engine.connect() as connection:
        connection.execute(select(literal_column("1")).with_for_update())
        connection.execute(text("SELECT 1"))
    assert seen == [True, False]


def test_a_select_without_columns() -> None:
    """Other statements are none."""
    assert sqlalchemy_private.is_empty_select(select())
    for statement in (select(User), select(User).union(select(User)), text("SELECT 1")):
        assert not sqlalchemy_private.is_empty_select(statement)


def test_the_limits_of_a_select() -> None:
    """What the three methods have set."""
    for statement in (select(User.id), select(User.id).union(select(User.id))):
        assert sqlalchemy_private.row_limits_of(statement) == (None, None, None)
        limit, offset, fetch = sqlalchemy_private.row_limits_of(statement.limit(3).offset(4))
        assert isinstance(limit, BindParameter)
        assert isinstance(offset, BindParameter)
        assert (limit.value, offset.value, fetch) == (3, 4, None)
        assert sqlalchemy_private.row_limits_of(statement.fetch(3))[2] is not None


def test_the_collections_that_a_select_fills() -> None:
    """By ``contains_eager()``; not those that the ORM joins itself, nor single objects."""
    filled = sqlalchemy_private.filled_collections_of
    other = aliased(Post)
    users = select(User).join(User.posts)
    assert filled(users.options(contains_eager(User.posts))) == ["User.posts"]
    assert filled(users.options(contains_eager(User.posts.of_type(other)))) == ["User.posts"]
    assert filled(users.options(joinedload(User.posts), contains_eager(User.posts))) != []
    assert filled(users.options(joinedload(User.posts), load_only(User.name))) == []
    assert filled(select(Post).options(contains_eager(Post.author))) == []
    assert filled(select(User).union(select(User))) == []


def test_a_result_that_needs_unique(engine: Engine) -> None:
    """One with a joined eager collection; another one does not."""
    User.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(User(name="ada"))
        plain = session.execute(select(User).options(selectinload(User.posts)))
        joined = session.execute(select(User).options(joinedload(User.posts)))
        assert not sqlalchemy_private.needs_unique(plain)
        assert sqlalchemy_private.needs_unique(joined)
        with pytest.raises(InvalidRequestError):
            joined.all()


def test_the_order_of_a_select() -> None:
    """The items of ORDER BY, as they were written."""
    assert list(sqlalchemy_private.order_by_of(select(User))) == []
    items = sqlalchemy_private.order_by_of(select(User).order_by(User.name.desc(), User.id))
    assert [str(item) for item in items] == ["users.name DESC", "users.id"]


def test_a_relationship_in_an_order() -> None:
    """It stands there as the condition of its join, and is told apart from a column."""
    for expression, expected in (
        (Post.author, True),
        (Post.author_id, False),
        (Post.id + 1, False),
    ):
        (item,) = sqlalchemy_private.order_by_of(select(Post).order_by(expression))
        assert sqlalchemy_private.is_relationship(item) is expected


def test_an_outer_join() -> None:
    """By the methods of the select, and in its FROM."""
    has_outer_join = sqlalchemy_private.has_outer_join
    posts, users = Post.__table__, User.__table__
    for inner in (select(Post), select(Post).join(Post.author)):
        assert not has_outer_join(inner)
    assert not has_outer_join(select(Post).select_from(join(posts, users)))
    for outer in (select(Post).outerjoin(Post.author), select(Post).join(Post.author, full=True)):
        assert has_outer_join(outer)
    assert has_outer_join(select(Post).select_from(outerjoin(posts, users)))


@pytest.mark.parametrize(
    ("statement", "clause"),
    [
        (select(User.name).group_by(User.name), "GROUP BY"),
        (select(User.name).having(User.name > "a"), "GROUP BY"),
        (select(User).distinct(), "DISTINCT"),
        (select(User).limit(1), "LIMIT or OFFSET"),
        (select(User).offset(1), "LIMIT or OFFSET"),
        (select(User).fetch(1), "LIMIT or OFFSET"),
    ],
)
def test_the_clauses_by_which_a_row_is_no_row(statement: Select[Any], clause: str) -> None:
    """Each is found; a plain select has none."""
    assert [name for name, _ in sqlalchemy_private.row_clauses_of(statement)] == [clause]
    assert not list(sqlalchemy_private.row_clauses_of(select(User).where(User.name == "a")))


def test_the_structure_of_a_statement() -> None:
    """The values are not in it, and a statement without values may still have options."""
    structure_of = sqlalchemy_private.structure_of
    has_more = sqlalchemy_private.has_more_than_structure
    plain = select(User).order_by(User.id)
    assert structure_of(plain) == structure_of(select(User).order_by(User.id)) is not None
    assert structure_of(plain) != structure_of(select(User).order_by(User.name))
    ada, bob = (select(User).where(User.name == name) for name in ("ada", "bob"))
    assert structure_of(ada) == structure_of(bob)
    assert not has_more(plain)
    for other in (
        ada,
        plain.limit(3),
        plain.options(load_only(User.name)),
        plain.execution_options(populate_existing=True),
    ):
        assert has_more(other)
    unknown = select(User).where(Unknown())
    assert structure_of(unknown) is None
    assert has_more(unknown)
