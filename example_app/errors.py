"""Answers to what cannot be done: a sentence, as a page or as JSON.

By the time one of these handlers runs, the unit of work of the request has been rolled back, so
every answer here may say that nothing was stored. The handlers can use the database: the pages
they show list the accounts anew.
"""

from __future__ import annotations

from http import HTTPStatus

from flask import Flask, Response, jsonify, render_template, request, session
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import IntegrityError, OperationalError
from werkzeug.exceptions import HTTPException


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


def _constraint(error: IntegrityError | OperationalError) -> ResponseReturnValue:
    """A constraint has refused; MariaDB reports a CHECK as an operational error."""
    reason = str(error.orig)
    for name, sentence in _CONSTRAINTS.items():
        if name in reason:
            return _refused(Refused(f"{sentence} Nothing was stored.", 409))
    raise error  # not a refusal but a fault: 500


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
