"""Flask-Admin: its views commit by themselves."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from flask import Flask

from flask_uow import Database
from tests.support.databases import TestDatabase
from tests.support.recipes import Recipe, code_under, ready
from tests.support.witness import Witness

admin = pytest.importorskip("flask_admin")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

if admin.__version__ == "2.2.1":
    exec(code_under("Flask-Admin 2.2.1"), {})
sqla: Any = pytest.importorskip("flask_admin.contrib.sqla")


class Failing(sqla.ModelView):
    """A view whose hook fails after the row was committed."""

    def after_model_change(self, form: Any, model: Any, is_created: bool) -> None:
        raise LookupError


def serve(app: Flask, db: Database, view: Any) -> None:
    admin.Admin(app).add_view(view)
    ready(app, db)


def test_rows_are_created_changed_listed_and_deleted(
    recipe: Recipe, app: Flask, witness: Witness
) -> None:
    """By the forms."""
    recipe("Flask-Admin")
    client = app.test_client()
    assert client.post("/admin/user/new/", data={"name": "ada"}).status_code == 302
    assert witness.names() == ["ada"]
    assert "ada" in client.get("/admin/user/?search=ada").text
    assert client.post("/admin/user/edit/?id=1", data={"name": "bob"}).status_code == 302
    assert witness.names() == ["bob"]
    assert client.post("/admin/user/delete/", data={"id": "1"}).status_code == 302
    assert witness.names() == []


def test_a_refused_row_is_named(recipe: Recipe, app: Flask, witness: Witness) -> None:
    """Flask-Admin shows the form again, and rolls back."""
    recipe("Flask-Admin")
    client = app.test_client()
    client.post("/admin/user/new/", data={"name": "ada"})
    response = client.post("/admin/user/new/", data={"name": "ada"})
    assert response.status_code == 200
    assert witness.names() == ["ada"]


@pytest.mark.parametrize(
    ("modes", "names"),
    [({"flask_admin": "flush"}, []), ({"admin": "flush"}, ["ada"]), ({}, ["ada"])],
)
def test_a_request_that_fails_stores_nothing_if_its_package_flushes(
    modes: dict[str, str], names: list[str], app: Flask, db: Database, models: Any, witness: Witness
) -> None:
    """The blueprint is called ``user``; to name it ``admin`` does nothing."""
    app.config["UOW_EXPLICIT_COMMIT"] = modes
    serve(app, db, Failing(models.User, db.session))
    assert app.test_client().post("/admin/user/new/", data={"name": "ada"}).status_code == 500
    assert witness.names() == names


def test_a_method_that_the_app_overrides_is_code_of_the_app(
    app: Flask, db: Database, models: Any, witness: Witness
) -> None:
    """So its module is named as well."""

    class Own(Failing):
        def create_model(self, form: Any) -> Any:
            db.session.add(model := models.User(name=form.name.data))
            db.session.commit()
            self.after_model_change(form, model, True)

    app.config["UOW_EXPLICIT_COMMIT"] = {"flask_admin": "flush", __name__: "flush"}
    serve(app, db, Own(models.User, db.session))
    assert app.test_client().post("/admin/user/new/", data={"name": "ada"}).status_code == 500
    assert witness.names() == []


@pytest.mark.skipif(admin.__version__ != "2.2.1", reason="the recipe is for Flask-Admin 2.2.1")
def test_the_recipe_for_2_2_1_takes_the_database_itself(
    app: Flask, db: Database, models: Any, witness: Witness
) -> None:
    """And leaves no module behind that looks like Flask-SQLAlchemy."""
    assert "flask_sqlalchemy" not in sys.modules
    app.config["UOW_EXPLICIT_COMMIT"] = {"flask_admin": "flush"}
    serve(app, db, sqla.ModelView(models.User, db))
    client = app.test_client()
    assert client.post("/admin/user/new/", data={"name": "ada"}).status_code == 302
    assert "ada" in client.get("/admin/user/").text
    assert witness.names() == ["ada"]


def test_several_rows_are_deleted_at_once(
    recipe: Recipe, app: Flask, witness: Witness, database: TestDatabase, request: Any
) -> None:
    """But not with psycopg 3: Flask-Admin sends the keys as text."""
    if not database.is_sqlite:
        request.node.add_marker(pytest.mark.xfail(reason="Flask-Admin: integer = varchar"))
    recipe("Flask-Admin")
    client = app.test_client()
    for name in ("ada", "bob"):
        client.post("/admin/user/new/", data={"name": name})
    client.post("/admin/user/action/", data={"action": "delete", "rowid": ["1", "2"]})
    assert witness.names() == []
