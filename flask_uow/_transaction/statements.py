"""Find the effect of a SQL statement by its tokens: the only reader of SQL text in the package.

A statement may come from the app (``text()``), so the reader accepts any text, in linear time. It
has no grammar. It finds the words outside of strings, quoted names and comments, and the names
before an opening parenthesis.

Databases have different rules for strings and comments. For a text that two databases would read
differently (a backslash in a string, ``/*`` inside a comment, a dollar quote, MySQL's
``/*! ... */``), the reader follows the standard and reports a *doubt*. A statement with a doubt
does not count as a read.

Pure: nothing here knows SQLAlchemy.
"""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from .pure_functions import HARMLESS, OF_OTHER_DATABASES

_Result = TypeVar("_Result")

# Tokens ---------------------------------------------------------------------------------------

_Kind: TypeAlias = Literal["word", "call", "sign", "hash", "next", "other", "doubt", "dashes"]
_Token: TypeAlias = tuple[_Kind, str]
"""The kind of a token and its text in lower case.

A *word* after a dot starts with that dot, so that it equals no keyword. A *call* is a name before
an opening parenthesis; it ends with a space if something stands between the two, and is only the
quote of a quoted name. A *sign* is that of a user variable of MySQL, ``@`` or ``:=``. A *hash*
begins a comment on MySQL, and is an operator elsewhere. *next* separates two statements. *dashes*
mark a comment without a space after ``--``, which MySQL reads as two minus signs.
"""

# Linear time: each alternative consumes all characters that it examines, and the last ones match
# any character. Characters from 0x80 on belong to names, as in PostgreSQL and SQLite.
_TOKEN = re.compile(
    r"""
    ([^A-Za-z0-9_\x80-\U0010FFFF'"`$;(.\[\]\#/-]*)  # white space and signs without a meaning here
    (?:
        ((?![nN]?[qQ]')\.?[A-Za-z_\x80-\U0010FFFF][\w$\x80-\U0010FFFF]*)  # a word
      | (\([\s(]*)
      | ('[^']*'? | "[^"]*"? | `[^`]*`? | --[^\n]* | /\*.*?(?:\*/|\Z)
          | \$(?!\d)(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z) | [nN]?[qQ]')  # quoted text and comments
      | (;[\s;]*)
      | (\d[\w.]* | \.+ | \[+ | \]+ | \#+ | (?:/(?!\*))+ | .)  # a number or a sign
      | \Z
    )""",
    re.VERBOSE | re.DOTALL,
)
_GAP, _WORD, _OPEN, _HIDING, _TAG, _NEXT, _OTHER = range(1, 8)
_COMMENT = re.compile(r"---*(?:[^\S\r\n][^\r\n]*)?\r?")  # a comment on every database
_RUN_BY_MYSQL = re.compile(r"/\*[Mm]?!")
# Other digits and letters in one: a name that starts with a digit, or '1FOR UPDATE'.
_NUMBER = re.compile(r"[\d._]+(?:[eE]\d*)?|0[xX][\da-fA-F_]+|0[oObB][\d_]+")

# After these, a name before a parenthesis is that of an alias, a CTE or a type.
_NAMING = frozenset(["as", "with", "recursive"])
# Words that can be names of functions, and are none after a word, or a closing parenthesis.
_SYNTAX = frozenset(
    [
        ("group", "by"),
        ("order", "by"),
        ("partition", "by"),
        ("character", "varying"),
        (")", "over"),
        (")", "filter"),
        (")", "against"),
    ]
)


# One loop: a call for each token would double its time.
def _tokens(statement: str) -> Iterator[_Token]:  # noqa: C901
    called = ""  # the name that an opening parenthesis here would call
    before = ""  # the word or the sign directly before that name
    end = 0  # of that name
    closing = ")"
    around = _Surroundings()
    for match in _TOKEN.finditer(statement):
        group = match.lastindex or _GAP
        if group == _GAP:  # the end
            return
        gap, text = match[_GAP], match[group]
        if gap and not gap.isspace():
            called = closing if gap.rstrip()[-1] == ")" else ""
            if "@" in gap or ":=" in gap:
                yield "sign", gap.strip()
        if around.in_hash:
            around.in_hash = "\n" not in gap
        if group == _WORD:
            before, called = called, (text if called != "." else f".{text}").lower()
            end = match.end()
            yield "word", called
            continue
        if group == _HIDING:
            if doubt := around.doubt_about(text):
                yield doubt, ""
            if text.startswith(("--", "/*")):
                continue
        elif group == _OTHER:
            around.note(text)
            if text[0].isdecimal() and not _NUMBER.fullmatch(text):
                yield "doubt", ""
        elif group == _OPEN:
            if (before, called) == ("distinct", "on"):
                closing = ""  # a call may follow its closing parenthesis
            if called not in {"", ".", ")"} and not _is_syntax(before, called):
                yield "call", called if match.start() == end and not gap else f"{called} "
        if group != _OPEN:
            yield "next" if group == _NEXT else "hash" if text[0] == "#" else "other", ""
        before, called = called, text[0] if text[0] in '."`]' else ""


def _is_syntax(before: str, called: str) -> bool:
    """Tell whether a name before a parenthesis is no call because of what stands before it."""
    return (before, called) in _SYNTAX or (before in _NAMING and called[0] != ".")


class _Surroundings:
    """Earlier characters that give a token another meaning on another database.

    :ivar brackets: the number of open square brackets: ``[it's]`` is a name on SQL Server.
    :ivar in_hash: the line has a ``#`` before the token: ``# it's`` is a comment on MySQL.
    """

    def __init__(self) -> None:
        self.brackets = 0
        self.in_hash = False

    def note(self, sign: str) -> None:
        self.brackets = max(0, self.brackets + sign.count("[") - sign.count("]"))
        self.in_hash = self.in_hash or sign[0] == "#"

    def doubt_about(self, text: str) -> Literal["doubt", "dashes"] | None:
        """Return a doubt if databases disagree on the end of a string, a name or a comment."""
        start = text[0]
        if (self.brackets and "]" in text) or (self.in_hash and "\n" in text):
            return "doubt"
        if start == "-":
            return None if _COMMENT.fullmatch(text) else "doubt" if "\r" in text else "dashes"
        if start == "/":
            is_sure = text.endswith("*/") and "/*" not in text[2:] and not _RUN_BY_MYSQL.match(text)
        else:
            is_sure = start in "'\"`" and len(text) > 1 and text.endswith(start)
            is_sure = is_sure and ("\\" not in text or start == "`")
        return None if is_sure else "doubt"


_PASSED_OVER = frozenset(["doubt", "dashes", "sign"])


def words_of(statement: str) -> Iterator[str]:
    """Yield the words of *statement* outside of strings, quotes and comments, in lower case.

    A word after a dot starts with that dot, because it is a name and not a keyword.
    """
    return (text for kind, text in _tokens(statement) if kind == "word")


def _first_words(statement: str) -> Iterator[str]:
    """Yield the words of the first statement; none if it does not start with a word."""
    tokens = (token for token in _tokens(statement) if token[0] not in _PASSED_OVER)
    for position, (kind, text) in enumerate(tokens):
        if kind == "next" or (kind != "word" and position == 0):
            return
        if kind == "word":
            yield text


# Effects --------------------------------------------------------------------------------------


class StatementEffect(enum.IntEnum):
    """The effect of a statement on stored data."""

    READ = 0
    """It certainly changes nothing."""
    UNKNOWN = 1
    """It calls an unknown function, locks rows, or is neither a query nor a known write."""
    WRITE = 2
    """It changes data or tables."""
    SESSION = 3
    """It changes the session of its connection; see :func:`session_changes_of`."""


_READS = frozenset(["select", "with", "values", "show", "savepoint", "release"])
_WRITES = frozenset(
    """
    insert update delete merge replace truncate create alter drop rename comment grant revoke
    """.split()
)
_CHANGES = frozenset(["insert", "update", "delete", "merge"])
# FOR [NO KEY] UPDATE, FOR [KEY] SHARE, LOCK IN SHARE MODE, NEXT VALUE FOR: two words of each.
_LOCKING_OR_COUNTING = frozenset(
    [
        ("for", "update"),
        ("key", "update"),
        ("for", "share"),
        ("key", "share"),
        ("in", "share"),
        ("next", "value"),
    ]
)
_STORING = frozenset(["into", ".nextval"])

EXPLAIN = "EXPLAIN (FORMAT JSON) "
"""Before a statement: PostgreSQL returns its plan, and does not run it."""

_LONGEST = 262_144  # characters; a longer statement is judged by its first word, to save time
_CACHE_SIZE = 2048  # statements
_CACHED_LENGTH = 8192  # characters; a longer statement is rarely sent twice


class _Results(dict[str, _Result]):
    """The results of *judge* by statement.

    An ``lru_cache`` would keep statements of megabytes, and a hit in it is slower; each statement
    is looked up here.
    """

    def __init__(self, judge: Callable[[str], _Result]) -> None:
        super().__init__()
        self._judge = judge

    def __missing__(self, statement: str) -> _Result:
        result = self._judge(statement)
        if len(statement) <= _CACHED_LENGTH:
            if len(self) >= _CACHE_SIZE:
                self.clear()
            self[statement] = result
        return result


def _remember(judge: Callable[[str], _Result]) -> Callable[[str], _Result]:
    return _Results(judge).__getitem__


class Reader:
    """What the statements mean to a database of one dialect.

    They are asked about each statement that is sent, so they are methods of dictionaries: a
    statement that was seen before costs one look-up.

    By its words, a statement can be a read and write all the same. On PostgreSQL: a query of a
    view, an operator, a cast or a row (``SELECT users.total FROM users``) that calls a function
    of the app that writes, or such a function with the name of one of the database's own.
    """

    def __init__(self, dialect: str) -> None:
        """
        :param dialect: a key of :data:`~.pure_functions.HARMLESS`, or another one.
        """
        self._harmless = HARMLESS.get(dialect, OF_OTHER_DATABASES)
        self._is_mysql = dialect == "mysql"
        self._plain_words = _PLAIN.get(dialect, frozenset())

        self.effect_of: Callable[[str], StatementEffect] = _remember(self._effect_of)
        """Return the effect of a SQL statement on stored data or on its connection's session."""

        self.stored_effect_of: Callable[[str], StatementEffect] = _remember(self._stored_effect_of)
        """Return the effect of a SQL statement on stored data, even if it changes its session.

        For other statements, ``effect_of`` returns the same.
        """

        self.is_plain_read: Callable[[str], bool] = _remember(
            _is_plain_read_of_sqlite if dialect == "sqlite" else self._is_plain_read
        )
        """Tell whether a statement is one query that needs no transaction: False in any doubt.

        It reads, locks nothing and leaves nothing in its session. For a database whose clauses
        and functions are not known here, no statement is one.
        """

    def _effect_of(self, statement: str) -> StatementEffect:
        if _session_changes_of(statement):
            return StatementEffect.SESSION
        return self._stored_effect_of(statement)

    def _stored_effect_of(self, statement: str) -> StatementEffect:
        """Judge a statement by its tokens.

        A doubtful statement is ``UNKNOWN``, and an unknown effect is rolled back like a write. If
        it has only read, that costs one more ROLLBACK after a failure. Treating ``SELECT
        create_order(1)`` as a read would leave a row that must not be stored. A query of more than
        256 KB is ``UNKNOWN``, too.
        """
        tokens = _tokens(statement.removeprefix(EXPLAIN))
        skipped = {"dashes", "sign"}
        kind, first = next((token for token in tokens if token[0] not in skipped), ("other", ""))
        if kind != "word" or first not in _READS:
            return StatementEffect.WRITE if first in _WRITES else StatementEffect.UNKNOWN
        if len(statement) > _LONGEST:
            return StatementEffect.UNKNOWN
        doubts = {"doubt", "dashes", "hash"} if self._is_mysql else {"doubt", "dashes"}
        effect, previous, is_second = StatementEffect.READ, first, False
        for kind, text in tokens:
            if kind in doubts:
                return StatementEffect.UNKNOWN
            locks = (previous, text) in _LOCKING_OR_COUNTING
            if kind == "word" and first == "with" and text in _CHANGES and not locks:
                return StatementEffect.WRITE
            # Some drivers send several statements at once.
            is_unknown = is_second or locks or (kind == "call" and text not in self._harmless)
            if kind == "next":
                is_second = True
            elif is_unknown or (kind == "word" and text in _STORING):
                if first != "with":
                    return StatementEffect.UNKNOWN
                effect = StatementEffect.UNKNOWN  # a later word may show that it is a write
            previous = text
        return effect

    def _is_plain_read(self, statement: str) -> bool:
        return (
            self.effect_of(statement) is StatementEffect.READ
            and next(_first_words(statement.removeprefix(EXPLAIN)), "") in self._plain_words
            and not (self._is_mysql and _has_variables(statement))
        )


_QUERIES = frozenset(["select", "with", "values"])
_PLAIN = {"postgresql": _QUERIES | {"show"}, "mysql": _QUERIES}
"""The first words of the queries that may need no transaction, by dialect."""


def _has_variables(statement: str) -> bool:
    """Tell whether a statement of MySQL names a variable, of the session or the server."""
    return any(kind == "sign" and "@" in text for kind, text in _tokens(statement))


def _is_plain_read_of_sqlite(statement: str) -> bool:
    """SQLite's functions cannot write, also those that the app has added."""
    return (
        len(statement) <= _LONGEST
        and next(_first_words(statement), "") in _QUERIES
        and sqlite_kind_of(statement) is SqliteKind.READ
        and sum(map(bool, _split(statement))) == 1
    )


_READERS = {name: Reader(name) for name in (*HARMLESS, "")}
_READERS["mariadb"] = _READERS["mysql"]


def reader_of(dialect: str) -> Reader:
    """Return the reader for the dialect of this name; engines of one dialect share it."""
    return _READERS.get(dialect) or _READERS[""]


# Sessions -------------------------------------------------------------------------------------


class SessionChange(enum.Enum):
    """What a statement leaves in the session of its connection, beyond its transaction."""

    SETTING = "SET"
    LOCAL = "SET LOCAL"  # on MySQL another word for SET SESSION
    CONFIG = "set_config(..., false)"
    CONFIG_BOUND = "set_config(...)"  # a bind parameter says whether it is for the transaction only
    VARIABLE = "a user variable"
    TEMPORARY = "a temporary table, view, sequence or trigger"
    PREPARED = "PREPARE"
    CURSOR = "a cursor WITH HOLD"
    LISTEN = "LISTEN"
    ADVISORY_LOCK = "an advisory lock of the session"
    NAMED_LOCK = "GET_LOCK()"
    TABLE_LOCK = "a lock of tables"
    DATABASE = "USE"
    ATTACHED = "ATTACH"
    PRAGMA = "a PRAGMA"


_STARTS = {
    "set": SessionChange.SETTING,
    "set local": SessionChange.LOCAL,
    "prepare": SessionChange.PREPARED,
    "listen": SessionChange.LISTEN,
    "lock": SessionChange.TABLE_LOCK,  # on PostgreSQL, one of the transaction
    "use": SessionChange.DATABASE,
    "attach": SessionChange.ATTACHED,
}
"""Changes by the first word of a statement, or its first two."""
_OF_THE_TRANSACTION = frozenset(
    ["set transaction", "set constraints", "set statement", "prepare transaction"]
)
_LOCKS = {
    f"pg_{attempt}advisory_lock{shared}": SessionChange.ADVISORY_LOCK
    for attempt in ("", "try_")
    for shared in ("", "_shared")
} | {"get_lock": SessionChange.NAMED_LOCK}
# Stored in the file, only asked for, or of the transaction.
_HARMLESS_PRAGMAS = frozenset(
    """
    application_id auto_vacuum defer_foreign_keys encoding foreign_key_check foreign_key_list
    incremental_vacuum
    index_info index_list index_xinfo integrity_check optimize page_size quick_check table_info
    table_list table_xinfo user_version wal_checkpoint
    """.split()
)
_STARTS_TO_READ = frozenset(
    ["declare", "create", "flush", "pragma", *(start.split()[0] for start in _STARTS)]
)
_NAMES_TO_READ = (";", "@", ":=", "temp", "set_config", "get_lock", "advisory_lock")
_HEAD = 1000  # characters that are read of a statement too long for the cache


def _session_changes_of(statement: str) -> frozenset[SessionChange]:
    head = statement if len(statement) <= _CACHED_LENGTH else statement[:_HEAD]
    lowered = head.lower()
    is_named = any(name in lowered for name in _NAMES_TO_READ)
    if not is_named and next(_first_words(head), "") not in _STARTS_TO_READ:
        return frozenset()
    return frozenset(change for tokens in _split(head) for change in _changes_in(tokens))


@_remember
def session_changes_of(statement: str) -> frozenset[SessionChange]:
    """Return what *statement* leaves in the session of its connection, on any database.

    A change that a function, a procedure or a ``DO`` block makes is not visible in the text. Of a
    statement of more than 8 KB, only the beginning is read.
    """
    return _session_changes_of(statement)


def _split(statements: str) -> Iterator[list[_Token]]:
    """Yield the tokens of each statement."""
    tokens: list[_Token] = []
    for token in _tokens(statements):
        if token[0] == "next":
            yield tokens
            tokens = []
        elif token[0] not in {"doubt", "dashes"}:
            tokens.append(token)
    yield tokens


def _changes_in(tokens: list[_Token]) -> Iterator[SessionChange]:
    words = [text for kind, text in tokens if kind == "word"]
    if words and tokens[0] == ("word", words[0]):
        yield from _changes_by_first_word(words)
        if words[0] == "pragma" and _sets_pragma(tokens[1:]):
            yield SessionChange.PRAGMA
    calls = {text.strip(". ") for kind, text in tokens if kind == "call"}
    yield from (_LOCKS[name] for name in calls & _LOCKS.keys())
    if "set_config" in calls and not ("true" in words and "false" not in words):
        yield SessionChange.CONFIG if "false" in words else SessionChange.CONFIG_BOUND
    for (_, before), (kind, text) in itertools.pairwise(tokens):
        if kind == "sign" and (":=" in text or (before == "into" and text == "@")):
            yield SessionChange.VARIABLE


def _changes_by_first_word(words: list[str]) -> Iterator[SessionChange]:
    first, start, text = words[0], " ".join(words[:2]), " ".join(words)
    if start not in _OF_THE_TRANSACTION and (start in _STARTS or first in _STARTS):
        yield _STARTS.get(start) or _STARTS[first]
    elif first == "flush" and ("with read lock" in text or "for export" in text):
        yield SessionChange.TABLE_LOCK
    elif first == "declare" and "with hold" in text:
        yield SessionChange.CURSOR
    elif _TEMPORARY.match(text) and "on commit drop" not in text:
        yield SessionChange.TEMPORARY


def _sets_pragma(tokens: list[_Token]) -> bool:
    """Tell whether a PRAGMA has a value after its name, which a database's name may precede."""
    position = 1 if len(tokens) > 1 and tokens[1][1][:1] == "." else 0
    _, name = tokens[position] if tokens else ("other", "")
    return name.lstrip(".") not in _HARMLESS_PRAGMAS and len(tokens) > position + 1


_TEMPORARY = re.compile(
    r"""
    create\ (?:(?:or|replace|global|local)\ )*temp(?:orary)?\b
    | create\ .*\b(?:pg_)?temp\ \.
    | (?:select|with)\ .*(?<!insert\ )(?<!merge\ )into\ temp(?:orary)?\ (?!\.)
    """,
    re.VERBOSE,
)

# Transactions ---------------------------------------------------------------------------------


class TransactionEnd(enum.Enum):
    """The ways in which a statement ends the whole transaction."""

    COMMIT = "commit"
    ROLLBACK = "rollback"


def transaction_end(statement: str) -> TransactionEnd | None:
    """Return how *statement* ends its transaction; None if it does not.

    ``ROLLBACK TO SAVEPOINT`` undoes a part of a transaction and does not end it.
    """
    words = _first_words(statement)
    first = next(words, "")
    if first in {"commit", "end"}:
        return TransactionEnd.COMMIT
    return TransactionEnd.ROLLBACK if first == "rollback" and "to" not in words else None


_ENDS_OR_MARKS = frozenset(["commit", "end", "rollback", "savepoint", "release", "save"])
_AFTER_BEGIN = frozenset(
    "transaction work immediate deferred exclusive isolation level read committed uncommitted"
    " repeatable serializable only write with consistent snapshot".split()
)


def is_transaction_control(statement: str) -> bool:
    """Tell whether *statement* only begins or ends a transaction or a savepoint.

    A block of PL/SQL begins with ``BEGIN`` as well, and is none.
    """
    words = _first_words(statement)
    first = next(words, "")
    return first in _ENDS_OR_MARKS or (
        first in {"begin", "start"} and _AFTER_BEGIN.issuperset(words)
    )


def is_rollback(statement: str) -> bool:
    """Tell whether *statement* rolls back the transaction, or a part of it to a savepoint."""
    return next(_first_words(statement), "") == "rollback"


def is_locking_begin(statement: str) -> bool:
    """Tell whether *statement* is a ``BEGIN`` of SQLite that takes the write lock."""
    words = _first_words(statement)
    return next(words, "") == "begin" and next(words, "") in {"immediate", "exclusive"}


# SQLite ---------------------------------------------------------------------------------------


class SqliteKind(enum.Enum):
    """The effect of a statement on its SQLite transaction."""

    READ = "changes nothing"
    WRITE = "may change something"
    SAVEPOINT = "needs a transaction, but reads nothing"
    END = "ends a transaction or a savepoint"
    OUTSIDE = "is BEGIN, or may fail inside a transaction"


SQLITE_WORK = frozenset([SqliteKind.WRITE, SqliteKind.SAVEPOINT])
"""After a statement of these kinds, a transaction cannot be restarted unnoticed."""

# The first word is enough: SQLite has no functions that write and no SELECT ... INTO.
_SQLITE_WORDS = {
    SqliteKind.READ: "select values explain",
    SqliteKind.SAVEPOINT: "savepoint",
    SqliteKind.END: "commit end rollback release",
    SqliteKind.OUTSIDE: "pragma vacuum attach detach begin",
}
_SQLITE_KINDS = {word: kind for kind, words in _SQLITE_WORDS.items() for word in words.split()}
_SQLITE_CHANGES = frozenset(["insert", "update", "delete", "into"])  # REPLACE INTO


@_remember
def sqlite_kind_of(statement: str) -> SqliteKind:
    """Return the kind of a statement for SQLite; a statement with a doubt is a write."""
    tokens = _tokens(statement)
    # SQLite reads every text before the first word in one way.
    skipped = {*_PASSED_OVER, "next"}
    kind, first = next((token for token in tokens if token[0] not in skipped), ("other", ""))
    if kind != "word" or first != "with":
        return _SQLITE_KINDS.get(first, SqliteKind.WRITE)
    changes = len(statement) > _LONGEST or any(
        kind == "doubt" or (kind == "word" and text in _SQLITE_CHANGES) for kind, text in tokens
    )
    return SqliteKind.WRITE if changes else SqliteKind.READ


class SqliteClause(NamedTuple):
    """A part of the definition of a table.

    :ivar column: the column that it is written at; None if it belongs to the whole table.
    :ivar words: its words, parentheses and names. A quoted name starts with a quote, so that it
        equals no keyword.
    """

    column: str | None
    words: list[str]

    def names(self, columns: Iterable[str]) -> set[str]:
        """Return those of *columns* that it mentions."""
        return {name for name in columns if name in self.words or f'"{name}' in self.words}


_SQLITE_TOKEN = re.compile(
    r"""'[^']*'? | "(?:[^"]|"")*"? | `[^`]*`? | \[[^\]]*\]? | --[^\n]* | /\*.*?(?:\*/|\Z)
      | [\w$\x80-\U0010FFFF]+ | [(),]""",
    re.VERBOSE | re.DOTALL,
)
_CONSTRAINTS = frozenset(["constraint", "primary", "unique", "check", "foreign"])


def sqlite_clauses(definition: str) -> tuple[list[SqliteClause], list[str]]:
    """Return the clauses of a ``CREATE TABLE``, and the words of its options, in lower case.

    A column up to its first constraint is a clause, too.

    :param definition: as SQLite has stored it.
    """
    clauses: list[SqliteClause] = []
    options: list[str] = []
    depth, column, is_first = 0, None, True
    for word in _sqlite_words(definition):
        depth -= word == ")"
        is_constraint = depth == 1 and word in _CONSTRAINTS
        if depth == 0:
            is_first = not clauses
            if clauses:
                options.append(word)
        elif depth == 1 and word == ",":
            is_first = True
        elif is_first or (is_constraint and clauses[-1].words[-2:-1] != ["constraint"]):
            if is_first:
                column = None if is_constraint else word.lstrip("\"'")
            clauses.append(SqliteClause(column, [word]))
            is_first = False
        else:
            clauses[-1].words.append(word)
        depth += word == "("
    return clauses, options


def sqlite_names(definition: str) -> Iterator[str]:
    """Yield each word of a stored definition that may be a name, quoted or not."""
    return (word.removeprefix('"') for word in _sqlite_words(definition) if word[0] != "'")


def _sqlite_words(definition: str) -> Iterator[str]:
    for match in _SQLITE_TOKEN.finditer(definition):
        text = match[0].lower()
        if text[0] in '"`[':
            yield f'"{text[1:-1].replace(text[0] * 2, text[0])}'
        elif not text.startswith(("--", "/*")):
            yield text
