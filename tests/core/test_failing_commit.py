"""What is done when the commit of a request fails, and how often."""

from __future__ import annotations

import pytest
from flask import Flask
from sqlalchemy import event
from sqlalchemy.orm import Session

from flask_uow import Database
from flask_uow._unit.unit import UnitOfWork
from tests.support.models import User


class CommitError(Exception):
    """What a listener raises at the commit."""


@pytest.mark.parametrize("is_handled", [True, False], ids=["handled", "without a handler"])
def test_the_failure_of_a_commit_is_handled_once(
    is_handled: bool, app: Flask, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error handlers are asked after that, and do not cause a second rollback."""
    failures: list[BaseException] = []
    fail = UnitOfWork.fail

    def count(unit: UnitOfWork, error: BaseException) -> None:
        failures.append(error)
        fail(unit, error)

    monkeypatch.setattr(UnitOfWork, "fail", count)
    if is_handled:
        app.register_error_handler(CommitError, lambda _: ("refused", 409))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        event.listen(db.session(), "before_commit", refuse)
        return ""

    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert app.test_client().post("/").status_code == (409 if is_handled else 500)
    assert [type(failure) for failure in failures] == [CommitError]


def refuse(_session: Session) -> None:
    raise CommitError
