"""What the commands print, as far as it is more than a line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MigrationError
from .results import Created, EngineStatus


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def short(path: Path) -> str:
    """*path* as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def convention(created: Created, group: str) -> str:
    """How constraints get names; empty if they have them."""
    if created.convention:
        return ""
    how = (
        "    class Base(DeclarativeBase):\n"
        "        metadata = MetaData(naming_convention=NAMING_CONVENTION)\n"
        if created.has_base
        else "    db = Database(metadata=MetaData(naming_convention=NAMING_CONVENTION))\n"
    )
    return (
        "Constraints of your models have no names, and one without a name cannot be dropped"
        f" later, not even by 'flask {group} downgrade'. Give them names before the first"
        " revision:\n\n"
        "    from flask_uow.migrations import NAMING_CONVENTION\n"
        "    from sqlalchemy import MetaData\n\n"
        f"{how}"
    )


def line(status: EngineStatus) -> str:
    """Where one database is, and below it what is pending."""
    text = f"{status.name} ({status.url}): {status.state}"
    if status.error is not None:
        return f"{text}: {status.error}"
    text += f", at {', '.join(status.current) or 'no revision'}"
    if status.unknown:
        text += f" (the folder does not have {', '.join(status.unknown)})"
    for script in status.pending:
        text += f"\n  pending: {script.revision} {script.doc or ''}".rstrip()
    return text


def as_dict(status: EngineStatus) -> dict[str, Any]:
    """The same, for programs."""
    return {
        "name": status.name,
        "url": status.url,
        "state": status.state,
        "reachable": status.error is None,
        "error": status.error,
        "current": list(status.current),
        "unknown": list(status.unknown),
        "pending": [{"revision": one.revision, "message": one.doc} for one in status.pending],
    }


def unknown(tables: Mapping[str, Sequence[str]], group: str) -> list[str]:
    """A sentence for each engine that has tables which the models do not know."""
    return [
        f"Left alone, because the models do not know them ({count(len(names), 'table')}"
        f"{f' of the engine {engine!r}' if engine else ''},"
        f" 'flask {group} migrate --drop-unknown' drops them): {', '.join(names)}"
        for engine, names in tables.items()
    ]


_MARK = "-- SQL of 'flask db', for the engine"  # the first line says whose file it is


def write_sql(scripts: Mapping[str, str]) -> list[Path]:
    """A file for each engine, in the current folder: nobody can pipe one text into two databases.

    :raises MigrationError: one of them is there and is somebody else's, or cannot be written.
    """
    names = {engine: re.sub(r"[^\w.-]", "_", engine) for engine in scripts}
    paths = {engine: Path(f"{name}.sql") for engine, name in names.items()}
    for engine, path in paths.items():
        if _is_foreign(path) or list(paths.values()).count(path) > 1:
            raise MigrationError(
                f"The SQL of the engine {engine!r} belongs in {str(path)!r}, which is somebody"
                " else's file or that of another engine. Write the command in another folder;"
                " nothing was written."
            )
    try:
        for engine, path in paths.items():
            path.write_text(f"{_MARK} {engine!r}\n{scripts[engine]}", encoding="utf-8")
    except OSError as error:
        raise MigrationError(
            f"{str(Path(error.filename or '.').absolute())!r} cannot be written:"
            f" {error.strerror or error}. Write the command in another folder."
        ) from error
    return list(paths.values())


def _is_foreign(path: Path) -> bool:
    """Is it there, and not ours? What we have written may be replaced."""
    try:
        return not path.read_text(encoding="utf-8").startswith(_MARK)
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError):
        return True
