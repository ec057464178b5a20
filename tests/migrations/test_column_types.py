"""A revision runs as it is written, whatever types the columns have."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import ARRAY, JSON, Column, Computed, Integer, LargeBinary, MetaData, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.mutable import MutableDict, MutableList

from tests.migrations.projects import Models, Project
from tests.migrations.shop import types
from tests.support.databases import anywhere, concurrently, on

_CLEAN = "The databases are up to date and match the models.\n"

# On every database.
KINDS: dict[str, Any] = {
    "decorator": types.Csv,
    "decorator with the name of a type": types.Text(30),
    "decorator with a constructor of its own": types.Money,
    "user defined": types.Code(7, pattern="[a-z]+\\d|'(\"x"),
    "class in a class": types.Types.Inner,
    "type in a type": types.Wrapped(types.Csv(), Decimal("1.5")),
    "variant in a type": types.Wrapped(
        JSON().with_variant(postgresql.JSONB(), "postgresql"), Decimal(1)
    ),
    "subclass of Enum": types.Level("a", "b", name="level", native_enum=False, length=9),
    "variant": JSON().with_variant(postgresql.JSONB(), "postgresql"),
    "two variants": sa.BigInteger()
    .with_variant(mysql.BIGINT(unsigned=True), "mysql", "mariadb")
    .with_variant(sqlite.INTEGER(), "sqlite"),
    "variants of a decorator": types.Text(30)
    .with_variant(postgresql.VARCHAR(30), "postgresql")
    .with_variant(types.Csv(), "sqlite"),
    "variant with a type in it": LargeBinary().with_variant(
        postgresql.ARRAY(types.Text(5)), "postgresql"
    ),
    "mutable": MutableList.as_mutable(types.Csv()),
    "mutable JSON": MutableDict.as_mutable(
        JSON().with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    ),
}
ON_POSTGRESQL: dict[str, Any] = {
    "array": ARRAY(types.Csv()),
    "array of variants": postgresql.ARRAY(sa.Text().with_variant(types.Text(5), "postgresql")),
    "array of two dimensions": ARRAY(types.Code(3, pattern="(a|b)\\1"), dimensions=2),
    "hstore and others": postgresql.TSTZRANGE(),
    "json": postgresql.JSONB(),
    "enum with metadata": sa.Enum("a", "b", name="of_metadata", native_enum=False),
}
ON_MARIADB: dict[str, Any] = {
    "text with a collation": mysql.VARCHAR(9, collation="utf8mb4_bin"),
    "enum": mysql.ENUM("a", "b"),
    "set": mysql.SET("a", "b"),
}


def values(kind: Any) -> Models:
    def models(metadata: MetaData) -> None:
        Table("things", metadata, Column("id", Integer, primary_key=True), Column("value", kind))

    return models


def nothing_of(metadata: MetaData) -> None:
    Table("things", metadata, Column("id", Integer, primary_key=True))


def there_and_back(project: Project, models: Models) -> str:
    text = project.migrate(models)
    assert project.do("db", "check", models=models) == _CLEAN
    project.do("db", "downgrade", models=models)
    project.do("db", "upgrade", models=models)
    assert project.do("db", "check", models=models) == _CLEAN
    return text


@pytest.mark.slow
@concurrently
@pytest.mark.parametrize("name", KINDS)
def test_type_is_written_so_that_it_runs(started: Project, name: str) -> None:
    """In a new table, and in a new column."""
    there_and_back(started, values(KINDS[name]))
    started.migrate(nothing_of, "without")
    there_and_back(started, values(KINDS[name]))


@on("postgresql")
@pytest.mark.parametrize("name", ON_POSTGRESQL)
def test_type_of_postgresql(started: Project, name: str) -> None:
    there_and_back(started, values(ON_POSTGRESQL[name]))


@on("postgresql")
def test_domain_is_left_to_alembic(started: Project) -> None:
    """Its ``repr()`` is without the check."""
    models = values(postgresql.DOMAIN("positive", Integer, check="VALUE > 0"))
    assert "check=" in started.migrate(models)
    assert started.do("db", "check", models=models) == _CLEAN
    started.query("DROP TABLE things; DROP DOMAIN positive")


@on("mariadb")
@pytest.mark.parametrize("name", ON_MARIADB)
def test_type_of_mariadb(started: Project, name: str) -> None:
    there_and_back(started, values(ON_MARIADB[name]))


@concurrently
def test_type_that_is_altered(started: Project) -> None:
    """Both types are written, also in what undoes it."""
    started.migrate(values(types.Text(30)))
    models = values(types.Code(9).with_variant(types.Code(12), "sqlite"))
    text = there_and_back(started, models)
    assert "import tests.migrations.shop.types\n" in text


@concurrently
def test_server_default_by_a_function_of_the_app(started: Project) -> None:
    """The file has the SQL that it is compiled to."""

    def models(metadata: MetaData) -> None:
        Table(
            "things",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("at", sa.DateTime, server_default=types.utcnow()),
            Column("twice", Integer, Computed("id * 2")),
            Column("name", types.Text(9), server_default=sa.text("'it''s'")),
        )

    there_and_back(started, models)


@anywhere
def test_types_of_other_databases_in_a_folder_for_several(started: Project, tmp_path: Path) -> None:
    """The file is written by the last engine, whatever it is."""
    started.binds = {"audit": f"sqlite:///{tmp_path / 'audit.db'}"}
    kind = JSON().with_variant(postgresql.JSONB(), "postgresql")

    def models(metadata: MetaData) -> None:
        values(kind)(metadata)
        info = {"bind_key": "audit"}
        Table("entries", metadata, Column("id", types.Csv(), primary_key=True), info=info)

    there_and_back(started, models)


@pytest.fixture
def modules(started: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Modules may be put beside the project."""
    monkeypatch.syspath_prepend(started.folder)
    before = set(sys.modules)
    yield started
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"sa", "postgresql", "mysql", "op"}:
            del sys.modules[name]


_CSV = """
from sqlalchemy import String, TypeDecorator

class Csv(TypeDecorator):
    impl = String(20)
    cache_ok = True
"""


@anywhere
@pytest.mark.parametrize("name", ["sa", "op.types", "postgresql", "mysql.more.types"])
def test_module_may_have_a_name_that_a_revision_has(modules: Project, name: str) -> None:
    import importlib

    *packages, module = name.split(".")
    folder = modules.folder
    for package in packages:
        folder /= package
        folder.mkdir()
        (folder / "__init__.py").touch()
    (folder / f"{module}.py").write_text(_CSV)
    importlib.invalidate_caches()
    csv = importlib.import_module(name).Csv
    kind = csv().with_variant(postgresql.JSONB(), "postgresql")
    text = there_and_back(modules, values(kind.with_variant(mysql.LONGTEXT(), "mysql")))
    assert "from sqlalchemy.dialects import postgresql\n" in text


def _refused(project: Project, kind: Any) -> str:
    result = project.flask("db", "migrate", "-m", "new", app=project.app(values(kind)))
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert project.versions == []
    return re.sub(r"\s+", " ", str(result.output))


@anywhere
def test_type_inside_a_function_is_refused(either: Project) -> None:
    class Csv(types.Csv):
        cache_ok = True

    output = _refused(either, Csv())
    assert "<locals>.Csv' is defined inside a function" in output
    assert "Move the class to the top of a module" in output


@anywhere
def test_type_of_the_program_is_refused(started: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program will run the revision."""
    monkeypatch.setattr(types.Types.Inner, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Types", types.Types, raising=False)
    output = _refused(started, types.Types.Inner())
    assert "'__main__.Types.Inner' is defined in the program that runs ('__main__')" in output


@anywhere
def test_type_that_does_not_say_how_it_is_made_is_refused(
    started: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two ways that the sentence names works."""
    kind = types.Choice("a", "b")
    output = _refused(started, kind)
    assert "'<Choice of 2>' is not a call that makes it. Give the class a '__repr__'" in output

    def call(self: Any) -> str:
        return f"Choice({', '.join(map(repr, self._choices))})"

    def written(_kind: str, item: Any, _context: object) -> Any:
        return "sa.String(9)" if isinstance(item, types.Choice) else False

    option = {"UOW_MIGRATIONS": {"render_item": written}}
    app = started.app(values(kind), **option)
    assert started.flask("db", "migrate", "-m", "item", app=app).exit_code == 0
    assert "sa.Column('value', sa.String(9), " in started.version("item").read_text()
    started.version("item").unlink()
    monkeypatch.setattr(types.Choice, "__repr__", call)
    assert "shop.types.Choice('a', 'b')" in there_and_back(started, values(kind))


@anywhere
def test_options_of_the_app_come_first(started: Project) -> None:
    """``render_item``, also for a type in a type, and ``user_module_prefix``."""

    def written(kind: str, item: Any, context: Any) -> Any:
        if kind == "type" and type(item) is types.Csv:
            context.imports.add("from tests.migrations.shop.types import Csv as MyCsv")
            return "MyCsv()"
        return False

    def file(models: Models, **options: Any) -> str:
        app = started.app(models, UOW_MIGRATIONS=options)
        assert started.flask("db", "migrate", "-m", "new", app=app).exit_code == 0
        path = started.version("new")
        text = path.read_text()
        path.unlink()
        return text

    assert "sa.Column('value', MyCsv(), " in file(values(types.Csv), render_item=written)
    wrapped = values(KINDS["type in a type"])
    assert "types.Wrapped(MyCsv(), ratio=decimal.Decimal('1.5'))" in file(
        wrapped, render_item=written
    )
    text = file(values(types.Text(5)), user_module_prefix="mine.")
    assert "mine.Text(length=5)" in text
    assert "import tests" not in text


@anywhere
def test_flask_migrates_env_py_writes_them_too(either: Project) -> None:
    models = values(JSON().with_variant(postgresql.JSONB(), "postgresql"))
    there_and_back(either, models)
