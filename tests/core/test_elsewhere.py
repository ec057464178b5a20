"""Names and arguments of Flask-SQLAlchemy, Lite and Alchemical: a sentence says where they are."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy
import sqlalchemy.orm
from hypothesis import given
from hypothesis import strategies as st

import flask_uow
from flask_uow import Database, Flask, Model, SetupError, elsewhere
from flask_uow.models import table_name

COMPAT = "from flask_uow.compat import SQLAlchemy"

# The public attributes of the object of Flask-SQLAlchemy 3.1 that are neither SQLAlchemy's nor
# named otherwise below; those of 'Database' are filtered out.
OF_FLASK_SQLALCHEMY = (
    "Model Query Table create_all drop_all dynamic_loader engine engines get_engine init_app"
    " metadata metadatas reflect relationship session"
).split()
OF_VERSION_2 = (
    "app create_scoped_session create_session get_app get_binds get_tables_for_bind".split()
)
OF_LITE = (
    "async_engine async_engines async_get_or_abort async_one_or_abort async_session"
    " async_sessionmaker async_test_isolation get_async_engine get_async_session get_or_abort"
    " get_session one_or_abort test_isolation"
).split()
OF_ALCHEMICAL = "Session begin bind_names initialize is_async".split()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("Column", "from sqlalchemy import Column"),
        ("select", "from sqlalchemy import select"),
        ("func", "from sqlalchemy import func"),
        ("event", "from sqlalchemy import event"),
        ("relationship", "from sqlalchemy.orm import relationship"),
        ("joinedload", "from sqlalchemy.orm import joinedload"),
        ("commit", "db.session.commit"),
        ("query", "db.session.query"),
        ("delete", "db.session.delete', or 'from sqlalchemy import delete'"),
        ("Table", 'sqlalchemy.Table("tags", db.metadata'),
        ("reflect", "db.metadata.reflect(db.engine)"),
    ],
)
def test_a_name_says_where_it_is(name: str, place: str) -> None:
    """And that ``flask_uow.compat`` has all of them; ``hasattr()`` stays false."""
    db = Database()
    assert not hasattr(db, name)
    with pytest.raises(AttributeError) as caught:
        getattr(db, name)
    assert str(caught.value).startswith(f"'Database' has no attribute {name!r}: ")
    assert place in str(caught.value)
    assert COMPAT in str(caught.value)
    assert name not in dir(db)


def test_every_name_is_there_or_says_where_it_is() -> None:
    """Also each name of SQLAlchemy, as Flask-SQLAlchemy looks it up."""
    names = {*OF_FLASK_SQLALCHEMY, *OF_VERSION_2, *OF_LITE, *OF_ALCHEMICAL}
    for module in (sqlalchemy, sqlalchemy.orm):
        names |= {name for name, value in vars(module).items() if not isinstance(value, ModuleType)}
    db = Database()
    for name in sorted(name for name in names if not name.startswith("_")):
        if not (hasattr(Database, name) or name in vars(db)):
            with pytest.raises(AttributeError, match=rf"has no attribute '{name}': .+\."):
                getattr(db, name)


def test_other_names_are_pythons() -> None:
    """A typo gets Python's own suggestion, and a private name no sentence."""
    for name in ("sesion", "_private", "__wrapped__"):
        assert not hasattr(Database(), name)
    with pytest.raises(AttributeError, match="object has no attribute 'sesion'"):
        Database().sesion  # type: ignore[attr-defined]  # noqa: B018


def test_a_subclass_may_have_the_names() -> None:
    """On the class, on the object, or by ``__getattr__``."""

    class Own(Database):
        Table = 1

        def __getattr__(self, name: str) -> str:
            return name

    db: Any = Own()
    db.select = 2
    assert (db.Table, db.select, db.Column) == (1, 2, "Column")
    assert {"Table", "select"} <= set(dir(db))


def test_importing_flask_sqlalchemys_class_says_what_to_import() -> None:
    """``from flask_uow import SQLAlchemy``; ``hasattr()`` is false and raises nothing."""
    with pytest.raises(ImportError, match=r"'from flask_uow import Database'.*compat") as caught:
        from flask_uow import SQLAlchemy  # type: ignore[attr-defined]  # noqa: F401
    assert caught.value.name == "flask_uow"
    assert not hasattr(flask_uow, "SQLAlchemy")
    with pytest.raises(ImportError, match="cannot import name 'nonesuch'"):
        from flask_uow import nonesuch  # type: ignore[attr-defined]  # noqa: F401


@pytest.mark.slow
def test_the_first_import_of_all_says_so_as_well() -> None:
    """In a fresh process, where nothing has imported ``importlib``."""
    code = "from flask_uow import SQLAlchemy"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: 'flask_uow' has no 'SQLAlchemy': write 'from flask_uow" in run.stderr


@pytest.mark.parametrize("name", sorted(elsewhere.ARGUMENTS["__init__"]))
def test_an_argument_of_the_constructor_says_what_to_write(name: str) -> None:
    """It is a ``TypeError``, as for every unknown argument."""
    with pytest.raises(TypeError, match=rf"^Database\(\) has no argument '{name}': .*compat"):
        Database(**{name: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["create_all", "drop_all"])
@pytest.mark.parametrize("arguments", [{"bind_key": "a"}, {"bind": None}, {"tables": []}, "audit"])
def test_tables_of_one_engine_say_what_to_write(method: str, arguments: Any) -> None:
    """By keyword and by position."""
    call: Any = getattr(Database(), method)
    with pytest.raises(TypeError, match=rf"db.metadatas\[\"audit\"\].{method}\(db.engines"):
        call(arguments) if isinstance(arguments, str) else call(**arguments)


def test_other_unknown_arguments_are_named() -> None:
    """As Python names them."""
    with pytest.raises(TypeError, match=r"Database\(\): .*'nonesuch'"):
        Database(nonesuch=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Database.create_all\(\): .*'nonesuch'"):
        Database().create_all(nonesuch=1)  # type: ignore[call-arg]


def test_a_model_has_no_query_and_says_so() -> None:
    """On the class and on its objects; a column of that name is the app's."""
    model: Any = Database().Model
    user: Any = type(
        "User", (model,), {"id": sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)}
    )
    for owner in (user, user()):
        assert not hasattr(owner, "query")
        with pytest.raises(AttributeError, match=r"scalars\(sqlalchemy.select\(User\)\)'.*compat"):
            owner.query  # noqa: B018

    class Search(Model, sqlalchemy.orm.DeclarativeBase):
        __abstract__ = True

    fields = {"query": sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)}
    saved: Any = type("Saved", (Search,), fields)
    assert saved(query=1).query == 1


def test_an_unknown_session_option_is_refused() -> None:
    """At once, not by the first request; ``scopefunc`` gets a sentence."""
    with pytest.raises(SetupError, match=r"'session_options' has an option .*'nonesuch'"):
        Database(session_options={"nonesuch": 1})
    with pytest.raises(SetupError, match="Leave 'scopefunc' out"):
        Database(session_options={"scopefunc": id})
    with pytest.raises(SetupError, match="'binds', which is not used here"):
        Database(session_options={"binds": {}})

    class Choosing(sqlalchemy.orm.Session):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any: ...

    Database(session_options={"class_": Choosing, "binds": {}})

    class Own(sqlalchemy.orm.Session):
        def __init__(self, *, tenant: str = "", **options: Any) -> None:
            super().__init__(**options)

    Database(session_options={"class_": Own, "tenant": "a", "query_cls": sqlalchemy.orm.Query})


def test_names_of_flask_sqlalchemy_itself() -> None:
    """Each public attribute of its object is one of ``Database``, or says where it is."""
    theirs = pytest.importorskip("flask_sqlalchemy", reason="it is the oracle here")
    app = Flask("theirs")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    names = {name for name in dir(theirs.SQLAlchemy(app)) if not name.startswith("_")}
    db = Database()
    missing = {n for n in names if not (hasattr(Database, n) or n in vars(db))}
    helpers = {"first_or_404", "get_or_404", "one_or_404", "paginate"}
    for name in missing - helpers:
        with pytest.raises(AttributeError, match=rf"has no attribute '{name}': .+\."):
            getattr(db, name)
    arguments = set(inspect.signature(theirs.SQLAlchemy).parameters)
    assert arguments <= {*elsewhere.ARGUMENTS["__init__"], "metadata", "session_options"}


def test_table_names_are_those_of_flask_sqlalchemy() -> None:
    """For names of every shape."""
    theirs = pytest.importorskip("flask_sqlalchemy.model", reason="it is the oracle here")

    @given(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True))
    def check(name: str) -> None:
        assert table_name(name) == theirs.camel_to_snake_case(name)

    check()
