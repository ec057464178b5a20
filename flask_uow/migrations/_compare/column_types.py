"""How a column type is written into a revision, so that the file runs as it is.

Alembic writes ``shop.types.Csv()`` without an import, and a variant for another database with
names that the file does not define. Here every class is written with the name by which the file
imports it, and the text is evaluated before it is written. The option ``render_item`` of the app
comes first; the option ``user_module_prefix`` takes the place of the imports.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import sqlalchemy
from sqlalchemy import TypeDecorator, dialects, types, util
from sqlalchemy.types import TypeEngine

from ..._transaction.sqlalchemy_private import variants_of
from ...errors import MigrationError

RenderItem = Callable[[str, Any, Any], Any]


class AutogenContext(Protocol):
    """What is used of Alembic's class of that name."""

    imports: set[str]
    opts: Mapping[str, Any]


# Names of a revision that an import must not replace.
_RESERVED = {
    *"op sa batch_op revision down_revision branch_labels depends_on upgrade downgrade".split(),
    *dialects.__all__,
}


def render_item(given: RenderItem | None) -> RenderItem:
    """Alembic's hook of that name, for types.

    :param given: the hook of the app, which is asked first.
    """

    def render(kind: str, item: Any, context: AutogenContext) -> Any:
        rendered = False if given is None else given(kind, item, context)
        if rendered is not False or kind != "type":
            return rendered
        return _Writer(given, context).write(item)

    return render


class _Unwritable(Exception):
    """The text is no expression that makes the type."""


class _Name:
    """Stands for a type inside another one: its ``repr()`` is a name for the text."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


class _Writer:
    """Writes one type, and notes its imports in *context*."""

    def __init__(self, given: RenderItem | None, context: AutogenContext) -> None:
        self._given = given
        self._context = context
        self._prefix: str | None = context.opts.get("user_module_prefix")

    def write(self, kind: TypeEngine[Any]) -> str | bool:
        """The expression that makes *kind*; False leaves it to Alembic.

        :raises MigrationError: the file could not import the class, or not make the type.
        """
        plain = self._plain(kind)
        variants = variants_of(kind)
        if plain is False:
            return False
        for dialect in sorted(variants):
            plain = f"{plain}.with_variant({self._nested(variants[dialect])}, {dialect!r})"
        return plain

    def _nested(self, kind: TypeEngine[Any]) -> str:
        rendered = False if self._given is None else self._given("type", kind, self._context)
        text = self.write(kind) if rendered is False else rendered
        if text is False:
            raise _Unwritable
        return str(text)

    def _plain(self, kind: TypeEngine[Any]) -> str | bool:
        if getattr(kind, "check", None) is not None:  # DOMAIN, whose repr() is without it
            return False
        try:
            texts, twin = self._without_nested(kind, {})
            for tree in _calls(twin):
                if self._makes(tree, kind, texts):
                    return ast.unparse(_Qualified(self, _classes(kind), texts).visit(tree))
        except _Unwritable:
            pass
        if _is_of_sqlalchemy(type(kind)):
            return False
        raise MigrationError(
            f"The column type {_name_of(type(kind))!r} cannot be written into a revision:"
            f" {repr(kind)[:200]!r} is not a call that makes it. Give the class a '__repr__' that"
            " returns this call, or give 'run()' in 'env.py' a 'render_item' that returns what to"
            " write. No file was written."
        )

    def _without_nested(
        self, kind: TypeEngine[Any], texts: dict[str, tuple[str, object]]
    ) -> tuple[dict[str, tuple[str, object]], TypeEngine[Any]]:
        """A copy of *kind* that has names for the types inside it, and what they stand for."""
        twin: TypeEngine[Any] = object.__new__(type(kind))  # copy.copy() would ask for 'impl'
        vars(twin).update(vars(kind))
        for attribute, value in _attributes(kind).items():
            if not isinstance(value, TypeEngine):
                continue
            if isinstance(kind, TypeDecorator) and attribute in {"impl", "impl_instance"}:
                _, vars(twin)[attribute] = self._without_nested(value, texts)
            else:
                name = f"_type_{len(texts)}"
                texts[name] = self._nested(value), value
                vars(twin)[attribute] = _Name(name)
        return texts, twin

    def _makes(
        self, tree: ast.Expression, kind: TypeEngine[Any], texts: Mapping[str, tuple[str, object]]
    ) -> bool:
        """Does the expression make such a type?"""
        names: dict[str, object] = {name: value for name, (_, value) in texts.items()}
        try:
            code = compile(tree, "<column type>", "eval")
            made = eval(code, {**_classes(kind), **names})  # noqa: S307, the app's own repr()
        except Exception:
            return False
        return type(made) in type(kind).__mro__ and _text(made) == _text(kind)

    def imported(self, kind: type) -> str:
        """The name of a class in the file, which will import it.

        :raises MigrationError: the class cannot be imported.
        """
        module, name = kind.__module__, kind.__qualname__
        folder = module.split(".")
        if module == "builtins":
            return name
        if folder[:2] == ["sqlalchemy", "dialects"] and len(folder) > 2:
            if getattr(sys.modules.get(".".join(folder[:3])), name, None) is not None:
                self._context.imports.add(f"from sqlalchemy.dialects import {folder[2]}")
                return f"{folder[2]}.{name}"
        elif folder[0] == "sqlalchemy":
            for place, prefix in ((sqlalchemy, ""), (types, "types.")):
                if getattr(place, name, None) is kind:
                    return f"{self._context.opts['sqlalchemy_module_prefix'] or ''}{prefix}{name}"
        elif self._prefix is not None:
            return f"{self._prefix}{name}"
        _require_importable(kind)
        if folder[0] not in _RESERVED:
            self._context.imports.add(f"import {module}")
            return f"{module}.{name}"
        alias = "_".join(folder) if len(folder) > 1 else f"{module}_"
        self._context.imports.add(f"import {module} as {alias}")
        return f"{alias}.{name}"


class _Qualified(ast.NodeTransformer):
    """Writes each name as the file knows it."""

    def __init__(
        self,
        writer: _Writer,
        classes: Mapping[str, type],
        texts: Mapping[str, tuple[str, object]],
    ) -> None:
        self._writer = writer
        self._classes = classes
        self._texts = texts

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._texts:
            text = self._texts[node.id][0]
        elif node.id in self._classes:
            text = self._writer.imported(self._classes[node.id])
        else:
            return node
        return ast.parse(text, mode="eval").body


def _calls(kind: TypeEngine[Any]) -> Iterator[ast.Expression]:
    """What may make *kind*: its ``repr()``, or the arguments of its own constructor.

    ``repr()`` of a ``TypeDecorator`` has the arguments of the type that it decorates.
    """
    for text in (_text(kind), _text(kind, util.generic_repr)):
        try:
            tree = ast.parse(text, mode="eval")
        except SyntaxError:
            continue
        yield tree


def _text(kind: object, represent: Callable[[Any], str] = repr) -> str:
    """The ``repr()`` without the MetaData of an enum: in a revision the enum has none.

    alembic-postgresql-enum adds ``create_type=False``, also where SQLAlchemy has written it.
    """
    text = represent(kind).replace(", metadata=MetaData()", "")
    return text.replace(", create_type=False, create_type=False", ", create_type=False")


def _classes(kind: object) -> dict[str, type]:
    """By name, the classes that may stand in the ``repr()`` of *kind*."""
    found: dict[str, type] = {}
    for value in _values(kind, set()):
        for cls in type(value).__mro__:
            if getattr(builtins, cls.__name__, None) is not cls:
                found.setdefault(cls.__name__, cls)
    return found


def _values(value: object, seen: set[int]) -> Iterator[object]:
    """*value*, and what it consists of."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    parts: Iterable[object] = ()
    if isinstance(value, TypeEngine):
        parts = _attributes(value).values()
    elif isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    for part in parts:
        yield from _values(part, seen)


def _attributes(kind: TypeEngine[Any]) -> dict[str, Any]:
    """Those of *kind*, and of its classes, where SQLAlchemy keeps defaults."""
    found: dict[str, Any] = {}
    for cls in reversed(type(kind).__mro__):
        found.update(
            {name: value for name, value in vars(cls).items() if isinstance(value, TypeEngine)}
        )
    return {**found, **vars(kind)}


def _is_of_sqlalchemy(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "sqlalchemy"


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _require_importable(kind: type) -> None:
    """
    :raises MigrationError: *kind* is not what its module has under this name.
    """
    found: object = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is kind and kind.__module__ != "__main__":
        return
    where = f"in the module {kind.__module__!r}, which has no such name"
    if kind.__module__ == "__main__":
        where = "in the program that runs ('__main__')"
    elif "<locals>" in kind.__qualname__:
        where = "inside a function"
    raise MigrationError(
        f"The column type {_name_of(kind)!r} is defined {where}, and a revision cannot import it"
        " from there. Move the class to the top of a module of its own, or give 'run()' in 'env.py'"
        " a 'render_item' that returns what to write. No file was written."
    )
