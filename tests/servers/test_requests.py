"""What a client, a second connection and the pool see of requests to a real server."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers.app import PARTY
from tests.servers.serving import (
    COMMANDS,
    CONCURRENT,
    THREADED,
    Server,
    eventually,
    read_line,
)
from tests.support.witness import Witness

pytestmark = pytest.mark.servers

every_server = pytest.mark.parametrize("server", COMMANDS, indirect=True)


def notes(witness: Witness, start: str) -> list[str]:
    """The stored notes whose text has this *start*."""
    return witness.ask(
        "SELECT text FROM notes WHERE text LIKE :start ORDER BY text", start=f"{start}%"
    )


@every_server
def test_status_line_of_a_success_comes_after_the_commit(server: Server, witness: Witness) -> None:
    """P3: when the first bytes of a success can be read, its row is stored."""
    with server.posting("/stored/plain?slowly") as connection:
        assert read_line(connection) == "HTTP/1.1 201 CREATED"
        assert notes(witness, "plain") == ["plain"]


@every_server
def test_first_chunk_of_a_stream_comes_after_the_commit(server: Server, witness: Witness) -> None:
    """P3, P9: what the view wrote is stored before its streamed body starts."""
    with server.posting("/streamed/chunk?slowly") as connection:
        assert read_line(connection) == "HTTP/1.1 201 CREATED"
        assert notes(witness, "chunk") == ["chunk"]


@every_server
def test_commit_that_fails_is_answered_by_the_error_handler(
    server: Server, witness: Witness
) -> None:
    """P3: an error of the COMMIT itself reaches ``errorhandler``; ``after_request`` sees it."""
    answer = server.post("/orphan/lost")
    assert (answer.status, answer.body, answer.headers["X-Signed"]) == (409, b"conflict", "yes")
    assert notes(witness, "lost") == []
    assert eventually(lambda: server.state()["checked_out"] == 0)  # the context ends behind it


@every_server
def test_what_fails_before_the_first_byte_stores_nothing(server: Server, witness: Witness) -> None:
    """P3, P5: the client gets a 500, whichever step after the view has raised."""
    for step in ("after_request", "cookie", "request_finished"):
        with server.posting(f"/stored/late-{step}?fails={step}") as connection:
            assert read_line(connection) == "HTTP/1.1 500 INTERNAL SERVER ERROR"
            assert notes(witness, "late") == []
    assert eventually(lambda: server.state()["checked_out"] == 0)


@every_server
def test_access_log_is_stored_with_every_status(server: Server, witness: Witness) -> None:
    """P4, P5: what the view wrote is undone first, and the log is part of the commit."""
    for view in ("stored", "refused", "orphan", "broken"):
        server.post(f"/{view}/logged-{view}?logged={view}")
    assert notes(witness, "logged") == ["logged-stored"]
    assert notes(witness, "access") == [
        "access broken 500",
        "access orphan 409",
        "access refused 400",
        "access stored 201",
    ]
    assert eventually(lambda: server.state()["checked_out"] == 0)


@pytest.mark.fault(
    "W8",
    fault="The client disconnects in the middle of a stream",
    then="The session is closed; what the view wrote is stored",
)
@every_server
def test_disconnected_stream_gives_its_connection_back(server: Server, witness: Witness) -> None:
    """P6: a client that goes away in mid-stream leaves no transaction and no half-written row."""
    with server.posting("/streamed/cut") as connection:
        read_line(connection)
        assert eventually(lambda: "idle in transaction" in server.sessions(witness))
    assert eventually(lambda: server.state()["checked_out"] == 0)
    assert set(server.sessions(witness)) == {"idle"}
    assert notes(witness, "cut") == ["cut"]
    assert server.post("/stored/afterwards").status == 201


@pytest.mark.parametrize(
    "server",
    [f"{kind} {database}" for kind in THREADED for database in ("postgresql", "sqlite-file")],
    indirect=True,
)
def test_eight_threads_store_exactly_what_they_acknowledged(
    server: Server, witness: Witness
) -> None:
    """P2, P4, P6: concurrent requests keep their outcomes apart, and every connection returns."""
    server.post("/stored/taken")
    expected = {"stored": 201, "broken": 500, "refused": 400, "stored/taken": 409}
    requests = [
        (kind, kind if kind.endswith("taken") else f"{kind}/many-{number}")
        for number, kind in enumerate(itertools.islice(itertools.cycle(expected), 240))
    ]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda request: server.post(f"/{request[1]}").status, requests))
    assert answers == [expected[kind] for kind, _ in requests]
    acknowledged = [path.partition("/")[2] for kind, path in requests if kind == "stored"]
    assert notes(witness, "many") == sorted(acknowledged)
    assert eventually(lambda: server.state()["checked_out"] == 0)


@pytest.mark.parametrize("server", CONCURRENT, indirect=True)
def test_requests_in_flight_together_have_units_of_their_own(
    server: Server, witness: Witness
) -> None:
    """P2: threads and greenlets do not share a unit, nor see what another has not committed."""
    texts = [f"met-{number}{'-fails' if number % 2 else ''}" for number in range(PARTY)]
    with ThreadPoolExecutor(PARTY) as clients:
        answers = list(clients.map(lambda text: server.post(f"/met/{text}"), texts))
    assert [answer.status for answer in answers] == [200, 500] * (PARTY // 2)
    units = [answer.json for answer in answers if answer.status == 200]
    assert [unit["seen"] for unit in units] == [[text] for text in texts[::2]]
    assert len({unit["backend"] for unit in units}) == len(units)
    assert notes(witness, "met") == texts[::2]
    assert eventually(lambda: server.state()["checked_out"] == 0)
