"""The folder of the migrations: where it is, whose it is, how it is made, what Alembic sees."""

from __future__ import annotations

import argparse
import ast
import configparser
import contextlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MigrationError, escaped

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from flask import Flask

_TEMPLATES = Path(__file__).parent.parent / "templates"
_TEMPLATE = "flask"
# Flask-Migrate has one for several databases; ours is for any number.
_SAME = {"flask-multidb": _TEMPLATE}


def name_of(app: Flask) -> str | None:
    """What distinguishes *app*; None for one that is run as a file, which nothing distinguishes."""
    return None if app.import_name == "__main__" else app.name


# env.py ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnvFile:
    """What an ``env.py`` says, as far as one can tell without running it.

    :ivar owner: the app whose folder it is, by ``run(app=...)``; None for any.
    :ivar is_ours: it calls :func:`~flask_uow.migrations.run`.
    :ivar version_table: where a database notes its revision, as options of Alembic; None unless the
        file does nothing but call ``run()``, so that these options are known.
    """

    owner: str | None
    is_ours: bool
    version_table: dict[str, str | None] | None


def read_env(folder: Path) -> EnvFile:
    """Read the ``env.py`` of *folder*; one that is no Python will fail when it is run."""
    text = _text(folder / "env.py")
    is_ours = "flask_uow" in text
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return EnvFile(None, is_ours, None)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    owners = [
        str(keyword.value.value or "") or None
        for call in calls
        if getattr(call.func, "id", None) == "run"
        for keyword in call.keywords
        if keyword.arg == "app" and isinstance(keyword.value, ast.Constant)
    ]
    return EnvFile(owners[0] if owners else None, is_ours, _version_table(tree))


def _version_table(tree: ast.Module) -> dict[str, str | None] | None:
    statements = tree.body[ast.get_docstring(tree) is not None :]
    match statements:
        case [
            ast.ImportFrom(module="flask_uow.migrations", names=[ast.alias("run", None)]),
            ast.Expr(ast.Call(ast.Name("run"), [], keywords)),
        ]:
            given = {keyword.arg: keyword.value for keyword in keywords}
        case _:
            return None
    found: dict[str, str | None] = {}
    for name in {"version_table", "version_table_schema"} & given.keys():
        value = given[name]
        if not isinstance(value, ast.Constant) or not isinstance(value.value, (str, type(None))):
            return None
        found[str(name)] = value.value
    return None if None in given else found  # None is '**options'


def check(folder: Path, env: EnvFile, group: str, app: Flask) -> None:
    """Refuse a folder in which *app* cannot or should not migrate.

    :raises MigrationError: *folder* is not there, or is no folder of migrations, or belongs to
        another app.
    """
    if not folder.is_dir():
        raise MigrationError(
            f"There is no folder {str(folder)!r}. Create it with 'flask {group} init', or name"
            f" another one: 'flask {group} -d FOLDER ...' or UOW_MIGRATIONS."
        )
    for name in ("env.py", "script.py.mako"):
        if not (folder / name).is_file():
            raise MigrationError(
                f"The folder {str(folder)!r} has no {name!r}, so it is no folder of migrations."
                f" Name another one: 'flask {group} -d FOLDER ...' or UOW_MIGRATIONS; 'flask"
                f" {group} init -d FOLDER' creates one."
            )
    mine = name_of(app)
    if env.owner and mine and env.owner != mine:
        own = f"migrations_{re.sub(r'[^a-z0-9]+', '_', mine.lower())}"
        raise MigrationError(
            f"The folder {str(folder)!r} belongs to the app {env.owner!r}, and this is {mine!r}."
            f" Make a folder of its own ('flask {group} -d {own} init', and UOW_MIGRATIONS ="
            f" {own!r}); or, if the app was renamed or both are meant, change or remove the name"
            f" in {str(folder / 'env.py')!r}."
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# Alembic ---------------------------------------------------------------------------------------

_UNREADABLE = (configparser.Error, ValueError, KeyError, TypeError)


def config_of(folder: Path, *, x_arg: Sequence[str] = (), **attributes: Any) -> Config:
    """Alembic's ``Config`` for *folder*.

    :param x_arg: for ``context.get_x_argument()`` in ``env.py``.
    :param attributes: for ``config.attributes``.
    :raises MigrationError: the installed Alembic cannot read ``[tool.alembic]``, or one of the
        files.
    """
    from alembic.config import Config

    options = argparse.Namespace(x=list(x_arg), quiet=True, autogenerate=False)
    # Flask-Migrate's 'env.py' wants the name of an .ini, and its folders have one.
    arguments: dict[str, Any] = {"cmd_opts": options, "attributes": attributes}
    if (folder / "alembic.ini").is_file():
        arguments["file_"] = str(folder / "alembic.ini")
    project = _project_file(folder)
    if project is not None:
        arguments["toml_file"] = str(project)
    try:
        config = Config(**arguments)
    except TypeError as error:
        raise MigrationError(
            f"{str(project)!r} has a section '[tool.alembic]', which Alembic reads from version"
            " 1.16 on, and the installed one is older. Update it: pip install -U alembic."
        ) from error
    try:
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
    except _UNREADABLE as error:
        raise _damaged(error) from error
    return config


def _damaged(error: Exception) -> MigrationError:
    return MigrationError(
        f"The settings of Alembic cannot be read ({type(error).__name__}:"
        f" {escaped(error)}). Fix 'alembic.ini' or 'pyproject.toml'; a '%' of their"
        " own, as in 'file_template', is written '%%'."
    )


def _project_file(folder: Path) -> Path | None:
    """The nearest ``pyproject.toml`` above *folder*, if it has settings of Alembic."""
    for parent in folder.parents:
        path = parent / "pyproject.toml"
        if path.is_file():
            return path if "[tool.alembic" in _text(path) else None
    return None


def load(config: Config, folder: Path) -> ScriptDirectory:
    """The revisions of *folder*, all of them loaded.

    :raises MigrationError: a file cannot be loaded, or the files do not fit together.
    """
    from alembic.script import ScriptDirectory

    try:
        script = ScriptDirectory.from_config(config)
    except _UNREADABLE as error:
        raise _damaged(error) from error
    # Alembic warns of two files that are one revision, or of one that follows a revision which is
    # missing; then it fails with a KeyError, or continues with one of the two.
    missing: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            list(script.walk_revisions())
        except KeyError as error:
            missing = [f"the revision {error} is not present"]
    damage = [str(one.message) for one in caught if _is_of_alembic(one.filename)] + missing
    if damage:
        raise MigrationError(
            f"The revisions in {str(folder)!r} do not fit together: {damage[0]}. A file was changed"
            " by hand, deleted or not committed."
        )
    return script


def _is_of_alembic(filename: str) -> bool:
    return Path(filename).parent.parent.name == "alembic"


# init ------------------------------------------------------------------------------------------


def templates() -> dict[str, str]:
    """The names of the templates, and what they are for."""
    return {
        path.name: (path / "README").read_text(encoding="utf-8").splitlines()[0]
        for path in sorted(_TEMPLATES.iterdir())
        if (path / "README").is_file()
    }


def make(
    folder: Path, template: str | None, group: str, *, app: str | None, package: bool
) -> list[Path]:
    """Fill *folder* from a template; return the files.

    :param app: the name of the app whose folder it is.
    :param package: write empty ``__init__.py`` files, too.
    :raises MigrationError: the folder exists, or cannot be written; there is no such template.
    """
    source = _template(template or _TEMPLATE, group)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MigrationError(
            f"{str(folder)!r} exists already. Continue with 'flask {group} migrate' if it is a"
            f" folder of migrations, or name another folder: 'flask {group} init -d FOLDER'."
        )
    with writing(folder):
        (folder / "versions").mkdir(parents=True, exist_ok=True)
        files = [_copy(path, folder, app) for path in sorted(source.iterdir()) if path.is_file()]
        for empty in (folder, folder / "versions") if package else ():
            (empty / "__init__.py").touch()
            files.append(empty / "__init__.py")
    return files


def _template(name: str, group: str) -> Path:
    is_path = "/" in name or "\\" in name
    path = Path(name) if is_path else _TEMPLATES / _SAME.get(name, name)
    if not any((path / file).is_file() for file in ("env.py", "env.py.mako")):
        raise MigrationError(
            f"There is no template {name!r}. 'flask {group} list-templates' lists the templates;"
            " the path of a folder of your own has a '/' in it."
        )
    return path


def _copy(path: Path, folder: Path, app: str | None) -> Path:
    """Copy a file of a template; what ends with ``.mako`` is filled in, but for revisions."""
    if path.suffix != ".mako" or path.name == "script.py.mako":
        return Path(shutil.copyfile(path, folder / path.name))
    from alembic.util import template_to_file

    filled = folder / path.stem
    name = json.dumps(app, ensure_ascii=False) if app else ""  # as Python writes it, too
    template_to_file(str(path), str(filled), "utf-8", script_location=str(folder), app=name)
    return filled


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Name *folder* where the block cannot write to it.

    :raises MigrationError: instead of the ``OSError``.
    """
    try:
        yield
    except OSError as error:
        # A program that is to be run after each file, and is not there, is something else.
        if error.filename is None or not _is_in(Path(error.filename), folder):
            raise
        raise MigrationError(
            f"Nothing can be written to {str(folder)!r}: {error.strerror or error}. Make it"
            " writable, or name another folder with '-d FOLDER'."
        ) from error


def _is_in(path: Path, folder: Path) -> bool:
    """Tell whether *path* is in *folder*, or on the way to it."""
    path, folder = path.absolute(), folder.absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)
