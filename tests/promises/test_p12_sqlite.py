"""P12: SQLite is real: concurrent writers, real transactions, without any configuration."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from itertools import chain
from typing import Any

import pytest
from flask import Flask, Response, copy_current_request_context, stream_with_context
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from flask_uow import Database
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, on
from tests.support.forks import Pipe, forked
from tests.support.models import Post, User
from tests.support.threads import in_thread, in_threads
from tests.support.witness import Witness

in_a_file = on("sqlite-file")


class Site:
    """An app with a counter, the id of the post ``x``, and views that read it and write it back.

    :ivar errors: what was raised in views.
    """

    def __init__(self, app: Flask, db: Database) -> None:
        self.app, self.db = app, db
        self.errors: list[Exception] = []
        self.inside, self.leave = threading.Event(), threading.Event()
        for view in (self.count, self.look, self.visit, self.dwell, self.nest, self.audit):
            app.add_url_rule(f"/{view.__name__}", view_func=view, methods=["GET", "POST"])
        app.register_error_handler(OperationalError, self._note)
        with app.app_context():
            db.session.add(Post(title="0"))
            db.session.commit()

    def ask(self, method: str, view: str) -> int:
        return self.app.test_client().open(f"/{view}", method=method).status_code

    def count(self) -> str:
        post = self.db.session.get_one(Post, 1)
        time.sleep(0.001)
        post.title = str(int(post.title) + 1)
        return post.title

    def look(self) -> str:
        return self.db.session.get_one(Post, 1).title

    def visit(self) -> str:
        """Read; let another one write; write."""
        title = self.look()
        in_thread(lambda: self.ask("POST", "count"))
        self.db.session.add(User(name=f"visitor {title}"))
        return ""

    def dwell(self) -> str:
        """Begin, and stay until it is told to leave."""
        self.look()
        self.inside.set()
        self.leave.wait(20)
        return ""

    def nest(self) -> str:
        """Store a row in a unit of its own, in the middle of another one."""
        self.look()
        with self.app.app_context():
            self.db.session.add(User(name="logged"))
            self.db.session.commit()
        self.db.session.add(User(name="stored"))
        return ""

    def audit(self) -> str:
        """Count, and store a row in a session of its own in the middle of it."""
        post = self.db.session.get_one(Post, 1)
        with self.db.independent() as session:
            session.add(User(name=f"auditor of {post.title}"))
        post.title = str(int(post.title) + 1)
        return post.title

    @contextmanager
    def dwelling(self) -> Iterator[None]:
        """While another thread is in the middle of a POST."""
        thread = threading.Thread(target=self.ask, args=("POST", "dwell"), name="the dweller")
        thread.start()
        assert self.inside.wait(10)
        try:
            yield
        finally:
            self.leave.set()
            thread.join(20)

    def _note(self, error: Exception) -> Response:
        self.errors.append(error)
        return Response(str(error), 503)


@pytest.fixture
def site(make_app: MakeApp, db: Database) -> Site:
    return Site(make_app(UOW_SQLITE_BUSY_TIMEOUT=30, SQLALCHEMY_ENGINE_OPTIONS=POOL), db)


POOL = {"pool_size": 16}


@pytest.fixture
def memory_site(make_app: MakeApp, db: Database) -> Site:
    return Site(make_app(UOW_SQLITE_BUSY_TIMEOUT=30), db)


@pytest.fixture
def lonely_site(make_app: MakeApp, db: Database) -> Site:
    """On a database in memory that has one connection, which no second one keeps alive."""
    return Site(make_app(url="sqlite://"), db)


def in_processes(work: Callable[[], Counter[int]], times: int) -> Counter[int]:
    """Run *work* in that many forked processes; the sum of what they counted."""
    pipes = []
    for _ in range(times):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        if os.fork() == 0:
            try:
                theirs.send(work())
            finally:
                os._exit(0)
        theirs.close()
        pipes.append(ours)
    total: Counter[int] = Counter()
    for pipe in pipes:
        assert pipe.poll(60)
        total += pipe.recv()
        os.wait()
    return total


# Writers --------------------------------------------------------------------------------------


@in_a_file
def test_no_update_is_lost_among_threads(site: Site, witness: Witness) -> None:
    """Sixteen requests at once, which read a row and write it back."""
    answers = in_threads(lambda: [site.ask("POST", "count") for _ in range(3)], times=16)
    assert Counter(chain.from_iterable(answers)) == {200: 48}
    assert witness.titles() == ["48"]


@pytest.mark.slow
@in_a_file
def test_no_update_is_lost_among_processes(site: Site, witness: Witness) -> None:
    """Four forked processes with four threads each, of an engine that was used before the fork."""

    def work() -> Counter[int]:
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(site.ask, "POST", "count") for _ in range(20)]
            return Counter(job.result() for job in jobs)

    assert in_processes(work, 4) == {200: 80}
    assert site.ask("POST", "count") == 200
    assert witness.titles() == ["81"]


@on("sqlite-memory")
def test_no_update_is_lost_in_memory(memory_site: Site) -> None:
    """One connection for everybody, one writer at a time."""
    answers = in_threads(lambda: [memory_site.ask("POST", "count") for _ in range(5)])
    assert Counter(chain.from_iterable(answers)) == {200: 40}
    with memory_site.app.app_context():
        assert memory_site.look() == "40"


@in_a_file
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_request_that_is_to_write_keeps_others_from_writing(
    method: str, make_app: MakeApp, db: Database
) -> None:
    """From its first statement on, though that only reads."""
    app = make_app(UOW_SQLITE_BUSY_TIMEOUT=0.1)

    def write() -> None:
        with app.app_context():
            db.session.add(User(name="in between"))
            db.session.commit()

    @app.route("/", methods=[method])
    def view() -> str:
        db.session.get(User, 1)
        with pytest.raises(OperationalError, match=r"was held by the thread 'MainThread'"):
            in_thread(write)
        db.session.rollback()
        write()
        return ""

    assert app.test_client().open("/", method=method).status_code == 200


@in_a_file
def test_readers_and_the_writer_do_not_wait_for_each_other(site: Site, witness: Witness) -> None:
    """A GET while a POST is open; a POST while a GET is open."""
    started = time.monotonic()
    with site.dwelling():
        assert site.ask("GET", "look") == 200
    site.inside.clear()
    site.leave.clear()
    thread = threading.Thread(target=site.ask, args=("GET", "dwell"))
    thread.start()
    assert site.inside.wait(10)
    assert site.ask("POST", "count") == 200
    site.leave.set()
    thread.join()
    assert witness.titles() == ["1"]
    assert time.monotonic() - started < 15


@in_a_file
def test_the_lock_is_free_when_the_answer_leaves(site: Site) -> None:
    """Right after the commit, not at the end of a body that takes its time."""
    found = []

    def body() -> Iterator[str]:
        found.append(in_thread(lambda: site.ask("POST", "count")))
        yield "told"

    @site.app.post("/slow")
    def slow() -> Response:
        site.look()
        return Response(body())

    assert site.app.test_client().post("/slow").text == "told"
    assert found == [200]


@in_a_file
@pytest.mark.fault(
    "S4",
    fault="The writer that has the lock hangs",
    then="An error after UOW_SQLITE_BUSY_TIMEOUT seconds names the thread or process",
)
def test_a_process_that_hangs_is_named(make_app: MakeApp, db: Database) -> None:
    """The others get an error after the timeout, not a worker that is stuck for ever."""
    site = Site(make_app(UOW_SQLITE_BUSY_TIMEOUT=0.3), db)

    def dwell(pipe: Pipe) -> None:
        site.inside.set = lambda: pipe.send("inside")  # type: ignore[method-assign]
        site.ask("POST", "dwell")

    with forked(dwell) as (child, pipe):
        assert pipe.recv() == "inside"
        os.kill(child, signal.SIGSTOP)
        assert site.ask("POST", "count") == 503
        assert f"was held by the process {child} for " in str(site.errors[0])
        assert site.ask("GET", "look") == 200
    assert site.ask("POST", "count") == 200


@in_a_file
def test_a_thread_that_hangs_is_named(make_app: MakeApp, db: Database) -> None:
    """In the same process, with its name."""
    site = Site(make_app(UOW_SQLITE_BUSY_TIMEOUT=0.3), db)
    with site.dwelling():
        assert site.ask("POST", "count") == 503
    assert "was held by the thread 'the dweller' of this process" in str(site.errors[0])


# A GET that writes ----------------------------------------------------------------------------


@in_a_file
def test_a_get_may_write(site: Site, witness: Witness) -> None:
    """It began by reading; nobody was in between."""
    assert site.ask("GET", "count") == 200
    assert witness.titles() == ["1"]


@in_a_file
@pytest.mark.fault(
    "S2",
    fault="A GET that has read writes, and another request has written in between",
    then="The GET takes its turn with its first write, and is not refused",
)
def test_a_get_is_not_refused_for_what_it_has_read(site: Site, witness: Witness) -> None:
    """It reads without a transaction, which begins with its first write."""
    assert site.ask("GET", "visit") == 200
    assert (witness.names(), witness.titles()) == (["visitor 0"], ["1"])


@in_a_file
def test_a_get_that_has_streamed_rows_is_not_refused(site: Site, witness: Witness) -> None:
    """Streaming needs a transaction, and nothing relies on its snapshot once it is over."""

    def export() -> str:
        rows = site.db.session.scalars(select(Post.title).execution_options(yield_per=1))
        title = "".join(rows)
        in_thread(lambda: site.ask("POST", "count"))
        site.db.session.add(User(name=f"visitor {title}"))
        return ""

    site.app.add_url_rule("/export", view_func=export)
    assert site.ask("GET", "export") == 200
    assert (witness.names(), witness.titles()) == (["visitor 0"], ["1"])


@in_a_file
def test_a_get_that_is_still_streaming_rows_is_refused(site: Site, witness: Witness) -> None:
    """Its open cursor keeps what it reads as it was."""

    def export() -> str:
        rows = site.db.session.scalars(select(Post.title).execution_options(yield_per=1))
        try:
            next(rows)
            in_thread(lambda: site.ask("POST", "count"))
            site.db.session.add(User(name="visitor"))
            site.db.session.flush()
        finally:
            rows.close()
        return ""

    witness.store(Post(title="second"), Post(title="third"))
    site.app.add_url_rule("/export", view_func=export)
    assert site.ask("GET", "export") == 503
    assert witness.names() == []


@in_a_file
def test_a_get_whose_reading_is_out_of_date_stores_nothing(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """With ``UOW_BEGIN = "first"`` its transaction keeps what it has read."""
    site = Site(make_app(UOW_BEGIN="first"), db)
    assert site.ask("GET", "visit") == 503
    assert "what it has read is out of date" in str(site.errors[0])
    assert (witness.names(), witness.titles()) == ([], ["1"])


@in_a_file
def test_immediate_for_everything(make_app: MakeApp, db: Database, witness: Witness) -> None:
    """``UOW_SQLITE_BEGIN``: the GET that writes has the lock before it reads."""
    options = {"UOW_SQLITE_BEGIN": "immediate", "UOW_SQLITE_BUSY_TIMEOUT": 30}
    site = Site(make_app(**options), db)
    in_threads(lambda: [site.ask("GET", "count") for _ in range(3)], times=8)
    assert witness.titles() == ["24"]


# Units in units -------------------------------------------------------------------------------


@on("sqlite-file", "sqlite-memory")
def test_a_unit_inside_another_one_may_write_first(make_app: MakeApp, db: Database) -> None:
    """If the outer one has only read: an audit log, for instance."""
    site = Site(make_app(), db)
    assert site.ask("POST", "nest") == 200
    with site.app.app_context():
        names = db.session.scalars(text("SELECT name FROM users ORDER BY id")).all()
    assert names == ["logged", "stored"]


@on("sqlite-file", "sqlite-memory")
def test_no_update_is_lost_around_a_unit_inside_another_one(
    make_app: MakeApp, db: Database
) -> None:
    """Nobody else writes before the outer one has: its turn is lent, not given up."""
    site = Site(make_app(UOW_SQLITE_BUSY_TIMEOUT=30), db)
    answers = in_threads(lambda: [site.ask("POST", "audit") for _ in range(5)], times=4)
    assert Counter(chain.from_iterable(answers)) == {200: 20}
    with site.app.app_context():
        assert db.session.scalars(text("SELECT title FROM posts")).all() == ["20"]
        assert len(db.session.scalars(text("SELECT name FROM users")).all()) == 20


@in_a_file
def test_requests_that_share_a_worker_thread_are_not_inside_each_other(
    site: Site, witness: Witness
) -> None:
    """Each lends its reading to one executor, with its context variables, as asgiref does."""
    with ThreadPoolExecutor(1) as worker:

        def count_on_both() -> str:
            title = worker.submit(copy_context().run, site.look).result()
            time.sleep(0.002)
            site.db.session.get_one(Post, 1).title = str(int(title) + 1)
            return ""

        site.app.add_url_rule("/shared", view_func=count_on_both, methods=["POST"])
        # The second waits inside the one worker, which the first has no need of any more.
        answers = in_threads(lambda: site.ask("POST", "shared"), times=2)
    assert answers == [200, 200]
    assert witness.titles() == ["2"]


@on("sqlite-file", "sqlite-memory")
def test_a_unit_that_would_wait_for_its_own_thread_is_refused(
    make_app: MakeApp, db: Database
) -> None:
    """At once, and the outer one is not harmed."""
    app = make_app()
    started = time.monotonic()
    with app.app_context():
        db.session.add(User(name="outer"))
        db.session.flush()
        with app.app_context():
            db.session.add(User(name="inner"))
            with pytest.raises(OperationalError, match="it would wait for itself"):
                db.session.commit()
            db.session.rollback()
        db.session.commit()
        assert db.session.scalars(text("SELECT name FROM users")).all() == ["outer"]
    assert time.monotonic() - started < 4


# Threads and tasks ----------------------------------------------------------------------------


def needs_async_views() -> None:
    pytest.importorskip("asgiref", reason="async views need 'pip install flask[async]'")


def count_in_a_block(site: Site) -> None:
    with site.app.app_context(), site.db.atomic():
        site.count()


@in_a_file
@pytest.mark.parametrize("commits", [True, False])
def test_a_view_and_a_thread_beside_it_are_two_writers(
    commits: bool, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """The thread has inherited the context variables, and waits until the view has committed."""
    needs_async_views()
    timeout = 30 if commits else 0.1
    site = Site(make_app(UOW_SQLITE_BUSY_TIMEOUT=timeout, SQLALCHEMY_ENGINE_OPTIONS=POOL), db)

    @site.app.post("/both")
    async def both() -> str:
        post = db.session.get_one(Post, 1)
        job = asyncio.create_task(asyncio.to_thread(count_in_a_block, site))
        await asyncio.sleep(0.005)
        post.title = str(int(post.title) + 1)
        if commits:
            db.session.commit()
        await job
        return ""

    answers = [site.ask("POST", "both") for _ in range(5)]
    assert answers == [200 if commits else 503] * 5
    assert witness.titles() == ["10" if commits else "0"]


@on("sqlite-file", "sqlite-memory")
def test_two_tasks_of_one_thread_do_not_stop_the_loop(make_app: MakeApp, db: Database) -> None:
    """A wait in the second would keep the first from ending."""
    site = Site(make_app(UOW_SQLITE_BUSY_TIMEOUT=60), db)

    async def count() -> None:
        with site.app.app_context(), db.atomic():
            site.count()
            await asyncio.sleep(0.01)

    async def both() -> tuple[BaseException | None, BaseException | None]:
        return await asyncio.gather(count(), count(), return_exceptions=True)

    started = time.monotonic()
    first, second = asyncio.run(both())
    assert time.monotonic() - started < 30
    assert first is None
    assert "another task of this thread" in str(second)
    with site.app.app_context():
        assert site.look() == "1"


@on("sqlite-file", "sqlite-memory")
def test_a_unit_inside_an_async_view_may_write_first(make_app: MakeApp, db: Database) -> None:
    """The thread of the view works while that of the request waits, and nothing was written yet."""
    needs_async_views()
    site = Site(make_app(UOW_SQLITE_BUSY_TIMEOUT=30), db)
    site.app.before_request(lambda: site.look() and None)

    @site.app.post("/async")
    async def nest_in_async() -> str:
        with site.app.app_context():
            db.session.add(User(name="logged"))
            db.session.commit()
        await asyncio.sleep(0)
        return site.count()

    started = time.monotonic()
    assert site.ask("POST", "async") == 200
    assert time.monotonic() - started < 20
    with site.app.app_context():
        assert site.look() == "1"


@on("sqlite-file", "sqlite-memory")
def test_a_unit_after_an_async_view_may_write_first(make_app: MakeApp, db: Database) -> None:
    """The request goes on in its own thread, with a unit that has only read."""
    needs_async_views()
    site = Site(make_app(UOW_SQLITE_BUSY_TIMEOUT=30), db)

    @site.app.after_request
    def log(response: Response) -> Response:
        with db.independent() as session:
            session.add(User(name="logged"))
        return response

    @site.app.post("/async")
    async def look_in_async() -> str:
        return site.look()

    started = time.monotonic()
    assert site.ask("POST", "async") == 200
    assert time.monotonic() - started < 20


@on("sqlite-file", "sqlite-memory")
@pytest.mark.parametrize("update", ["UPDATE", "; UPDATE"])
def test_what_a_unit_inside_has_stored_is_not_overwritten(
    update: str, make_app: MakeApp, db: Database
) -> None:
    """The outer one has read the count before, and would write back what it knows.

    Each time: the driver keeps statements that it has compiled.
    """
    site = Site(make_app(), db)

    @site.app.post("/stale")
    def stale() -> str:
        title = site.look()
        with site.app.app_context(), db.atomic():
            site.count()
        db.session.execute(text(f"{update} posts SET title = :title"), {"title": f"{title} + 1"})
        return ""

    assert [site.ask("POST", "stale") for _ in range(3)] == [503] * 3
    assert "would overwrite 'posts.title'" in str(site.errors[0])
    with site.app.app_context():
        assert site.look() == "3"


@in_a_file
def test_no_update_is_lost_if_threads_switch_all_the_time(site: Site, witness: Witness) -> None:
    """Each request counts in the view, in a thread beside it, and in a unit inside it."""

    @site.app.post("/three")
    def three() -> tuple[str, int]:
        count_in_a_block(site)
        job = threading.Thread(target=copy_context().run, args=(count_in_a_block, site))
        site.count()
        site.db.session.commit()
        job.start()
        job.join()
        return "", 200

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        answers = in_threads(lambda: [site.ask("POST", "three") for _ in range(5)], times=4)
    finally:
        sys.setswitchinterval(interval)
    assert Counter(chain.from_iterable(answers)) == {200: 20}
    assert witness.titles() == ["60"]


# Transactions ---------------------------------------------------------------------------------


@on("sqlite-file", "sqlite-memory")
def test_what_fails_is_gone(make_app: MakeApp, db: Database) -> None:
    """A savepoint that was released, a table that was made, a row: with the unit."""
    app = make_app()

    @app.post("/")
    def view() -> str:
        with db.session.begin_nested():
            db.session.add(User(name="in a savepoint"))
        db.session.execute(text("CREATE TABLE made (id INTEGER)"))
        raise ValueError

    assert app.test_client().post("/").status_code == 500
    with app.app_context():
        tables = db.session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'"))
        assert "made" not in tables.all()
        assert db.session.scalars(text("SELECT name FROM users")).all() == []


@on("sqlite-file", "sqlite-memory")
def test_foreign_keys_are_checked(make_app: MakeApp, db: Database) -> None:
    """As on every other database."""
    app = make_app()
    with app.app_context():
        db.session.add(Post(title="an orphan", author_id=99))
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            db.session.commit()
        db.session.rollback()


@in_a_file
def test_the_keys_of_the_config(make_app: MakeApp, db: Database) -> None:
    """Each knob is one."""
    config: dict[str, Any] = {
        "UOW_SQLITE_JOURNAL_MODE": "persist",
        "UOW_SQLITE_SYNCHRONOUS": "extra",
        "UOW_SQLITE_FOREIGN_KEYS": False,
        "UOW_SQLITE_BUSY_TIMEOUT": 1.5,
        "UOW_SQLITE_QUEUE": False,
    }
    with make_app(**config).app_context():
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = [db.session.scalar(text(f"PRAGMA {name}")) for name in names]
    assert found == ["persist", 3, 0, 1500]


@in_a_file
def test_the_files_beside_the_database(site: Site, database: TestDatabase, tmp_path: Any) -> None:
    """SQLite's own, and the one at which the writers of several processes meet."""
    assert site.ask("POST", "count") == 200
    assert {path.name for path in tmp_path.glob("test.db*")} == {
        "test.db",
        "test.db-wal",
        "test.db-shm",
        "test.db-queue",
    }


# In memory ------------------------------------------------------------------------------------


@on("sqlite-memory")
def test_a_get_is_not_refused_for_what_it_has_read_in_memory(memory_site: Site) -> None:
    """As with a file."""
    assert memory_site.ask("GET", "visit") == 200
    with memory_site.app.app_context():
        assert memory_site.look() == "1"


@on("sqlite-memory")
@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_request_does_not_take_the_database_along(
    kind: type[BaseException], lonely_site: Site
) -> None:
    """Its connection is dropped elsewhere, and here it is the database."""

    def interrupted() -> str:
        lonely_site.count()
        lonely_site.db.session.flush()
        raise kind

    lonely_site.app.add_url_rule("/interrupted", view_func=interrupted, methods=["GET", "POST"])
    assert lonely_site.ask("POST", "count") == 200
    for method in ("GET", "POST"):
        with pytest.raises(kind):
            lonely_site.ask(method, "interrupted")
    with lonely_site.app.app_context():
        assert lonely_site.look() == "1"
        lonely_site.db.session.invalidate()
        assert lonely_site.look() == "1"


@on("sqlite-memory")
def test_a_command_that_fails_does_not_take_the_database_along(lonely_site: Site) -> None:
    """``sys.exit(1)`` is an exception that drops the connection of its unit."""

    @lonely_site.app.cli.command("fail")
    def fail() -> None:
        lonely_site.look()
        raise SystemExit(1)

    assert lonely_site.app.test_cli_runner().invoke(args=["fail"]).exit_code == 1
    assert lonely_site.ask("POST", "count") == 200


# No longer expected to write --------------------------------------------------------------------


@pytest.fixture
def patient_app(make_app: MakeApp) -> Flask:
    """An app that waits for the write lock only a short time."""
    return make_app(UOW_SQLITE_BUSY_TIMEOUT=0.2)


@contextmanager
def written_by_another(witness: Witness) -> Iterator[None]:
    """Another program has the write lock."""
    with witness.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 5000")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
        connection.exec_driver_sql("ROLLBACK")


@in_a_file
@pytest.mark.parametrize("returns", [True, False])
def test_an_error_page_of_a_post_reads_without_the_write_lock(
    returns: bool, patient_app: Flask, db: Database, witness: Witness
) -> None:
    """The work of the view is rolled back, so no more writes are expected."""

    @patient_app.errorhandler(LookupError)
    def form(error: Exception) -> tuple[str, int]:
        with written_by_another(witness):
            return str(db.session.query(User).count()), 422

    @patient_app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(User(name="ada"))
        db.session.flush()
        if returns:
            return "", 422
        raise LookupError

    @patient_app.after_request
    def count(response: Response) -> Response:
        with written_by_another(witness):
            response.headers["X-Users"] = str(db.session.query(User).count())
        return response

    response = patient_app.test_client().post("/")
    assert (response.status_code, response.headers["X-Users"]) == (422, "0")
    assert witness.names() == []


@in_a_file
def test_the_body_of_a_streamed_post_reads_without_the_write_lock(
    patient_app: Flask, db: Database, witness: Witness
) -> None:
    """The unit is finished when the body starts."""

    @patient_app.post("/")
    def export() -> Response:
        db.session.add(User(name="ada"))

        def body() -> Iterator[str]:
            with written_by_another(witness):
                yield str(db.session.query(User).count())

        return Response(stream_with_context(body()))

    assert patient_app.test_client().post("/").text == "1"


@in_a_file
def test_a_copied_context_of_a_post_reads_without_the_write_lock(
    patient_app: Flask, db: Database, witness: Witness
) -> None:
    """It is not dispatched, so it commits nothing, and the view has the lock."""
    counted: list[int] = []

    @patient_app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()

        @copy_current_request_context
        def work() -> None:
            counted.append(db.session.query(User).count())

        in_thread(work)
        return ""

    assert patient_app.test_client().post("/").status_code == 200
    assert (counted, witness.names()) == ([0], ["ada"])
