"""Flask-SQLAlchemy 3.1's interface: ``from flask_uow.compat import SQLAlchemy``.

For an app that moves in by one import. The modules have Flask-SQLAlchemy's names, so
``from flask_sqlalchemy.query import Query`` becomes ``from flask_uow.compat.query import Query``.
Nothing below this package knows it, and it does not import ``flask_sqlalchemy``.
"""

from .extension import SQLAlchemy as SQLAlchemy

__all__ = ["SQLAlchemy"]
