"""Every Flask request is one SQLAlchemy unit of work.

The names are in ``_public.py``, and are imported when the first of them is used. pytest imports
``flask_uow.pytest_plugin`` in each run, whether the tests use it or not, and this module with it:
such a run does not wait for Flask and SQLAlchemy.
"""

import typing as _typing
from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec

__version__ = "0.1.0.dev0"

if _typing.TYPE_CHECKING:
    from ._public import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        if name == "__all__":  # for ``from flask_uow import *``
            return _load()
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        submodule = f"{__name__}.{name}"
        if _find_spec(submodule):  # 'from . import x' asks here first, while others are imported
            return _import_module(submodule)
        _load()
        if name not in globals():
            from .elsewhere import missing_name

            raise missing_name(name)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *_load()})

    def _load() -> list[str]:
        """Import the public names; return them."""
        names = vars(_import_module("._public", __name__))
        public = {name: names[name] for name in names if not name.startswith("_")}
        globals().update(public)
        return sorted(public)
