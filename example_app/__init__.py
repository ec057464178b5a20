"""A ledger: accounts, transfers between them, statements.

``flask db upgrade`` creates the tables, ``flask seed`` adds example data, ``flask run`` starts the
app. Every request is one unit of work, so nothing here commits, rolls back or closes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_uow import Flask

from . import api, commands, errors, money, pages, receipts
from .database import db


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Create the app. No database connection is made before a request or a command needs one.

    ``FLASK_SQLALCHEMY_DATABASE_URI`` names the database. Without it, the ledger lives in a SQLite
    file in the instance folder.
    """
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY="for development only",  # noqa: S106 - set FLASK_SECRET_KEY where it matters
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=8 * 1024 * 1024,  # an import is in memory: about 200,000 lines
    )
    app.config.from_prefixed_env()
    app.config.update(config or {})
    app.config.setdefault("SQLALCHEMY_DATABASE_URI", "sqlite:///ledger.db")

    app.register_extension(db)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(api.blueprint)
    app.add_template_filter(money.show, "money")
    errors.init_app(app)
    commands.init_app(app)
    receipts.init_app(app)
    return app
