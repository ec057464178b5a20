"""The file that a request carries."""

from __future__ import annotations

from typing import IO

from flask import request

from .errors import Refused


def stream() -> IO[bytes]:
    """The uploaded file of a form, else the body of the request itself.

    A large upload lies in a temporary file, a plain body is read from the network as needed.

    :raises Refused: the form has no file.
    """
    if request.mimetype != "multipart/form-data":
        return request.stream
    file = request.files.get("file")
    if file is None or not file.filename:
        raise Refused("Choose a CSV file first.")
    return file.stream


def name() -> str:
    """What the sender calls the file, cut to one short line."""
    file = request.files.get("file")
    given = (file.filename if file else None) or "a file without a name"
    return "".join(letter if letter.isprintable() else "?" for letter in given)[:80]
