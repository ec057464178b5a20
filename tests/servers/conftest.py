"""Servers that are started once for all tests of a module."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.serving import Server, running
from tests.support import databases
from tests.support.witness import Witness

Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Start]:
    """Starts a server, or finds the one that runs on that database already."""
    found: dict[tuple[str, ...], Server] = {}
    with contextlib.ExitStack() as stack:

        def start(kind: str, database: str = "postgresql", *options: str) -> Server:
            key = (kind, database, *options)
            if key not in found:
                folder = tmp_path_factory.mktemp(kind)
                url = _url(request, stack, database, folder)
                found[key] = stack.enter_context(running(kind, url, folder, *options))
            return found[key]

        yield start


def _url(
    request: pytest.FixtureRequest, stack: contextlib.ExitStack, database: str, folder: Path
) -> str:
    """A database for one server alone: other tests empty theirs."""
    if database == "sqlite-file":
        return f"{databases.sqlite_file(folder).url}?timeout=60"
    return stack.enter_context(databases.own_database(request.getfixturevalue("postgresql_url")))


@pytest.fixture
def server(request: pytest.FixtureRequest, start: Start) -> Iterator[Server]:
    """The server of the parameter, such as ``"waitress"`` or ``"waitress sqlite-file"``.

    What it prints during the test is shown if the test fails.
    """
    server = start(*request.param.split())
    before = server.log.stat().st_size
    yield server
    print(server.log.read_bytes()[before:].decode())


@pytest.fixture
def witness(server: Server) -> Witness:
    """A connection of our own to the database of the server."""
    return Witness(server.url)
