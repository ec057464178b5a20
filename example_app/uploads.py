"""The uploaded file of a request."""

from __future__ import annotations

from typing import IO

from flask import request

from .refusals import Refused


def stream() -> IO[bytes]:
    """Return the uploaded file of a form, or the body of any other request.

    Werkzeug keeps a large upload in a temporary file; a plain body is read from the network as
    needed.

    :raises Refused: the form has no file.
    """
    if not _is_form():
        return request.stream
    file = request.files.get("file")
    if file is None or not file.filename:
        raise Refused("Choose a CSV file first.")
    return file.stream


def name() -> str:
    """Return the name that the client gave the file, cut to a short one."""
    # curl calls any body a form. To look for files in it would consume it.
    file = request.files.get("file") if _is_form() else None
    return ((file.filename if file else None) or "a file without a name")[:80]


def _is_form() -> bool:
    return request.mimetype == "multipart/form-data"
