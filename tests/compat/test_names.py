"""Every public name of Flask-SQLAlchemy 3.1 is here, and has its place on the page."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
from blinker import NamedSignal

from tests.compat.test_oracle import ORACLE, needs_oracle

COMPAT = "flask_uow.compat"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "moving-from-flask-sqlalchemy.md"

NAMES = {
    "": "SQLAlchemy",
    "cli": "add_models_to_shell",
    "model": "BindMetaMixin BindMixin DefaultMeta DefaultMetaNoName Model NameMetaMixin NameMixin"
    " camel_to_snake_case should_set_tablename",
    "pagination": "Pagination QueryPagination SelectPagination",
    "query": "Query",
    "record_queries": "get_recorded_queries",
    "session": "Session",
    "table": "",
    "track_modifications": "before_models_committed models_committed",
}
"""By module, what each defines."""

OF_DB = """
    Model Query Table create_all drop_all dynamic_loader engine engines first_or_404 get_engine
    get_or_404 init_app metadata metadatas one_or_404 paginate reflect relationship session
""".split()
OF_PAGES = """
    first has_next has_prev items iter_pages last max_per_page next next_num page pages per_page
    prev prev_num total
""".split()
OF_QUERIES = ["first_or_404", "get_or_404", "one_or_404", "paginate"]
OF_MODELS = ["query", "query_class"]
ARGUMENTS = """
    app metadata session_options query_class model_class engine_options add_models_to_shell
    disable_autonaming
""".split()


def defined(package: str, module: str) -> set[str]:
    """What a module has of its own, without an underscore."""
    name = f"{package}.{module}" if module else package
    return {
        key
        for key, value in vars(importlib.import_module(name)).items()
        if not key.startswith("_")
        and (isinstance(value, NamedSignal) or getattr(value, "__module__", "").startswith(name))
    }


@pytest.mark.parametrize("module", NAMES)
def test_modules(module: str) -> None:
    """Each name is where it was."""
    found = importlib.import_module(f"{COMPAT}.{module}" if module else COMPAT)
    assert all(hasattr(found, name) for name in NAMES[module].split())


def test_attributes() -> None:
    """And has the attributes that it had."""
    db = importlib.import_module(COMPAT).SQLAlchemy
    page = importlib.import_module(f"{COMPAT}.pagination").Pagination
    query = importlib.import_module(f"{COMPAT}.query").Query
    made = [name for name in OF_DB if name in {"Model", "Query", "Table", "session"}]
    assert all(hasattr(db(), name) for name in made)
    assert all(hasattr(db, name) for name in OF_DB if name not in made)
    assert list(inspect.signature(db).parameters) == ARGUMENTS
    of_instances = ("items", "max_per_page", "page", "per_page", "total")
    assert all(hasattr(page, name) for name in OF_PAGES if name not in of_instances)
    assert all(name in vars(query) for name in OF_QUERIES)
    assert all(hasattr(db().Model, name) for name in OF_MODELS if name != "query")


@needs_oracle
def test_names_are_those_of_flask_sqlalchemy() -> None:
    """The lists above are complete."""
    for module, names in NAMES.items():
        assert defined(ORACLE, module) == set(names.split()), module
    db = importlib.import_module(ORACLE).SQLAlchemy
    assert {name for name in (*vars(db()), *vars(db)) if not name.startswith("_")} == set(OF_DB)
    page = importlib.import_module(f"{ORACLE}.pagination").Pagination
    given = {"items", "max_per_page", "page", "per_page", "total"}
    assert {name for name in vars(page) if not name.startswith("_")} | given == set(OF_PAGES)
    query = importlib.import_module(f"{ORACLE}.query").Query
    assert {name for name in vars(query) if not name.startswith("_")} == set(OF_QUERIES)
    assert list(inspect.signature(db).parameters) == ARGUMENTS


def test_page_has_every_name() -> None:
    """In the table of ``docs/how-to/moving-from-flask-sqlalchemy.md``."""
    table = PAGE.read_text(encoding="utf-8").partition("## Every name")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", " ".join(rows)))))
    wanted = {
        *OF_DB,
        *OF_PAGES,
        *OF_QUERIES,
        *OF_MODELS,
        *ARGUMENTS,
        *" ".join(NAMES.values()).split(),
    }
    assert wanted <= named
