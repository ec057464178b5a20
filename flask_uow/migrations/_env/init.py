"""``init``: the folder of the migrations, from a template."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from ...errors import MigrationError
from . import directory

_TEMPLATE = "flask"
# Flask-Migrate has one for several databases; ours is for any number.
_SAME = {"flask-multidb": _TEMPLATE}


def templates() -> dict[str, str]:
    """Their names, and what they are for."""
    return {
        path.name: (path / "README").read_text(encoding="utf-8").splitlines()[0]
        for path in sorted(directory.TEMPLATES.iterdir())
        if (path / "README").is_file()
    }


def make(
    folder: Path, template: str | None, group: str, *, app: str | None, package: bool
) -> list[Path]:
    """Fill *folder* from a template; return the files.

    :param app: the name of the app whose folder it is.
    :param package: with empty ``__init__.py`` files.
    :raises MigrationError: the folder is there already, or cannot be written; there is no such
        template.
    """
    source = _template(template or _TEMPLATE, group)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        is_one = (folder / "env.py").is_file()
        what = (
            f"exists already. Go on with 'flask {group} migrate'"
            if is_one
            else f"is {'not empty' if folder.is_dir() else 'a file'}, and no folder of migrations"
        )
        raise MigrationError(
            f"{str(folder)!r} {what}{', or n' if is_one else '. N'}ame another folder:"
            f" 'flask {group} init -d FOLDER'."
        )
    with writing(folder):
        (folder / "versions").mkdir(parents=True, exist_ok=True)
        files = [_copy(path, folder, app) for path in sorted(source.iterdir()) if path.is_file()]
        for empty in (folder, folder / "versions") if package else ():
            (empty / "__init__.py").touch()
            files.append(empty / "__init__.py")
    return files


def _template(name: str, group: str) -> Path:
    own = "/" in name or "\\" in name
    path = Path(name) if own else directory.TEMPLATES / _SAME.get(name, name)
    if not any((path / name).is_file() for name in ("env.py", "env.py.mako")):
        raise MigrationError(
            f"There is no template {name!r}. 'flask {group} list-templates' lists those that there"
            " are; a path to a folder of your own has a '/' in it."
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
    """
    :raises MigrationError: nothing can be written to *folder*.
    """
    try:
        yield
    except OSError as error:
        # A program that is to be run after each file, and is not there, is something else.
        if error.filename is None or not _lies_in(Path(error.filename), folder):
            raise
        raise MigrationError(
            f"Nothing can be written to {str(folder)!r}: {error.strerror or error}. Make it"
            " writable, or name another folder with '-d FOLDER'."
        ) from error


def _lies_in(path: Path, folder: Path) -> bool:
    """Is *path* in *folder*, or on the way to it?"""
    path, folder = path.absolute(), folder.absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)
