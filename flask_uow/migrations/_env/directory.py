"""The folder of the migrations: where it is, who has written it, and Alembic's view of it."""

from __future__ import annotations

import argparse
import ast
import configparser
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MigrationError

if TYPE_CHECKING:
    from alembic.config import Config
    from flask import Flask

TEMPLATES = Path(__file__).parent.parent / "templates"


def find(app: Flask, directory: str) -> Path:
    """Where *directory* is: in the current folder, else beside the app, or beside its package.

    :returns: the place in the current folder, if it is nowhere.
    """
    here = Path(directory)
    if here.is_absolute():
        return here
    root = Path(app.root_path)
    for parent in (Path.cwd(), root, root.parent):
        if (parent / here / "env.py").is_file():
            return (parent / here).absolute()
    return here.absolute()


def check(folder: Path, group: str, app: Flask) -> None:
    """
    :raises MigrationError: *folder* is not there, or nobody has made it one of migrations, or it
        belongs to another app.
    """
    if not folder.is_dir():
        raise MigrationError(
            f"There is no folder {str(folder)!r}. Create it with 'flask {group} init', or name"
            f" another one: 'flask {group} -d FOLDER ...' or UOW_MIGRATIONS."
        )
    for name in ("env.py", "script.py.mako"):
        if not (folder / name).is_file():
            raise MigrationError(
                f"The folder {str(folder)!r} has no {name!r}, so it is none of migrations. Name"
                f" another one: 'flask {group} -d FOLDER ...' or UOW_MIGRATIONS; with 'flask"
                f" {group} init -d FOLDER' there is one."
            )
    owner, mine = owner_of(folder), name_of(app)
    if owner and mine and owner != mine:
        own = f"migrations_{re.sub(r'[^a-z0-9]+', '_', mine.lower())}"
        raise MigrationError(
            f"The folder {str(folder)!r} belongs to the app {owner!r}, and this is {mine!r}. Make"
            f" a folder of its own ('flask {group} -d {own} init', and UOW_MIGRATIONS ="
            f" {own!r}); or, if the app was renamed or both are meant, change or remove the name"
            f" in {str(folder / 'env.py')!r}."
        )


def name_of(app: Flask) -> str | None:
    """What distinguishes *app*; None for one that is run as a file, which nothing does."""
    return None if app.import_name == "__main__" else app.name


def owner_of(folder: Path) -> str | None:
    """The app whose folder it is: what ``env.py`` gives to ``run(app=...)``; None for any."""
    try:
        tree = ast.parse(_text(folder / "env.py"))
    except (SyntaxError, ValueError):
        return None  # who runs it will hear of it
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "run":
            for keyword in node.keywords:
                if keyword.arg == "app" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value or "") or None
    return None


def is_ours(folder: Path) -> bool:
    """Does its ``env.py`` call :func:`~flask_uow.migrations.run`?"""
    return "flask_uow" in _text(folder / "env.py")


def is_flask_migrate(folder: Path) -> bool:
    """Has Flask-Migrate written its ``env.py``?"""
    text = _text(folder / "env.py")
    return "extensions['migrate']" in text or 'extensions["migrate"]' in text


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def config_of(
    folder: Path, *, x_arg: Sequence[str] = (), autogenerate: bool = False, **attributes: Any
) -> Config:
    """Alembic's settings: ``alembic.ini`` in the folder, and ``[tool.alembic]`` of the project.

    :param autogenerate: what Flask-Migrate's ``env.py`` asks for.
    :param attributes: for ``config.attributes``.
    :raises MigrationError: the installed Alembic cannot read ``[tool.alembic]``, or one of the
        files.
    """
    from alembic.config import Config

    options = argparse.Namespace(x=list(x_arg), quiet=True, autogenerate=autogenerate)
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
    except UNREADABLE as error:
        raise not_read(config, error) from error
    return config


UNREADABLE = (configparser.Error, ValueError, KeyError, TypeError)


def not_read(config: Config, error: Exception) -> MigrationError:
    """One of the files of *config* is damaged."""
    names = [config.config_file_name, getattr(config, "toml_file_name", None)]
    if isinstance(error, configparser.Error):
        names[1:] = []
    elif type(error).__name__ == "TOMLDecodeError":
        names[:1] = []
    files = " or ".join(repr(str(name)) for name in names if name)
    return MigrationError(
        f"The settings of Alembic in {files} cannot be read ({type(error).__name__}:"
        f" {' '.join(str(error).split())}). Mend them; a '%' of their own, as in 'file_template',"
        " is written '%%'."
    )


def _project_file(folder: Path) -> Path | None:
    """The nearest ``pyproject.toml`` above *folder*, if it says something to Alembic."""
    for parent in folder.parents:
        path = parent / "pyproject.toml"
        if path.is_file():
            return path if "[tool.alembic" in _text(path) else None
    return None
