"""``flask_uow.Flask``: Flask with a method for extensions beside the one for blueprints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import flask
from flask.sansio.scaffold import setupmethod

from ..errors import SetupError, shown


class Extension(Protocol):
    """Any object that can prepare an app."""

    @property
    def init_app(self) -> Callable[..., Any]: ...


class Flask(flask.Flask):
    """``flask.Flask`` plus :meth:`register_extension`."""

    @setupmethod
    def register_extension(self, extension: Extension, **options: Any) -> None:
        """Register an extension: the sibling of ``register_blueprint``.

        :param options: handed on to its ``init_app``.
        :raises SetupError: *extension* has no ``init_app``, or is a class.
        """
        if isinstance(extension, type):
            raise SetupError(
                f"'register_extension' was given the class {extension.__name__!r}. Make an"
                f" object of it first: 'extension = {extension.__name__}()', and register that."
            )
        if not callable(getattr(extension, "init_app", None)):
            raise SetupError(
                f"'register_extension' was given {shown(extension)}, which has no 'init_app'"
                " method. Blueprints go to 'register_blueprint', WSGI middleware around"
                " 'app.wsgi_app'."
            )
        extension.init_app(self, **options)
