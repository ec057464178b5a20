"""What ``is_transient()`` and ``constraint_of()`` read in errors, without a server.

The errors are made by hand, as their drivers raise them; ``tests/promises/test_what_went_wrong.py``
asks real databases. The texts of the drivers that no test can run are from where they were seen:

- mysqlclient, MariaDB Connector: the texts of the server, which are the same for each driver.
- MySQL 8: its manual, "Server Error Message Reference".
- pyodbc: https://github.com/mkleehammer/pyodbc/issues/892 and Microsoft's list of
  "Database engine events and errors"; pymssql: the same texts, in bytes.
- oracledb: Oracle's "Database Error Messages".
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import Conflict, InternalServerError

from flask_uow import errors
from flask_uow.errors import constraint_of, is_transient
from tests.core.test_outcomes import CONFLICTS, LOST, REFUSED, STOPPED, made, wrapped


def odbc(text: str, number: int) -> Exception:
    message = f"[23000] [Microsoft][ODBC Driver 17 for SQL Server][SQL Server]{text} ({number})"
    return made("pyodbc", "23000", f"{message} (SQLExecDirectW)", name="IntegrityError")


def oracle(text: str) -> Exception:
    code = text.partition(":")[0]
    return made("oracledb.exceptions", Details(text, code), name="IntegrityError")


class Details:
    """What an error of oracledb has as its argument."""

    def __init__(self, message: str, full_code: str) -> None:
        self.message = message
        self.full_code = full_code
        self.code = int(full_code.removeprefix("ORA-"))

    def __str__(self) -> str:
        return self.message


def psycopg(constraint: str | None, table: str | None = None, column: str | None = None) -> Any:
    names = {"constraint_name": constraint, "table_name": table, "column_name": column}
    state = "23505" if constraint else "23502"
    return made("psycopg.errors", "text", sqlstate=state, diag=SimpleNamespace(**names))


UNIQUE = "Violation of UNIQUE KEY constraint 'uq_users_name'. Cannot insert duplicate key in object"
DUPLICATE = "Duplicate entry 'ada' for key 'uq_users_name'"
FOREIGN = (
    "Cannot add or update a child row: a foreign key constraint fails (`shop`.`posts`, CONSTRAINT"
    " `fk_posts_author` FOREIGN KEY (`author_id`) REFERENCES `users` (`id`))"
)
NAMED = [
    (psycopg("uq_users_name"), "uq_users_name"),
    (psycopg(None, "users", "email"), "users.email"),
    (made("psycopg2.errors", "", pgcode="23502", diag=psycopg(None, "a", "b").diag), "a.b"),
    (made("pg8000.exceptions", {"C": "23505", "n": "uq_users_name"}), "uq_users_name"),
    (made("pg8000.exceptions", {"C": "23502", "t": "users", "c": "email"}), "users.email"),
    (made("pymysql.err", 1062, DUPLICATE), "uq_users_name"),
    (made("MySQLdb._exceptions", 1062, DUPLICATE), "uq_users_name"),
    (made("mysql.connector.errors", 1062, f"1062 (23000): {DUPLICATE}", "23000"), "uq_users_name"),
    (made("mariadb", DUPLICATE, errno=1062), "uq_users_name"),
    (made("pymysql.err", 1062, "Duplicate entry 'x' for key 'users.uq_name'"), "uq_name"),
    (made("pymysql.err", 1062, "Duplicate entry 'x' for key 'users.PRIMARY'"), "PRIMARY"),
    (made("pymysql.err", 1062, "Doppelter Eintrag 'x' für Schlüssel 'uq_name'"), "uq_name"),
    (made("pymysql.err", 1452, FOREIGN), "fk_posts_author"),
    (made("pymysql.err", 4025, "CONSTRAINT `ck_age` failed for `shop`.`users`"), "ck_age"),
    (made("pymysql.err", 4025, "CONSTRAINT `a``b` failed for `shop`.`users`"), "a`b"),
    (made("MySQLdb._exceptions", 3819, "Check constraint 'ck_age' is violated."), "ck_age"),
    (made("pymysql.err", 1048, "Column 'email' cannot be null"), "email"),
    (made("pymysql.err", 1364, "Field 'email' doesn't have a default value"), "email"),
    (odbc(f"{UNIQUE} 'dbo.users'. The duplicate key value is (ada).", 2627), "uq_users_name"),
    (odbc("Violation of PRIMARY KEY constraint 'PK__scope_ap__C8B2'.", 2627), "PK__scope_ap__C8B2"),
    (odbc("... in object 'dbo.users' with unique index 'ix_users_name'.", 2601), "ix_users_name"),
    (odbc('... conflicted with the FOREIGN KEY constraint "fk_author".', 547), "fk_author"),
    (odbc('... conflicted with the REFERENCE constraint "fk_author".', 547), "fk_author"),
    (odbc('... conflicted with the CHECK constraint "ck_age".', 547), "ck_age"),
    (
        odbc("Cannot insert the value NULL into column 'email', table 'shop.dbo.users';", 515),
        "users.email",
    ),
    (made("pymssql._pymssql", 2627, f"{UNIQUE} 'dbo.users'".encode()), "uq_users_name"),
    (oracle("ORA-00001: unique constraint (SHOP.UQ_USERS_NAME) violated"), "uq_users_name"),
    (oracle("ORA-00001: 违反唯一约束条件 (SHOP.UQ_USERS_NAME)"), "uq_users_name"),
    (
        oracle("ORA-00001: unique constraint (SHOP.UQ) violated on table SHOP.USERS columns (A)"),
        "uq",
    ),
    (oracle("ORA-02290: check constraint (SHOP.ckAge) violated"), "ckAge"),
    (oracle("ORA-02292: integrity constraint (SHOP.FK) violated - child record found"), "fk"),
    (
        oracle(
            "ORA-02091: transaction rolled back\nORA-02291: integrity constraint (S.FK_A) violated"
        ),
        "fk_a",
    ),
    (oracle('ORA-01400: cannot insert NULL into ("SHOP"."USERS"."EMAIL")'), "users.email"),
    (oracle('ORA-01407: cannot update ("SHOP"."USERS"."EMAIL") to NULL'), "users.email"),
    (made("sqlite3", "CHECK constraint failed: ck_age"), "ck_age"),
    (made("sqlite3", "NOT NULL constraint failed: users.email"), "users.email"),
    (made("sqlite3", "UNIQUE constraint failed: index 'ix_lower'"), "ix_lower"),
    (made("sqlite3", "UNIQUE constraint failed: users.a, users.b"), "users.a, users.b"),
]


def label(value: object) -> str:
    """The name of a case; xdist wants it to be the same in each process."""
    return re.sub(r" object at 0x\w+", "", repr(value))


@pytest.mark.parametrize(("error", "name"), NAMED, ids=label)
def test_the_constraint_that_refused_is_named(error: Exception, name: str) -> None:
    """As the driver raises it, and as SQLAlchemy does; it would refuse again."""
    assert constraint_of(error) == constraint_of(wrapped(error)) == name
    assert not is_transient(wrapped(error))


HOSTILE = [
    (made("pymysql.err", 1062, "Duplicate entry 'x' for key 'uq_other' for key 'uq'"), "uq"),
    (made("pymysql.err", 1062, "Duplicate entry 'x'\n for key 'uq_other'\n' for key 'uq'"), "uq"),
    (odbc(f"{UNIQUE} 'x'. The value is (unique index 'other').", 2627), "uq_users_name"),
    (made("pymssql._pymssql", 2627, f"{UNIQUE} (\"')".encode()), "uq_users_name"),
]


@pytest.mark.parametrize(("error", "name"), HOSTILE, ids=label)
def test_a_value_that_looks_like_a_name_is_not_one(error: Exception, name: str) -> None:
    """The texts of MySQL and SQL Server have the value that a client has sent."""
    assert constraint_of(error) == name


UNNAMED = [
    *CONFLICTS,
    *LOST,
    ValueError("CONSTRAINT `x` failed"),
    made("sqlite3", "FOREIGN KEY constraint failed"),
    made("sqlite3", "CHECK constraint failed"),
    made("pymysql.err", 1062, ""),
    made("pymysql.err", 1062),
    made("pymysql.err", "1062", DUPLICATE),
    made("pymysql.err"),
    made("mysql.connector.errors", None, None, None),
    made("mariadb", "text", errno="HY000"),
    made("psycopg.errors", "text", sqlstate="23502", diag=None),
    made("psycopg.errors", "text"),
    made("pg8000.exceptions", {}),
    made("pg8000.exceptions"),
    made("pyodbc"),
    made("oracledb.exceptions"),
    KeyboardInterrupt(),
    StatementError("text", "SELECT 1", {}, None),
]


@pytest.mark.parametrize("error", UNNAMED, ids=label)
def test_any_other_error_has_no_constraint(error: BaseException) -> None:
    """None, and no error of its own."""
    assert constraint_of(error) is None


@pytest.mark.parametrize("something", [None, "text", 1, object(), DBAPIError], ids=label)
def test_what_is_no_error_is_nothing(something: Any) -> None:
    """A handler asks without looking first."""
    assert constraint_of(something) is None
    assert is_transient(something) is False


TRANSIENT = [
    *CONFLICTS,
    *LOST,
    *REFUSED,
    *STOPPED,
    PoolTimeout("QueuePool limit"),
    errors.PoolExhausted("All 5 connections"),
    errors.DatabaseUnreachable("text"),
    errors.MigrationLocked("text"),
    made("pg8000.exceptions", {"S": "ERROR", "V": "ERROR", "C": "40001"}),
    made("pg8000.exceptions", "connection is closed", name="InterfaceError"),
    made("mysql.connector.errors", 2003, "2003 (HY000): Can't connect", "HY000"),
    made("mariadb", "Can't connect", errno=2002),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=label)
def test_what_may_pass_is_transient(error: Exception) -> None:
    """A conflict, a timeout, a full pool, a server that is away or full."""
    assert is_transient(error)


LASTING = [
    ValueError("text"),
    errors.PartialCommit(["default"], "audit", []),
    errors.MigrationsPending("text"),
    errors.ConcurrentUse("text"),
    errors.TransactionLost(None),
    made("pymysql.err", 1064, "You have an error in your SQL syntax", name="ProgrammingError"),
    made("pymysql.err", 1045, "Access denied"),
    made("psycopg.errors", "text", sqlstate="42P01"),
    made("pg8000.exceptions", {"S": "ERROR", "C": "42P01"}),
    made("sqlite3", "no such table: users"),
    made("sqlite3", "unable to open database file"),
]


@pytest.mark.parametrize("error", LASTING, ids=label)
def test_what_would_fail_again_is_not_transient(error: Exception) -> None:
    """A mistake of the program or of the setup."""
    assert not is_transient(error)


def test_the_error_in_an_error_of_the_app_is_found() -> None:
    """``raise ... from error``, and what Flask hands to a handler of 500."""
    conflict, duplicate = made("pymysql.err", 1213), made("pymysql.err", 1062, DUPLICATE)
    for around in (caused_by, as_server_error, lambda e: caused_by(as_server_error(wrapped(e)))):
        assert is_transient(around(conflict))
        assert constraint_of(around(duplicate)) == "uq_users_name"


def caused_by(error: BaseException) -> Exception:
    outer = Conflict()
    outer.__cause__ = error
    return outer


def as_server_error(error: BaseException) -> Exception:
    return InternalServerError(original_exception=error)


def test_an_error_that_only_preceded_is_no_cause() -> None:
    """The view has handled it, and then made a mistake of its own."""
    with pytest.raises(LookupError) as caught:  # noqa: PT012
        try:
            raise made("pymysql.err", 1062, DUPLICATE)
        except Exception:
            raise LookupError  # noqa: B904
    assert constraint_of(caught.value) is None


def test_an_error_that_causes_itself_is_an_end() -> None:
    """Python allows the circle."""
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert constraint_of(first) is None
    assert not is_transient(first)


def test_what_only_has_the_name_of_an_original_error_is_not_followed() -> None:
    """A library may keep a text there, or an object with any attribute, which would have no end."""

    class Endless:
        def __getattr__(self, name: str) -> Endless:
            return Endless() if name == "original_exception" else super().__getattribute__(name)

    for original in ("text", Endless()):
        error: Any = ValueError()
        error.original_exception = original
        error.__cause__ = PoolTimeout()
        assert is_transient(error)
        assert constraint_of(error) is None


def test_a_lost_transaction_is_judged_by_its_cause() -> None:
    """The view swallowed the conflict, and met its consequence."""
    assert is_transient(errors.TransactionLost(made("pymysql.err", 1213)))


def test_a_partial_commit_must_not_be_repeated() -> None:
    """What the first engine stored would be stored twice; the constraint is still told."""
    for cause in (made("pymysql.err", 1213), made("pymysql.err", 1062, DUPLICATE)):
        error = errors.PartialCommit(["default"], "audit", [])
        error.__cause__ = IntegrityError("INSERT", {}, cause)
        assert not is_transient(error)
    assert constraint_of(error) == "uq_users_name"
