"""Serve the app on a socket that is open already: ``python -m tests.servers waitress 5``."""

from __future__ import annotations

import socket
import sys

from .app import create_app


def waitress(number: int) -> None:
    import waitress  # type: ignore[import-untyped]

    waitress.serve(create_app(), sockets=[socket.socket(fileno=number)], threads=8)


def werkzeug(number: int) -> None:
    from werkzeug.serving import make_server

    make_server("127.0.0.1", 0, create_app(), threaded=True, fd=number).serve_forever()


if __name__ == "__main__":
    serve = {"waitress": waitress, "werkzeug": werkzeug}[sys.argv[1]]
    serve(int(sys.argv[2]))
