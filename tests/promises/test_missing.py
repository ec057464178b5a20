"""The hint of an error about a table or a column that the database does not have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import String, insert, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_uow import Database, Flask
from flask_uow._drivers.base import Missing
from flask_uow._drivers.known import driver_of_error
from tests.core.test_outcomes import made, mysql_errors, oracle_errors
from tests.docs.pages import ROOT
from tests.faults.drivers import DRIVERS, address

CREATE = "Call 'db.create_all()' in an app context"
ALTER = "'db.create_all()' does not alter a table"
UPGRADE = "Write 'flask db upgrade', and before it 'flask db migrate' if no revision adds the {}."


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guests"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    email: Mapped[str] = mapped_column(String(50))


_EACH = [pytest.param(n, marks=pytest.mark.slow if n == "psycopg2" else ()) for n in DRIVERS]


@pytest.fixture(params=_EACH)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return address(request.param, request, tmp_path)


@pytest.fixture
def db() -> Database:
    return Database(Base)


@pytest.fixture
def app(url: str, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """An app without tables, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    app = Flask("tests", root_path=str(tmp_path / "shop"))
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.register_extension(db)
    return app


def error_of(app: Flask, db: Database, statement: Any) -> DBAPIError:
    """The error of *statement* in a request, as its error handler gets it."""
    errors: list[DBAPIError] = []

    def refused(error: DBAPIError) -> str:
        errors.append(error)
        return "refused"

    def view() -> str:
        if isinstance(statement, Guest):
            db.session.add(statement)  # refused by the flush of the commit, after the view
        else:
            db.session.execute(statement)
        return "done"

    app.register_error_handler(DBAPIError, refused)
    app.add_url_rule("/", "view", view, methods=["POST"])
    assert app.test_client().post("/").text == "refused"
    (error,) = errors
    return error


def create_without_email(app: Flask, db: Database) -> None:
    """Create the table of guests as an older model had it."""
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text("CREATE TABLE guests (id INTEGER PRIMARY KEY, name VARCHAR(50))"))


def make_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "env.py").touch()


STATEMENTS = [
    pytest.param(lambda: select(Guest), id="select"),
    pytest.param(lambda: insert(Guest).values(id=1, name="ada", email="a@b.c"), id="insert"),
    pytest.param(lambda: update(Guest).values(email="a@b.c"), id="update"),
    pytest.param(lambda: Guest(name="ada", email="a@b.c"), id="flush"),
    pytest.param(lambda: text("SELECT email FROM guests"), id="text"),
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_missing_table_is_explained(app: Flask, db: Database, url: str, statement: Any) -> None:
    """On every database, after the words of the driver, whose error stays as it is."""
    error = error_of(app, db, statement())
    assert type(error) is (OperationalError if url.startswith("sqlite") else ProgrammingError)
    message = str(error)
    assert CREATE in message.partition("guests")[2].partition("[SQL: ")[0]
    assert "db.create_all" not in str(error.orig)
    assert type(error.orig).__name__ in message


@pytest.mark.parametrize("statement", STATEMENTS)
def test_missing_column_is_explained(app: Flask, db: Database, statement: Any) -> None:
    """``create_all()`` would not add it, and that is what the hint says."""
    create_without_email(app, db)
    message = str(error_of(app, db, statement()))
    assert ALTER in message
    assert CREATE not in message


def test_app_with_migrations_is_told_to_upgrade(app: Flask, db: Database, tmp_path: Path) -> None:
    make_folder(tmp_path / "migrations")
    message = str(error_of(app, db, select(Guest)))
    assert UPGRADE.format("table") in message
    assert "create_all" not in message


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_column_in_an_app_with_migrations(app: Flask, db: Database, tmp_path: Path) -> None:
    """The folder lies beside the app, and the command group has another name."""
    (tmp_path / "shop").mkdir()
    make_folder(tmp_path / "shop" / "database")
    create_without_email(app, db)
    app.config.update(UOW_MIGRATIONS="database", UOW_CLI_GROUP="uow")
    message = str(error_of(app, db, select(Guest)))
    assert UPGRADE.format("column").replace("flask db", "flask uow") in message


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_engine_that_is_not_migrated(app: Flask, db: Database, tmp_path: Path) -> None:
    """``flask db upgrade`` would not create the table there."""
    make_folder(tmp_path / "migrations")
    app.config.update(SQLALCHEMY_BINDS={"audit": "sqlite://"}, UOW_MIGRATIONS={"engines": [None]})
    with app.app_context(), db.engines["audit"].connect() as connection:
        for name, words in (("name", CREATE), ("other", ALTER)):
            with pytest.raises(OperationalError) as refusal:
                connection.execute(text(f"SELECT {name} FROM guests"))
            assert words in str(refusal.value)
            assert "add the engine 'audit' to UOW_MIGRATIONS['engines']" in str(refusal.value)
            connection.execute(text("CREATE TABLE IF NOT EXISTS guests (name TEXT)"))
    assert UPGRADE.format("table") in str(error_of(app, db, select(Guest)))


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_current_folder_that_was_deleted(
    app: Flask, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint must not replace the error by another one."""
    # The test client needs this codec, which CPython 3.13 cannot import from a deleted folder.
    "localhost".encode("idna")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert CREATE in str(error_of(app, db, select(Guest)))


def test_other_errors_get_no_hint(app: Flask, db: Database, url: str) -> None:
    """One is a wrong statement; PostgreSQL has the code of a missing table for another one."""
    with app.app_context():
        db.create_all()
    is_postgresql = url.startswith("postgresql")
    mistake = "SELECT others.id FROM guests" if is_postgresql else "SELEC 1"
    assert "If a model has" not in str(error_of(app, db, text(mistake)))


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("is_migrated", "has_table"), [(False, False), (False, True), (True, False)]
)
def test_page_shows_the_error(
    app: Flask, db: Database, tmp_path: Path, is_migrated: bool, has_table: bool
) -> None:
    """``errors.md`` has each of them word by word, with a table of another name."""
    if is_migrated:
        make_folder(tmp_path / "migrations")
    if has_table:
        create_without_email(app, db)
    error = error_of(app, db, select(Guest.id, Guest.email))
    shown = f"{type(error).__module__}.{type(error).__name__}: {error}".partition("\n(Background")[
        0
    ]
    shown = shown.replace("guests", "users").replace("email", "name")
    page = ROOT / "docs" / "reference" / "errors.md"
    assert " ".join(shown.split()) in " ".join(page.read_text(encoding="utf-8").split())


def odbc(state: str) -> Exception:
    return made("pyodbc", state, f"[{state}] [Microsoft][ODBC Driver 18 for SQL Server] ...")


def psycopg(state: str, function: str, module: str = "psycopg.errors") -> Exception:
    name = "pgcode" if module.startswith("psycopg2") else "sqlstate"
    return made(module, "text", diag=SimpleNamespace(source_function=function), **{name: state})


MADE = [
    (made("sqlite3", "no such table: users"), Missing.TABLE),
    (made("sqlite3", "error in view v: no such table: main.users"), Missing.TABLE),
    (made("sqlite3", "no such column: users.email"), Missing.COLUMN),
    (made("sqlite3", "table users has no column named email"), Missing.COLUMN),
    (made("sqlite3", "no such function: soundex"), None),
    (psycopg("42P01", "parserOpenTable"), Missing.TABLE),
    (psycopg("42P01", "errorMissingRTE"), None),
    (psycopg("42703", "errorMissingColumn"), Missing.COLUMN),
    (psycopg("42P01", "parserOpenTable", "psycopg2.errors"), Missing.TABLE),
    (psycopg("42P01", "errorMissingRTE", "psycopg2.errors"), None),
    (made("psycopg", "connection failed"), None),
    (made("pg8000.exceptions", {"C": "42P01", "R": "parserOpenTable"}), Missing.TABLE),
    (made("pg8000.exceptions", {"C": "42P01", "R": "errorMissingRTE"}), None),
    (made("pg8000.exceptions", {"C": "42703"}), Missing.COLUMN),
    (made("pg8000.exceptions", "network error"), None),
    *zip(mysql_errors(1146, 1054, 1062), [Missing.TABLE, Missing.COLUMN, None], strict=True),
    (made("MySQLdb._exceptions", 1146, "Table 'shop.users' doesn't exist"), Missing.TABLE),
    (made("mysql.connector.errors", 1146, "1146 (42S02): Table ...", "42S02"), Missing.TABLE),
    (made("mariadb", "Unknown column 'email' in 'field list'", errno=1054), Missing.COLUMN),
    (made("pymysql.err", "text"), None),
    (odbc("42S02"), Missing.TABLE),
    (odbc("42S22"), Missing.COLUMN),
    (odbc("42000"), None),
    (made("pymssql._pymssql", 208, b"Invalid object name 'users'."), Missing.TABLE),
    (made("pymssql._pymssql", 207, b"Invalid column name 'email'."), Missing.COLUMN),
    (made("pymssql._pymssql"), None),
    *zip(oracle_errors(942, 904, 1), [Missing.TABLE, Missing.COLUMN, None], strict=True),
    (made("oracledb.exceptions", "text"), None),
    (ValueError("no such table: users"), None),
]


@pytest.mark.parametrize(("error", "what"), MADE, ids=[str(number) for number in range(len(MADE))])
def test_what_is_missing_by_the_error_of_each_driver(
    error: Exception, what: Missing | None
) -> None:
    """Made by hand; the texts are from where ``tests/core/test_what_went_wrong.py`` has them."""
    assert driver_of_error(error).missing_in(error) is what
