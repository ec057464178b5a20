"""``python -m flask``, again and again, each in a process of its own that starts quickly.

Most of the time of such a process goes into imports. So a program forks them that has imported what
an app imports, and what others have written, but no command of ours; it runs no thread and has
opened no connection.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]

_IMPORTED = (
    "flask_uow flask.cli sqlalchemy.orm sqlalchemy.ext.asyncio alembic.command alembic.autogenerate"
    " alembic.runtime.environment mako.template sqlite3 psycopg pymysql flask_migrate"
    " flask_sqlalchemy"
).split()
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",  # a file may change twice in a second
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "PYTHONUNBUFFERED": "1",  # both streams in the order in which they are written
    "PYTHONWARNINGS": "error",
}

_SECONDS = 60


@dataclass(frozen=True)
class Done:
    """What has become of a command: as much of click's ``Result`` as the tests look at.

    :ivar output: both streams, as a terminal would show them.
    """

    exit_code: int
    output: str
    exception: BaseException | None = None


def flask(
    *args: str, folder: Path, fresh: bool = False, environment: Mapping[str, str] | None = None
) -> Done:
    """Run ``python -m flask ARGS`` in *folder*.

    :param fresh: by an interpreter of its own, which imports everything itself.
    """
    variables = {**os.environ, **ENVIRONMENT, **(environment or {})}
    with tempfile.NamedTemporaryFile() as output:
        if fresh:
            code = subprocess.run(
                [sys.executable, "-m", "flask", *args],
                cwd=folder,
                env=variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_SECONDS,
            ).returncode
        else:
            job = {"args": args, "folder": str(folder), "environment": variables}
            code = _ask({**job, "output": output.name})
        output.seek(0)
        return Done(code, output.read().decode())


def _ask(job: dict[str, Any]) -> int:
    program = _program()
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(json.dumps(job) + "\n")
    program.stdin.flush()
    return int(program.stdout.readline())


@functools.cache
def _program() -> subprocess.Popen[str]:
    program = subprocess.Popen(
        [sys.executable, "-m", __name__],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(program.communicate)  # it ends with its standard input
    return program


# The program ----------------------------------------------------------------------------------


def _serve() -> None:
    """A line of JSON is a command; the answer is its exit code."""
    for name in _IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert "flask_uow.migrations.cli" not in sys.modules
    for line in sys.stdin:
        child = os.fork() or _run(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(args: list[str], folder: str, environment: dict[str, str], output: str) -> NoReturn:
    """Become ``python -m flask``."""
    code = 1
    try:
        signal.alarm(_SECONDS)
        stream = os.open(output, os.O_WRONLY | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (stream, 1), (stream, 2)):
            os.dup2(source, target)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[0] = folder
        sys.argv = ["flask", *args]
        runpy.run_module("flask", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else bool(stopped.code)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
