"""What is left of a request whose worker was killed because it took too long."""

from __future__ import annotations

import contextlib
import http.client

import pytest

from tests.servers.serving import Server, eventually
from tests.support.witness import Witness

pytestmark = pytest.mark.servers


@pytest.mark.fault(
    "W6",
    fault="A worker that takes too long is killed by gunicorn",
    then="Nothing is stored, its connections end, and the next worker takes over",
)
@pytest.mark.parametrize("server", ["gunicorn-sync postgresql --timeout 1"], indirect=True)
@pytest.mark.parametrize("where", ["asleep", "asleep_in_sql"])
def test_killed_worker_stores_nothing_and_its_connections_vanish(
    server: Server, witness: Witness, where: str
) -> None:
    """P6: a worker timeout ends the transaction and its connection; the next worker serves."""
    worker = server.state()["pid"]
    with contextlib.suppress(http.client.HTTPException, ConnectionError):  # some just hang up
        assert server.post(f"/{where}/{where}").status == 500
    assert eventually(lambda: server.sessions(witness) == [])
    assert server.state()["pid"] != worker
    assert server.post(f"/stored/after-{where}").status == 201
    assert witness.ask("SELECT text FROM notes WHERE text LIKE :end", end=f"%{where}") == [
        f"after-{where}"
    ]
