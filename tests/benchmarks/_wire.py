"""A TCP proxy that counts how often a client has to wait for its server."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL

_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}


class RoundTrips:
    """Passes bytes on between a client and a server.

    A round trip is a turn: the client sends, in however many pieces, and then the server does.

    :ivar count: the turns so far, of all connections together.
    """

    def __init__(self, url: URL) -> None:
        self.count = 0
        self._url = url
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._pass_on, args=[client], daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, self._connect() as server:
            turn = server
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is client and turn is server:
                        self.count += 1
                    turn = source
                    (server if source is client else client).sendall(data)

    def _connect(self) -> socket.socket:
        path = self._url.query.get("unix_socket")
        if path is None:
            port = self._url.port or _PORTS[self._url.get_backend_name()]
            return socket.create_connection((self._url.host or "127.0.0.1", port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(path))
        return server


@contextmanager
def counted(url: URL) -> Iterator[tuple[URL, RoundTrips]]:
    """Stand a proxy before the server of *url*; yields the URL to use instead, and the counter."""
    proxy = RoundTrips(url)
    by_tcp = url.difference_update_query(["unix_socket"])
    try:
        yield by_tcp.set(host="127.0.0.1", port=proxy.port), proxy
    finally:
        proxy.close()
