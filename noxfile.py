"""The environments in which the tests run: ``nox -l`` lists them."""

from __future__ import annotations

import os

import nox

nox.options.sessions = ["tests", "lowest"]
nox.options.default_venv_backend = "venv"

# The lower bounds of pyproject.toml, and what has to be old beside them.
LOWEST = ["alembic==1.13.1", "flask==3.0.0", "sqlalchemy==2.0.30"]

# Tests that name another database in their parameters are left out.
ON_SQLITE = "not postgresql and not psycopg and not mariadb"


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The newest of everything, on each Python."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """The lowest direct dependencies, with the default tier on SQLite.

    Old versions differ in their interfaces, and every database uses the same ones.
    """
    session.install("-e", ".[test]", *LOWEST)
    session.run("pytest", "-q", "-n", "2", "-k", ON_SQLITE, *session.posargs)


@nox.session
def development(session: nox.Session) -> None:
    """Flask's development snapshot, from a folder or an address in ``FLASK_SNAPSHOT``."""
    snapshot = os.environ.get("FLASK_SNAPSHOT")
    if not snapshot:
        session.skip("set FLASK_SNAPSHOT to what 'pip install' takes for Flask's main branch")
    session.install("-e", ".[test]")
    session.install(str(snapshot))
    session.run("pytest", "-n", "auto", *session.posargs)
