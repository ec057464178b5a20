"""What a revision does to its own transaction, and what is said of one that fails."""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Computed, Identity, Integer, MetaData, Table

from flask_uow.errors import MigrationError, MigrationFailed, MigrationLocked
from flask_uow.migrations import Migrations
from flask_uow.migrations._env import alembic_private
from flask_uow.migrations._run import lock
from tests.migrations.projects import Project, people
from tests.support.databases import anywhere, concurrently, on

CREATE = 'op.create_table({!r}, sa.Column("id", sa.Integer, primary_key=True))'


def create(*names: str) -> str:
    return "\n".join(CREATE.format(name) for name in names)


# Transactions ---------------------------------------------------------------------------------


@concurrently
@pytest.mark.parametrize(
    "commit",
    [
        "op.get_bind().commit()",
        "op.get_bind().get_transaction().commit()",
        'op.execute("COMMIT")',
        "from sqlalchemy.orm import Session\nop.get_bind().commit()\n"
        "with Session(op.get_bind()) as session:\n"
        "    session.execute(sa.text('INSERT INTO a (id) VALUES (1)'))\n    session.commit()",
    ],
    ids=["commit", "transaction", "typed", "session"],
)
def test_revision_that_commits_by_itself_is_done_and_noted(either: Project, commit: str) -> None:
    """With what it did behind its commit; and the next revision begins as always."""
    either.write_revision("one", None, f"{create('a')}\n{commit}\n{create('b')}")
    either.write_revision("two", "one", create("c"))
    output = either.do("db", "upgrade")
    assert output.count(" s\n") == 2
    assert either.tables() == {"a", "b", "c"}
    assert either.revision() == "two"
    assert "up to date" in either.do("db", "upgrade")


@concurrently
def test_last_revision_may_commit_at_its_very_end(either: Project) -> None:
    either.write_revision("one", None, f"{create('a')}\nop.get_bind().commit()")
    either.do("db", "upgrade")
    assert (either.tables(), either.revision()) == ({"a"}, "one")


@concurrently
@pytest.mark.parametrize("rollback", ["op.get_bind().rollback()", 'op.execute("ROLLBACK")'])
def test_revision_that_rolls_back_by_itself_is_not_done(either: Project, rollback: str) -> None:
    either.write_revision("one", None, create("a"))
    insert = 'op.execute("INSERT INTO a (id) VALUES (1)")'
    either.write_revision("two", "one", f"{insert}\n{rollback}")
    result = either.flask("db", "upgrade")
    assert result.exit_code == 1
    assert "The revision two" in result.output
    assert "rolled back its own transaction" in result.output
    assert either.revision() == "one"
    assert either.query("SELECT id FROM a") == []


@concurrently
def test_first_revision_that_rolls_back_takes_the_table_of_the_note_with_it(
    started: Project,
) -> None:
    started.write_revision("one", None, f"{create('a')}\nop.get_bind().rollback()")
    result = started.flask("db", "upgrade")
    assert result.exit_code == 1
    assert "rolled back its own transaction" in result.output
    assert started.revision() is None


@concurrently
def test_revision_may_roll_back_to_a_savepoint_or_what_it_only_read(started: Project) -> None:
    started.write_revision(
        "one",
        None,
        f"""
        op.get_bind().commit()
        op.get_bind().execute(sa.text("SELECT 1"))
        op.get_bind().rollback()
        {CREATE.format("a")}
        op.execute("INSERT INTO a (id) VALUES (1)")
        try:
            with op.get_bind().begin_nested():
                op.execute("INSERT INTO a (id) VALUES (1)")
        except sa.exc.IntegrityError:
            pass
        """,
    )
    started.do("db", "upgrade")
    assert started.revision() == "one"
    assert started.query("SELECT id FROM a") == [(1,)]


@on("sqlite-file", "postgresql")
@pytest.mark.parametrize("own", [False, True], ids=["block", "commit"])
def test_one_transaction_for_all_revisions_is_committed_too(started: Project, own: bool) -> None:
    """``transaction_per_migration=False``, with a commit and with an ``autocommit_block()``."""
    block = "with op.get_context().autocommit_block():\n    op.execute('SELECT 1')"
    body = "op.get_bind().commit()" if own else block
    started.write_revision("one", None, f"{create('a')}\n{body}\n{create('b')}")
    started.write_revision("two", "one", create("c") if own else f"{create('c')}\n{block}")
    app = started.app(UOW_MIGRATIONS={"transaction_per_migration": False})
    result = started.flask("db", "upgrade", app=app)
    assert result.exit_code == 0, result.output
    assert (started.tables(), started.revision()) == ({"a", "b", "c"}, "two")


@on("sqlite-file", "postgresql")
def test_commit_in_a_transaction_of_env_py_is_refused(started: Project) -> None:
    """As Flask-Migrate's has one for several databases: it could not commit it any more."""
    (started.folder / "migrations" / "env.py").write_text(
        "from alembic import context\nfrom flask import current_app\n"
        "with current_app.extensions['migrate'].db.engine.connect() as connection:\n"
        "    transaction = connection.begin()\n"
        "    context.configure(connection=connection)\n"
        "    context.run_migrations()\n"
        "    transaction.commit()\n"
    )
    started.write_revision("one", None, create("a"))
    started.do("db", "upgrade")
    started.write_revision("two", "one", f"{create('b')}\nop.get_bind().commit()")
    result = started.flask("db", "upgrade")
    assert result.exit_code == 1
    assert "has one transaction for all" in result.output
    assert started.revision() == "one"


@on("postgresql")
def test_note_that_got_lost_is_no_success(started: Project) -> None:
    """By the connection of the driver, past SQLAlchemy: a fresh look finds out."""
    (started.folder / "migrations" / "env.py").write_text(
        "from flask_uow.migrations import run\n"
        "def lose(ctx, **_):\n"
        "    ctx.connection.connection.dbapi_connection.rollback()\n"
        "run(on_version_apply=lose)\n"
    )
    started.write_revision("one", None, create("a"))
    with started.app().app_context():
        Migrations().stamp("base")
    result = started.flask("db", "upgrade")
    assert result.exit_code == 1
    assert "is recorded at no revision, not at one" in result.output
    assert started.revision() is None


# What is said of a failure --------------------------------------------------------------------


@concurrently
def test_failure_behind_an_autocommit_block_says_what_stays(started: Project) -> None:
    started.write_revision(
        "one",
        None,
        f"{create('a')}\nwith op.get_context().autocommit_block():\n    op.execute('SELECT 1')\n"
        f"{create('b')}\n1 / 0",
    )
    result = started.flask("db", "upgrade")
    assert result.exit_code == 1
    assert "It was rolled back" not in result.output
    assert "hand, fix the file" in result.output
    if started.backend == "mariadb":
        assert started.tables() == {"a", "b"}
    else:
        assert "committed a part" in result.output or "committed by itself" in result.output
        assert started.tables() == {"a"}
    again = started.flask("db", "upgrade")
    assert ("stamp" in again.output) is (started.backend != "mariadb")


@concurrently
def test_stamp_is_advised_where_it_may_be_right(started: Project) -> None:
    """Not behind another revision, and not where the failed revision itself has made the table."""
    started.query("CREATE TABLE a (id INTEGER PRIMARY KEY)")
    started.query("CREATE TABLE b (id INTEGER PRIMARY KEY)")
    started.write_revision("one", None, create("a"))
    started.write_revision("two", "one", create("b"))
    first = started.flask("db", "upgrade")
    assert "already exists" in first.output
    assert ("flask db stamp one" in first.output) is (started.backend != "mariadb")
    started.do("db", "stamp", "one")
    second = started.flask("db", "upgrade")
    assert "already exists" in second.output
    assert "stamp" not in second.output


@on("mariadb")
def test_constraint_without_a_name_is_named_as_the_cause(started: Project) -> None:
    started.write_revision(
        "one", None, create("a"), "op.drop_constraint(None, 'a', type_='unique')"
    )
    started.do("db", "upgrade")
    app = started.app_of(MetaData())  # without a naming convention
    result = started.flask("db", "downgrade", app=app)
    assert "AssertionError (a constraint without a name?)" in result.output


@anywhere
@pytest.mark.parametrize("where", ["revision", "import", "env.py"])
@pytest.mark.parametrize("code", ["0", ""])
def test_file_that_exits_is_a_failure(either: Project, where: str, code: str) -> None:
    """``sys.exit(0)`` is not success: nothing behind it was done."""
    leave = f"import sys; sys.exit({code})"
    either.write_revision("one", None, leave if where == "revision" else create("a"))
    path = either.folder / "migrations" / ("env.py" if where == "env.py" else "versions/one.py")
    if where != "revision":
        path.write_text(f"{leave}\n{path.read_text()}")
    result = either.flask("db", "upgrade")
    assert result.exit_code == 1
    assert f"sys.exit({code})" in result.output or "SystemExit" in result.output
    assert (either.tables(), either.revision()) == (set(), None)


@anywhere
def test_file_that_exits_does_not_end_a_request(
    started: Project, caplog: pytest.LogCaptureFixture
) -> None:
    started.write_revision("one", None, create("a"))
    path = started.folder / "migrations" / "versions" / "one.py"
    path.write_text(f"import sys; sys.exit(0)\n{path.read_text()}")
    app = started.app(UOW_CHECK_MIGRATIONS="error")
    app.debug = True
    app.add_url_rule("/", view_func=lambda: "here")
    with caplog.at_level(logging.WARNING, "flask_uow"):
        assert app.test_client().get("/").text == "here"
    assert "one.py" in caplog.text


@anywhere
def test_keyboard_interrupt_stays_one(started: Project) -> None:
    started.write_revision("one", None, f"{create('a')}\nraise KeyboardInterrupt")
    with started.app().app_context(), pytest.raises(KeyboardInterrupt):
        Migrations().upgrade()
    assert started.revision() is None


@anywhere
def test_lock_is_asked_between_two_steps(started: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has lost it runs nothing more."""
    started.write_revision("one", None, create("a"))
    started.write_revision("two", "one", create("b"))
    monkeypatch.setattr(lock._SqliteLock, "is_held", lambda _: False)
    with started.app().app_context(), pytest.raises(MigrationLocked, match="was lost"):
        Migrations().upgrade()
    assert (started.tables(), started.revision()) == ({"a"}, "one")


# The unit of work of the context --------------------------------------------------------------


@concurrently
def test_own_uncommitted_work_is_refused_in_words(started: Project) -> None:
    """It holds locks that the migration would wait for, in the same thread."""
    started.migrate(people)
    started.write_revision(
        "two", started.revision(), 'op.add_column("people", sa.Column("age", sa.Integer))'
    )
    app = started.app()
    db = app.extensions["uow_migrations"]
    with app.app_context():
        db.session.execute(people(MetaData()).insert().values(name="x"))
        with pytest.raises(MigrationError, match=r"SQL statements.*db\.session\.commit\(\)"):
            Migrations().upgrade()
        db.session.commit()
        assert [step.revision for step in Migrations().upgrade()] == ["two"]
    assert started.query("SELECT name FROM people") == [("x",)]


@concurrently
def test_unit_that_has_only_read_stands_aside(started: Project) -> None:
    """Its lock on the table goes; inside a block it may not."""
    started.migrate(people)
    started.write_revision(
        "two", started.revision(), 'op.add_column("people", sa.Column("age", sa.Integer))'
    )
    app = started.app()
    db = app.extensions["uow_migrations"]
    table = people(MetaData())
    with app.app_context():
        with db.atomic():
            db.session.execute(table.select()).all()
            with pytest.raises(MigrationError, match=r"inside 'with db\.atomic"):
                Migrations().upgrade()
        assert db.session.execute(table.select()).all() == []
        assert len(Migrations().upgrade(lock_timeout=5)) == 1
        assert db.session.execute(table.select()).all() == []


# Comparison -----------------------------------------------------------------------------------


def computed(metadata: MetaData) -> None:
    Table(
        "numbers",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("n", Integer, server_default="7"),
        Column("twice", Integer, Computed("n * 2")),
    )


@concurrently
def test_computed_column_can_be_compared(started: Project) -> None:
    """Alembic would ask for its text before it asks a function of ours."""
    started.migrate(computed)
    started.do("db", "check", models=computed)
    assert "No file" in started.do("db", "migrate", models=computed)


@on("postgresql")
def test_identity_can_be_compared(started: Project) -> None:
    def models(metadata: MetaData) -> None:
        Table("t", metadata, Column("id", Integer, Identity(), primary_key=True))

    started.migrate(models)
    started.do("db", "check", models=models)


@concurrently
def test_function_of_ones_own_compares_defaults(started: Project) -> None:
    """By Alembic's own option, which is off as in Alembic."""

    def models(default: str) -> Any:
        return lambda metadata: people(metadata, Column("n", Integer, server_default=default))

    started.migrate(models("1"))
    for compare, code in ((lambda *_: False, 0), (True, 3), (None, 0)):
        options = {} if compare is None else {"compare_server_default": compare}
        app = started.app(models("2"), UOW_MIGRATIONS=options)
        result = started.flask("db", "check", app=app)
        assert result.exit_code == code, result.output


# Alembic --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "name"), [entry[:2] for entry in alembic_private.NAMES])
def test_private_names_of_alembic_are_there(owner: str, name: str) -> None:
    """On the lowest and the newest version, as methods or as attributes that are set."""
    module, _, qualified = owner.rpartition(".")
    found = getattr(importlib.import_module(module), qualified)
    whole = inspect.getsource(inspect.getmodule(found) or found)
    assert hasattr(found, name) or re.search(rf"\bself\.{name}\b", whole)


def test_private_names_of_alembic_are_used_in_one_module() -> None:
    """An update of Alembic is looked at in one place."""
    names = {name for _, name, _ in alembic_private.NAMES} - {"run_autogenerate"}
    package = Path(alembic_private.__file__).parents[1]
    users = {
        path.name
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.Constant) and node.value in names)
    }
    assert users == {"alembic_private.py"}


@anywhere
def test_failed_revision_is_not_kept(either: Project) -> None:
    """``alembic.op`` would keep its context in memory, and so the app and its connections."""
    from alembic import op

    either.write_revision("one", None, 'op.execute("SELECT * FROM missing")')
    assert either.flask("db", "upgrade").exit_code == 1
    assert vars(op)["_proxy"] is None


@anywhere
def test_functions_of_alembic_need_a_database(started: Project) -> None:
    """Somebody calls them in an app that has none."""
    from alembic import command
    from alembic.config import Config
    from flask import Flask

    config = Config()
    config.set_main_option("script_location", str(started.folder / "migrations"))
    with Flask("other").app_context(), pytest.raises(MigrationError, match="has no Database"):
        command.upgrade(config, "head")


@anywhere
def test_failed_revision_tells_its_engine_and_cause(started: Project) -> None:
    started.write_revision("one", None, "1 / 0")
    with started.app().app_context(), pytest.raises(MigrationFailed) as caught:
        Migrations().upgrade()
    assert (caught.value.engine, caught.value.revision) == ("default", "one")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@on("postgresql")
def test_type_may_be_made_again_in_the_same_run(started: Project) -> None:
    """SQLAlchemy would remember that it has made it."""
    create = 'op.create_table({!r}, sa.Column("e", sa.Enum("a", name="kind")))'
    started.write_revision("one", None, create.format("a"))
    started.write_revision("two", "one", "op.drop_table('a')\nop.execute('DROP TYPE kind')")
    started.write_revision("three", "two", create.format("b"))
    started.do("db", "upgrade")
    assert started.tables() == {"b"}
