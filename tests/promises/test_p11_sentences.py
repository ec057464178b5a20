"""P11: bad input gets a sentence, and no password is ever printed.

What belongs to one module is tested beside it, in ``tests/core``; here is what a user meets in
an app.
"""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import pytest
from flask import Blueprint
from sqlalchemy import create_engine, select

from flask_uow import ConfigError, Database, Flask, OutsideContext, SetupError, UnitEnded, UowError
from tests.support.databases import anywhere
from tests.support.models import User

URL: Any = "postgresql://ada:s3cret@localhost:5432/app"


def test_outside_of_a_context_three_ways_in_are_named(db: Database) -> None:
    """A view, a command and ``with app.app_context():`` are what there is."""
    with pytest.raises(OutsideContext) as caught:
        db.session.add(User(name="ada"))
    for way in ("a view function", "@app.cli.command()", "with app.app_context():"):
        assert way in str(caught.value)


def test_an_app_without_this_database_is_named(db: Database) -> None:
    """With no ``Database`` at all, and with another one."""
    app = Flask("shop")
    with app.app_context(), pytest.raises(SetupError, match=r"'shop' is not registered with"):
        db.session.get(User, 1)
    Database().init_app(app)
    with app.app_context(), pytest.raises(SetupError, match="with this Database but with another"):
        db.engine  # noqa: B018


@anywhere
def test_a_session_that_was_kept_says_that_its_unit_has_ended(app: Flask, db: Database) -> None:
    """It does not quietly begin a transaction that nobody ends."""
    with app.app_context():
        kept = db.session()
    for use in (lambda: kept.add(User(name="ada")), lambda: kept.scalars(select(User)).all()):
        with pytest.raises(UnitEnded, match=r"has ended: it was committed or rolled back.*again"):
            use()


@anywhere
def test_a_thread_that_outlives_its_context_says_so(app: Flask, db: Database) -> None:
    """A context that has ended opens no unit that nobody would close."""

    caught: list[BaseException] = []

    def late() -> None:
        try:
            db.session.get(User, 1)
        except UowError as error:
            caught.append(error)

    with app.test_request_context("/"):
        inside = contextvars.copy_context()
    thread = threading.Thread(target=inside.run, args=(late,))
    thread.start()
    thread.join()
    assert "has ended: the response was sent" in str(caught[0])


@pytest.mark.parametrize(
    "mistake",
    [
        lambda app: Database(URL),
        lambda app: Database().init_app(URL),
        lambda app: app.register_extension(URL),
        lambda app: Database().unit(commit=URL),
        lambda app: Database().unit(commit="always")(URL),
        lambda app: Database(session_options={"class_": URL}),
        lambda app: use(app, SQLALCHEMY_DATABASE_URI="s3cret@localhost:5432/app"),
        lambda app: use(app, SQLALCHEMY_DATABASE_URI="s3cret://:/@x:y"),
        lambda app: use(app, SQLALCHEMY_DATABASE_URI=URL.replace("postgresql", "postgresq")),
        lambda app: use(app, SQLALCHEMY_DATABASE_URI=URL.replace("5432", "port")),
        lambda app: use(app, SQLALCHEMY_DATABASE_URI=URL.replace("ql:", "ql+nonesuch:")),
        lambda app: use(app, SQLALCHEMY_DATABASE_URI="sqlite://", UOW_COMMIT=URL),
        lambda app: use(app, SQLALCHEMY_BINDS=URL),
        lambda app: use(app, SQLALCHEMY_BINDS={"default": {"uri": URL}}),
        lambda app: use(app, SQLALCHEMY_DATABASE_URI="sqlite://ada:s3cret@host/app.db"),
        *(
            lambda app, option=option: use(
                app, SQLALCHEMY_DATABASE_URI="sqlite://", SQLALCHEMY_ENGINE_OPTIONS={option: URL}
            )
            for option in ("echo", "pool_size", "pool_reset_on_return", "pool_events", "strategy")
        ),
    ],
)
def test_no_message_prints_a_password(mistake: Any) -> None:
    """Whatever was taken for something else, what may be a password is not shown."""
    with pytest.raises(UowError) as caught:
        mistake(Flask("shop"))
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in str(error).replace("'s3cret:/***'", "")
        error = error.__cause__


def use(app: Flask, **config: Any) -> None:
    app.config.update(config)
    db = Database(app)
    with app.app_context():
        db.engine  # noqa: B018


@pytest.mark.parametrize(
    "options",
    [
        {"poolclass": "x"},
        {"echo": "maybe"},
        {"nonesuch": 1},
        {"pool_events": "x"},
        {"connect_args": "x"},
        {"pool_events": [(print, "nonesuch")]},
    ],
)
def test_an_option_of_the_wrong_kind_names_its_key(options: dict[str, Any]) -> None:
    """Whatever SQLAlchemy makes of it."""
    app = Flask("shop")
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = options
    with pytest.raises(ConfigError, match="SQLALCHEMY_DATABASE_URI refuses an option"):
        use(app, SQLALCHEMY_DATABASE_URI="sqlite://")


def test_a_config_key_that_is_no_text_is_passed_over() -> None:
    """It is not one of ours."""
    app = Flask("shop")
    app.config[42] = "answer"
    use(app, SQLALCHEMY_DATABASE_URI="sqlite://")


def test_a_blueprint_is_not_an_extension() -> None:
    """The sentence names where it goes."""
    with pytest.raises(SetupError, match="register_blueprint"):
        Flask("shop").register_extension(Blueprint("b", "b"))  # type: ignore[arg-type]


@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_session_on_a_connection_leaves_its_transaction_alone(
    from_the_start: bool, db: Database
) -> None:
    """Who hands in a connection, a test that rolls everything back, commits it himself (P8)."""
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db.init_app(app)
    engine = create_engine("sqlite://")
    with engine.connect() as connection, connection.begin() as outer:
        User.metadata.create_all(connection)

        @app.post("/")
        def create() -> str:
            if from_the_start:
                db.session(bind=connection)
            db.session.bind = connection
            db.session.add(User(name="ada"))
            return ""

        assert app.test_client().post("/").status_code == 200
        assert outer.is_active
        assert connection.execute(select(User.name)).all() == [("ada",)]
        outer.rollback()
    engine.dispose()
