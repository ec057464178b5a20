"""Workers of gunicorn that end or are ended while a request is in the middle of its unit.

A second connection holds a lock that the unit needs, so it is known how far the unit is.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest
from sqlalchemy.exc import OperationalError

from tests.servers.serving import Server, eventually
from tests.support.witness import Witness

pytestmark = pytest.mark.servers

GUNICORNS = ("gunicorn-sync", "gunicorn-gthread", "gunicorn-gevent")


def every_worker(options: str = "") -> pytest.MarkDecorator:
    """Each kind of worker; all but one take their time in the stress run."""
    kinds = [
        pytest.param(
            f"{kind} {options}".strip(), marks=[pytest.mark.stress] * (kind != "gunicorn-sync")
        )
        for kind in GUNICORNS
    ]
    return pytest.mark.parametrize("server", kinds, indirect=True)


def outcome(server: Server, path: str) -> int | str:
    """The status of a request, or how the connection ended without one."""
    try:
        return server.post(path).status
    except (http.client.HTTPException, ConnectionError):
        return "no answer"


@dataclass
class Blocked:
    """A request that is in flight, and cannot go on.

    :ivar answer: its status, or how its connection ended.
    :ivar let_go: lets it go on.
    """

    answer: Future[int | str]
    let_go: Callable[[], None]


@contextlib.contextmanager
def blocked(server: Server, path: str, witness: Witness, lock: str, at: str) -> Iterator[Blocked]:
    """Send a request that waits for a lock.

    :param lock: a statement of another transaction, which has the lock.
    :param at: how the statement begins in which the request waits.
    """
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = :name AND wait_event_type = 'Lock' AND query ILIKE :start"
    )
    with ThreadPoolExecutor(1) as client, witness.engine.connect() as other:
        other.exec_driver_sql(lock)
        answer = client.submit(outcome, server, path)
        assert eventually(lambda: witness.ask(query, name=server.kind, start=f"{at}%") == [1])
        yield Blocked(answer, other.rollback)


def in_insert(server: Server, text: str, witness: Witness) -> AbstractContextManager[Blocked]:
    """A unit that waits because another one has inserted the same text."""
    lock = f"INSERT INTO notes (text) VALUES ('{text}')"
    return blocked(server, f"/stored/{text}", witness, lock, "INSERT")


def in_commit(server: Server, text: str, witness: Witness) -> AbstractContextManager[Blocked]:
    """A unit whose COMMIT has to look at its parent, which another one keeps."""
    with witness.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM notes WHERE parent_id = -1")
        connection.exec_driver_sql("DELETE FROM notes WHERE id = -1")
        connection.exec_driver_sql("INSERT INTO notes (id, text) VALUES (-1, 'parent')")
    lock = "SELECT id FROM notes WHERE id = -1 FOR UPDATE"
    return blocked(server, f"/orphan/{text}", witness, lock, "COMMIT")


def stored(witness: Witness, *texts: str) -> list[str]:
    """Those of *texts* that are stored."""
    return sorted(set(witness.ask("SELECT text FROM notes")) & set(texts))


@pytest.mark.fault(
    "W6",
    fault="A worker is killed (SIGKILL) in the middle of a unit",
    then="Nothing is stored, its connections end, and the next worker takes over",
)
@every_worker()
def test_killed_worker_stores_nothing(server: Server, witness: Witness) -> None:
    """The server notices when it wants to answer; what was not committed is rolled back."""
    worker = server.state()["pid"]
    with in_insert(server, "killed", witness) as request:
        os.kill(worker, signal.SIGKILL)
        assert request.answer.result() == "no answer"
        request.let_go()
    assert eventually(lambda: server.state()["pid"] != worker)
    assert eventually(lambda: set(server.sessions(witness)) <= {"idle"})
    assert stored(witness, "killed") == []
    assert server.post("/stored/killed").status == 201
    assert stored(witness, "killed") == ["killed"]


@pytest.mark.fault(
    "W6",
    fault="A worker is killed (SIGKILL) in the middle of a unit",
    then="Nothing is stored, its connections end, and the next worker takes over",
)
@pytest.mark.parametrize("server", ["gunicorn-sync sqlite-file"], indirect=True)
def test_killed_worker_leaves_the_write_lock_of_sqlite(server: Server, witness: Witness) -> None:
    """The kernel frees its place in the queue, so the next worker writes at once."""
    worker = server.state()["pid"]
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(outcome, server, "/asleep/killed")
        assert eventually(lambda: is_locked(witness))
        os.kill(worker, signal.SIGKILL)
        assert answer.result() == "no answer"
    assert server.post("/stored/next").status == 201
    assert server.state()["pid"] != worker
    assert stored(witness, "killed", "next") == ["next"]


def is_locked(witness: Witness) -> bool:
    """Has somebody else the write lock of the SQLite file?"""
    with witness.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except OperationalError as error:
            return "locked" in str(error)
    return False


@pytest.mark.fault(
    "W6",
    fault="A worker is killed in the middle of COMMIT",
    then="No response and an unknown outcome (here: stored); the next worker takes over",
)
@pytest.mark.parametrize("server", ["gunicorn-sync"], indirect=True)
def test_worker_that_is_killed_within_its_commit_is_in_doubt(
    server: Server, witness: Witness
) -> None:
    """The server has the COMMIT, and carries it out whether somebody waits for it or not."""
    worker = server.state()["pid"]
    with in_commit(server, "doubt", witness) as request:
        os.kill(worker, signal.SIGKILL)
        assert request.answer.result() == "no answer"
        assert stored(witness, "doubt") == []
        request.let_go()
    assert eventually(lambda: stored(witness, "doubt") == ["doubt"])
    assert eventually(lambda: set(server.sessions(witness)) <= {"idle"})
    assert server.state()["pid"] != worker
    assert server.post("/stored/after-doubt").status == 201


@pytest.mark.fault(
    "W6",
    fault="A worker takes too long in the middle of COMMIT, and is killed by gunicorn",
    then="No success and an unknown outcome; no connection is left, the next worker takes over",
)
@pytest.mark.parametrize("server", ["gunicorn-sync"], indirect=True)
def test_worker_that_is_aborted_within_its_commit_tells_no_success(
    server: Server, witness: Witness
) -> None:
    """SIGABRT is what gunicorn sends after its timeout. Newer versions of psycopg cancel the
    COMMIT then, and others leave it to the server; it is whole or not at all.
    """
    worker = server.state()["pid"]
    with in_commit(server, "aborted", witness) as request:
        os.kill(worker, signal.SIGABRT)
        assert request.answer.result() in {"no answer", 500}
        request.let_go()
    assert eventually(lambda: server.state()["pid"] != worker)
    assert eventually(lambda: set(server.sessions(witness)) <= {"idle"})
    assert stored(witness, "aborted") in ([], ["aborted"])
    assert server.post("/stored/after-aborted").status == 201


@pytest.mark.fault(
    "W6",
    fault="A worker is asked to end (SIGTERM) in the middle of a unit",
    then="The worker finishes the request: a success, and the work is stored",
)
@every_worker()
def test_worker_that_is_asked_to_end_finishes_its_unit(server: Server, witness: Witness) -> None:
    """Its connections end with it, and the next worker serves."""
    worker = server.state()["pid"]
    with in_insert(server, "asked", witness) as request:
        os.kill(worker, signal.SIGTERM)
        request.let_go()
        assert request.answer.result() == 201
    assert stored(witness, "asked") == ["asked"]
    assert eventually(lambda: server.state()["pid"] != worker)
    assert server.post("/stored/after-asked").status == 201


@pytest.mark.fault(
    "W6",
    fault="The server is stopped (SIGTERM), and a unit takes longer than graceful_timeout",
    then="Nothing is stored, and no connection is left",
)
@pytest.mark.parametrize("server", ["gunicorn-sync postgresql --graceful-timeout 1"], indirect=True)
def test_unit_that_outlasts_the_end_of_its_server_stores_nothing(
    server: Server, witness: Witness
) -> None:
    """gunicorn kills the worker after its ``graceful_timeout``."""
    master = os.getpgid(server.state()["pid"])
    with in_insert(server, "late", witness) as request:
        os.kill(master, signal.SIGTERM)
        assert request.answer.result() == "no answer"
        request.let_go()
    assert eventually(lambda: server.sessions(witness) == [])
    assert stored(witness, "late") == []


@pytest.mark.fault(
    "W6",
    fault="Workers end after a number of requests (max_requests), and new requests arrive",
    then="All acknowledged work is stored once, and no connection is left open",
)
@every_worker("postgresql --max-requests 8")
def test_workers_that_are_replaced_lose_nothing(server: Server, witness: Witness) -> None:
    """Four clients, and a new worker after every eight requests."""
    first = server.state()["pid"]
    texts = [f"many-{number}" for number in range(24)]
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda text: outcome(server, f"/stored/{text}"), texts))
    acknowledged = [text for text, answer in zip(texts, answers, strict=True) if answer == 201]
    assert set(answers) <= {201, "no answer"}  # gunicorn may hang up on what it has not begun
    assert len(acknowledged) > len(texts) // 2
    found = stored(witness, *texts)
    assert set(acknowledged) <= set(found)
    assert eventually(lambda: server.state()["pid"] != first)
    assert eventually(lambda: set(server.sessions(witness)) <= {"idle"})
    assert eventually(lambda: len(server.sessions(witness)) <= 4)
