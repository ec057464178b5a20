"""P8: what is registered on ``db.session`` at import, before any app exists, works."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest import mock

import pytest
from flask import Flask
from sqlalchemy import delete, event, select
from sqlalchemy.orm import Session, SessionEvents

from flask_uow import Database, OutsideContext, SessionProxy
from tests.conftest import MakeApp
from tests.support.databases import anywhere
from tests.support.models import Base, Post, User
from tests.support.witness import Witness

EVENTS = sorted(name for name in vars(SessionEvents) if not name.startswith(("_", "dispatch")))


class Searchable(Session):
    """A session class of the app's own, with names that ``scoped_session`` does not have."""

    tenant: str | None = None

    def search(self, name: str) -> list[User]:
        return list(self.scalars(select(User).where(User.name == name)))


own_class = pytest.mark.parametrize(
    "options", [{}, {"class_": Searchable}], ids=["Session", "own class"]
)


def everything(session: Any) -> None:
    """Work that fires every session event."""
    one, two, three = User(name="one"), User(name="two"), User(name="three")
    session.add(one)
    session.expunge(one)
    session.add_all([one, two])
    session.commit()
    session.query(User).update({"email": "x"})
    session.query(Post).delete()
    session.add(three)
    session.delete(one)
    session.flush()
    session.rollback()
    session.expunge(two)
    session.add(two)
    session.expire_all()
    session.expunge_all()
    stored = session.scalars(select(User).where(User.name == "one")).one()
    session.delete(stored)
    session.commit()
    session.add(User(name="late"))
    with session.begin_nested():
        session.delete(session.scalars(select(User).where(User.name == "late")).one())


@anywhere
@own_class
def test_each_event_is_heard_in_each_app_and_once(
    options: dict[str, Any], make_app: MakeApp
) -> None:
    """As often as by a listener on the session itself."""
    db = Database(Base, session_options=options)
    heard: Counter[tuple[str, str]] = Counter()
    listening: list[bool] = []

    def listen(target: Any, name: str, who: str) -> None:
        event.listen(target, name, lambda *_: heard.update([(who, name)] if listening else []))

    for name in EVENTS:
        listen(db.session, name, "at import")
    for app in (make_app(db), make_app(db)):

        @app.post("/")
        def view() -> str:
            session = db.session()
            for name in EVENTS:
                listen(session, name, "on the session")
            listening.append(True)
            session.execute(delete(User))
            everything(db.session)
            return ""

        heard.clear()
        listening.clear()
        assert app.test_client().post("/").status_code == 200
        by_import = {name: heard["at import", name] for name in EVENTS}
        assert by_import == {name: heard["on the session", name] for name in EVENTS}
        assert not [name for name, times in by_import.items() if not times]


@anywhere
@own_class
def test_the_search_index_of_the_tutorial(
    options: dict[str, Any], make_app: MakeApp, witness: Witness
) -> None:
    """It notes what a commit is about to store, and indexes it afterwards."""
    db = Database(Base, session_options=options)
    indexed: list[str] = []

    @event.listens_for(db.session, "before_commit")
    def note(session: Session) -> None:
        session.info["new"] = [user.name for user in session.new if isinstance(user, User)]

    @event.listens_for(db.session, "after_commit")
    def index(session: Session) -> None:
        indexed.extend(session.info.pop("new", []))

    app: Flask = make_app(db)

    @app.post("/<name>")
    def create(name: str) -> tuple[str, int]:
        db.session.add(User(name=name))
        return "", 400 if name == "wrong" else 200

    client = app.test_client()
    assert [client.post(f"/{name}").status_code for name in ("ada", "wrong")] == [200, 400]
    assert indexed == witness.names() == ["ada"]
    with app.app_context():
        with db.atomic() as session:
            session.add(User(name="atomic"))
        with db.independent() as session:
            session.add(User(name="independent"))
        with db.sessionmaker.begin() as session:
            session.add(User(name="sessionmaker"))
    assert indexed == ["ada", "atomic", "independent", "sessionmaker"]


@anywhere
def test_the_units_of_another_database_are_not_heard(make_app: MakeApp) -> None:
    """Nor those of another app, for a listener that was added in the context of one."""
    db, other = Database(Base), Database(Base)
    heard: list[str] = []
    event.listen(db.session, "after_commit", lambda _: heard.append("import"))
    apps = [make_app(db), make_app(db)]
    with apps[0].app_context():
        event.listen(db.session, "after_commit", lambda _: heard.append("app 0"))
    with make_app(other).app_context(), other.atomic() as session:
        session.add(User(name="other"))
    assert heard == []
    with apps[1].app_context(), db.atomic() as session:
        session.add(User(name="one"))
    assert heard == ["import"]
    with apps[0].app_context(), db.atomic() as session:
        session.add(User(name="two"))
    assert heard == ["import", "import", "app 0"]


@anywhere
def test_a_listener_can_be_removed(make_app: MakeApp) -> None:
    """Outside of a context, as it was added."""
    db = Database(Base)
    heard: list[object] = []

    def hear(session: Session) -> None:
        heard.append(session)

    app = make_app(db)
    event.listen(db.session, "before_commit", hear)
    assert event.contains(db.session, "before_commit", hear)
    event.remove(db.session, "before_commit", hear)
    assert not event.contains(db.session, "before_commit", hear)
    with app.app_context(), db.atomic() as session:
        session.add(User(name="ada"))
    assert heard == []


@anywhere
def test_the_factory_that_was_taken_at_import_makes_sessions_in_any_app(
    make_app: MakeApp, witness: Witness
) -> None:
    """Without a context it says so."""
    db = Database(Base)
    factory: Any = db.session.session_factory
    for use in (factory, factory.configure, db.session.configure):
        with pytest.raises(OutsideContext):
            use()
    with make_app(db).app_context(), factory.begin() as session:
        session.add(User(name="ada"))
    assert witness.names() == ["ada"]


# Names of the app's own session class ---------------------------------------------------------


@anywhere
def test_names_of_the_own_session_class_are_on_the_proxy(
    make_app: MakeApp, witness: Witness
) -> None:
    """Methods are called on the current session, and attributes are set on it."""
    db = Database(Base, session_options={"class_": Searchable})
    session: Any = db.session
    app = make_app(db)
    witness.store(User(name="ada"))
    with app.app_context():
        assert [user.name for user in session.search("ada")] == ["ada"]
        session.tenant = "one"
        assert db.session().tenant == "one"  # type: ignore[attr-defined]
        with app.test_request_context():
            assert session.tenant is None
        del session.tenant
        assert session.tenant is None
        with mock.patch.object(session, "search", return_value="mock"):
            assert session.search("ada") == "mock"
        assert len(session.search("ada")) == 1


def test_without_a_context_such_a_name_says_so() -> None:
    """And a name that the class does not have is an ``AttributeError``, in a context or not."""
    db = Database(Base, session_options={"class_": Searchable})
    session: Any = db.session
    with pytest.raises(OutsideContext):
        session.search("ada")
    assert not hasattr(session, "nonesuch")
    assert not hasattr(session, "give_way")  # a name of our own session class
    plain = Database(Base).session
    assert type(plain) is SessionProxy
    assert not hasattr(plain, "search")
