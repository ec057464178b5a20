"""Look up one object or row, or None, for ``get_or_404()`` and similar helpers."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from flask import current_app
from sqlalchemy import inspect
from sqlalchemy.exc import MultipleResultsFound
from sqlalchemy.orm import Mapper, scoped_session

from .._engine.checkouts import caller_location
from ..errors import QueryError, shown
from .keys import NoSuchKey, comparable
from .selects import executable, value_of, with_limit, without_repetitions

T = TypeVar("T")
NOT_FOUND = 404

logger = logging.getLogger(__name__)


def get(
    session: scoped_session[Any], entity: type[T] | Mapper[T], key: object, options: Any
) -> T | None:
    """Return the object with this primary key.

    :param options: further arguments of ``Session.get()``.
    :raises QueryError: *entity* is not a mapped class, or *key* does not fit its primary key.
    """
    mapper = _mapper_of(entity)
    try:
        values = comparable(key, mapper, session)
    except NoSuchKey:
        return None
    return session.get(entity, values, **options)


def _mapper_of(entity: type[T] | Mapper[T]) -> Mapper[T]:
    """
    :raises QueryError: *entity* is not a mapped class.
    """
    mapper: object = vars(entity).get("__mapper__") if isinstance(entity, type) else None
    mapper = mapper or inspect(entity, raiseerr=False)
    if isinstance(mapper, Mapper):
        return mapper
    class_ = type(entity)
    if isinstance(inspect(class_, raiseerr=False), Mapper):
        raise QueryError(
            f"'get_or_404' was given an object of the class {class_.__name__!r} in place of the"
            f" class. Write 'db.get_or_404({class_.__name__}, key)'."
        )
    given = f"the class {entity.__name__!r}" if isinstance(entity, type) else shown(entity)
    raise QueryError(
        f"'get_or_404' was given {given}, which is not a model. Write for example"
        " 'db.get_or_404(User, 1)', or, to look up by another column,"
        " 'db.one_or_404(select(User).where(User.name == name))'."
    )


def first(session: scoped_session[Any], given: object) -> tuple[Any] | None:
    """Return the first value or row, in a tuple because a value can be None; None without rows.

    :raises QueryError: *given* is not a statement with columns.
    """
    result = session.execute(with_limit(executable("first_or_404", given), 1))
    row = without_repetitions(result).first()
    return None if row is None else (value_of(row),)


def one(session: scoped_session[Any], given: object) -> tuple[Any] | None:
    """Return the only value or row, in a tuple; None if there is no row, or several.

    :raises QueryError: *given* is not a statement with columns.
    """
    result = session.execute(executable("one_or_404", given))
    try:
        row = without_repetitions(result).one_or_none()
    except MultipleResultsFound:
        logger.warning(_SEVERAL, caller_location(2))
        return None
    return None if row is None else (value_of(row),)


_SEVERAL = (
    "'one_or_404' at %s found several rows where it expects at most one, and aborted as if there"
    " were none. If several rows are right, use 'first_or_404' with 'order_by()'. Otherwise add a"
    " unique constraint."
)


def check_code(code: object) -> None:
    """
    :raises QueryError: ``abort()`` has no error with this status.
    """
    if code != NOT_FOUND and code not in current_app.aborter.mapping:
        raise QueryError(
            f"'code' is {shown(code)}, which is not the status of an HTTP error that 'abort()' can"
            " raise. Write for example 'code=410', or leave it out for 404."
        )
