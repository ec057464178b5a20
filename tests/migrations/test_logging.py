"""What an app has made of logging stays, whatever an ``env.py`` does to it.

In a fresh interpreter each, because loggers belong to the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from tests.migrations.commands import ENVIRONMENT
from tests.migrations.projects import Project
from tests.support.databases import anywhere

pytestmark = anywhere

# Flask-Migrate's begins with 'fileConfig()', which replaces the handlers of the root logger, closes
# every handler that there is, and switches off every logger that it does not name.
_NEEDS = ("flask_migrate", "flask_sqlalchemy")
ENVS = ["ours", *(["Flask-Migrate's"] if all(map(find_spec, _NEEDS)) else [])]

_START = """
import io, json, logging, logging.handlers, sys
from pathlib import Path
from flask_uow.migrations import Migrations
from tests.migrations.projects import Project

app = Project(Path.cwd(), {url!r}).app()

def upgrade():
    with app.app_context():
        assert len(Migrations().upgrade()) == 1
        app.extensions["uow"].engines["default"].dispose()
"""


@pytest.fixture(params=ENVS)
def folder(request: pytest.FixtureRequest, project: Project) -> Project:
    """A folder with a revision that is pending."""
    if request.param == "ours":
        project.do("db", "init")
    else:
        from tests.migrations.test_flask_migrate import by_flask_migrate

        by_flask_migrate(project)
        project.versions[0].unlink()
    project.write_revision("one", None, "pass")
    return project


def _run(project: Project, code: str) -> tuple[Any, str]:
    """The JSON that *code* prints, and what is on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", _START.format(url=project.url) + code],
        cwd=project.folder,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


_LIVING, _DEAD = ["stream", "append"], ["write", "memory"]


@pytest.mark.parametrize(
    ("folder", "kinds"),
    # 'fileConfig()' closes the others for good, in every program that calls it.
    [*((env, _LIVING) for env in ENVS), ("ours", _DEAD)],
    indirect=["folder"],
)
def test_everything_is_still_emitted(folder: Project, kinds: list[str]) -> None:
    """By every kind of logger, to every kind of handler, as often and in the same form."""
    found, _ = _run(
        folder,
        f"kinds = {kinds}"
        + """
kept, filled = io.StringIO(), io.StringIO()
form = logging.Formatter("%(levelname)s %(name)s %(message)s")
handlers = {
    "stream": logging.StreamHandler(kept),
    "append": logging.FileHandler("append.log", "a"),
    "write": logging.FileHandler("write.log", "w"),
    "memory": logging.handlers.MemoryHandler(99, target=logging.StreamHandler(filled)),
}
handlers = {name: handlers[name] for name in kinds}
for handler in handlers.values():
    handler.setFormatter(form)
    logging.root.addHandler(handler)
if "memory" in kinds:
    handlers["memory"].target.setFormatter(form)
logging.root.setLevel(logging.INFO)
own = io.StringIO()
app.logger.addHandler(logging.StreamHandler(own))
app.logger.propagate = False
app.logger.setLevel(logging.DEBUG)
logging.getLogger("shop.orders").setLevel(logging.DEBUG)
logging.getLogger("shop.quiet").setLevel(logging.ERROR)

def read():
    for handler in handlers.values():
        handler.flush()
    lines = {"own": own.getvalue(), "stream": kept.getvalue(), "memory": filled.getvalue()}
    lines |= {name: Path(f"{name}.log").read_text() for name in ("append", "write")}
    new = {name: text[len(seen.get(name, "")):] for name, text in lines.items()}
    seen.update(lines)
    return new

seen = {}
def speak():
    app.logger.debug("detail")
    app.logger.getChild("part").info("of the app")
    for name in ("shop", "shop.orders", "shop.quiet", "shop.new"):
        logging.getLogger(name).debug("detail")
        logging.getLogger(name).warning("attention")
    return read()

before = speak()
upgrade()
read()
print(json.dumps([before, speak()]))
""",
    )
    before, after = found
    assert before["own"] == "detail\nof the app\n"
    for kind in kinds:
        assert before[kind] == (
            "WARNING shop attention\nDEBUG shop.orders detail\nWARNING shop.orders attention\n"
            "WARNING shop.new attention\n"
        )
    assert after == before


def test_state_of_every_logger_is_what_it_was(folder: Project) -> None:
    """Those that are new are as if nobody had configured them, but for Flask-Migrate's own."""
    found, _ = _run(
        folder,
        """
def state():
    loggers = [logging.root, *logging.Logger.manager.loggerDict.values()]
    return {
        one.name: [one.level, one.disabled, one.propagate, [str(h) for h in one.handlers]]
        for one in loggers
        if isinstance(one, logging.Logger)
    }

logging.basicConfig(level="INFO", stream=sys.stderr)
logging.getLogger("shop").disabled = True
logging.getLogger("sqlalchemy.engine").setLevel("ERROR")
app.logger
before = state()
upgrade()
print(json.dumps([before, state()]))
""",
    )
    before, after = found
    assert before["shop"][1] is True
    assert before["sqlalchemy.engine"][0] == 40
    assert {name: after[name] for name in before} == before
    new = {name: after[name] for name in after.keys() - before.keys()}
    assert {name for name, one in new.items() if one[0]} <= {"flask_migrate"}
    assert all(one[1:3] == [False, True] for one in new.values()), new


def test_logger_of_an_app_that_has_not_configured_any_speaks_for_the_first_time(
    folder: Project,
) -> None:
    """Flask gives it a handler if nobody else has one."""
    found, error = _run(
        folder,
        """
upgrade()
app.logger.warning("for the first time")
print(json.dumps([str(one) for one in app.logger.handlers]))
""",
    )
    assert len(found) == 1
    assert error.count("for the first time") == 1
    assert error.endswith("WARNING in <string>: for the first time\n")
