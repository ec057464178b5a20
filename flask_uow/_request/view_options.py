"""How the unit of one view runs: the values of ``@db.unit(...)`` and of ``UOW_COMMIT``."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any, Literal, TypeVar, Union

from flask import Flask, Request, Response

from .._config.options import NO_OPTIONS, UnitOptions
from ..errors import ConfigError, shown

CommitRule = Union[Literal["on_success", "always", "explicit"], Callable[[Response], bool]]
"""When a request commits automatically; the values are those of ``_config.options.CommitRule``."""

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = "_flask_uow_options"


def attach_options(view: F, options: UnitOptions) -> F:
    """Attach *options* to a view; ``functools.wraps`` copies them to its wrappers.

    :raises ConfigError: *view* is not a function, or has options already.
    """
    if not callable(view):
        raise ConfigError(
            f"'@db.unit(...)' was put on {shown(view)}, which is not a view function. Write it"
            " directly above the 'def', below '@app.route(...)'."
        )
    if hasattr(view, _OPTIONS):
        raise ConfigError(
            f"{_name(view)} has two '@db.unit(...)', and one of them would be lost. Write one, with"
            " all its options."
        )
    try:
        setattr(view, _OPTIONS, options)
    except AttributeError:
        raise ConfigError(
            f"'@db.unit(...)' was put on {shown(view)}, which cannot keep it. Write it above the"
            " 'def' of the method."
        ) from None
    if type(view) is FunctionType:
        global _is_used  # noqa: PLW0603  # most apps never use it and should not pay
        _is_used = True
        _marked.add(view)
    return view


def options_of(app: Flask, request: Request) -> UnitOptions:
    """The options of the view that *request* was routed to.

    Options of a method override those of its view class, and those of the class override those of
    its view function.

    :raises ConfigError: a decorator has lost them.
    """
    view = app.view_functions.get(request.endpoint or "")
    view_class = getattr(view, "view_class", None)
    places = () if view_class is None else (*_methods(view_class, request.method), view_class)
    for place in (*places, view):
        options: UnitOptions | None = getattr(place, _OPTIONS, None)
        if options is not None:
            return options
    if _is_used and isinstance(view, FunctionType) and view not in _known:
        _refuse_lost(app, view, request.endpoint)
    return NO_OPTIONS


def _methods(view_class: type[Any], http_method: str) -> list[Any]:
    name = http_method.lower()
    if name == "head" and not hasattr(view_class, "head"):
        name = "get"  # as Flask dispatches it
    return [getattr(view_class, name, None), getattr(view_class, "dispatch_request", None)]


# Lost options ---------------------------------------------------------------------------------

_is_used = False
_marked: weakref.WeakSet[Any] = weakref.WeakSet()
_known: weakref.WeakSet[Any] = weakref.WeakSet()  # views that have no options, and have lost none


def _refuse_lost(app: Flask, view: FunctionType, endpoint: str | None) -> None:
    """
    :raises ConfigError: a decorator without ``functools.wraps`` hides the options of *view*.
    """
    lost = _marked_inside(view, depth=5)
    if lost is not None and not any(lost is other for other in app.view_functions.values()):
        raise ConfigError(
            f"The view of the endpoint {endpoint!r} is {_name(view)}, which wraps {_name(lost)} and"
            " has lost its '@db.unit(...)' options on the way. Use 'functools.wraps' in that"
            " decorator, or write '@db.unit(...)' above it."
        )
    _known.add(view)


def _marked_inside(function: FunctionType, depth: int) -> FunctionType | None:
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue
        if not isinstance(content, FunctionType):
            continue
        if content in _marked:
            return content
        if hasattr(content, _OPTIONS):  # another view with options, which this one calls
            continue
        found = _marked_inside(content, depth - 1) if depth else None
        if found is not None:
            return found
    return None


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", repr(function))
    return f"'{getattr(function, '__module__', '?')}.{name}'"
