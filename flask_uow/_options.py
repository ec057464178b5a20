"""How the unit of one view runs: the values of ``@db.unit(...)`` and of ``UOW_COMMIT``."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, cast

from flask import Flask, Request, Response

from .errors import ConfigError, shown

CommitRule = Union[Literal["on_success", "always", "explicit"], Callable[[Response], bool]]
"""When a request commits by itself:

- ``"on_success"``: when its response is below 400, else it is rolled back.
- ``"always"``: whatever the status, unless an exception left the view.
- ``"explicit"``: never; the view calls ``db.session.commit()``.
- a callable: it gets the response and returns whether to commit.
"""

F = TypeVar("F", bound=Callable[..., Any])

_RULES = ("on_success", "always", "explicit")
_MARK = "_flask_uow_options"


@dataclass(frozen=True)
class UnitOptions:
    """What a view asks for its own unit; None leaves the app's setting."""

    commit: CommitRule | None = None


def commit_rule(value: object, where: str) -> CommitRule:
    """Check a commit rule.

    :param where: how the user wrote it, for the message.
    :raises ConfigError: it is no rule; the message names the nearest one.
    """
    if callable(value) or value in _RULES:
        return cast(CommitRule, value)
    near = difflib.get_close_matches(str(value).lower().replace("-", "_"), _RULES, n=1)
    raise ConfigError(
        f"{where} is {shown(value)}, which is no rule for when to commit."
        f"{f' Did you mean {near[0]!r}?' if near else ''}"
        f" It can be {', '.join(map(repr, _RULES))} or a function that gets the response and"
        " returns True to commit."
    )


def mark(view: F, options: UnitOptions) -> F:
    """Attach *options* to a view; ``functools.wraps`` carries them on to what wraps it."""
    if not callable(view):
        raise ConfigError(
            f"'@db.unit(...)' was put on {shown(view)}, which is not a view function. Write it"
            " directly above the 'def', below '@app.route(...)'."
        )
    setattr(view, _MARK, options)
    return view


def of_request(app: Flask, request: Request) -> UnitOptions:
    """The options of the view that *request* was routed to.

    A method of a view class speaks before the class, and the class before its view function.
    """
    view = app.view_functions.get(request.endpoint or "")
    view_class = getattr(view, "view_class", None)
    if view_class is not None:
        for place in (*_methods(view_class, request.method), view_class):
            if hasattr(place, _MARK):
                return cast(UnitOptions, getattr(place, _MARK))
    return cast(UnitOptions, getattr(view, _MARK, _NO_OPTIONS))


def _methods(view_class: type[Any], http_method: str) -> list[Any]:
    name = http_method.lower()
    if name == "head" and not hasattr(view_class, "head"):
        name = "get"  # as Flask dispatches it
    return [getattr(view_class, name, None), getattr(view_class, "dispatch_request", None)]


_NO_OPTIONS = UnitOptions()
