"""The shape of the package: who may import whom, what is public, how much is to be read."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import flask_uow
from flask_uow import errors

PACKAGE = Path(flask_uow.__file__).parent

# From the ground up; a module imports only from floors below its own.
FLOORS = [
    {"errors", "_body", "_effects", "_holders", "_outcomes", "_queue", "_replication"},
    {
        "_activity",
        "_binds",
        "_commit_hooks",
        "_drivers",
        "_options",
        "_pending",
        "_retry",
        "_sqlite",
        "_sqlite_connection",
    },
    {"_fork", "_guard", "_liveness", "_sqlite_memory"},
    {"_door", "_pool"},
    {"_session"},
    {"_settings", "_sqlite_engine", "_unit"},
    {"_engines"},
    {"_state"},
    {"_scope"},
    {"_atomic", "_replay"},
    {"_hooks"},
    {"_extension", "_flask"},
    {"__init__"},
]
# The life of a unit, the boundaries inside it, and the decisions; the rest is looked up.
HEART = ["_unit", "_atomic", "_hooks"]
KNOW_FLASK = {"_options", "_state", "_scope", "_replay", "_hooks", "_extension", "_flask"}

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports_of(module: str) -> set[str]:
    """What *module* imports: its own package's modules by name, others by their first part."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return {str(name) for name in found}


def test_every_module_has_a_floor() -> None:
    """A new module is put on its floor on purpose."""
    assert sorted(name for floor in FLOORS for name in floor) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    """No module imports from its own floor or from one above."""
    floor = next(number for number, names in enumerate(FLOORS) if module in names)
    below = set().union(*FLOORS[:floor])
    assert imports_of(module) & set(MODULES) <= below


@pytest.mark.parametrize("module", MODULES)
def test_only_the_upper_floors_know_flask(module: str) -> None:
    """The unit, its session, engines and settings can be read and tested without Flask."""
    assert module in KNOW_FLASK or not imports_of(module) & {"flask", "werkzeug", "click"}


def test_the_heart_is_read_in_one_sitting() -> None:
    """What decides over a unit is some 900 lines with its docstrings, and no file is long."""
    lines = {name: len((PACKAGE / f"{name}.py").read_text().splitlines()) for name in MODULES}
    assert sum(lines[name] for name in HEART) <= 920
    assert max(lines.values()) <= 500


def test_public_names() -> None:
    """What ``flask_uow`` offers, and nothing else without an underscore."""
    modules = {"errors", "migrations"}
    public = {name for name in vars(flask_uow) if not name.startswith("_")} - modules
    own = {"CommitRule", "Database", "Flask", "SessionProxy"}
    assert public == own | set(errors.__all__)


def test_every_error_is_one_of_ours_and_a_built_in() -> None:
    """``except UowError`` catches all of them, ``except RuntimeError`` what one would guess."""
    for name in errors.__all__:
        error = getattr(errors, name)
        if issubclass(error, Warning):
            assert issubclass(error, (errors.UowWarning, UserWarning))
        elif error is not errors.UowError:
            assert issubclass(error, errors.UowError)
            assert issubclass(error, (RuntimeError, ValueError))


def test_import_is_light() -> None:
    """``import flask_uow`` brings in neither Alembic, nor asyncio support, nor a driver."""
    code = "import sys, flask_uow; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "flask_uow" in loaded
    assert not loaded & {"alembic", "sqlalchemy.ext.asyncio", "pytest", "psycopg", "pymysql"}


def test_the_tower_does_not_know_the_migrations() -> None:
    """But for the one line in which ``Database`` hands an app over."""
    assert {module for module in MODULES if "migrations" in imports_of(module)} == {"_extension"}


def test_migrations_import_in_one_direction() -> None:
    """No circle among their modules; ``_group`` knows the commands only when one is used."""
    graph = {path.stem: _neighbours(path) for path in (PACKAGE / "migrations").glob("*.py")}
    graph["_group"].remove("cli")
    assert list(graphlib.TopologicalSorter(graph).static_order())
    lines = [len(path.read_text().splitlines()) for path in PACKAGE.glob("migrations/*.py")]
    assert max(lines) <= 500


def _neighbours(path: Path) -> set[str]:
    """The modules beside *path* that it imports, at its start or later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "migrations").glob("*.py")), ids=lambda path: path.stem
)
def test_migrations_import_alembic_only_when_they_run(path: Path) -> None:
    """An app that has the commands pays for their names; and only the commands print."""
    body = ast.parse(path.read_text()).body
    imported = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in body if isinstance(node, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in imported} & {"alembic", "mako"}
    assert path.stem in {"cli", "_group"} or "click" not in imported
    assert len(path.read_text().splitlines()) <= 500
