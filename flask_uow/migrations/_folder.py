"""The folder of the migrations: where it is, who has written it, and Alembic's view of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MigrationError

if TYPE_CHECKING:
    from alembic.config import Config
    from flask import Flask

TEMPLATES = Path(__file__).parent / "templates"


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


def check(folder: Path, group: str) -> None:
    """
    :raises MigrationError: *folder* is not there, or nobody has made it one of migrations.
    """
    if not folder.is_dir():
        raise MigrationError(
            f"There is no folder {str(folder)!r}. Create it with 'flask {group} init', or name"
            f" another one: 'flask {group} -d FOLDER ...' or UOW_MIGRATIONS."
        )
    for name in ("env.py", "script.py.mako"):
        if not (folder / name).is_file():
            raise MigrationError(
                f"The folder {str(folder)!r} has no {name!r}, so it is none of migrations. Remove"
                f" it and write 'flask {group} init', or name another one:"
                f" 'flask {group} -d FOLDER ...'."
            )


def is_ours(folder: Path) -> bool:
    """Does its ``env.py`` call :func:`~flask_uow.migrations.run`?"""
    return "flask_uow" in _text(folder / "env.py")


def is_flask_migrate(folder: Path) -> bool:
    """Has Flask-Migrate written its ``env.py``?"""
    text = _text(folder / "env.py")
    return "extensions['migrate']" in text or 'extensions["migrate"]' in text


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def config_of(
    folder: Path, *, x_arg: Sequence[str] = (), autogenerate: bool = False, **attributes: Any
) -> Config:
    """Alembic's settings: ``alembic.ini`` in the folder, and ``[tool.alembic]`` of the project.

    :param autogenerate: what Flask-Migrate's ``env.py`` asks for.
    :param attributes: for ``config.attributes``.
    :raises MigrationError: the installed Alembic cannot read ``[tool.alembic]``.
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
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


def _project_file(folder: Path) -> Path | None:
    """The nearest ``pyproject.toml`` above *folder*, if it says something to Alembic."""
    for parent in folder.parents:
        path = parent / "pyproject.toml"
        if path.is_file():
            return path if "[tool.alembic" in _text(path) else None
    return None
