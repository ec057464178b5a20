"""``db.Table``: a table that finds its ``MetaData`` itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import MetaData

from .naming import without_bind_key

if TYPE_CHECKING:
    from typing_extensions import Self

    from .extension import SQLAlchemy


class _Table(sqlalchemy.Table):
    """A table in the ``MetaData`` of a bind key.

    ``db.Table("tags", Column(...), bind_key="blog")``; without a bind key, it is in the default,
    ``db.metadata``. A ``MetaData`` that is given has precedence.
    """

    if TYPE_CHECKING:

        def __new__(
            cls, name: str, *args: Any, bind_key: str | None = None, **kwargs: Any
        ) -> Self: ...

        def __init__(
            self, name: str, *args: Any, bind_key: str | None = None, **kwargs: Any
        ) -> None: ...


def table_class(db: SQLAlchemy) -> type[_Table]:
    """Make the class ``db.Table``."""

    def new(cls: Any, *args: Any, bind_key: str | None = None, **kwargs: Any) -> Any:
        # Without any argument, SQLAlchemy says what is missing.
        if args and not any(isinstance(arg, MetaData) for arg in args[1:2]):
            args = (*args[:1], db._make_metadata(bind_key), *args[1:])
        return sqlalchemy.Table.__new__(cls, *args, **without_bind_key(kwargs))

    return type("Table", (_Table,), {"__new__": new, "__module__": __name__})
