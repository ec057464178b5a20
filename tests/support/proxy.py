"""The fault proxy: a TCP connection that breaks on demand, at the byte where it hurts.

::

    with FaultProxy.of(database.url) as proxy:      # or FaultProxy(host, port), or a socket file
        engine = create_engine(proxy.url_for(database.url))
        proxy.cut("before")          # the next COMMIT never reaches the server
        proxy.cut("after_send")      # ... is executed, and its answer meets a reset connection
        proxy.cut("after_send_eof")  # ... or one that was closed in an orderly way
        proxy.cut("swallow")         # ... or nobody ever delivers it, and nothing is closed
        proxy.cut("before", at=b"INSERT")
        proxy.drop()                 # reset what is open now, idle or not
        proxy.refuse()               # connection refused, until proxy.listen()
        proxy.blackhole = True       # every byte is accepted and none delivered
        proxy.delay = 0.2            # seconds, for each packet in both directions
        proxy.slice = True           # answers arrive byte by byte

It reads plain text only; :meth:`FaultProxy.url_for` turns TLS off.

One thread serves one connection. It has both of its sockets to itself: a ``close()`` sends no RST
while another thread still waits in a ``recv()`` of the same socket.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Literal

from sqlalchemy import make_url

Mode = Literal["before", "after_send", "after_send_eof", "swallow"]

_TICK = 0.02  # seconds between two looks at the orders
_NO_TLS = {"postgresql": {"sslmode": "disable", "gssencmode": "disable"}}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to one server.

    :param host: of the server, or the path of its socket file.
    :param port: of the server; not used with a socket file.

    :ivar port: where the proxy listens.
    :ivar delay: seconds that each packet is kept back.
    :ivar slice: deliver the answers of the server byte by byte.
    :ivar blackhole: accept connections and bytes, deliver nothing.
    :ivar accepted: how many connections have been opened so far.
    :ivar cuts: how many of the orders given by :meth:`cut` have been carried out.
    """

    def __init__(self, host: str, port: int = 0) -> None:
        self.port = 0
        self.delay = 0.0
        self.slice = False
        self.blackhole = False
        self.accepted = 0
        self.cuts = 0
        self._target = host, port
        self._order: tuple[bytes, Mode] | None = None
        self._settled = threading.Event()
        self._links: set[_Link] = set()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    @classmethod
    def of(cls, database_url: str) -> FaultProxy:
        """A proxy in front of the server of *database_url*, which may name a socket file."""
        url = make_url(database_url)
        if path := url.query.get("unix_socket"):
            return cls(str(path))
        return cls(url.host or "127.0.0.1", url.port or _PORTS[url.get_backend_name()])

    def url_for(self, database_url: str, *, driver: str | None = None, **query: str) -> str:
        """*database_url*, by way of the proxy.

        :param driver: another driver than that of the URL.
        :param query: options for the driver, such as ``connect_timeout="2"``.
        """
        url = make_url(database_url).difference_update_query(["unix_socket"])
        if driver:
            url = url.set(drivername=f"{url.get_backend_name()}+{driver}")
        if driver == "mysqldb":  # does not know the option
            url = url.difference_update_query(["ssl_disabled"])
        url = url.set(host="127.0.0.1", port=self.port)
        url = url.update_query_dict({**_NO_TLS.get(url.get_backend_name(), {}), **query})
        return url.render_as_string(hide_password=False)

    # Orders -----------------------------------------------------------------------------------

    def cut(self, mode: Mode, *, at: bytes = b"COMMIT") -> None:
        """Cut the next connection that sends *at*, in capitals or not, at that packet."""
        self._settled.clear()
        self._order = at.upper(), mode

    def drop(self, *, reset: bool = True) -> None:
        """End all open connections at both ends, by RST or by FIN, and wait until they are."""
        links = list(self._links)
        for link in links:
            link.order = "reset" if reset else "close"
        for link in links:
            link.join(timeout=10)

    def settle(self) -> None:
        """Wait until the order was carried out, and the server has done what it was sent."""
        assert self._settled.wait(timeout=10), "nothing was cut, or the server did not answer"

    def refuse(self) -> None:
        """Do not listen any more; open connections go on."""
        listener, self._listener = self._listener, None
        if listener is not None and self._acceptor is not None:
            self._acceptor.join(timeout=10)
            listener.close()

    def listen(self) -> None:
        """Listen (again), on the same port as before."""
        if self._listener is None:
            listener = socket.create_server(("127.0.0.1", self.port))
            listener.settimeout(_TICK)  # to see that it is not wanted any more
            self._listener, self.port = listener, listener.getsockname()[1]
            self._acceptor = threading.Thread(target=self._accept, args=[listener], daemon=True)
            self._acceptor.start()

    def __enter__(self) -> FaultProxy:
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse()
        self.drop()

    # The work ---------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while self._listener is listener:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            self.accepted += 1
            try:
                server = self._connect()
            except OSError:
                _reset(client)
                continue
            link = _Link(self, client, server)
            self._links.add(link)
            link.start()

    def _connect(self) -> socket.socket:
        host, port = self._target
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(host)
            return server
        return socket.create_connection((host, port), timeout=10)

    def take_order(self, packet: bytes) -> Mode | None:
        """What is to be done at *packet*, once; for the threads of the connections."""
        order = self._order
        if order is None or order[0] not in packet.upper():
            return None
        self._order = None
        self.cuts += 1
        return order[1]

    def note_settled(self) -> None:
        """The server has answered a packet that was cut; for the threads of the connections."""
        self._settled.set()

    def forget(self, link: _Link) -> None:
        """For the threads of the connections."""
        self._links.discard(link)


class _Link(threading.Thread):
    """One connection of a client, and the one to the server that belongs to it.

    :ivar order: end both, by "reset" or by "close".
    :ivar gone: the client is closed; the server may still be at work for it.
    :ivar mute: the client hears nothing any more.
    """

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        super().__init__(daemon=True)
        self.proxy = proxy
        self.client = client
        self.server = server
        self.order: Literal["", "reset", "close"] = ""
        self.gone = False
        self.mute = False
        for one in (client, server):
            if one.family != socket.AF_UNIX:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self) -> None:
        end = _reset
        try:
            for source, packet in self._packets():
                if source is self.client:
                    self._to_server(packet)
                elif self.gone:
                    break  # it has done what it was sent
                elif self.mute:
                    self.proxy.note_settled()
                else:
                    self._to_client(packet)
        except _Closed:
            end = _close
        except OSError:  # an end that was reset
            pass
        finally:
            end(self.client)
            end(self.server)
            if self.gone:
                self.proxy.note_settled()
            self.proxy.forget(self)

    def _packets(self) -> Iterator[tuple[socket.socket, bytes]]:
        while not self.order:
            watched = [self.server] if self.gone else [self.client, self.server]
            for source in select.select(watched, [], [], _TICK)[0]:
                packet = source.recv(65536)
                if not packet:
                    raise _Closed
                if not self.proxy.blackhole:
                    time.sleep(self.proxy.delay)
                    yield source, packet
        if self.order == "close":
            raise _Closed

    def _to_server(self, packet: bytes) -> None:
        mode = self.proxy.take_order(packet)
        if mode == "before":
            self.gone = True
            raise ConnectionResetError
        self.server.sendall(packet)
        if mode == "swallow":
            self.mute = True
        elif mode is not None:
            self.gone = True
            (_reset if mode == "after_send" else _close)(self.client)

    def _to_client(self, packet: bytes) -> None:
        step = 1 if self.proxy.slice else len(packet)
        for start in range(0, len(packet), step):
            self.client.sendall(packet[start : start + step])


class _Closed(Exception):
    """One end has closed the connection in an orderly way."""


def _reset(one: socket.socket) -> None:
    """Close with an RST."""
    with contextlib.suppress(OSError):  # closed already
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def _close(one: socket.socket) -> None:
    """Close with a FIN."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
