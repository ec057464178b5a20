"""Type a page as a reader does: from an empty folder, line by line.

A page is typed if it names a file and has commands. Nothing marks it, beyond what a reader needs:

- A sentence that ends with a colon names the file of the fence after it: "Save this as `app.py`:",
  "In `app.py`:". See :func:`tests.docs.pages.place_of`.
- The lines of a ``console`` fence are typed into one shell. A command must succeed, unless its
  output is shown. That of ``curl`` always is: it succeeds whatever the status of the response.
- A ``text`` fence right after it is all that these lines print. ``...`` stands for any text, on a
  line of its own for any lines. Identifiers of revisions and times may be others.
- ``flask run`` and ``gunicorn`` go on in the background until the next of them, or the end of the
  page, on a port that is free: the ``5000`` or ``8000`` of the page is replaced. With ``--debug``,
  the next command waits until the server has seen a changed file.
- ``pip install flask-uow`` and ``pip install /path/to/the/clone`` install this checkout.
- ``<!-- not run: reason -->`` before a ``console`` fence leaves it out. Python that is not run by
  ``test_pages.py`` is typed all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.docs.pages import ROOT, Place, fences, place_of

_SERVER = re.compile(r"\b(?:flask .*\brun|gunicorn)\b")
_PORT = re.compile(r":(?:5000|8000)\b")
_PACKAGE = re.compile(
    r"/path/to/the/clone|(?<=pip install )flask-uow\b|(?<=pip install ')flask-uow\b"
)
_OURS = re.compile(r"PYTHON|PYTEST|FLASK|UOW|VIRTUAL_ENV|COV")  # a reader has not set these
_SECONDS = 60
# What a page leaves out, and what is another in each run: identifiers of revisions, and times.
_ANY = re.compile(r"\.\.\.|(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])|\d\.\d\d(?=s\b| s\b)")


def is_typed(page: Path) -> bool:
    """Whether *page* names a file, and has commands."""
    return bool(commands(page)) and any(map(place_of, fences(page)))


def commands(page: Path) -> str:
    """The lines that are typed into the terminal."""
    return "".join(fence["body"] for fence in fences(page) if _is_console(fence))


def make_environment(folder: Path) -> Path:
    """A virtual environment with the package; return its programs."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", ROOT], check=True)
    return folder / "bin"


def type_page(page: Path, folder: Path, programs: Path) -> None:
    """Write the files of *page* into *folder*, run its commands, and compare what they print."""
    terminal = _Terminal(folder, programs)
    found = fences(page)
    with contextlib.closing(terminal):
        for fence, following in zip(found, [*found[1:], None], strict=True):
            where = f"{page.name}, line {fence.string.count(chr(10), 0, fence.start()) + 1}"
            place, shown = place_of(fence), _output(fence, following)
            if place:
                terminal.save(place, fence["body"])
            elif _is_console(fence):
                assert shown is not None or "curl " not in fence["body"], f"{where}: no output"
                printed, failed = terminal.type(fence["body"])
                assert not failed or shown is not None, f"{where}: {failed}\n{printed}"
                assert shown is None or is_shown(printed, shown), f"{where}:\n{printed}"


def is_shown(printed: str, shown: str) -> bool:
    """Whether a page that shows *shown* is right about what was *printed*."""
    pattern = ""
    for line in shown.rstrip().splitlines():
        text = ".*".join(map(re.escape, _ANY.split(line)))
        pattern += r"(?:.*\n)*" if line == "..." else rf"{text} *\n"
    return re.fullmatch(pattern, printed.rstrip() + "\n") is not None


class _Terminal:
    """One shell: what ``cd``, ``export`` and ``activate`` do stays. It has one server at most."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._state = folder.parent / "environment"
        self._port = str(_free_port())
        self._server: _Server | None = None
        self._environment = {
            **{name: value for name, value in os.environ.items() if not _OURS.match(name)},
            "PWD": str(folder),
            "PATH": f"{programs}:{_path_without_tests()}",
            "CURL_HOME": str(folder.parent),
            "FLASK_RUN_PORT": self._port,
            "GUNICORN_CMD_ARGS": f"--bind=127.0.0.1:{self._port}",
            "PYTHONDONTWRITEBYTECODE": "1",  # a file may change twice in a second
            "PYTHONUNBUFFERED": "1",
        }
        (folder.parent / ".curlrc").write_text("silent\nshow-error\n")  # as in a terminal

    @property
    def folder(self) -> Path:
        return Path(self._environment["PWD"])

    def type(self, lines: str) -> tuple[str, str]:
        """Run *lines*; return what they print, and the first of them that failed."""
        printed, failed = "", ""
        port = _PORT.search(lines)
        for line in lines.replace("\\\n", "").splitlines():
            command = _PORT.sub(f":{self._port}", _PACKAGE.sub(str(ROOT), line))
            if _SERVER.search(command):
                self.close()
                self._server = _Server(command, self.folder, self._environment, int(self._port))
                continue
            output, status = self._run(command)
            printed += output if output.endswith("\n") or not output else f"{output}\n"
            failed = failed or (f"{line!r} has ended with {status}" if status else "")
        return printed.replace(f":{self._port}", port[0] if port else ""), failed

    def save(self, place: Place, text: str) -> None:
        """Write a file, and wait until a server that reloads has seen it."""
        restarted = self._server.restarted() if self._server else contextlib.nullcontext()
        with restarted:
            place.write(self.folder, text)

    def close(self) -> None:
        """Stop the server, as Ctrl+C does."""
        if self._server:
            self._server.stop()

    def _run(self, command: str) -> tuple[str, int]:
        done = subprocess.run(
            ["bash", "-c", f"trap 'env -0 >{self._state}' EXIT\n{command}"],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS * 5,
            check=False,
        )
        pairs = self._state.read_text().rstrip("\0").split("\0")
        self._environment = dict(pair.split("=", 1) for pair in pairs)
        return done.stdout, done.returncode


class _Server:
    """A program in the background, which a page has started and talks to by curl."""

    def __init__(
        self, command: str, folder: Path, environment: Mapping[str, str], port: int
    ) -> None:
        self._log = folder.parent / "server.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._port = port
        self._reloads = "--debug" in command
        self._wait_until(lambda: _accepts(port) and (not self._reloads or self._starts() > 0))

    @contextlib.contextmanager
    def restarted(self) -> Iterator[None]:
        """Around a change of a file: wait until a server that reloads has loaded it."""
        starts = self._starts()
        yield
        if self._reloads:
            self._wait_until(lambda: self._starts() > starts)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(_SECONDS)
        while _accepts(self._port):  # a child of it
            time.sleep(0.1)

    def _starts(self) -> int:
        return self._log.read_text().count("Debugger is active!")

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _SECONDS
        while not condition():
            assert time.monotonic() < deadline, self._log.read_text()
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.1)


def _path_without_tests() -> str:
    """The programs of the machine: a page installs what it starts, which the tests may have too."""
    own = str(Path(sys.prefix, "bin"))
    return ":".join(folder for folder in os.environ["PATH"].split(":") if folder != own)


def _output(fence: re.Match[str], following: re.Match[str] | None) -> str | None:
    """The text right after *fence*."""
    if following is None or following["language"] != "text":
        return None
    return None if fence.string[fence.end() : following.start()].strip() else following["body"]


def _is_console(fence: re.Match[str]) -> bool:
    return fence["language"] == "console" and not fence["reason"]


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
