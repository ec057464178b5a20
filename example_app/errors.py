"""The error handlers: each error becomes one sentence, as an HTML page or as JSON.

When one of these handlers runs, the unit of work of the request has been rolled back, if it wrote
anything, so every response here may say that nothing was stored. The handlers can use the database:
the pages they render list the accounts again, and what the handlers write is committed with their
response.
"""

from __future__ import annotations

from http import HTTPStatus

from flask import Flask, Response, current_app, jsonify, render_template, request, session
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from flask_uow.errors import is_transient

from . import journal, refusals
from .refusals import Refused, UnknownAccount

# A refused form is shown again with the reason and the values that were typed: its fields read
# 'request.values'.
_FORMS = {
    "pages.open_account": "open_account.html",
    "pages.transfer": "transfer.html",
    "pages.import_file": "import.html",
}

_MESSAGES = {413: "The file is too large. Divide it into files of 8 MB or less."}


def init_app(app: Flask) -> None:
    app.register_error_handler(Refused, _refused)
    app.register_error_handler(SQLAlchemyError, _database)
    app.register_error_handler(HTTPException, _http)


def _refused(error: Refused) -> ResponseReturnValue:
    status = 404 if isinstance(error, UnknownAccount) else 422
    more = {} if error.line is None else {"line": error.line}
    return _respond(status, error.message, _form(), error.field, **more)


def _database(error: SQLAlchemyError) -> ResponseReturnValue:
    if is_transient(error):
        reason = getattr(error, "orig", None) or error
        current_app.logger.warning("503, because the database is busy or away: %r", reason)
        return _busy()
    refused = refusals.by_constraint(error)
    if refused is None:
        raise error  # a fault, not a refusal: 500
    # In the handler's own unit of work: the refused work is gone, and this row is committed with
    # the response. 'db.independent()' is not needed.
    journal.refused(refused.message)
    return _respond(409, f"{refused.message} Nothing was stored.", _form(), refused.field)


def _busy() -> ResponseReturnValue:
    message = "The database is busy or cannot be reached. Try again in a few seconds."
    if request.method != "GET":  # if the connection was lost at COMMIT, it may be stored
        message += " Before you send anything again, check whether it was stored."
    return *_respond(503, message, "busy.html"), {"Retry-After": "5"}


def _http(error: HTTPException) -> ResponseReturnValue:
    if is_transient(error):  # of a 500: an error handler found the database busy
        return _busy()
    # The page for these needs no database, because the database may have failed.
    message = _MESSAGES.get(error.code or 500, error.description or error.name)
    body, status = _respond(error.code or 500, message, "error.html")
    headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return body, status, headers


def _form() -> str:
    return _FORMS.get(request.endpoint or "", "error.html")


def _respond(
    status: int, message: str, template: str, field: str | None = None, **more: int
) -> tuple[str | Response, int]:
    if request.method == "POST":
        # The view may have flashed its success before the commit failed.
        session.pop("_flashes", None)
    if _wants_json():
        return jsonify(error=message, **more), status
    name = HTTPStatus(status).phrase
    page = render_template(template, status=status, name=name, error=message, field=field)
    return page, status


def _wants_json() -> bool:
    best = request.accept_mimetypes.best_match(["text/html", "application/json"])
    return request.path.startswith("/api/") or best == "application/json"
