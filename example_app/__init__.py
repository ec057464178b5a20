"""A ledger: accounts, transfers between them, statements.

``flask db upgrade`` makes its tables, ``flask seed`` its example data, ``flask run`` starts it.
Every request is one unit of work, so nothing in here commits, rolls back or closes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_uow import Flask

from . import api, commands, errors, money, pages, payments, receipts
from .database import db


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the app; nothing is asked of the database before a request or a command does.

    ``FLASK_SQLALCHEMY_DATABASE_URI`` names the database. Without it, the ledger lives in a SQLite
    file in the instance folder.
    """
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY="for development only",  # noqa: S106 - set FLASK_SECRET_KEY where it matters
        SESSION_COOKIE_SAMESITE="Lax",
    )
    app.config.from_prefixed_env()
    app.config.update(config or {})
    app.config.setdefault("SQLALCHEMY_DATABASE_URI", "sqlite:///ledger.db")

    app.register_extension(db)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(api.blueprint)
    app.add_template_filter(money.show, "money")
    payments.init_app(app)
    errors.init_app(app)
    commands.init_app(app)
    receipts.init_app(app)
    return app
