"""Workers that are killed at random moments, and a record of what they had acknowledged.

::

    history = kill_at_random("tests.faults.ledger:make_unit", url, folder=tmp_path, kills=130)
    history.check(witness.ask("SELECT token FROM transfers"))

Each worker is a process that runs one unit of work after the other. It appends a line to a file
when a unit begins and another when it is done, as a client would remember it; what one ``write``
has appended, no SIGKILL takes away. A killed worker is replaced by a new one.

A program of its own forks the workers, because they have to start quickly: it has imported all
that they need, runs no thread and has opened no connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from tests.support.history import History

Unit = Callable[[str], object]

_ROOT = Path(__file__).parents[2]
_SOME_LINES = 300  # bytes: about four units have begun and ended
_STUCK = 30.0  # seconds until they have; even an unfair queue lets somebody in much sooner


def kill_at_random(
    make: str,
    *arguments: Any,
    folder: Path,
    kills: int,
    seed: int | None = None,
    workers: int = 8,
    pause: tuple[float, float] = (0.02, 0.2),
) -> History:
    """Run *workers* processes and kill a random one *kills* times; what they remember.

    Between two kills a few units are done. In the end all workers are killed. The seed is printed.

    :param make: ``"module:function"``; each worker calls it once with *arguments* (what JSON can
        carry) and gets the unit: a function that stores the token it is given, and raises if it
        could not. A unit that raises counts as failed, so its token must not be stored.
    :param folder: where the file of the workers' lines lies.
    :param pause: the shortest and the longest time between two kills, in seconds.
    :raises RuntimeError: a worker could not make its unit, or next to nobody got on for 30 seconds.
    """
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    print(f"kills: {kills}, workers: {workers}, seed: {seed}")
    lines = folder / "lines"
    plan = {
        "make": make,
        "arguments": arguments,
        "lines": str(lines),
        "kills": kills,
        "seed": seed,
        "workers": workers,
        "pause": pause,
    }
    command = [sys.executable, "-m", "tests.support.kills", json.dumps(plan)]
    done = subprocess.run(command, cwd=_ROOT, check=False, capture_output=True, text=True)
    print(done.stderr[-10_000:])
    if done.returncode:
        raise RuntimeError(f"the kill loop failed:\n{done.stderr[-3000:]}")
    history = remembered(lines)
    print(history.summary())
    return history


def remembered(lines: Path) -> History:
    """The history that the workers have written to *lines*."""
    history = History()
    for line in lines.read_text().splitlines():
        word, token, *rest = line.split(" ", 2)
        if word == "begin":
            history.begin(token)
        elif word == "ok":
            history.ok(token)
        else:
            history.failed(token, *rest)
    return history


# The program that forks and kills -------------------------------------------------------------


class _Loop:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.make = resolve_name(plan["make"])  # imports what the workers need, once
        self.arguments = plan["arguments"]
        self.lines = Path(plan["lines"])
        self.kills = plan["kills"]
        self.random = random.Random(plan["seed"])
        self.workers = plan["workers"]
        self.pause = plan["pause"]
        self.running: list[int] = []

    def run(self) -> None:
        self.lines.touch()
        try:
            self.running = [self._start() for _ in range(self.workers)]
            for _ in range(self.kills):
                self._wait_until_somebody_gets_on()
                time.sleep(self.random.uniform(*self.pause))
                self._kill(self.random.randrange(self.workers))
            self._wait_until_somebody_gets_on()
        finally:
            for pid in self.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def _wait_until_somebody_gets_on(self) -> None:
        enough, end = self.lines.stat().st_size + _SOME_LINES, time.monotonic() + _STUCK
        while self.lines.stat().st_size < enough:
            self._look_for_failures()
            if time.monotonic() > end:
                raise RuntimeError(f"hardly a unit has ended for {_STUCK:.0f} seconds")
            time.sleep(0.001)

    def _look_for_failures(self) -> None:
        for pid in self.running:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.running.remove(pid)
                raise RuntimeError(f"a worker ended by itself (status {status})")

    def _kill(self, number: int) -> None:
        os.kill(self.running[number], signal.SIGKILL)
        os.waitpid(self.running[number], 0)
        self.running[number] = self._start()

    def _start(self) -> int:
        pid = os.fork()
        if pid == 0:
            self._work()
        return pid

    def _work(self) -> NoReturn:
        try:
            lines = os.open(self.lines, os.O_WRONLY | os.O_APPEND)
            unit: Unit = self.make(*self.arguments)
            while True:
                _one(unit, lines)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)  # nothing of the parent is to be cleaned up here


def _one(unit: Unit, lines: int) -> None:
    token = uuid.uuid4().hex
    _append(lines, f"begin {token}")
    try:
        unit(token)
    except Exception as error:
        _append(lines, f"failed {token} {type(error).__name__}: {' '.join(str(error).split())}")
    else:
        _append(lines, f"ok {token}")


def _append(lines: int, line: str) -> None:
    os.write(lines, f"{line[:500]}\n".encode())  # one call, so lines do not mix


if __name__ == "__main__":
    _Loop(json.loads(sys.argv[1])).run()
