"""Sessions, commits, 404s, pages, signals and recorded queries."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Flask, abort, request
from sqlalchemy import exc, orm

from tests.compat.kit import Kit, kind_of, story


def blog(kit: Kit, app: Flask, **options: Any) -> tuple[Any, Any]:
    """A ``db`` with a model ``User`` in a new table."""
    db = kit.db(app, **options)

    class User(db.Model):
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.String, unique=True)

    with app.app_context():
        db.create_all()
    return db, User


NAMES = "SELECT name FROM user ORDER BY id"


@story
def what_is_stored(kit: Kit) -> Any:
    """Only what was committed; an error, an abort and a handler change nothing about that."""
    app = kit.app(PROPAGATE_EXCEPTIONS=False)
    db, User = blog(kit, app)
    seen: list[Any] = []

    @app.errorhandler(409)
    def conflict(_: Exception) -> tuple[str, int]:
        # The work of the view is still there.
        seen.append([user.name for user in db.session.new])
        db.session.commit()
        return "", 409

    @app.errorhandler(exc.IntegrityError)
    def refused(_: Exception) -> tuple[str, int]:
        seen.append(kind_of(lambda: db.session.execute(sa.select(User))))
        db.session.rollback()
        db.session.add(User(name="from the handler"))
        db.session.commit()
        return "", 400

    @app.post("/<name>")
    def create(name: str) -> tuple[str, int]:
        db.session.add(User(name=name))
        do = request.args.get("do", "")
        if "commit" in do:
            db.session.commit()
        if "flush" in do:
            db.session.flush()
        if "abort" in do:
            db.session.add(User(name=f"{name}, later"))
            abort(409)
        if "again" in do:
            db.session.add(User(name=name))
            db.session.commit()
        if "fail" in do:
            raise LookupError
        return "", 201

    client = app.test_client()
    statuses = [
        client.post(f"/{number}?do={do}").status_code
        for number, do in enumerate(
            ["", "flush", "commit", "abort", "commit,abort", "again", "fail", "commit,fail"]
        )
    ]
    return [statuses, seen, kit.rows(NAMES)]


@story
def commits_around_a_view(kit: Kit) -> Any:
    """``before_request``, ``after_request`` and teardown functions use the session of the view."""
    app = kit.app(PROPAGATE_EXCEPTIONS=False)
    db, User = blog(kit, app)
    sessions: list[int] = []

    @app.before_request
    def before() -> None:
        sessions.append(id(db.session()))
        db.session.add(User(name=f"before {request.path}"))

    @app.after_request
    def after(response: Any) -> Any:
        sessions.append(id(db.session()))
        if "after" in request.args:
            db.session.commit()
        return response

    @app.teardown_request
    def teardown(_: BaseException | None) -> None:
        sessions.append(id(db.session()))
        if "teardown" in request.args:
            db.session.commit()

    @app.get("/<name>")
    def view(name: str) -> str:
        sessions.append(id(db.session()))
        if "fail" in request.args:
            raise LookupError
        return name

    client = app.test_client()
    for path in ("/a", "/b?after", "/c?teardown", "/d?fail", "/e?fail&after", "/f?fail&teardown"):
        client.get(path)
    return [len(sessions), kit.rows(NAMES)]


@story
def sessions_of_contexts(kit: Kit) -> Any:
    """One for each app context, removed at its end; none outside."""
    app = kit.app()
    db, User = blog(kit, app)
    told: list[Any] = [kind_of(db.session)]
    with app.app_context():
        outer = db.session()
        told.append(outer is db.session())
        told.append(isinstance(outer, kit.session.Session))
        db.session.add(User(name="outer"))
        with app.app_context():
            told.append(db.session() is outer)
            told.append(len(db.session.new))
            db.session.add(User(name="inner"))
            db.session.commit()
        told.append([db.session() is outer, len(db.session.new)])
        db.session.remove()
        told.append([db.session() is outer, len(db.session.new)])
        user = User.query.one()
    told.append(user.name)  # it can be read after the end of its context
    told.append([user in outer, sa.inspect(user).detached])
    return [*told, kit.rows(NAMES)]


@story
def objects_of_a_context_around(kit: Kit) -> Any:
    """They stay as they were loaded, whatever an inner context commits."""
    app = kit.app()
    db, User = blog(kit, app)
    with app.app_context():
        db.session.add(User(name="ada"))
        db.session.commit()
        user = User.query.one()
        told = []
        for change in (lambda inner: setattr(inner, "name", "grace"), db.session.delete):
            with app.app_context():
                change(User.query.one())
                db.session.commit()
            told.append(user.name)
    return [told, kit.rows(NAMES)]


@story
def objects_after_a_request(kit: Kit) -> Any:
    """``with client:`` lets a test read what the view has loaded, and what it has changed."""
    app = kit.app()
    db, User = blog(kit, app)
    loaded: list[Any] = []
    with app.app_context():
        db.session.add_all([User(name="ada"), User(name="bob")])
        db.session.commit()

    @app.get("/")
    def index() -> str:
        loaded.extend(User.query.order_by(User.id))
        loaded[1].name = "changed"
        db.session.flush()
        return ""

    with app.test_client() as client:
        client.get("/")
        inside = [user.name for user in loaded]
    return [inside, [user.name for user in loaded], kit.rows(NAMES)]


@story
def scopes_of_the_app(kit: Kit) -> Any:
    """``scopefunc``: sessions by any value, until a context ends."""
    app = kit.app()
    scope = ["a"]
    db, User = blog(kit, app, session_options={"scopefunc": lambda: scope[0]})
    with app.app_context():
        first = db.session()
        scope[0] = "b"
        told: list[Any] = [db.session() is first]
        db.session.add(User(name="b"))
        scope[0] = "a"
        told += [db.session() is first, len(db.session.new)]
        db.session.add(User(name="a"))
        db.session.commit()
        scope[0] = "b"
        told += [len(db.session.new)]
    with app.app_context():
        told += [len(db.session.new)]
        scope[0] = "a"
        told += [db.session() is first]
        db.session.remove()
    return [*told, kit.rows(NAMES)]


@story
def sessions_of_a_class_of_the_app(kit: Kit) -> Any:
    """``session_options``: a class with its own ``__init__()`` and ``get_bind()``, and options."""
    app = kit.app(SQLALCHEMY_BINDS={"replica": f"sqlite:///{kit.folder / 'replica.db'}"})
    chosen: list[str] = []

    class Routing(kit.session.Session):
        def __init__(self, db: Any, **options: Any) -> None:
            super().__init__(db, **options)
            self.extension = db

        def get_bind(self, mapper: Any = None, clause: Any = None, **options: Any) -> Any:
            found = super().get_bind(mapper, clause, **options)
            if getattr(clause, "is_select", False):
                chosen.append("replica")
                return self.extension.engines["replica"]
            chosen.append("main" if found is self.extension.engine else "?")
            return found

    db, User = blog(kit, app, session_options={"class_": Routing, "autoflush": False})
    replica = kit.folder / "replica.db"
    with app.app_context():
        db.metadata.create_all(db.engines["replica"])
        db.session.add(User(name="ada"))
        told: list[Any] = [isinstance(db.session(), Routing), db.session().autoflush]
        told += [db.session.execute(sa.select(User.name)).all() == []]
        db.session.commit()
        told += [User.query.count(), sorted(set(chosen))]
    return [*told, kit.rows(NAMES), kit.rows(NAMES, replica)]


@story
def missing_rows(kit: Kit) -> Any:
    """The 404s of ``db`` and of ``Model.query``, with their texts."""
    app = kit.app()
    db, User = blog(kit, app)
    with app.app_context():
        db.session.add_all([User(id=1, name="ada"), User(id=2, name=None), User(id=3, name="bob")])
        db.session.commit()
    ways: dict[str, Any] = {
        "get": lambda text: db.get_or_404(User, 9, description=text),
        "get found": lambda text: db.get_or_404(User, 1, description=text).name,
        "get options": lambda _: db.get_or_404(User, 1, with_for_update=True).name,
        "first": lambda text: db.first_or_404(named("x"), description=text),
        "first found": lambda text: db.first_or_404(named("ada"), description=text).name,
        "first value": lambda _: db.first_or_404(sa.select(User.name).order_by(User.id)),
        "one": lambda text: db.one_or_404(named("x"), description=text),
        "one of two": lambda text: db.one_or_404(db.select(User), description=text),
        "one found": lambda text: db.one_or_404(named("bob"), description=text).id,
        "one value": lambda _: db.one_or_404(sa.select(User.name).where(User.id == 3)),
        "query get": lambda text: User.query.get_or_404(9, description=text),
        "query get found": lambda text: User.query.get_or_404(1, text).name,
        "query first": lambda text: User.query.filter_by(name="x").first_or_404(text),
        "query first found": lambda _: User.query.order_by(User.id).first_or_404().name,
        "query one": lambda text: User.query.filter_by(name="x").one_or_404(description=text),
        "query one of two": lambda text: User.query.one_or_404(text),
        "query one found": lambda _: User.query.filter_by(name="ada").one_or_404().id,
    }

    def named(name: str) -> Any:
        return db.select(User).filter_by(name=name)

    @app.get("/")
    def look() -> Any:
        text = request.args.get("text")
        return str(ways[request.args["way"]](text))

    client = app.test_client()
    return {
        way: [
            [response.status_code, response.text.strip()]
            for response in (
                client.get("/", query_string={"way": way}),
                client.get("/", query_string={"way": way, "text": "no such row"}),
            )
        ]
        for way in ways
    }


PAGES: list[dict[str, Any]] = [
    *({"page": page} for page in (None, 1, 2, 3, 4, 0, -1)),
    *({"per_page": size} for size in (1, 5, 45, 46, 100, 101, 0, -3)),
    *({"page": page, "per_page": size} for page in (2, 9, 23, 24) for size in (2, 5)),
    *({"per_page": size, "max_per_page": most} for size in (3, 50) for most in (None, 7, 100)),
    {"count": False, "page": 2},
    {"error_out": False, "page": -1, "per_page": -1},
    {"error_out": False, "page": 99},
]
"""Arguments of ``paginate()``, for 45 rows."""

STRINGS = [
    *("", "page=2", "page=3&per_page=7", "per_page=1000", "page=0", "page=-1", "page=abc"),
    *("per_page=abc", "per_page=0", "page=", "page=1.5", "page=99", "page= 2", "page=%2B2"),
]


@story
def pages(kit: Kit) -> Any:
    """Of a select, a query: by arguments, and by the query string."""
    app = kit.app()
    db, User = blog(kit, app)
    with app.app_context():
        db.session.add_all(User(name=f"user {number:02}") for number in range(1, 46))
        db.session.commit()
    ways = {
        "select": lambda **options: db.paginate(db.select(User).order_by(User.id), **options),
        "query": lambda **options: User.query.order_by(User.id).paginate(**options),
    }

    @app.get("/")
    def page() -> dict[str, Any]:
        lenient = {"error_out": False} if "lenient" in request.args else {}
        return described(ways[request.args["way"]](**lenient))

    told: dict[str, Any] = {}
    client = app.test_client()
    for name, way in ways.items():
        with app.app_context():
            told[name] = [
                [options, tried(lambda way=way, options=options: described(way(**options)))]
                for options in PAGES
            ]
        for text in STRINGS:
            for extra in ("", "&lenient"):
                response = client.get(f"/?way={name}&{text}{extra}")
                content = response.json if response.status_code == 200 else response.status_code
                told[name].append([text + extra, content])
    return told


def described(page: Any) -> dict[str, Any]:
    following, previous = page.next(), page.prev()
    return {
        "items": [user.id for user in page],
        "same": [user.id for user in page.items] == [user.id for user in page],
        "numbers": [page.page, page.per_page, page.pages, page.total, page.first, page.last],
        "next": [page.has_next, page.next_num, following.page, [u.id for u in following]],
        "prev": [page.has_prev, page.prev_num, previous.page, previous.total],
        "links": list(page.iter_pages()) if page.page <= page.pages else None,
    }


def tried(action: Any) -> Any:
    try:
        return action()
    except Exception as error:
        return getattr(error, "code", type(error).__name__)


@story
def pages_of_a_subclass(kit: Kit) -> Any:
    """A list in pages, as apps make them of ``Pagination``."""

    class Listed(kit.pagination.Pagination):
        def _query_items(self) -> list[Any]:
            return list(self._query_args["rows"][self._query_offset :][: self.per_page])

        def _query_count(self) -> int:
            return len(self._query_args["rows"])

    class OneMore(Listed):
        def _query_items(self) -> list[Any]:
            return [*super()._query_items(), None]

    more = OneMore(per_page=4, count=False, rows=list(range(30)))
    page = Listed(page=3, per_page=4, rows=list(range(30)))
    following = page.next()
    told = [page.items, page.pages, following.items, following.total, Listed(rows=[]).pages]
    return [*told, more.has_next, more.next_num]


@story
def links_to_pages(kit: Kit) -> Any:
    """``iter_pages()`` for all numbers of pages, with edges of all sizes."""

    class Numbered(kit.pagination.Pagination):
        def _query_items(self) -> list[Any]:
            return [None] if self._query_args["total"] else []

        def _query_count(self) -> int:
            return int(self._query_args["total"])

    edges = ("left_edge", "left_current", "right_current", "right_edge")
    sizes = [(), (0, 0, 0, 0), (1, 1, 1, 1), (3, 0, 5, 1), (0, 2, 0, 0), (0, 0, 1, 2), (9, 9, 9, 9)]
    told = {}
    for total in (0, 1, 2, 5, 12, 20):
        # Not after the last page: there Flask-SQLAlchemy leaves out the last ones.
        for number in sorted({1, *({2, 6, 11, 20} & {*range(1, total + 1)})}):
            page = Numbered(page=number, per_page=1, total=total)
            told[f"{number} of {total}"] = [
                list(page.iter_pages(**dict(zip(edges, size, strict=False)))) for size in sizes
            ]
    return told


@story
def signals_of_changes(kit: Kit) -> Any:
    """``models_committed`` and ``before_models_committed``."""
    app = kit.app(SQLALCHEMY_TRACK_MODIFICATIONS=True)
    db, User = blog(kit, app)
    quiet = kit.app(SQLALCHEMY_DATABASE_URI="sqlite://")
    db.init_app(quiet)
    told: list[Any] = []

    def note(kind: str) -> Any:
        def receive(sender: Any, changes: Any) -> None:
            names = [[vars(model).get("name"), operation] for model, operation in changes]
            told.append([kind, sender is app, names, len(kit.rows(NAMES))])

        return receive

    tracking = kit.track_modifications
    before, after = note("before"), note("after")
    with (
        tracking.before_models_committed.connected_to(before),
        tracking.models_committed.connected_to(after),
    ):
        with app.app_context():
            db.session.commit()
            ada, bob = User(name="ada"), User(name="bob")
            db.session.add_all([ada, bob])
            db.session.commit()
            ada.name = "Ada"
            db.session.flush()
            ada.name = "ADA"
            db.session.delete(bob)
            db.session.commit()
            db.session.add(User(name="lost"))
            db.session.flush()
            db.session.rollback()
            db.session.commit()
            db.session.add(User(name="kept"))
            db.session.commit()
            db.session.add(User(name="left"))
            db.session.flush()
        with app.app_context():
            db.session.add(User(name="last"))
            db.session.commit()
        with quiet.app_context():
            db.create_all()
            db.session.add(User(name="quiet"))
            db.session.commit()
    return told


@story
def recorded_queries(kit: Kit) -> Any:
    """Statements of a context with their parameters and the function that sent them."""
    app = kit.app(SQLALCHEMY_RECORD_QUERIES=True)
    app.import_name = __name__
    db, User = blog(kit, app)
    get = kit.record_queries.get_recorded_queries

    @app.get("/")
    def index() -> Any:
        db.session.execute(sa.select(User.name).where(User.id == 5))
        db.session.add(User(name="ada"))
        db.session.flush()
        return told_of(get())

    def told_of(queries: Any) -> list[Any]:
        return [
            [
                " ".join(query.statement.split()),
                query.parameters,
                query.duration == query.end_time - query.start_time,
                query.duration >= 0,
                query.location.partition(":")[0].rpartition("/")[2],
                query.location.partition(" ")[2],
            ]
            for query in queries
            if "SELECT" in query.statement or "INSERT" in query.statement
        ]

    with app.app_context():
        none = told_of(get())
        failed = kind_of(lambda: db.session.execute(sa.text("SELECT no_such_column FROM user")))
        db.session.rollback()
        db.session.execute(sa.insert(User), [{"name": "x"}, {"name": "y"}])
        several = told_of(get())
    again = app.test_client().get("/").json
    off = kit.app()
    kit.db(off)
    with off.app_context():
        return [none, failed, several, again, len(get()), kind_of(lambda: get() + 1)]


@story
def mistakes(kit: Kit) -> Any:
    """What wrong use raises."""
    app = kit.app()
    db = kit.db(app)
    other = Flask("other")
    told = {
        "twice": kind_of(lambda: db.init_app(app)),
        "two extensions": kind_of(lambda: kit.db(app)),
        "no context": [kind_of(lambda: db.engine), kind_of(lambda: db.session())],
        "no database": kind_of(lambda: kit.db(Flask("empty"))),
        "two bases": kind_of(lambda: kit.db(model_class=_two_bases())),
        "recorded outside": kind_of(lambda: kit.record_queries.get_recorded_queries()),
    }
    with other.app_context():
        told["other app"] = [kind_of(lambda: db.engine), kind_of(lambda: db.session.connection())]
    return told


def _two_bases() -> Any:
    class Base(orm.DeclarativeBase, orm.DeclarativeBaseNoMeta):
        pass

    return Base


@story
def several_apps(kit: Kit) -> Any:
    """One extension for two apps, each with its own database."""
    apps = [kit.app(SQLALCHEMY_DATABASE_URI=f"sqlite:///{kit.folder / n}.db") for n in "ab"]
    db, User = blog(kit, apps[0])
    db.init_app(apps[1])
    for app, name in zip(apps, ("first", "second"), strict=True):
        with app.app_context():
            db.create_all()
            db.session.add(User(name=name))
            db.session.commit()
    with apps[0].app_context():
        outer = [user.name for user in User.query]
        with apps[1].app_context():
            inner = [user.name for user in User.query]
    return [outer, inner, [kit.rows(NAMES, kit.folder / f"{n}.db") for n in "ab"]]


@story
def commits_of_teardown_functions(kit: Kit) -> Any:
    """One that was registered before the extension has a new session, without the view's work."""
    app = kit.app(PROPAGATE_EXCEPTIONS=False)
    opened: list[Any] = []
    dbs: list[Any] = []

    @app.teardown_appcontext
    def older(_: BaseException | None) -> None:
        for db in dbs:
            opened.append([db.session.registry.has(), len(db.session.new)])
            db.session.add(User(name="older"))
            db.session.commit()

    db, User = blog(kit, app)

    @app.teardown_appcontext
    def newer(_: BaseException | None) -> None:
        opened.append([db.session.registry.has(), len(db.session.new)])

    @app.post("/")
    def view() -> str:
        db.session.add(User(name="ada"))
        raise LookupError

    dbs.append(db)
    app.test_client().post("/")
    dbs.clear()
    return [opened, kit.rows(NAMES)]
