"""The environments in which the tests run: ``nox -l`` lists them."""

from __future__ import annotations

import os

import nox

nox.options.sessions = ["tests", "lowest"]
nox.options.default_venv_backend = "venv"

# The lower bounds of pyproject.toml, and what has to be old beside them.
LOWEST = ["alembic==1.13.1", "flask==3.0.0", "sqlalchemy==2.0.30"]

# What people use beside flask_uow; docs/how-to/integrations.md has the recipes, and the versions
# with which they passed. Flask-Migrate requires Flask-SQLAlchemy, and with that installed, other
# packages behave differently.
PACKAGES = [
    "apiflask",
    "celery",
    "factory-boy",
    "flask-admin",
    "flask-dance",
    "flask-executor",
    "flask-login",
    "flask-marshmallow",
    "flask-restx",
    "flask-security-too",
    "flask-smorest",
    "marshmallow-sqlalchemy",
    "opentelemetry-instrumentation-flask",
    "opentelemetry-instrumentation-sqlalchemy",
    "opentelemetry-sdk",
    "prometheus-client",
    "sentry-sdk[flask]",
    "sqlakeyset",
    "sqlalchemy-continuum",
    "sqlmodel",
    "strawberry-graphql",
    # For the types of SQLModel
    "mypy",
    "pyright",
    # Drivers
    "mariadb",
    "mysql-connector-python",
    "mysqlclient",
    "pg8000",
]

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
@nox.parametrize("packages", [PACKAGES, ["flask-migrate"]], ids=["packages", "flask-migrate"])
def ecosystem(session: nox.Session, packages: list[str]) -> None:
    """Packages that people use beside flask_uow.

    What cannot be installed here is no failure: its tests are skipped, and say so.
    """
    session.install("-e", ".[test]")
    for package in packages:
        session.run("python", "-m", "pip", "install", "-q", package, success_codes=[0, 1])
    session.run("pytest", "-q", "-m", "", "tests/ecosystem", *session.posargs)


@nox.session
def development(session: nox.Session) -> None:
    """Flask's development snapshot, from a folder or an address in ``FLASK_SNAPSHOT``."""
    snapshot = os.environ.get("FLASK_SNAPSHOT")
    if not snapshot:
        session.skip("set FLASK_SNAPSHOT to what 'pip install' takes for Flask's main branch")
    session.install("-e", ".[test]")
    session.install(str(snapshot))
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def oracle(session: nox.Session) -> None:
    """Flask-SQLAlchemy and Flask-Migrate beside ours: the same calls, the same results."""
    session.install("-e", ".[test,oracle]")
    session.run("pytest", "-q", "-m", "not stress", "tests/compat", *session.posargs)
    session.run("pytest", "-q", "-m", "slow", "tests/migrations/test_oracle.py")
