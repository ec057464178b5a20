"""``--sql``, sent by the programs that people send it with, makes what ``upgrade`` makes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Enum,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    func,
    make_url,
    text,
)
from sqlalchemy.dialects.postgresql.base import PGDialect

from tests.migrations.projects import Models, Project
from tests.migrations.schemas import schema_of
from tests.support import databases, programs
from tests.support.databases import anywhere, concurrently

# What has to be quoted, in SQL, by a driver, or by a shell.
AWKWARD = "50 % of 'it', \"größer\": a\\b %(c)s :d {e} $f"
if PGDialect._backslash_escapes:  # SQLAlchemy 2.0 doubles it where it cannot ask
    AWKWARD = AWKWARD.replace("\\", "")


def owners(metadata: MetaData, *more: Any) -> None:
    Table(
        "owners",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("name", String(50), nullable=False, index=True, comment=AWKWARD),
        Column("active", Boolean, nullable=False, server_default=false()),
        *more,
        comment="who has pets",
    )


def pets(metadata: MetaData, name: Column[Any], *more: Any) -> None:
    Table(
        "pets",
        metadata,
        Column("id", Integer, primary_key=True),
        name,
        Column("kind", Enum("cat", "dog", name="kind"), nullable=False, server_default="cat"),
        Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE"), nullable=False),
        *more,
        UniqueConstraint("owner_id", "name"),
    )


def first(metadata: MetaData) -> None:
    owners(metadata)
    pets(
        metadata,
        Column("name", String(20), nullable=False),
        Column("price", Numeric(10, 2), server_default="0.00"),
        Column("born", DateTime, server_default=func.now()),
        Column("note", String(80), server_default=AWKWARD),
        Column("weight", Integer, server_default=text("7")),
    )


def second_of_sqlite(metadata: MetaData) -> None:
    """What SQLite can do without a copy of the table, which would have to look at it."""
    first(metadata)
    metadata.tables["pets"].append_column(Column("chip", String(15), index=True))
    visits(metadata)


def second(metadata: MetaData) -> None:
    """A type, nullable, a default and a comment are others; a column and an index have gone."""
    owners(metadata, Column("city", String(30), comment="where"), UniqueConstraint("name"))
    pets(
        metadata,
        Column("name", String(40), nullable=True, index=True),
        Column("price", Numeric(12, 2), nullable=False, server_default="1.50", comment="net"),
        Column("note", Text),
        Column("born", DateTime),
    )
    visits(metadata)


def visits(metadata: MetaData) -> None:
    pet: Column[int] = Column("pet_id", ForeignKey("pets.id"), primary_key=True)
    Table("visits", metadata, pet, Column("at", DateTime, primary_key=True))


def by_drivers(script: str, url: str) -> None:
    """What stands for the programs where they are missing."""
    parsed = make_url(url)
    connection: Any
    if parsed.get_backend_name() == "sqlite":
        connection = sqlite3.connect(str(parsed.database), isolation_level=None)
        connection.executescript(script)
    elif parsed.get_backend_name() == "postgresql":
        psycopg = pytest.importorskip("psycopg")
        plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = psycopg.connect(plain, autocommit=True)
        connection.execute(script)
    else:
        pymysql = pytest.importorskip("pymysql")
        connection = pymysql.connect(
            user=parsed.username or "",
            password=parsed.password or "",
            unix_socket=str(parsed.query.get("unix_socket", "")) or None,
            host=parsed.host or "localhost",
            port=parsed.port or 3306,
            database=parsed.database,
            autocommit=True,
        )
        with connection.cursor() as cursor:
            for statement in script.split(";\n"):
                if statement.strip():
                    cursor.execute(statement)
    connection.close()


def by_programs(script: str, url: str) -> None:
    """``psql``, ``mariadb`` or ``sqlite3``, with the script as standard input."""
    parsed = make_url(url)
    environment = dict(os.environ)
    if parsed.get_backend_name() == "sqlite":
        command = [programs.sqlite3(), "-bail", str(parsed.database)]
    elif parsed.get_backend_name() == "postgresql":
        plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
        command = [programs.psql(), "-X", "-q", "-v", "ON_ERROR_STOP=1", plain]
        environment["PGCLIENTENCODING"] = "UTF8"
    else:
        command = [programs.mariadb(), "--no-defaults", "--default-character-set=utf8mb4"]
        socket = parsed.query.get("unix_socket")
        command += [f"--user={parsed.username}"] if parsed.username else []
        command += (
            [f"--socket={socket}"]
            if socket
            else [f"--host={parsed.host}", f"--port={parsed.port or 3306}"]
        )
        command += [str(parsed.database)]
        environment["MYSQL_PWD"] = parsed.password or ""
    done = subprocess.run(
        command, input=script.encode(), env=environment, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b""), script


def empty(url: str) -> None:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        Path(str(parsed.database)).unlink()
    else:
        databases.wipe(url, MetaData())


@pytest.mark.slow
@concurrently
@pytest.mark.parametrize("replay", [by_programs, by_drivers])
def test_sql_that_is_replayed_makes_the_same_schema(
    started: Project, replay: Callable[[str, str], None]
) -> None:
    """As a whole, and revision by revision; and the way back is the same as well."""
    last: Models = second_of_sqlite if started.backend == "sqlite" else second
    started.do("db", "migrate", "--rev-id", "one", models=first)
    started.do("db", "upgrade", models=first)
    at_one = schema_of(started.url)
    started.do("db", "migrate", "--rev-id", "two", models=last)
    started.do("db", "upgrade", models=last)
    at_two = schema_of(started.url)
    assert at_one != at_two
    started.do("db", "check", models=last)
    started.write_revision(
        "rows",
        "two",
        f"""
        owners = sa.table('owners', sa.column('name', sa.String))
        op.bulk_insert(owners, [{{"name": {AWKWARD!r}}}])
        op.execute(sa.insert(owners).values(name={f"2 {AWKWARD}"!r}))
        """,
    )

    def sql(*args: str) -> None:
        replay(started.do("db", *args, "--sql", models=last), started.url)

    empty(started.url)
    sql("upgrade")
    assert schema_of(started.url) == at_two
    assert started.revision() == "rows"
    assert started.query("SELECT name FROM owners ORDER BY id") == [
        (AWKWARD,),
        (f"2 {AWKWARD}",),
    ]
    started.do("db", "check", models=last)
    sql("downgrade")
    assert (schema_of(started.url), started.revision()) == (at_two, "two")

    empty(started.url)
    sql("upgrade", "one")
    assert (schema_of(started.url), started.revision()) == (at_one, "one")
    sql("upgrade", "one:two")
    assert (schema_of(started.url), started.revision()) == (at_two, "two")
    if started.backend != "sqlite":  # where it would have to look at the table
        started.do("db", "downgrade", models=last)
        again_at_one = schema_of(started.url)
        started.do("db", "upgrade", "two", models=last)
        sql("downgrade", "two:one")
        assert (schema_of(started.url), started.revision()) == (again_at_one, "one")
        sql("upgrade", "one:two")
        sql("downgrade", "two:base")
        assert (started.tables(), started.revision()) == (set(), None)

    empty(started.url)
    sql("stamp", "one")
    assert (started.tables(), started.revision()) == (set(), "one")


@pytest.mark.slow
@anywhere
def test_scripts_of_several_engines_are_replayed_one_by_one(
    started: Project, tmp_path: Path
) -> None:
    started.binds = {"animals": f"sqlite:///{tmp_path / 'animals.db'}"}

    def both(metadata: MetaData) -> None:
        owners(metadata)
        name = Column("name", String(20), unique=True)
        Table("animals", metadata, name, info={"bind_key": "animals"})

    started.migrate(both)
    urls = {"default": started.url, **started.binds}
    made = {url: schema_of(url) for url in urls.values()}
    for name, url in urls.items():
        empty(url)
        started.do("db", "upgrade", "--sql", models=both)
        by_programs(Path(f"{name}.sql").read_text(encoding="utf-8"), url)
    assert {url: schema_of(url) for url in urls.values()} == made
    started.do("db", "check", models=both)
