"""The statements that an app sends meanwhile: ``count_queries(db)``."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flask import Flask
from sqlalchemy import Engine

from .._engine.recording import Listener, RecordedQuery
from .._transaction.statements import is_transaction_control
from .targets import HasEngines, engines_of

_SHOWN = 30  # statements in a report
_HEAD, _TAIL = 90, 150  # characters of a long statement; its end tells more than its columns


@dataclass(frozen=True)
class Repetition:
    """A statement that was sent more than once, with other parameters or with the same.

    :ivar statement: the SQL.
    :ivar count: how often it was sent.
    :ivar locations: the places that sent it, each once, the most frequent first.
    """

    statement: str
    count: int
    locations: list[str]


class CountedQueries:
    """The statements that were sent in the block, in the order in which they ended.

    Its length is their number; each is a :class:`~flask_uow.RecordedQuery`. As a text, it is a
    report: the statements, numbered, each with the line of the app that sent it, then the repeated
    ones.
    Parameters are left out, because they may be secret.
    """

    def __init__(self) -> None:
        self._queries: list[RecordedQuery] = []

    def add(self, query: RecordedQuery) -> None:
        """Add a statement, unless it only begins or ends a transaction or a savepoint."""
        if not is_transaction_control(query.statement):
            self._queries.append(query)

    @property
    def count(self) -> int:
        """The number of statements, as ``len()``."""
        return len(self._queries)

    def __len__(self) -> int:
        return len(self._queries)

    def __iter__(self) -> Iterator[RecordedQuery]:
        return iter(self._queries)

    def __getitem__(self, index: int) -> RecordedQuery:
        return self._queries[index]

    def repeated(self) -> list[Repetition]:
        """Return the statements that were sent more than once, the most frequent first.

        A loop that loads one row in each round (N+1) is found here.
        """
        counts = Counter((query.engine, query.statement) for query in self._queries)
        return [
            Repetition(key[1], count, self._locations(*key))
            for key, count in counts.most_common()
            if count > 1
        ]

    def _locations(self, engine: str, statement: str) -> list[str]:
        places = Counter(
            query.location
            for query in self._queries
            if (query.engine, query.statement) == (engine, statement)
        )
        return [place for place, _ in places.most_common()]

    def __str__(self) -> str:
        lines = [f"{_number(len(self), 'statement')}:" if self._queries else "No statements."]
        for number, query in enumerate(self._queries[:_SHOWN], 1):
            lines += [f"{number:3}. {_described(query)}", f"     {query.location}"]
        if len(self) > _SHOWN:
            lines.append(f"     ... and {len(self) - _SHOWN} more")
        repeated = self.repeated()
        if repeated:
            lines.append("Sent repeatedly, as by a loop that loads one row in each round (N+1):")
        for repetition in repeated:
            lines.append(f"  {repetition.count} times {shortened(repetition.statement)}")
            lines += [f"     {place}" for place in repetition.locations]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{_number(len(self), 'statement')}>"


@contextmanager
def count_queries(db: HasEngines, *, app: Flask | None = None) -> Iterator[CountedQueries]:
    """Count the statements that the engines of the app send in the block, from any thread.

    ::

        with testing.count_queries(db, app=app) as queries:
            client.get("/posts")
        assert len(queries) == 2, queries

    What only begins or ends a transaction or a savepoint is not counted. The flush of a commit is,
    and so is a statement that failed. One statement with many rows (``executemany``) counts as one.
    A server in another process, such as the ``live_server`` of pytest-flask, is not seen.

    :param app: the app whose engines are meant; by default the current one.
    :raises OutsideContext: there is no current app, and none was given.
    :raises SetupError: the app is not registered with *db*.
    """
    queries = CountedQueries()
    feeds = [_feed_of(engine, name) for name, engine in engines_of(db, app).items()]
    for feed in feeds:
        feed.add(queries)
    try:
        yield queries
    finally:
        for feed in feeds:
            feed.remove(queries)


@contextmanager
def count_everywhere() -> Iterator[CountedQueries]:
    """Count the statements of all SQLAlchemy engines, whatever app or test has created them."""
    queries = CountedQueries()
    feed = _feed_of(Engine, "default")
    feed.add(queries)
    try:
        yield queries
    finally:
        feed.remove(queries)


class _Feed:
    """Hands the statements of one engine to the counts that are running.

    It is added to an engine once and stays: removing a listener, or adding one, is an error in a
    thread that is calling the listeners of that engine.
    """

    def __init__(self, engine: Engine | type[Engine], name: str) -> None:
        self._counts: tuple[CountedQueries, ...] = ()
        Listener(engine, name, self._receive)

    def add(self, count: CountedQueries) -> None:
        with _lock:
            self._counts = (*self._counts, count)

    def remove(self, count: CountedQueries) -> None:
        with _lock:
            self._counts = tuple(other for other in self._counts if other is not count)

    def _receive(self, query: RecordedQuery) -> None:
        for count in self._counts:
            count.add(query)


_lock = threading.Lock()
_feeds: weakref.WeakKeyDictionary[Engine | type[Engine], _Feed] = weakref.WeakKeyDictionary()


def _feed_of(engine: Engine | type[Engine], name: str) -> _Feed:
    with _lock:
        feed = _feeds.get(engine)
        if feed is None:
            feed = _feeds[engine] = _Feed(engine, name)
        return feed


def _described(query: RecordedQuery) -> str:
    text = shortened(query.statement)
    if query.engine != "default":
        text += f"  -- on the engine {query.engine!r}"
    return text if query.error is None else f"{text}  -- {shortened(query.error)}"


def shortened(text: str) -> str:
    """Put *text* on one line, and leave out the middle of a long one."""
    text = " ".join(text.split())
    return text if len(text) <= _HEAD + _TAIL + 5 else f"{text[:_HEAD]} ... {text[-_TAIL:]}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
