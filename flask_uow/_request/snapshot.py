"""The values of a request as they were before its view: what a retry restores (P4).

The copies are deep: a list to which the view has appended an item is as it was. But some objects
are not data, at any depth: a mapped object belongs to its session, an engine and the app to every
request. They are kept, not copied. So the copies are made by ``pickle``, which asks about each
object (``persistent_id``); ``copy.deepcopy`` does not.
"""

from __future__ import annotations

import io
import pickle  # of values of this process only, for this process
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import sqlalchemy
from flask import Flask, Request
from werkzeug.local import LocalProxy

# Most values are of these types, or contain only these.
_DATA = frozenset([str, int, float, bool, bytes, type(None), dict, list, tuple, set])
_NO_DATA = (type, FunctionType, BuiltinFunctionType, ModuleType, LocalProxy, Flask, Request)


class Snapshot:
    """The values of *mappings* as they are now. A value that cannot be copied is kept."""

    def __init__(self, *mappings: Mapping[Any, Any]) -> None:
        self._keys = [list(mapping) for mapping in mappings]
        self._originals = [value for mapping in mappings for value in mapping.values()]
        self._shared: dict[int, object] = {}  # by identity: the objects that are kept
        if not self._can_copy(self._originals):
            for value in self._originals:
                if not self._can_copy(value):
                    self._shared[id(value)] = value
        self._dump = self._dump_of(self._originals)

    def restored(self) -> list[dict[Any, Any]]:
        """Return the mappings with their values: the originals if nothing in them has changed.

        All values are copied at once, so two that shared an object share its copy.
        """
        values = iter(self._copy_of(self._dump) if self._has_changed() else self._originals)
        return [{key: next(values) for key in keys} for keys in self._keys]

    def _has_changed(self) -> bool:
        try:
            return self._dump_of(self._originals) != self._dump
        except Exception:  # something that cannot be copied was added
            return True

    def _can_copy(self, value: object) -> bool:
        try:
            self._copy_of(self._dump_of(value))
        except Exception:  # the class of a contained object may raise anything
            return False
        return True

    def _dump_of(self, value: object) -> bytes:
        buffer = io.BytesIO()
        _Pickler(buffer, self._shared).dump(value)
        return buffer.getvalue()

    def _copy_of(self, dump: bytes) -> Any:
        return _Unpickler(io.BytesIO(dump), self._shared).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: dict[int, object]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._shared = shared

    def persistent_id(self, obj: object) -> int | None:
        if id(obj) not in self._shared:
            kind = type(obj)
            if kind in _DATA:
                return None
            if not _stays(kind):
                if hasattr(kind, "__del__"):  # a second object would close what both refer to
                    raise pickle.PicklingError
                return None
            self._shared[id(obj)] = obj
        return id(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: dict[int, object]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, pid: int) -> object:
        return self._shared[pid]


def _stays(kind: type) -> bool:
    """Whether objects of this type are not data, and are kept."""
    if kind is object or issubclass(kind, _NO_DATA):
        return True
    if sqlalchemy.inspect(kind, raiseerr=False) is not None:  # a mapped class
        return True
    return any(base.__module__.partition(".")[0] == "sqlalchemy" for base in kind.__mro__)
