"""What ``db.session.commit()`` does in the middle of a request: ``UOW_EXPLICIT_COMMIT``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, stream_with_context

from flask_uow import CommitRefused, ConfigError, Database
from tests.conftest import MakeApp
from tests.support.databases import anywhere, concurrently
from tests.support.models import Post, User
from tests.support.witness import Witness


def code_of_others(db: Database, name: str = "ada") -> None:
    """An extension that stores something and commits."""
    db.session.add(User(name=name))
    db.session.commit()


def view_that_commits(db: Database, status: int) -> Callable[[], tuple[str, int]]:
    def view() -> tuple[str, int]:
        code_of_others(db)
        return "", status

    return view


def stored(app: Flask, db: Database, witness: Witness, status: int = 400) -> list[str]:
    """What is stored of a request that commits, and is refused all the same."""
    app.add_url_rule("/", "view", view_that_commits(db, status), methods=["POST"])
    assert app.test_client().post("/").status_code == status
    return witness.names()


def test_allowed_commit_stores_what_came_before(app: Flask, db: Database, witness: Witness) -> None:
    """The default, and SQLAlchemy's meaning: it is stored though the request fails (P8)."""
    assert stored(app, db, witness) == ["ada"]


@pytest.mark.parametrize("status", [200, 400])
def test_flushing_commit_stores_with_the_request(
    status: int, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """The request stays all or nothing; the row has its key, as after a commit."""
    app = make_app(UOW_EXPLICIT_COMMIT="flush")

    @app.post("/")
    def create() -> tuple[str, int]:
        ada = User(name="ada")
        db.session.add(ada)
        db.session.commit()
        assert ada.id == 1
        db.session.add(Post(title="behind"))
        return "", status

    app.test_client().post("/")
    expected = (["ada"], ["behind"]) if status == 200 else ([], [])
    assert (witness.names(), witness.titles()) == expected


@anywhere
def test_flushing_commit_sends_no_commit(make_app: MakeApp, db: Database, witness: Witness) -> None:
    """And none of the hooks runs; they wait for the request."""
    app = make_app(UOW_EXPLICIT_COMMIT="flush")
    ran: list[str] = []

    @app.post("/")
    def create() -> str:
        db.on_commit(ran.append, "hook")
        code_of_others(db)
        assert ran == []
        assert witness.names() == []
        return ""

    assert app.test_client().post("/").status_code == 200
    assert (ran, witness.names()) == (["hook"], ["ada"])


def test_forbidden_commit_is_refused_and_says_where(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """The file and the line of the call; the request fails, and nothing is stored."""
    app = make_app(UOW_EXPLICIT_COMMIT="forbid")
    app.register_error_handler(CommitRefused, lambda error: (str(error), 500))
    app.add_url_rule("/", "view", view_that_commits(db, 200), methods=["POST"])
    response = app.test_client().post("/")
    line = code_of_others.__code__.co_firstlineno + 3
    assert response.status_code == 500
    assert f"test_explicit_commit.py:{line}" in response.text
    assert "forbidden here, by UOW_EXPLICIT_COMMIT" in response.text
    assert witness.names() == []


@anywhere
@pytest.mark.parametrize("mode", ["flush", "forbid"])
def test_view_that_commits_by_itself_is_always_allowed(
    mode: str, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """With the rule "explicit" nobody else would commit its work."""
    app = make_app(UOW_EXPLICIT_COMMIT=mode)

    @app.post("/")
    @db.unit(commit="explicit")
    def create() -> tuple[str, int]:
        code_of_others(db)
        return "", 400

    app.test_client().post("/")
    assert witness.names() == ["ada"]


@anywhere
@pytest.mark.parametrize("mode", ["flush", "forbid"])
def test_commit_outside_of_a_request_is_always_allowed(
    mode: str, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """In a command, and in a request context that nobody dispatches."""
    app = make_app(UOW_EXPLICIT_COMMIT=mode)
    with app.app_context():
        code_of_others(db, "command")
    with app.test_request_context("/"):
        code_of_others(db, "test")
    assert witness.names() == ["command", "test"]


@anywhere
@pytest.mark.parametrize("mode", ["flush", "forbid"])
def test_block_inside_a_request_is_not_concerned(
    mode: str, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """Savepoints are no commits."""
    app = make_app(UOW_EXPLICIT_COMMIT=mode)

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        with db.atomic():
            db.session.add(User(name="bob"))
        with db.session.begin_nested():
            db.session.add(User(name="cleo"))
        return ""

    assert app.test_client().post("/").status_code == 200
    assert witness.names() == ["ada", "bob", "cleo"]


@anywhere
@pytest.mark.parametrize("mode", ["allow", "flush", "forbid"])
def test_transaction_of_a_with_block_ends_as_the_mode_says(
    mode: str, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """The end of ``with db.session.begin():`` is a commit; with "flush" it is a savepoint."""
    app = make_app(UOW_EXPLICIT_COMMIT=mode)

    @app.post("/")
    def create() -> tuple[str, int]:
        with db.session.begin():
            db.session.add(User(name="ada"))
        return "", 400

    assert app.test_client().post("/").status_code == (500 if mode == "forbid" else 400)
    assert witness.names() == (["ada"] if mode == "allow" else [])


# By blueprint ---------------------------------------------------------------------------------


@anywhere
def test_mode_of_a_blueprint(make_app: MakeApp, db: Database, witness: Witness) -> None:
    """One that belongs to an extension may flush where the rest of the app is forbidden to."""
    app = make_app(UOW_EXPLICIT_COMMIT={"": "forbid", "admin": "flush", "legacy": "allow"})
    for name in ("admin", "legacy", "other"):
        blueprint = Blueprint(name, __name__, url_prefix=f"/{name}")

        @blueprint.post("/")
        def create(name: str = name) -> tuple[str, int]:
            code_of_others(db, name)
            return "", 400

        app.register_blueprint(blueprint)
    client = app.test_client()
    assert [client.post(f"/{n}/").status_code for n in ("admin", "legacy", "other")] == [
        400,
        400,
        500,
    ]
    assert witness.names() == ["legacy"]


@anywhere
def test_mode_of_a_nested_blueprint(make_app: MakeApp, db: Database, witness: Witness) -> None:
    """The innermost one that is named speaks; others inherit from the one around them."""
    app = make_app(UOW_EXPLICIT_COMMIT={"outer": "forbid", "outer.inner": "allow"})
    outer = Blueprint("outer", __name__, url_prefix="/outer")
    for name in ("inner", "plain"):
        nested = Blueprint(name, __name__, url_prefix=f"/{name}")

        @nested.post("/")
        def create(name: str = name) -> tuple[str, int]:
            code_of_others(db, name)
            return "", 400

        outer.register_blueprint(nested)
    app.register_blueprint(outer)
    client = app.test_client()
    assert client.post("/outer/inner/").status_code == 400
    assert client.post("/outer/plain/").status_code == 500
    assert witness.names() == ["inner"]


# By package -----------------------------------------------------------------------------------


def package(name: str) -> Callable[[Database, str], None]:
    """:func:`code_of_others`, as the code of a module called *name*."""
    source = "def store(db, name):\n    db.session.add(User(name=name))\n    db.session.commit()\n"
    module: dict[str, Any] = {"__name__": name, "User": User}
    exec(source, module)
    store: Callable[[Database, str], None] = module["store"]
    return store


def stored_by(module: str, app: Flask, db: Database, witness: Witness) -> list[str]:
    """What is stored of a request in which *module* commits, and which is refused."""
    store = package(module)

    @app.post("/")
    def view() -> tuple[str, int]:
        store(db, "ada")
        return "", 400

    app.test_client().post("/")
    return witness.names()


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("flask_admin", []),
        ("flask_admin.contrib.sqla.view", []),
        ("flask_admin_plus", ["ada"]),
        ("my.flask_admin", ["ada"]),
        ("", ["ada"]),
    ],
)
@anywhere
def test_mode_of_a_package(
    module: str, names: list[str], make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """Of the code that calls ``commit()``, in whatever view; a part of a word is no package."""
    app = make_app(UOW_EXPLICIT_COMMIT={"flask_admin": "flush"})
    assert stored_by(module, app, db, witness) == names


@pytest.mark.parametrize(
    ("modes", "names"),
    [
        ({"pkg": "flush", "pkg.inner": "allow"}, ["ada"]),
        ({"pkg": "allow", "pkg.inner": "flush", "": "forbid"}, []),
        ({"other": "allow", "": "flush"}, []),
        ({"pkg": "allow", "": "flush"}, ["ada"]),
    ],
)
@anywhere
def test_innermost_package_decides(
    modes: dict[str, str], names: list[str], make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """A module before its package, and either before ``""``."""
    app = make_app(UOW_EXPLICIT_COMMIT=modes)
    assert stored_by("pkg.inner.module", app, db, witness) == names


@anywhere
def test_package_decides_before_the_blueprint(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """Who commits says more than where; the blueprint is for all other code in its views."""
    app = make_app(UOW_EXPLICIT_COMMIT={"admin": "flush", "pkg": "allow"})
    admin = Blueprint("admin", __name__)

    @admin.post("/<module>")
    def view(module: str) -> tuple[str, int]:
        package(module)(db, module)
        return "", 400

    app.register_blueprint(admin)
    for module in ("pkg", "other"):
        app.test_client().post(f"/{module}")
    assert witness.names() == ["pkg"]


@anywhere
def test_only_the_code_that_calls_commit_counts(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """A decorator of a package is around the view, and does not commit."""
    app = make_app(UOW_EXPLICIT_COMMIT={"pkg": "flush"})
    module: dict[str, Any] = {"__name__": "pkg"}
    exec("def wrap(view):\n    def wrapped():\n        return view()\n    return wrapped", module)
    app.add_url_rule("/", "view", module["wrap"](view_that_commits(db, 400)), methods=["POST"])
    app.test_client().post("/")
    assert witness.names() == ["ada"]


@anywhere
def test_forbidden_package_is_refused(make_app: MakeApp, db: Database, witness: Witness) -> None:
    """``begin()`` counts as well; a savepoint does not."""
    app = make_app(UOW_EXPLICIT_COMMIT={"pkg": "forbid"})
    app.register_error_handler(CommitRefused, lambda error: (str(error), 500))
    module: dict[str, Any] = {"__name__": "pkg"}
    exec("def begin(db): db.session.begin()\ndef nested(db): db.session.begin_nested()", module)

    @app.post("/<name>")
    def view(name: str) -> str:
        module[name](db)
        return ""

    assert app.test_client().post("/begin").text.startswith("begin() is refused")
    assert app.test_client().post("/nested").status_code == 200


@anywhere
def test_block_decides_before_the_package(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """It stands next to the call, in the code of the app."""
    app = make_app(UOW_EXPLICIT_COMMIT={"pkg": "flush"})
    store = package("pkg")

    @app.post("/")
    def view() -> tuple[str, int]:
        with db.explicit_commit("allow"):
            store(db, "inside")
        store(db, "after")
        return "", 400

    app.test_client().post("/")
    assert witness.names() == ["inside"]


@anywhere
def test_package_outside_of_a_request_is_allowed(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """As every explicit commit."""
    app = make_app(UOW_EXPLICIT_COMMIT={"pkg": "forbid"})
    with app.app_context():
        package("pkg")(db, "command")
    assert witness.names() == ["command"]


@anywhere
def test_stack_is_not_looked_at_without_names(
    make_app: MakeApp, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mode for all code costs nothing more."""
    looked: list[int] = []
    monkeypatch.setattr("flask_uow._unit.session.calling_module", looked.append)
    app = make_app(UOW_EXPLICIT_COMMIT={"": "flush"})
    app.add_url_rule("/", "view", view_that_commits(db, 200), methods=["POST"])
    assert app.test_client().post("/").status_code == 200
    assert looked == []


# By block -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["allow", "flush", "forbid"])
def test_mode_of_a_with_block(mode: str, app: Flask, db: Database, witness: Witness) -> None:
    """For the lines inside; behind them it is as before."""

    @app.post("/")
    def create() -> tuple[str, int]:
        with db.explicit_commit(mode):
            if mode == "forbid":
                with pytest.raises(CommitRefused):
                    code_of_others(db, "inside")
                db.session.rollback()
            else:
                code_of_others(db, "inside")
        if mode != "flush":
            code_of_others(db, "behind")
        return "", 400

    assert app.test_client().post("/").status_code == 400
    assert (
        witness.names()
        == {
            "allow": ["behind", "inside"],
            "flush": [],
            "forbid": ["behind"],
        }[mode]
    )


@anywhere
def test_mode_of_a_with_block_is_put_back_after_an_error(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Also where blocks are nested, and where one object is used twice."""
    mode = db.explicit_commit("flush")
    with app.app_context():
        with pytest.raises(LookupError), mode:  # noqa: PT012
            with mode:
                pass
            with db.explicit_commit("forbid"):
                raise LookupError
        code_of_others(db)
    assert witness.names() == ["ada"]


def test_code_that_commits_may_run_in_a_block(app: Flask, db: Database, witness: Witness) -> None:
    """With "flush" it does no harm to all or nothing."""
    with app.app_context():
        with pytest.raises(LookupError):  # noqa: PT012
            with db.atomic(), db.explicit_commit("flush"):
                code_of_others(db)
                raise LookupError
        with db.atomic(), db.explicit_commit("flush"):
            code_of_others(db, "bob")
    assert witness.names() == ["bob"]


@anywhere
def test_allow_does_not_break_a_block_open(app: Flask, db: Database, witness: Witness) -> None:
    """Inside ``db.atomic()`` a commit stays refused."""
    with app.app_context(), db.atomic(), db.explicit_commit("allow"):
        with pytest.raises(CommitRefused, match=r"inside 'db\.atomic"):
            code_of_others(db)
    assert witness.names() == ["ada"]


# The body of a stream -------------------------------------------------------------------------


@concurrently
@pytest.mark.parametrize("mode", ["flush", "forbid"])
def test_streamed_body_commits_as_ever(
    mode: str, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """The request is over when the body is sent, and nobody else would commit (P9)."""
    app = make_app(UOW_EXPLICIT_COMMIT=mode)

    @app.post("/")
    def create() -> Response:
        db.session.add(User(name="view"))

        def body() -> Iterator[str]:
            code_of_others(db, "body")
            yield "done"

        return Response(stream_with_context(body()))

    assert app.test_client().post("/").text == "done"
    assert witness.names() == ["body", "view"]


# Bad input ------------------------------------------------------------------------------------


@anywhere
@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("always", "UOW_EXPLICIT_COMMIT is 'always'"),
        (True, "UOW_EXPLICIT_COMMIT is True"),
        (None, "UOW_EXPLICIT_COMMIT is None"),
        ({"admin": "never"}, r"UOW_EXPLICIT_COMMIT\['admin'\] is 'never'"),
    ],
)
def test_mode_that_does_not_exist_is_refused(value: Any, where: str, make_app: MakeApp) -> None:
    """The three that do are named."""
    with pytest.raises(ConfigError, match=f"{where}.*'allow', 'flush' or 'forbid'"):
        make_app(UOW_EXPLICIT_COMMIT=value)


@anywhere
@pytest.mark.parametrize("key", [None, 1, ("admin",)])
def test_name_that_is_none_is_refused(key: Any, make_app: MakeApp) -> None:
    """It would never match."""
    with pytest.raises(ConfigError, match=r"UOW_EXPLICIT_COMMIT has the key .*'flask_admin'"):
        make_app(UOW_EXPLICIT_COMMIT={key: "flush"})


def test_mode_of_a_with_block_that_does_not_exist_is_refused(db: Database) -> None:
    """Where it is written, not where it is entered."""
    with pytest.raises(ConfigError, match=r"The mode of 'db\.explicit_commit\(\.\.\.\)' is 'no'"):
        db.explicit_commit("no")
