"""Answers to what cannot be done: a sentence, as a page or as JSON.

By the time one of these handlers runs, the unit of work of the request has been rolled back, so
every answer here may say that nothing was stored. The handlers can use the database: the pages
they show list the accounts anew, and what they write themselves is stored with their answer.
"""

from __future__ import annotations

from http import HTTPStatus

from flask import Flask, Response, g, jsonify, render_template, request, session
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from werkzeug.exceptions import HTTPException

from . import journal


class Refused(Exception):
    """The ledger does not do what was asked.

    :param message: one sentence for the person who asked.
    :param line: of the file that is being imported, if that is where the reason lies.
    """

    def __init__(self, message: str, status: int = 422, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.line = line


# The name of a constraint, or what SQLite says in its place, and the sentence for it.
_CONSTRAINTS = {
    "ck_accounts_no_overdraft": "There is not enough money in the account.",
    "ck_accounts_within_bounds": "The account cannot hold that much.",
    "uq_accounts_name": "There is an account with this name already.",
    "accounts.name": "There is an account with this name already.",
}

# A form is shown again with what was typed and with the reason; its fields read 'request.values'.
_FORMS = {
    "pages.open_account": "open_account.html",
    "pages.transfer": "transfer.html",
    "pages.import_file": "import.html",
}


def init_app(app: Flask) -> None:
    app.register_error_handler(Refused, _refused)
    app.register_error_handler(IntegrityError, _constraint)
    app.register_error_handler(OperationalError, _constraint)
    app.register_error_handler(HTTPException, _http)


def _refused(error: Refused) -> ResponseReturnValue:
    template = _FORMS.get(request.endpoint or "", "error.html")
    where = {} if error.line is None else {"line": error.line}
    return _answer(error.status, error.message, template, **where)


def reason(error: DBAPIError) -> str | None:
    """The sentence for a constraint that has refused; none if the error is another one.

    MariaDB reports a CHECK as an operational error.
    """
    found = str(error.orig)
    return next((sentence for name, sentence in _CONSTRAINTS.items() if name in found), None)


def _constraint(error: IntegrityError | OperationalError) -> ResponseReturnValue:
    sentence = reason(error)
    if sentence is None:
        raise error  # not a refusal but a fault: 500
    # No 'db.independent()' is needed: the refused work is gone, and this belongs to the answer.
    journal.refused(g.get("attempt", f"{request.method} {request.path}"), sentence)
    return _refused(Refused(f"{sentence} Nothing was stored.", 409))


def _http(error: HTTPException) -> ResponseReturnValue:
    # This page needs no database: it may be the database that has failed.
    body, status = _answer(error.code or 500, error.description or error.name, "error.html")
    headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return body, status, headers


def _answer(status: int, message: str, template: str, **more: int) -> tuple[str | Response, int]:
    if request.method == "POST":
        # The view may have flashed its success, and then the commit failed.
        session.pop("_flashes", None)
    if _wants_json():
        return jsonify(error=message, **more), status
    name = HTTPStatus(status).phrase
    return render_template(template, status=status, name=name, error=message), status


def _wants_json() -> bool:
    best = request.accept_mimetypes.best_match(["text/html", "application/json"])
    return request.path.startswith("/api/") or best == "application/json"
