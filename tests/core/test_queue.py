"""The queue of the writers: one at a time, in order, whatever happens to the others."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flask_uow._sqlite import file_lock, write_queue
from flask_uow._sqlite.write_queue import OwnTurn, QueueTimeout, WriteQueue, queue_for, waiting
from tests.support.forks import Pipe, forked, in_child
from tests.support.threads import in_thread, in_threads

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "app.db-queue")


@contextmanager
def holding(queue: WriteQueue) -> Iterator[object]:
    owner = object()
    queue.acquire(owner, 10)
    try:
        yield owner
    finally:
        queue.release(owner)


@contextmanager
def another_process_holding(file: str) -> Iterator[int]:
    """A process that has the turn."""

    def hold(pipe: Pipe) -> None:
        with holding(WriteQueue(file)):
            pipe.send("held")
            time.sleep(30)

    with forked(hold) as (child, pipe):
        assert pipe.poll(10)
        yield child


def test_one_at_a_time_among_threads() -> None:
    """While one has the turn, nobody else has."""
    queue, inside, most = WriteQueue(), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with holding(queue):
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    in_threads(work)
    assert most == 1


@pytest.mark.slow
def test_one_at_a_time_among_processes(file: str, tmp_path: Path) -> None:
    """A counter in a file, which would lose counts otherwise."""
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count(pipe: Pipe) -> None:
        queue = WriteQueue(file)
        for _ in range(100):
            with holding(queue):
                counter.write_text(str(int(counter.read_text()) + 1))
        pipe.send("done")
        time.sleep(30)

    with forked(count) as (_, one), forked(count) as (_, two), forked(count) as (_, three):
        assert [pipe.poll(30) for pipe in (one, two, three)] == [True] * 3
    assert counter.read_text() == "300"


def test_first_come_first_served_among_threads() -> None:
    """Who waits longest is next."""
    queue, order = WriteQueue(), list[int]()

    def wait(number: int) -> None:
        with holding(queue):
            order.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    with holding(queue):
        for number, thread in enumerate(threads):
            thread.start()
            until(partial(is_waiting, queue, number + 1))
    for thread in threads:
        thread.join(10)
    assert order == list(range(8))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting process that gets no CPU for a while is not taken for a killed one."""
    monkeypatch.setattr(file_lock, "_SILENCE", 20_000_000_000)


def wait_in_queue(file: str, order: Path, word: str, pipe: Pipe) -> None:
    """Tell by *pipe* that this process waits, and in the end that it has written *word*."""
    sleep = time.sleep

    def tell(seconds: Any) -> None:  # the first time that it sleeps, it is in the queue
        time.sleep = sleep
        pipe.send("waits")
        sleep(seconds)

    time.sleep = tell
    with holding(WriteQueue(file)):
        with order.open("a") as lines:
            lines.write(word)
        sleep(0.02)  # the others have time to find out which of them is next
    pipe.send("done")
    sleep(30)


@pytest.mark.usefixtures("patient")
def test_first_come_first_served_among_processes(file: str, tmp_path: Path) -> None:
    """The process that waits longest is next, though all of them keep trying."""
    order = tmp_path / "order"
    with ExitStack() as stack:
        pipes = []
        with holding(WriteQueue(file)):
            for number in range(4):
                work = partial(wait_in_queue, file, order, str(number))
                _, pipe = stack.enter_context(forked(work))
                assert pipe.recv() == "waits"
                pipes.append(pipe)
        assert [pipe.recv() for pipe in pipes] == ["done"] * 4
    assert order.read_text() == "0123"


@pytest.mark.usefixtures("patient")
def test_a_process_that_was_overtaken_does_not_wait_for_the_other_one(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one gets the lock just before this process notes that it still waits."""
    started = time.monotonic()
    holder, other, overtaken = (file_lock.FileLock(file, None) for _ in range(3))

    class Notes(file_lock._FileNotes):
        is_overtaken = False

        def _write(self, index: int, numbers: bytes) -> None:
            is_first = self[file_lock._FIRST] == int(started * 1e9)
            if is_first and not self.is_overtaken:
                self.is_overtaken = True
                holder.release()
                assert other._wait(int((started - 1) * 1e9), started + 10)  # it has waited before
                monkeypatch.setattr(time, "sleep", lambda _: other.release())
            super()._write(index, numbers)

    assert holder.acquire(started, 0)
    other._open()
    overtaken._open()
    assert overtaken._descriptor is not None
    overtaken._notes = Notes(overtaken._descriptor)
    assert overtaken.acquire(started, 2)


@pytest.mark.usefixtures("patient")
def test_a_newcomer_does_not_jump_the_queue(file: str, tmp_path: Path) -> None:
    """A process that waits is between two tries when the lock becomes free."""
    order, first, newcomer = tmp_path / "order", WriteQueue(file), WriteQueue(file)
    with holding(newcomer):
        pass
    with ExitStack() as stack:
        with holding(first):
            _, pipe = stack.enter_context(forked(partial(wait_in_queue, file, order, "1")))
            assert pipe.recv() == "waits"
            time.sleep(0.1)  # its pauses become longer
        with holding(newcomer), order.open("a") as lines:
            lines.write("2")
        assert pipe.recv() == "done"
    assert order.read_text() == "12"


def test_a_turn_is_taken_once_and_given_back_once() -> None:
    """Who has it may ask again; who has it not gives nothing away."""
    queue = WriteQueue()
    first, second = object(), object()
    queue.acquire(first, 0)
    queue.acquire(first, 0)
    queue.release(second)
    with pytest.raises(QueueTimeout):
        queue.acquire(second, 0)
    queue.release(first)
    queue.acquire(second, 0)
    queue.release(second)


def test_the_wait_for_a_thread_ends_and_names_it() -> None:
    """After the timeout the text says who is in the way, and for how long."""
    queue = WriteQueue()
    with holding(queue):
        started = time.monotonic()
        with pytest.raises(QueueTimeout, match=r"by the thread 'MainThread' .* for \d+\.\d s"):
            in_thread(lambda: queue.acquire(object(), 0.1))
        assert 0.1 <= time.monotonic() - started < 5
    with holding(queue):
        pass


def test_a_flow_that_waits_for_itself_is_told_at_once() -> None:
    """No timeout would help."""
    queue = WriteQueue()
    with holding(queue) as owner:
        with pytest.raises(OwnTurn) as caught:
            queue.acquire(object(), 60)
        assert caught.value.lender is owner


def test_two_flows_in_one_thread_are_two() -> None:
    """What one has taken the other waits for: the end may come from another thread."""
    queue, owner = WriteQueue(), object()
    copy_context().run(queue.acquire, owner, 0)
    with pytest.raises(QueueTimeout, match="by this very thread, for another unit"):
        queue.acquire(object(), 0.01)
    threading.Timer(0.05, queue.release, [owner]).start()
    queue.acquire(object(), 10)


def test_two_tasks_of_one_event_loop_do_not_wait_for_each_other() -> None:
    """The wait would stop the loop, and with it the task that has the turn."""
    queue, owner, taken = WriteQueue(), object(), asyncio.Event()

    async def work() -> None:
        queue.acquire(owner, 0)
        taken.set()
        await asyncio.sleep(0)
        queue.release(owner)

    async def wait() -> None:
        await taken.wait()
        with pytest.raises(OwnTurn) as caught:
            queue.acquire(object(), 60)
        assert caught.value.lender is None

    async def both() -> None:
        await asyncio.gather(wait(), work())

    asyncio.run(both())


def test_two_threads_are_two_writers() -> None:
    """Also if the second has inherited the context variables of the first, which still runs."""
    queue, inner = WriteQueue(), object()
    with holding(queue):
        ours = copy_context()
        with pytest.raises(QueueTimeout, match="by the unit of work around this one") as caught:
            in_thread(lambda: ours.run(queue.acquire, inner, 0.01))
        assert not isinstance(caught.value, OwnTurn)
    in_thread(lambda: ours.run(queue.acquire, inner, 0))


def test_a_flow_continues_in_another_thread() -> None:
    """Where this thread is known to wait for that one, as with an async view."""
    queue = WriteQueue()

    def work() -> None:
        with waiting(me):
            queue.acquire(object(), 10)

    with holding(queue) as owner:
        me = threading.current_thread()
        with pytest.raises(OwnTurn) as caught:
            in_thread(partial(copy_context().run, work))
        assert caught.value.lender is owner


def test_what_a_thread_did_for_this_one_is_done_by_this_one() -> None:
    """The view was async, and a function after it is not: a unit inside may borrow the turn."""
    queue, me, owner = WriteQueue(), threading.current_thread(), object()
    ours = copy_context()

    def work() -> None:
        with waiting(me):
            queue.acquire(owner, 10)

    in_thread(partial(ours.run, work))
    with pytest.raises(OwnTurn) as caught:
        ours.run(queue.acquire, object(), 10)
    assert caught.value.lender is owner


def test_a_later_thread_with_the_same_number_is_another_one() -> None:
    """The system gives the numbers of threads that have ended to the next ones."""
    queue, owner = WriteQueue(), object()
    first = threading.Thread(target=queue.acquire, args=(owner, 10))
    first.start()
    first.join()
    found: list[BaseException | None] = []

    async def take_another() -> None:
        with pytest.raises(QueueTimeout) as caught:
            queue.acquire(object(), 0.01)
        found.append(caught.value)

    for _ in range(100):
        later = threading.Thread(target=lambda: asyncio.run(take_another()))
        later.start()
        later.join()
        if later.ident == first.ident:
            break
    else:
        pytest.skip("no later thread has got the number")
    assert not isinstance(found[-1], OwnTurn)


def test_a_thread_that_was_waited_for_is_another_writer() -> None:
    """A task that lives longer than the async view which has created it."""
    queue, me = WriteQueue(), threading.current_thread()

    def work() -> None:
        with waiting(me):
            later = copy_context()
        with pytest.raises(QueueTimeout) as caught:
            later.run(queue.acquire, object(), 0.01)
        assert not isinstance(caught.value, OwnTurn)

    with holding(queue):
        in_thread(partial(copy_context().run, work))


def test_a_turn_is_with_the_thread_that_used_it_last() -> None:
    queue, owner = WriteQueue(), object()
    turn = queue.acquire(owner, 0)
    in_thread(turn.note_use)
    with pytest.raises(QueueTimeout) as caught:
        queue.acquire(object(), 0.01)
    assert not isinstance(caught.value, OwnTurn)
    turn.note_use()
    with pytest.raises(OwnTurn):
        queue.acquire(object(), 60)
    queue.release(owner)


def test_a_turn_that_is_over_makes_no_flow() -> None:
    """The threads of a server answer one request after the other."""
    queue, owner = WriteQueue(), object()
    with holding(queue):
        pass
    in_thread(partial(queue.acquire, owner, 0))
    with pytest.raises(QueueTimeout) as caught:
        queue.acquire(object(), 0)
    assert not isinstance(caught.value, OwnTurn)


def test_a_process_has_one_queue_for_each_file(tmp_path: Path) -> None:
    """Whatever engine or app asks for it, and none that is no longer used."""
    one, other = str(tmp_path / "one.db"), str(tmp_path / "other.db")
    queue = queue_for(one)
    assert queue_for(one) is queue is not queue_for(other)
    del queue
    assert one not in write_queue._queues


def test_a_lent_turn_comes_back() -> None:
    """And nobody else has it in between, however long he waits."""
    queue, inner, order = WriteQueue(), object(), list[str]()

    def wait() -> None:
        with holding(queue):
            order.append("other")

    with holding(queue) as outer:
        thread = threading.Thread(target=wait)
        thread.start()
        until(partial(is_waiting, queue, 1))
        assert queue.borrow(inner, outer)
        assert not queue.borrow(object(), outer)
        queue.release(inner)
        queue.acquire(outer, 0)
        time.sleep(0.02)
        order.append("outer")
    thread.join(10)
    assert order == ["outer", "other"]


def test_a_lender_may_leave_first() -> None:
    """Then there is nobody to whom the turn comes back."""
    queue, outer, inner, other = WriteQueue(), object(), object(), object()
    queue.acquire(outer, 0)
    assert queue.borrow(inner, outer)
    queue.release(outer)
    with pytest.raises(QueueTimeout):
        in_thread(partial(queue.acquire, other, 0))
    queue.release(inner)
    in_thread(partial(queue.acquire, other, 0))


def test_two_who_may_borrow_do_so_one_after_the_other() -> None:
    """Two threads that a view awaits at once: the second is called when the turn is back."""
    queue, first, second = WriteQueue(), object(), object()

    def wait() -> object:
        with pytest.raises(OwnTurn) as caught, waiting(me):
            queue.acquire(second, 10)
        return caught.value.lender

    me = threading.current_thread()
    with holding(queue) as outer, ThreadPoolExecutor(1) as pool:
        ours = copy_context()
        assert copy_context().run(queue.borrow, first, outer)
        job = pool.submit(ours.run, wait)
        until(partial(is_waiting, queue, 1))
        queue.release(first)
        assert job.result(5) is outer


def test_a_lender_that_wants_its_turn_waits_for_it() -> None:
    """If it was lent to another flow that goes on beside it."""
    queue, inner = WriteQueue(), object()
    with holding(queue) as outer:
        copy_context().run(queue.borrow, inner, outer)
        with pytest.raises(QueueTimeout):
            queue.acquire(outer, 0.01)
        threading.Timer(0.05, queue.release, [inner]).start()
        queue.acquire(outer, 10)
        assert queue.borrow(inner, outer)
        queue.release(inner)
    in_thread(partial(queue.acquire, object(), 0))


@pytest.mark.slow
def test_files_that_are_opened_meanwhile_disturb_nobody(tmp_path: Path) -> None:
    """A thread looks whether files are a parent's, and other threads open theirs just then."""
    end = threading.Event()

    def open_files() -> None:
        while not end.is_set():
            kept = [file_lock.FileLock(f"{tmp_path}/{number}", None) for number in range(50)]
            del kept

    threads = [threading.Thread(target=open_files) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2000):
            file_lock.close_inherited()
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_the_wait_for_a_process_ends_and_names_it(file: str) -> None:
    """S4: a holder that hangs costs the others their timeout, not for ever."""
    with another_process_holding(file) as process:
        os.kill(process, signal.SIGSTOP)
        with pytest.raises(QueueTimeout, match=rf"by the process {process} for \d+\.\d s"):
            WriteQueue(file).acquire(object(), 0.1)


def test_two_queues_of_one_process_exclude_each_other(file: str) -> None:
    """Two engines on one file, as with two bind keys."""
    with holding(WriteQueue(file)):
        with pytest.raises(QueueTimeout, match="by this process, through another engine"):
            in_thread(lambda: WriteQueue(file).acquire(object(), 0.05))


def test_a_killed_holder_leaves_the_turn(file: str) -> None:
    """S4: the kernel frees the lock."""
    with another_process_holding(file):
        pass
    with holding(WriteQueue(file)):
        pass


def test_a_killed_waiter_is_not_waited_for(file: str) -> None:
    """The first in line dies: the next one finds out by its silence."""

    def wait(pipe: Pipe) -> None:
        pipe.send("waits")
        WriteQueue(file).acquire(object(), 60)

    queue, mine = WriteQueue(file), object()
    with another_process_holding(file):
        with forked(wait) as (_, pipe):
            assert pipe.recv() == "waits"
            time.sleep(0.1)
            thread = threading.Thread(target=lambda: queue.acquire(mine, 20))
            thread.start()
            time.sleep(0.05)
    thread.join(10)
    assert not thread.is_alive()
    queue.release(mine)


def test_an_interrupted_waiter_leaves_the_line(file: str) -> None:
    """What is raised from outside, at any moment, neither takes a turn nor leaves a gap."""

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    queue, release = WriteQueue(file), threading.Event()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for other in (queue, WriteQueue(file)):  # waits for a thread, and for the file
            taken = threading.Event()

            def hold(other: WriteQueue = other, taken: threading.Event = taken) -> None:
                with holding(other):
                    taken.set()
                    release.wait(10)

            thread = threading.Thread(target=hold)
            thread.start()
            taken.wait(10)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interrupted):
                queue.acquire(object(), 10)
            release.set()
            thread.join(10)
            release.clear()
            with holding(queue):
                pass
    finally:
        signal.signal(signal.SIGALRM, before)


# Forks ----------------------------------------------------------------------------------------


def test_a_forked_child_has_not_got_its_parents_turn(file: str) -> None:
    """It waits for it like everybody, and cannot give it back."""
    queue = WriteQueue(file)

    def child() -> None:
        queue.release(owner)
        with pytest.raises(QueueTimeout, match=f"by the process {os.getppid()}"):
            queue.acquire(object(), 0.05)

    with holding(queue) as owner:
        assert in_child(child) == 0
        with pytest.raises(QueueTimeout):
            WriteQueue(file).acquire(object(), 0)

    def later() -> None:
        with holding(queue):
            pass

    assert in_child(later) == 0


def test_a_child_does_not_keep_the_turn_of_a_killed_parent(file: str) -> None:
    """The lock would live as long as any copy of the open file."""

    def hold_and_fork(pipe: Pipe) -> None:
        with holding(WriteQueue(file)):
            child = os.fork()
            if child == 0:
                time.sleep(30)
            pipe.send(child)
            time.sleep(30)

    with forked(hold_and_fork) as (_, pipe):
        grandchild = pipe.recv()
    try:
        with holding(WriteQueue(file)):
            pass
    finally:
        os.kill(grandchild, signal.SIGKILL)


# The file -------------------------------------------------------------------------------------


def test_the_file_has_the_rights_of_the_database(file: str, tmp_path: Path) -> None:
    """Else a command run by root would leave a file that the web server cannot open."""
    database = tmp_path / "app.db"
    database.touch()
    database.chmod(0o660)
    if os.geteuid() == 0:
        os.chown(database, 12345, 12346)
    with holding(WriteQueue(file, str(database))):
        status = Path(file).stat()
    assert stat.S_IMODE(status.st_mode) == 0o660
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid) == (12345, 12346)


def test_somebody_elses_file_is_not_written_to(file: str) -> None:
    """Of the same name, by chance: it serves as a lock and stays as it is."""
    Path(file).write_text("the list of people in the queue")
    with holding(WriteQueue(file)):
        with pytest.raises(QueueTimeout, match="by another process"):
            in_thread(lambda: WriteQueue(file).acquire(object(), 0.01))
    assert Path(file).read_text() == "the list of people in the queue"


@pytest.mark.parametrize("first", [0, 10**18])
def test_notes_of_another_boot_keep_no_process_waiting(first: int, file: str) -> None:
    """The clock of a copied or restarted machine has started again."""
    with holding(WriteQueue(file)):
        pass
    later = time.monotonic_ns() + 10**15
    with Path(file).open("r+b") as stored:
        stored.seek(len(file_lock._HEAD))
        stored.write(array("q", [os.getpid(), later, first, later]).tobytes())
    with holding(WriteQueue(file)):  # a wait for the first of that boot would take 10 s, and fail
        pass


def test_a_file_that_is_truncated_ends_no_process(file: str) -> None:
    """SIGBUS, if the file were mapped into memory. Its content is written again."""

    def hold(pipe: Pipe) -> None:
        queue = WriteQueue(file)
        with holding(queue):
            os.truncate(file, 0)
        with holding(queue):
            pipe.send("held")
            time.sleep(30)

    with forked(hold) as (child, pipe):
        assert pipe.poll(10)
        with pytest.raises(QueueTimeout, match=f"by the process {child} for"):
            WriteQueue(file).acquire(object(), 0.05)


def test_a_turn_that_no_process_waits_for_costs_six_system_calls(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process at both ends, the lock at both ends, one look for waiters, one note."""
    queue, calls = WriteQueue(file), Counter[str]()

    def counting(module: Any, name: str) -> None:
        function = getattr(module, name)

        def call(*arguments: object) -> object:
            calls[name] += 1
            return function(*arguments)

        monkeypatch.setattr(module, name, call)

    with holding(queue):  # opens the file
        pass
    for module, names in ((os, ("getpid", "pread", "pwrite", "fstat")), (fcntl, ("flock",))):
        for name in names:
            counting(module, name)
    with holding(queue):
        pass
    assert calls == {"getpid": 2, "flock": 2, "pread": 1, "pwrite": 1}


def test_a_symbolic_link_is_not_followed(file: str, tmp_path: Path) -> None:
    """Somebody else may have put it there, to have a file of ours written to."""
    target = tmp_path / "target"
    target.touch()
    Path(file).symlink_to(target)
    with holding(WriteQueue(file)):
        pass
    assert target.read_text() == ""


def test_without_the_file_threads_are_still_in_order(tmp_path: Path) -> None:
    """A folder that does not exist, or that is not ours: SQLite sees to the other processes."""
    queue = WriteQueue(str(tmp_path / "missing" / "queue"))
    with holding(queue):
        with pytest.raises(QueueTimeout, match="MainThread"):
            in_thread(lambda: queue.acquire(object(), 0.01))


def test_a_file_system_without_locks(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is only the order of the threads."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    queue = WriteQueue(file)
    for _ in range(2):
        with holding(queue):
            pass


def test_a_system_without_flock(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows: no file is made."""
    monkeypatch.setattr(file_lock, "fcntl", None)
    with holding(WriteQueue(file)):
        pass
    assert not Path(file).exists()


def test_a_dropped_queue_closes_its_file(file: str) -> None:
    """One engine after the other, as in a test suite, does not run out of files."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with holding(WriteQueue(file)):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


# Greenlets ------------------------------------------------------------------------------------

GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent, sys
from flask_uow._sqlite.write_queue import WriteQueue

queue, order, ticks = WriteQueue(sys.argv[1]), [], 0
def wait(number):
    owner = object()
    queue.acquire(owner, 10)
    order.append(number)
    gevent.sleep(0.001)
    queue.release(owner)
def tick():
    global ticks
    while True:
        gevent.sleep(0.005)
        ticks += 1
ticker = gevent.spawn(tick)
jobs = [gevent.spawn(wait, number) for number in range(5)]
print("waits", flush=True)
gevent.joinall(jobs)
stuck = object()
queue.acquire(stuck, 1)
def give_up():
    with gevent.Timeout(0.02, False):
        queue.acquire(object(), 10)
gevent.spawn(give_up).join()
queue.release(stuck)
queue.acquire(object(), 1)
print(order == list(range(5)), ticks > 5, flush=True)
"""


@pytest.mark.slow
def test_greenlets_wait_without_stopping_the_others(file: str) -> None:
    """While one waits for another process, the loop goes on; who gives up leaves no gap."""
    pytest.importorskip("gevent")
    with holding(WriteQueue(file)):
        process = subprocess.Popen(
            [sys.executable, "-c", GREENLETS, file], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        time.sleep(0.1)
    output, _ = process.communicate(timeout=20)
    assert output == "True True\n"


# Helpers --------------------------------------------------------------------------------------


def is_waiting(queue: WriteQueue, number: int) -> bool:
    line: Any = queue._queues[os.getpid()]
    return len(line._waiting) == number


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
