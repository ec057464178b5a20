"""What Alembic's 'batch' on SQLite would lose: triggers, and indexes that it cannot read.

To change a table it makes a copy, drops the table and renames the copy. Triggers go with the table.
So do indexes on expressions, which SQLAlchemy does not reflect; others come back without their
``DESC``, their ``COLLATE``, or a part of their ``WHERE``. What is missing at the end of a revision
is created again from the SQL that SQLite keeps of it. Not before: the revision may do so itself,
which was the only way while nobody else did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from ...errors import MigrationError
from ..connectivity import words

_NAME = r'(?:"main"\.|main\.)?(?:"((?:[^"]|"")+)"|(\w+))'
_DROP = re.compile(rf"\s*DROP TABLE (?:IF EXISTS )?{_NAME}\s*$", re.IGNORECASE)
_RENAME = re.compile(
    rf'\s*ALTER TABLE (?:"main"\.|main\.)?"?_alembic_tmp_.* RENAME TO {_NAME}\s*$',
    re.IGNORECASE | re.DOTALL,
)
_UPDATE_OF = re.compile(r"(?:(?!\bBEGIN\b).)*\bUPDATE\s+OF\s+(.*?)\s+ON\b", re.I | re.S)
_TABLE_RENAMED = re.compile(
    r'\s*ALTER TABLE (?!"?_alembic_tmp_).* RENAME TO\b', re.IGNORECASE | re.DOTALL
)
_DROP_OWN = re.compile(rf"\s*DROP (?:INDEX|TRIGGER) (?:IF EXISTS )?{_NAME}\s*$", re.IGNORECASE)
_REFLECTED_WHERE = re.compile(r"\)\s+where\s+(.+)", re.IGNORECASE)  # as SQLAlchemy reads it


@dataclass(frozen=True)
class _Index:
    """An index of a table, as SQLite describes it.

    :ivar keys: of each column its name (None for an expression), whether it is descending, and how
        it compares.
    """

    name: str
    sql: str
    is_unique: bool
    keys: tuple[tuple[str | None, bool, str], ...]

    @property
    def is_expression(self) -> bool:
        return any(name is None for name, _, _ in self.keys)

    def is_lost(self, now: _Index | None) -> bool:
        """Has Alembic made it again from what SQLAlchemy has reflected of it, which is less?

        What differs in another way was changed on purpose.

        :param now: the one of its name, if there is one.
        """
        if now is None:
            return self.is_expression  # others it knows: they were dropped on purpose
        columns = [name for name, _, _ in self.keys]
        plain = tuple((name, False, "BINARY") for name in columns)
        if self.is_unique != now.is_unique or now.keys != plain:
            return False
        where = _REFLECTED_WHERE.search(self.sql)
        reflected = " ".join(where[1].split()) if where else ""
        is_less = self.keys != plain or _where(self.sql) != reflected
        return is_less and _where(now.sql) == reflected


@dataclass(frozen=True)
class _Known:
    """What belonged to a table that was dropped."""

    indexes: list[_Index] = field(default_factory=list)
    triggers: list[tuple[str, str]] = field(default_factory=list)
    wrong: frozenset[str] = frozenset()

    @property
    def names(self) -> set[str]:
        return {*(one.name for one in self.indexes), *(name for name, _ in self.triggers)}

    def with_(self, earlier: _Known) -> _Known:
        """And what belonged to it before the same revision had copied it a first time."""
        indexes = {one.name: one for one in [*self.indexes, *earlier.indexes]}
        triggers = {**dict(earlier.triggers), **dict(self.triggers)}
        return _Known([*indexes.values()], [*triggers.items()], self.wrong | earlier.wrong)


class Tables:
    """The tables of one connection, while revisions run on it.

    The listeners are on the ``Connection`` object, and go with it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dropped: dict[str, _Known] = {}
        self._copied: dict[str, _Known] = {}
        self._is_busy = False
        event.listen(connection, "before_cursor_execute", self._before)
        event.listen(connection, "after_cursor_execute", self._after)

    def check(self) -> None:
        """Create what is still missing.

        :raises MigrationError: something cannot be created again.
        """
        copied, self._copied, self._dropped = self._copied, {}, {}
        for table, known in copied.items():
            self._restore(table, known)

    def _before(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        if self._is_busy:
            return
        self._is_busy = True
        try:
            if self._copied and (_TABLE_RENAMED.match(statement) or self._is_wanted(statement)):
                self.check()  # their SQL has the old name; or there would be nothing to drop
            dropped = _DROP.match(statement)
            if dropped:
                name = _name_in(dropped)
                known, earlier = self._known(name), self._copied.pop(name.lower(), None)
                self._dropped[name.lower()] = known.with_(earlier) if earlier else known
        finally:
            self._is_busy = False

    def _after(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        renamed = None if self._is_busy else _RENAME.match(statement)
        if renamed:
            name = _name_in(renamed)
            known = self._dropped.pop(name.lower(), None)
            if known is not None:
                self._copied[name.lower()] = known

    def _is_wanted(self, statement: str) -> bool:
        """Does *statement* drop something that is still to be created again?"""
        dropped = _DROP_OWN.match(statement)
        return dropped is not None and any(
            _name_in(dropped) in known.names for known in self._copied.values()
        )

    def _known(self, table: str) -> _Known:
        triggers = [
            (name, sql)
            for kind, name, sql in self._master(table)
            if kind == "trigger" and sql is not None
        ]
        wrong = frozenset(self._wrong(table)) if triggers else frozenset[str]()
        return _Known(self._indexes(table), triggers, wrong)

    def _restore(self, table: str, known: _Known) -> None:
        if not self._master(table):
            return  # it was dropped
        now = {index.name: index for index in self._indexes(table)}
        for index in known.indexes:
            if index.is_lost(now.get(index.name)):
                if index.name in now:
                    self._run(f"DROP INDEX {_quoted(index.name)}")
                self._create("index", index.name, table, index.sql)
        names = {name for kind, name, _ in self._master(table) if kind == "trigger"}
        for name, sql in known.triggers:
            if name in names:
                continue
            self._create("trigger", name, table, sql)
            for error in [*self._gone(table, sql), *self._wrong(table)]:
                if error not in known.wrong:
                    raise _cannot("trigger", name, table, error)

    def _create(self, kind: str, name: str, table: str, sql: str) -> None:
        try:
            self._run(sql)
        except DBAPIError as error:
            raise _cannot(kind, name, table, words(error)) from None

    def _gone(self, table: str, sql: str) -> list[str]:
        """What SQLite does not say: a trigger of columns that are no more would never run."""
        found = _UPDATE_OF.match(sql)
        columns = {one.lower() for one in self._columns(table)}
        names = re.findall(r'[^\s,"`\[\]]+', found[1]) if found else []
        return [f"no such column: {one}" for one in names if _quoted(one).lower() not in columns]

    def _wrong(self, table: str) -> list[str]:
        """What SQLite says of the triggers of *table*: it reads them when they might run.

        The statements change no row. (``EXPLAIN`` would do as well, but crashes some versions.)
        """
        quoted, columns = _quoted(table), self._columns(table)
        own = ", ".join(columns)
        found = [
            f"INSERT INTO {quoted} ({own}) SELECT {own} FROM {quoted} WHERE 0",  # noqa: S608
            f"DELETE FROM {quoted} WHERE 0",  # noqa: S608
            *[f"UPDATE {quoted} SET {one} = {one} WHERE 0" for one in columns],  # noqa: S608
        ]
        return [error for error in map(self._why_not, found) if error is not None]

    def _columns(self, table: str) -> list[str]:
        rows = self._run(f"PRAGMA table_xinfo({_quoted(table)})")
        return [_quoted(row[1]) for row in rows if row[6] == 0]  # the others are computed

    def _why_not(self, statement: str) -> str | None:
        try:
            self._run(statement)
        except DBAPIError as error:
            return words(error)
        return None

    def _indexes(self, table: str) -> list[_Index]:
        sql = {name: text for kind, name, text in self._master(table) if kind == "index"}
        return [
            _Index(name, sql[name], bool(is_unique), self._keys(name))
            for _, name, is_unique, *_ in self._run(f"PRAGMA index_list({_quoted(table)})")
            if sql.get(name) is not None  # those of constraints have none
        ]

    def _keys(self, index: str) -> tuple[tuple[str | None, bool, str], ...]:
        return tuple(
            (name, bool(descending), collation)
            for _, _, name, descending, collation, is_key in self._run(
                f"PRAGMA index_xinfo({_quoted(index)})"
            )
            if is_key
        )

    def _master(self, table: str) -> list[Any]:
        return self._run(
            "SELECT type, name, sql FROM sqlite_master WHERE lower(tbl_name) = lower(?)"
            " ORDER BY rowid",
            table,
        )

    def _run(self, statement: str, *values: str) -> list[Any]:
        was, self._is_busy = self._is_busy, True
        try:
            result = self._connection.exec_driver_sql(statement, values)
            return list(result.all()) if result.returns_rows else []
        finally:
            self._is_busy = was


def _name_in(match: re.Match[str]) -> str:
    quoted, plain = match.groups()
    return plain or quoted.replace('""', '"')


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _where(sql: str) -> str:
    """The condition of a partial index, as far as spaces do not matter."""
    found = re.search(r"\)\s*where\b(.*)", sql, re.IGNORECASE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _cannot(kind: str, name: str, table: str, why: str) -> MigrationError:
    return MigrationError(
        f"The table {table!r} was copied, and its {kind} {name!r} cannot be created again ({why})."
        f" Drop it before the change, 'op.execute(\"DROP {kind.upper()} {name}\")', and create it"
        " anew behind it"
    )
