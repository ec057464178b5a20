"""Models, tables and engines: what is where, and what it is called."""

from __future__ import annotations

import types
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, orm

from tests.compat.kit import Kit, kind_of, story


def bases(kit: Kit) -> dict[str, Any]:
    """Each kind of ``model_class=``, new for each story."""
    return {
        "default": kit.model.Model,
        "subclass": type("Custom", (kit.model.Model,), {}),
        "plain": types.new_class("Base", (orm.DeclarativeBase,)),
        "no metaclass": types.new_class("Base", (orm.DeclarativeBaseNoMeta,)),
    }


def tables_of(db: Any) -> dict[str, Any]:
    """All tables: by bind key, with their columns, keys and the names of their constraints."""
    return {
        str(key): {
            name: [
                [column.name for column in table.columns],
                [column.name for column in table.primary_key],
                sorted(str(constraint.name) for constraint in table.constraints),
            ]
            for name, table in metadata.tables.items()
        }
        for key, metadata in db.metadatas.items()
    }


def define(db: Any) -> list[Any]:
    """Models of all shapes."""

    class HTTPRequestLog(db.Model):
        id = sa.Column(sa.Integer, primary_key=True)

    class Explicit(db.Model):
        __tablename__ = "spam"
        id = sa.Column(sa.Integer, primary_key=True)

    class AbstractThing(db.Model):
        __abstract__ = True
        id = sa.Column(sa.Integer, primary_key=True)

    class ConcreteThing(AbstractThing):
        name = sa.Column(sa.String, unique=True)

    class NamedAbstract(db.Model):
        __abstract__ = True
        __tablename__ = "abstract_name"
        id = sa.Column(sa.Integer, primary_key=True)

    class FromNamedAbstract(NamedAbstract):
        pass

    class NamingMixin:
        __tablename__ = "mixed_in"

    class WithMixin(NamingMixin, db.Model):
        id = sa.Column(sa.Integer, primary_key=True)

    class DeclaringMixin:
        @orm.declared_attr  # type: ignore[arg-type]
        def __tablename__(cls: Any) -> str:
            return f"declared_{cls.__name__.lower()}"

    class WithDeclared(DeclaringMixin, db.Model):
        id = sa.Column(sa.Integer, primary_key=True)

    class Animal(db.Model):
        id = sa.Column(sa.Integer, primary_key=True)
        kind = sa.Column(sa.String)
        __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "animal"}  # noqa: RUF012

    class Duck(Animal):  # single table
        wings = sa.Column(sa.Integer)
        __mapper_args__ = {"polymorphic_identity": "duck"}  # noqa: RUF012

    class Donald(Duck):
        __mapper_args__ = {"polymorphic_identity": "donald"}  # noqa: RUF012

    class Horse(Animal):  # joined table
        id = sa.Column(sa.ForeignKey(Animal.id), primary_key=True)
        legs = sa.Column(sa.Integer)
        __mapper_args__ = {"polymorphic_identity": "horse"}  # noqa: RUF012

    class Pony(Horse):
        __mapper_args__ = {"polymorphic_identity": "pony"}  # noqa: RUF012

    class InSchema(db.Model):
        __table_args__ = {"schema": "audit"}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)

    class ByConstraint(db.Model):
        a = sa.Column(sa.Integer)
        b = sa.Column(sa.Integer)
        __table_args__ = (sa.PrimaryKeyConstraint("a", "b"),)

    class Elsewhere(db.Model):
        __bind_key__ = "other"
        id = sa.Column(sa.Integer, primary_key=True)

    class AbstractElsewhere(db.Model):
        __abstract__ = True
        __bind_key__ = "third"

    class BelowElsewhere(AbstractElsewhere):
        id = sa.Column(sa.Integer, primary_key=True)
        other = sa.Column(sa.Integer, unique=True)

    class OwnTable(db.Model):
        __bind_key__ = "ignored"
        __table__ = db.Table("own_table", sa.Column("id", sa.Integer, primary_key=True))

    db.Table("tags", sa.Column("id", sa.Integer), bind_key="tagged")
    return [
        *(HTTPRequestLog, Explicit, ConcreteThing, FromNamedAbstract, WithMixin, WithDeclared),
        *(Animal, Duck, Donald, Horse, Pony, InSchema, ByConstraint, Elsewhere, BelowElsewhere),
        OwnTable,
    ]


@story
def tables_of_models(kit: Kit) -> Any:
    """Names, inheritance, mixins, schemas, bind keys; on each kind of base."""
    told = {}
    for name, base in bases(kit).items():
        db = kit.db(model_class=base)
        models = {model.__name__: model.__table__.fullname for model in define(db)}
        own_names = [model.__name__ for model in define_few(db) if "__tablename__" in vars(model)]
        told[name] = [models, own_names, tables_of(db)]
    return told


def define_few(db: Any) -> list[Any]:
    class Parent(db.Model):
        id = sa.Column(sa.Integer, primary_key=True)
        kind = sa.Column(sa.String)
        __mapper_args__ = {"polymorphic_on": kind}  # noqa: RUF012

    class Child(Parent):
        __mapper_args__ = {"polymorphic_identity": "child"}  # noqa: RUF012

    return [Parent, Child]


@story
def names_without_autonaming(kit: Kit) -> Any:
    """A model needs a name then."""
    told = {}
    for name, base in bases(kit).items():
        db = kit.db(model_class=base, disable_autonaming=True)
        content: dict[str, Any] = {"id": sa.Column(sa.Integer, primary_key=True)}
        named: dict[str, Any] = {
            "__tablename__": "named",
            "id": sa.Column(sa.Integer, primary_key=True),
        }
        told[name] = [
            kind_of(lambda db=db, content=content: type(db.Model)("User", (db.Model,), content)),
            type(db.Model)("User", (db.Model,), named).__table__.name,
        ]
    return told


@story
def words_of_names(kit: Kit) -> Any:
    names = "CamelCase Snake_case HTMLLayout LayoutHTML HTTP2Request ABC PreABC PreABCPost UserST4"
    names += " _Private __Two lower UPPER_Case Ab3c XMLHTTPRequest ÄÖü AstV2Node getHTTP a1B2c3D"
    return {name: kit.model.camel_to_snake_case(name) for name in names.split()}


@story
def naming_conventions(kit: Kit) -> Any:
    """Those of the default metadata hold for the others; without any, constraints have no names."""
    convention = {"pk": "pk_%(table_name)s", "uq": "uq_%(table_name)s_%(column_0_name)s"}
    given = kit.db(metadata=sa.MetaData(naming_convention=convention))
    define(given)
    plain = kit.db()
    return [tables_of(given), dict(plain.metadata.naming_convention)]


@story
def reflected_tables(kit: Kit) -> Any:
    """``reflect()`` reads tables, and a model finds the one of its name."""
    app = kit.app(SQLALCHEMY_BINDS={"other": f"sqlite:///{kit.folder / 'other.db'}"})
    maker = kit.db()
    maker.Table("user", sa.Column("id", sa.Integer, primary_key=True), sa.Column("age", sa.Integer))
    maker.Table("post", sa.Column("id", sa.Integer, primary_key=True), bind_key="other")
    maker.init_app(app)
    with app.app_context():
        maker.create_all()
    again = kit.app(SQLALCHEMY_BINDS={"other": f"sqlite:///{kit.folder / 'other.db'}"})
    db = kit.db(again)
    with again.app_context():
        before = tables_of(db)
        db.reflect(None)
        only_default = tables_of(db)
        db.reflect()

    class User(db.Model):
        pass

    link: Any = sa.Column("id", sa.ForeignKey("user.id"), primary_key=True)
    db.Table("special_user", link, sa.Column("more", sa.Integer))

    class SpecialUser(User):  # it defines no primary key, and has a table of its name all the same
        pass

    class AnotherUser(User):
        pass

    found = [model.__table__.name for model in (User, SpecialUser, AnotherUser)]
    return [before, only_default, tables_of(db), found]


@story
def engines_and_binds(kit: Kit) -> Any:
    """Which engine a model, a table and a statement find; what ``create_all(bind_key)`` creates."""
    others = {name: kit.folder / f"{name}.db" for name in ("other", "third", "tagged")}
    binds = {name: f"sqlite:///{path}" for name, path in others.items()}
    app = kit.app(SQLALCHEMY_BINDS=binds)
    db = kit.db(app)

    class User(db.Model):
        id = sa.Column(sa.Integer, primary_key=True)

    class Note(db.Model):
        __bind_key__ = "other"
        id = sa.Column(sa.Integer, primary_key=True)

    class OwnTable(db.Model):
        __bind_key__ = "other"
        __table__ = db.Table(
            "own_table", sa.Column("id", sa.Integer, primary_key=True), bind_key="third"
        )

    class OwnDefaultTable(db.Model):
        __bind_key__ = "other"
        __table__ = db.Table("own_default", sa.Column("id", sa.Integer, primary_key=True))

    tags = db.Table("tags", sa.Column("id", sa.Integer), bind_key="tagged")
    seen = {}
    with app.app_context():
        names = {id(engine): str(name) for name, engine in db.engines.items()}

        def name_of(bind: Any) -> str:
            return names[id(bind)]

        for model in (User, Note, OwnTable, OwnDefaultTable):
            seen[model.__name__] = [
                name_of(db.session.get_bind(mapper=model)),
                name_of(db.session.get_bind(clause=sa.insert(model))),
                name_of(db.session.get_bind(clause=model.__table__)),
            ]
        seen["tags"] = [name_of(db.session.get_bind(clause=tags.insert()))]
        seen["text"] = [name_of(db.session.get_bind(clause=sa.text("SELECT 1")))]
        keys = sorted(map(str, db.engines))
        steps = []
        for key in ("other", ["third", None]):
            db.create_all(bind_key=key)
            steps.append({name: _tables(kit, path) for name, path in others.items()})
        db.create_all()
        for model in (User, Note, OwnTable, OwnDefaultTable):
            db.session.add(model(id=7))
        db.session.execute(tags.insert().values(id=8))
        db.session.commit()
        stored = {
            "user": kit.rows("SELECT id FROM user"),
            "note": kit.rows("SELECT id FROM note", others["other"]),
            "own": kit.rows("SELECT id FROM own_table", others["third"]),
            "default": kit.rows("SELECT id FROM own_default"),
            "tags": kit.rows("SELECT id FROM tags", others["tagged"]),
        }
        db.drop_all("other")
        steps.append({name: _tables(kit, path) for name, path in others.items()})
        same = [db.engine is db.engines[None], db.get_or_404(User, 7).id]
        missing = [kind_of(lambda: db.engines["missing"]), None in db.engines]
    return [keys, seen, steps, stored, same, missing, sorted(map(str, db.metadatas))]


def _tables(kit: Kit, path: Any) -> list[str]:
    return sorted(kit.rows("SELECT name FROM sqlite_master WHERE type = 'table'", path))


@story
def bind_keys_in_the_info_of_tables(kit: Kit) -> Any:
    """They have no effect: not for the tables, and not for sessions."""
    db = kit.db(app := kit.app(SQLALCHEMY_BINDS={"other": f"sqlite:///{kit.folder / 'other.db'}"}))

    class Note(db.Model):
        __table_args__ = {"info": {"bind_key": "other", "kept": 1}}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)

    tags = db.Table("tags", sa.Column("id", sa.Integer), info={"bind_key": "other"})
    with app.app_context():
        db.create_all()
        db.session.add(Note(id=1))
        db.session.execute(tags.insert().values(id=2))
        db.session.commit()
    stored = [kit.rows("SELECT id FROM note"), kit.rows("SELECT id FROM tags")]
    return [stored, _tables(kit, kit.folder / "other.db"), Note.__table__.info["kept"]]


@story
def options_of_engines(kit: Kit) -> Any:
    """Those of the config are the default engine's; those of the constructor are for all."""
    app = kit.app(
        SQLALCHEMY_ENGINE_OPTIONS={"pool_recycle": 11, "logging_name": "main"},
        SQLALCHEMY_BINDS={
            "dict": {"url": "sqlite:///dict.db", "pool_recycle": 22},
            "text": "sqlite:///text.db",
            "url": sa.URL.create("sqlite", database="url.db"),
        },
        SQLALCHEMY_ECHO=False,
    )
    db = kit.db(app, engine_options={"pool_recycle": 33, "pool_size": 3})
    with app.app_context():
        return {
            str(name): [
                engine.pool._recycle,
                engine.pool.size(),
                engine.logging_name,
                str(engine.url).replace(str(kit.folder), ""),
            ]
            for name, engine in sorted(db.engines.items(), key=str)
        }


@story
def engines_without_a_default(kit: Kit) -> Any:
    app = kit.app(SQLALCHEMY_DATABASE_URI=None, SQLALCHEMY_BINDS={"a": "sqlite://"})
    db = kit.db(app)
    with app.app_context():
        return [None in db.engines, list(db.engines), kind_of(lambda: db.engine)]


@story
def foreign_keys_of_a_listener(kit: Kit) -> Any:
    """What a listener for all engines sets stays, as SQLAlchemy's documentation shows it."""

    def turn_on(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA foreign_keys = ON")

    event.listen(sa.Engine, "connect", turn_on)
    try:
        db = kit.db(app := kit.app())
        with app.app_context():
            return db.session.scalar(sa.text("PRAGMA foreign_keys"))
    finally:
        event.remove(sa.Engine, "connect", turn_on)


@story
def defaults_of_the_config(kit: Kit) -> Any:
    app = kit.app()
    kit.db(app)
    return {key: value for key, value in app.config.items() if key.startswith("SQLALCHEMY_B")} | {
        key: app.config[f"SQLALCHEMY_{key}"]
        for key in ("ENGINE_OPTIONS", "ECHO", "RECORD_QUERIES", "TRACK_MODIFICATIONS")
    }


@story
def names_of_sqlalchemy(kit: Kit) -> Any:
    """The names of ``sqlalchemy`` and ``sqlalchemy.orm`` that are something else on ``db``."""
    app = kit.app()
    db = kit.db(app)
    others = []
    with app.app_context():
        for module in (orm, sa):
            for name in dir(module):
                if name.startswith("_") or (module is orm and hasattr(sa, name)):
                    continue
                if getattr(db, name) is not getattr(module, name):
                    others.append(name)
    return [
        sorted(others),
        db.event is event,
        db.relation("X").argument,
        [kind_of(lambda name=name: getattr(db, name)) for name in ("_sa", "no_such_name")],
    ]


@story
def relationships_and_queries(kit: Kit) -> Any:
    """The query class reaches ``Model.query``, the session, dynamic relationships and backrefs."""

    class Custom(kit.query.Query):
        def first_name(self) -> Any:
            return self.first().name

    told = []
    for options in ({}, {"query_class": Custom}):
        db = kit.db(app := kit.app(), **options)

        class Parent(db.Model):
            id = db.Column(db.Integer, primary_key=True)
            name = db.Column(db.String)
            children = db.relationship("Child", backref="parent", lazy="dynamic")
            pets = db.dynamic_loader("Pet", backref=("owner", {}))

        class Child(db.Model):
            id = db.Column(db.Integer, primary_key=True)
            parent_id = db.Column(db.ForeignKey(Parent.id))
            friends = db.relationship(
                Parent, backref=db.backref("fans", lazy="dynamic", viewonly=True), viewonly=True
            )

        class Pet(db.Model):
            id = db.Column(db.Integer, primary_key=True)
            parent_id = db.Column(db.ForeignKey(Parent.id))

        class OwnQuery(db.Model):
            query_class = Custom
            id = db.Column(db.Integer, primary_key=True)

        with app.app_context():
            db.drop_all()
            db.create_all()
            db.session.add(Parent(id=1, name="ada", children=[Child(id=i) for i in range(1, 6)]))
            db.session.commit()
            parent = Parent.query.one()
            page = parent.children.order_by(Child.id.desc()).paginate(page=2, per_page=2)
            asked = [Parent.query, db.session.query(Child), parent.children, parent.fans]
            told.append(
                [
                    [kind.__name__ for kind in map(_kind, [*asked, parent.pets, OwnQuery.query])],
                    [isinstance(query, db.Query) for query in [*asked, parent.pets]],
                    [child.id for child in page],
                    [page.total, page.pages, parent.children.filter_by(id=3).count()],
                    Child.query.get_or_404(4).id,
                ]
            )
    return told


def _kind(query: Any) -> type[Any]:
    kind = type(query)
    return next(base for base in kind.__mro__ if base.__name__ in {"Query", "Custom"})


@story
def texts_of_objects(kit: Kit) -> Any:
    """``repr()`` of models and of the extension."""
    binds = {"other": "sqlite://"}
    app = kit.app(SQLALCHEMY_DATABASE_URI="sqlite:///x.db", SQLALCHEMY_BINDS=binds)
    db = kit.db(app)

    class Pair(db.Model):
        a = db.Column(db.Integer, primary_key=True)
        b = db.Column(db.Integer, primary_key=True)

    pair = Pair(a=1, b=2)
    told = [repr(db), repr(pair).replace(str(id(pair)), "id")]
    with app.app_context():
        db.create_all()
        db.session.add(pair)
        told.append(repr(pair).replace(str(id(pair)), "id"))
        db.session.flush()
        told += [repr(pair), repr(db).replace(str(kit.folder), "")]
    return told


@story
def names_in_the_shell(kit: Kit) -> Any:
    told = []
    for known in (True, False):
        db = kit.db(app := kit.app(), add_models_to_shell=known)

        class User(db.Model):
            id = db.Column(db.Integer, primary_key=True)

        with app.app_context():
            context = app.make_shell_context()
            told.append([context.get("db") is db, context.get("User") is User])
            told.append(sorted(kit.cli.add_models_to_shell()))
    return told


@story
def what_a_base_is(kit: Kit) -> Any:
    """``db.Model`` on each kind of base."""
    told = {}
    for name, base in bases(kit).items():
        db = kit.db(model_class=base)
        told[name] = [
            issubclass(db.Model, kit.model.Model),
            db.Model.query_class is db.Query,
            db.Model.metadata is db.metadata is db.metadatas[None],
            db.metadata.info["bind_key"],
            isinstance(db.Model, kit.model.DefaultMeta),
            isinstance(db.Model, orm.DeclarativeMeta),
        ]
    complete = orm.declarative_base(cls=kit.model.Model, metaclass=kit.model.DefaultMeta)
    plain = orm.declarative_base()
    metadata = sa.MetaData()
    return [
        told,
        kit.db(model_class=complete).Model is complete,
        kit.db(model_class=plain, metadata=metadata).Model.metadata is metadata,
        sorted(name for name in ("query", "query_class", "__fsa__") if name in vars(plain)),
    ]
