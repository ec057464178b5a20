"""Projects with tests of their own, run by a pytest inside this one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.databases import TestDatabase

Run = Callable[..., pytest.RunResult]

CONFTEST = """
import pytest
from flask import Flask
from sqlalchemy import select
from flask_uow import Database
from tests.support.models import Base, Post, User

db = Database(Base)


def make_app():
    app = Flask("shop")
    app.config.update(TESTING=True, SQLALCHEMY_DATABASE_URI={url!r})
    db.init_app(app)

    @app.get("/posts")
    def posts():
        found = db.session.scalars(select(Post).order_by(Post.id)).all()
        return [post.author.name for post in found]  # the loop

    @app.post("/users/<name>")
    def create(name):
        db.session.add(User(name=name))
        return ""

    return app


@pytest.fixture(scope={scope!r})
def app():
    app = make_app()
    with app.app_context():
        db.drop_all()
        db.create_all()
        for name in ("ada", "bob", "eve"):
            db.session.add(User(name=name, posts=[Post(title="one")]))
        db.session.commit()
        engines = list(db.engines.values())
    yield app
    for engine in engines:
        engine.dispose()


@pytest.fixture
def client(app):
    return app.test_client()
"""


class LoadedModules:
    """The libraries that a run in this process has imported.

    pytester removes them from ``sys.modules``. A driver that is imported again would have other
    classes of errors than those that the dialects of SQLAlchemy know.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)  # of the projects
        self._modules: dict[str, ModuleType] = {}

    def pytest_unconfigure(self) -> None:
        for name, module in sys.modules.copy().items():
            if not str(getattr(module, "__file__", None)).startswith(self._folder):
                self._modules[name] = module

    def restore(self) -> None:
        for name, module in self._modules.items():
            sys.modules.setdefault(name, module)


@pytest.fixture
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModules]:
    """Ends after ``pytester``, if it is requested before it."""
    modules = LoadedModules(tmp_path_factory.getbasetemp())
    yield modules
    modules.restore()


@pytest.fixture
def run_tests(
    libraries: LoadedModules,
    pytester: pytest.Pytester,
    database: TestDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Run]:
    """Runs the given tests of a small shop, each with a fresh database."""

    def run(
        tests: str,
        *arguments: str,
        ini: str = "",
        conftest: str = "",
        scope: str = "function",
        in_process: bool = True,
    ) -> pytest.RunResult:
        # Workers must not share a database.
        url = database.url if in_process or "-n" not in arguments else "sqlite://"
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}\n")
        pytester.makeconftest(CONFTEST.format(url=url, scope=scope) + conftest)
        pytester.makepyfile(f"from conftest import *\n{tests}")
        options = ["-p", "flask_uow.pytest_plugin", "-p", "no:cacheprovider", *arguments]
        if in_process:  # without other plugins, to save time
            monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            return pytester.runpytest_inprocess(*options, plugins=[libraries])
        monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
        return pytester.runpytest_subprocess(*options)

    yield run
    libraries.pytest_unconfigure()  # what a fixture of this process has imported meanwhile
