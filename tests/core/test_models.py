"""``Model``: names of tables and constraints, ``repr()``, ``__bind_key__``."""

from __future__ import annotations

import enum
import re
from functools import cached_property
from typing import Annotated, Any

import pytest
from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    StaticPool,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.declarative import AbstractConcreteBase
from sqlalchemy.orm import (
    DeclarativeBase,
    DeclarativeBaseNoMeta,
    Mapped,
    MappedAsDataclass,
    declarative_base,
    declared_attr,
    deferred,
    mapped_column,
    registry,
)
from sqlalchemy.schema import CreateTable

from flask_uow import Database, Flask, Model, SetupError
from flask_uow.models import table_name
from tests.conftest import MakeApp
from tests.support.databases import anywhere
from tests.support.witness import Witness


def declarative() -> Any:
    class Base(Model, DeclarativeBase):
        pass

    return Base


def no_meta() -> Any:
    class Base(Model, DeclarativeBaseNoMeta):
        pass

    return Base


def given_registry() -> Any:
    class Base(Model, DeclarativeBase):
        registry = registry()

    return Base


def legacy() -> Any:
    return declarative_base(cls=Model)


def made_by_database() -> Any:
    return Database().Model


@pytest.fixture(params=[declarative, no_meta, given_registry, legacy, made_by_database])
def base(request: pytest.FixtureRequest) -> Any:
    """Every kind of declarative base that ``Model`` goes with."""
    return request.param()


Key = Annotated[int, mapped_column(primary_key=True)]


def a_model(base: Any, class_name: str = "Thing", /, *mixins: type, **fields: Any) -> Any:
    fields.setdefault("id", Column(Integer, primary_key=True))
    return type(class_name, (*mixins, base), {"__module__": __name__, **fields})


# Table names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("User", "user"),
        ("BlogPost", "blog_post"),
        ("HTTPLog", "http_log"),
        ("APIv2Key", "ap_iv2_key"),  # as in Flask-SQLAlchemy
        ("OAuth2Token", "o_auth2_token"),
        ("Item2", "item2"),
        ("_Hidden", "hidden"),
        ("already_snake", "already_snake"),
        ("A", "a"),
    ],
)
def test_a_table_is_named_after_its_class(name: str, table: str, base: Any) -> None:
    """In snake case."""
    assert table_name(name) == table
    assert a_model(base, name).__table__.name == table


def test_a_given_table_name_stays(base: Any) -> None:
    """In the class, in a mixin, in an abstract base, as a ``declared_attr``."""

    class Named:
        __tablename__ = "from_mixin"

    class Declared:
        @declared_attr.directive
        def __tablename__(cls) -> str:
            return f"x_{cls.__name__.lower()}"  # type: ignore[attr-defined]

    abstract = type("Abstract", (base,), {"__abstract__": True, "__tablename__": "from_abstract"})
    assert a_model(base, "One", __tablename__="given").__table__.name == "given"
    assert a_model(base, "Two", Named).__table__.name == "from_mixin"
    assert a_model(base, "Three", Declared).__table__.name == "x_three"
    assert a_model(abstract, "Four").__table__.name == "from_abstract"


def test_a_declared_name_of_a_parent_is_that_of_its_subclasses() -> None:
    """Each time for the class that asks."""

    class Base(Model, DeclarativeBase):
        pass

    class Person(Base):
        @declared_attr.directive
        def __tablename__(cls) -> str:
            return f"x_{cls.__name__.lower()}"

        id: Mapped[int] = mapped_column(primary_key=True)

    key: Any = Column(ForeignKey("x_person.id"), primary_key=True)
    assert a_model(Person, "Boss", id=key).__table__.name == "x_boss"


def test_a_given_table_stays(base: Any) -> None:
    """The class has no other name beside it."""
    table = Table("given", base.metadata, Column("id", Integer, primary_key=True))
    model: Any = type("Thing", (base,), {"__table__": table})
    assert model.__table__ is table
    assert list(base.metadata.tables) == ["given"]
    assert not hasattr(model, "__tablename__")


def test_mixins_and_abstract_bases_have_no_table(base: Any) -> None:
    """Their subclasses do, each a table of its own."""

    class Timestamped:
        created = Column(Integer)

    class MixinOfModel(Model):
        note = Column(String(10))

    abstract = type("Abstract", (base,), {"__abstract__": True})
    further = type("Further", (Timestamped, abstract), {"__abstract__": True})
    one, two = a_model(further, "One"), a_model(abstract, "Two", MixinOfModel)
    assert [one.__table__.name, two.__table__.name] == ["one", "two"]
    assert set(base.metadata.tables) == {"one", "two"}
    assert set(one.__table__.c.keys()) == {"id", "created"}
    assert set(two.__table__.c.keys()) == {"id", "note"}


@pytest.mark.parametrize("make_base", [declarative, no_meta, given_registry, legacy])
def test_a_subclass_without_a_key_shares_the_table(make_base: Any) -> None:
    """Single-table inheritance; with a primary key it is joined to its parent's table."""
    base = make_base()
    person = a_model(
        base,
        "Person",
        kind=Column(String(10)),
        __mapper_args__={"polymorphic_on": "kind", "polymorphic_identity": "person"},
    )
    boss: Any = type(
        "Boss",
        (person,),
        {"office": Column(String(10)), "__mapper_args__": {"polymorphic_identity": "boss"}},
    )
    key: Any = Column(ForeignKey("person.id"), primary_key=True)
    owner = a_model(boss, "BigOwner", id=key, __mapper_args__={"polymorphic_identity": "owner"})
    heir: Any = type("Heir", (owner,), {"__mapper_args__": {"polymorphic_identity": "heir"}})
    assert boss.__table__ is person.__table__
    assert boss.__tablename__ == "person"
    assert "office" in person.__table__.c
    assert owner.__table__.name == "big_owner"
    assert heir.__table__ is owner.__table__
    assert set(base.metadata.tables) == {"person", "big_owner"}


@pytest.mark.parametrize("make_base", [declarative, no_meta, given_registry])
@pytest.mark.parametrize("of_mixin", [{"info": {"mark": 1}}, declared_attr.directive(lambda _: ())])
def test_options_of_a_mixin_change_no_inheritance(make_base: Any, of_mixin: Any) -> None:
    """``__table_args__`` of a mixin, such as a storage engine for all tables."""
    mixin: Any = type("Mixin", (), {"__table_args__": of_mixin})
    base = make_base()
    parent = a_model(base, "Parent", mixin)
    child: Any = type("Child", (parent,), {"office": Column(String(10))})
    assert child.__table__ is parent.__table__
    assert child.__tablename__ == "parent"
    assert "office" in parent.__table__.c
    key: Any = mapped_column(ForeignKey("parent.id"), primary_key=True)
    joined: Any = type("Joined", (parent,), {"number": key, "__annotations__": {}})
    assert joined.__table__.name == "joined"
    assert joined.__table__.info == parent.__table__.info
    by_type: Any = mapped_column(ForeignKey("joined.number"))
    annotations = {"number": Mapped[Key]}
    deep: Any = type("Deep", (joined,), {"number": by_type, "__annotations__": annotations})
    assert deep.__table__.name == "deep"


def test_options_of_a_base_change_no_inheritance() -> None:
    """As those of a mixin."""

    class Base(Model, DeclarativeBase):
        __table_args__: Any = {"info": {"mark": 1}}  # noqa: RUF012

    parent = a_model(Base, "Parent")
    child: Any = type("Child", (parent,), {})
    assert child.__table__ is parent.__table__
    assert parent.__table__.info == {"mark": 1}


def test_a_key_may_come_from_an_annotation_or_a_mixin() -> None:
    """Where SQLAlchemy finds it is SQLAlchemy's business."""
    base: Any = declarative()

    class WithKey:
        id: Mapped[Key]

    one: Any = type("One", (WithKey, base), {})
    two: Any = type("Two", (base,), {"__annotations__": {"id": Mapped[Key]}})
    assert [one.__table__.name, two.__table__.name] == ["one", "two"]


def test_concrete_bases_without_a_table_stay_without_one() -> None:
    """``AbstractConcreteBase`` makes a union of the tables of its subclasses."""
    base: Any = declarative()
    employee: Any = type("Employee", (AbstractConcreteBase, base), {"strict_attrs": True})
    a_model(
        employee,
        "Manager",
        name=Column(String(10)),
        __mapper_args__={"polymorphic_identity": "m", "concrete": True},
    )
    base.registry.configure()
    assert set(base.metadata.tables) == {"manager"}
    assert not hasattr(employee, "__tablename__")


def test_a_reflected_table_becomes_a_model() -> None:
    """By its name, as in Flask-SQLAlchemy."""
    base: Any = declarative()
    table = Table("thing", base.metadata, Column("id", Integer, primary_key=True))
    assert type("Thing", (base,), {}).__table__ is table  # type: ignore[attr-defined]


def test_the_key_of_a_subclass_may_be_reflected() -> None:
    """Then it has a table of its own."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE person (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("CREATE TABLE boss (id INTEGER PRIMARY KEY REFERENCES person)")
    args = {"__table_args__": {"autoload_with": engine}}
    person: Any = type("Person", (declarative(),), args)
    boss: Any = type("Boss", (person,), args)
    assert [person.__table__.name, boss.__table__.name] == ["person", "boss"]
    engine.dispose()


def test_a_dataclass_works_in_either_order() -> None:
    """With the arguments of ``MappedAsDataclass``."""

    class One(Model, MappedAsDataclass, DeclarativeBase):
        pass

    class Two(MappedAsDataclass, Model, DeclarativeBase, repr=False):
        pass

    class BlogPost(One, kw_only=True):
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        title: Mapped[str]

    class Comment(Two):
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        text: Mapped[str]

    assert BlogPost(title="a").title == "a"
    assert Comment("b").text == "b"
    assert [BlogPost.__table__.name, Comment.__table__.name] == ["blog_post", "comment"]  # type: ignore[attr-defined]
    assert repr(Comment("b")) == "<Comment (transient)>"


def test_model_after_the_base_is_refused() -> None:
    """SQLAlchemy would create the tables before they are named."""
    with pytest.raises(SetupError, match=r"class Wrong\(Model, DeclarativeBase\):"):

        class Wrong(DeclarativeBase, Model):
            pass


@pytest.mark.parametrize("make_base", [declarative, no_meta, made_by_database])
def test_two_models_with_one_table_are_named(make_base: Any) -> None:
    """Both classes, with their modules: the classes often have the same name."""
    base = make_base()
    tag = a_model(base, "Tag", __module__="blog", __qualname__="Tag")
    with pytest.raises(SetupError, match=r"'shop.Tag' cannot have the table 'tag', .* 'blog.Tag'"):
        a_model(base, "Tag", __module__="shop", __qualname__="Tag")
    Table("other", base.metadata, Column("id", Integer, primary_key=True))
    with pytest.raises(SetupError, match="because another 'Table' already has it"):
        a_model(base, "Other")
    args = {"extend_existing": True}
    again = a_model(base, "Tag", __module__="x", x=Column(Integer), __table_args__=args)
    assert again.__table__ is tag.__table__


@pytest.mark.parametrize("make_base", [declarative, no_meta, made_by_database])
def test_a_model_without_a_primary_key_says_what_to_write(make_base: Any) -> None:
    """And its table is not in the way of the right one."""
    base = make_base()
    with pytest.raises(SetupError, match=r"'Thing' has no primary key.*primary_key=True"):
        a_model(base, id=Column(Integer))
    model = a_model(base, __module__="corrected")
    assert model().id is None


def test_a_schema_is_part_of_the_name() -> None:
    """Of the model or of the metadata."""
    base: Any = type("Base", (Model, DeclarativeBase), {"metadata": MetaData(schema="one")})
    kept = [a_model(base, "Tag")]
    with pytest.raises(SetupError, match=r"the table 'one.tag'"):
        a_model(base, "Tag", __module__="shop")
    kept.append(a_model(base, "Tag", __module__="x", __table_args__={"schema": "two"}))
    assert set(base.metadata.tables) == {"one.tag", "two.tag"}


def test_a_key_of_the_mapper_alone_is_a_key() -> None:
    """As for a database view."""
    base: Any = declarative()
    column = Column(Integer)
    model = a_model(base, id=column, __mapper_args__={"primary_key": [column]})
    assert not model.__table__.primary_key.columns


def test_other_errors_of_sqlalchemy_stay() -> None:
    """Only the one about the key is ours."""
    base: Any = declarative()
    with pytest.raises(Exception, match="nonesuch"):
        a_model(base, __mapper_args__={"polymorphic_on": "nonesuch"})


# Constraint names -----------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1


def all_kinds(base: Any) -> Any:
    """A model with every kind of constraint, none of which has a name but one."""
    a_model(base, "Owner")
    fields: dict[str, Any] = {
        "owner_id": Column(ForeignKey("owner.id"), index=True),
        "is_new": Column(Boolean(create_constraint=True)),
        "kind": Column(Enum("a", "b", native_enum=False, create_constraint=True)),
        "first": Column(Enum(Color, native_enum=False, create_constraint=True)),
        "second": Column(Enum(Color, native_enum=False, create_constraint=True)),
        "price": Column(Integer, CheckConstraint("price > 0")),
        "size": Column(Integer, unique=True),
    }
    size, price = fields["size"], fields["price"]
    fields["__table_args__"] = (
        CheckConstraint(size > 1),
        CheckConstraint(size > 0),  # only its value differs
        CheckConstraint("size != 5", name="not_five"),
        UniqueConstraint("size", "price"),
        Index(None, size, price),
    )
    return a_model(base, "LineItem", **fields)


def names_of(table: Table) -> list[str]:
    sql = str(CreateTable(table).compile(dialect=sqlite.dialect()))
    return sorted(
        re.findall(r"CONSTRAINT (\w+)", sql) + [str(index.name) for index in table.indexes]
    )


def test_constraints_are_named_by_convention() -> None:
    """Each has a name of its own; a ``CHECK`` without a name gets one, too."""
    model = all_kinds(declarative())
    assert names_of(model.__table__) == [
        "ck_line_item_89b88009",
        "ck_line_item_first",
        "ck_line_item_is_new",
        "ck_line_item_kind",
        "ck_line_item_not_five",
        "ck_line_item_second",
        "ck_line_item_size_6e0a117d",
        "ck_line_item_size_d11d654c",
        "fk_line_item_owner_id_owner",
        "ix_line_item_owner_id",
        "ix_line_item_size_price",
        "pk_line_item",
        "uq_line_item_size",
        "uq_line_item_size_price",
    ]


def test_names_of_constraints_are_stable() -> None:
    """In another process's models, in a copy, and when the statement is made twice."""
    table = all_kinds(declarative()).__table__
    first = names_of(table)
    assert names_of(table) == first
    assert names_of(all_kinds(no_meta()).__table__) == first
    copy = MetaData(naming_convention=table.metadata.naming_convention)
    table.metadata.tables["owner"].to_metadata(copy)
    assert names_of(table.to_metadata(copy)) == first


def test_own_metadata_keeps_its_convention() -> None:
    """Of the base, of a registry, or given to ``Database``."""
    metadata = MetaData()

    class Base(Model, DeclarativeBase):
        pass

    class Own(Model, DeclarativeBase):
        metadata = MetaData(naming_convention={"pk": "x_%(table_name)s"})

    assert "pk" in Base.metadata.naming_convention
    assert a_model(Own).__table__.primary_key.name == "x_thing"
    assert Database(metadata=metadata).Model.metadata is metadata
    assert "pk" not in given_registry().metadata.naming_convention
    assert Database().metadata.naming_convention.get("pk") == "pk_%(table_name)s"


# repr() ---------------------------------------------------------------------------------------


@anywhere
def test_repr_sends_nothing_and_never_fails(make_app: MakeApp, witness: Witness) -> None:
    """Transient, pending, persistent, expired, deleted, detached, deferred."""
    db = Database()
    user = a_model(
        db.Model,
        "User",
        name=Column(String(10), primary_key=True),
        password=deferred(Column(String(20))),
    )
    app = make_app(db)
    with app.app_context():
        sent: list[str] = []
        event.listen(db.engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
        one = user(id=1, name="a\nb", password="s3cret")
        assert repr(one) == "<User (transient)>"
        db.session.add(one)
        assert repr(one) == "<User (pending)>"
        assert not sent
        db.session.commit()
        db.session.expire_all()
        found: list[str] = sent[:]
        assert repr(one) == r"<User 'a\nb', 1>"  # expired
        db.session.execute(select(user))
        one.id = 5
        assert repr(one) == r"<User 'a\nb', 1>"  # as it is stored
        db.session.refresh(one)
        found = sent[:]
        db.session.delete(one)
        assert repr(one) == r"<User 'a\nb', 1>"
        assert sent == found
        db.session.flush()
        assert repr(one) == r"<User 'a\nb', 1>"  # deleted
        db.session.rollback()
        db.session.expunge_all()
        found = sent[:]
        assert repr(one) == r"<User 'a\nb', 1>"  # detached and expired
        assert repr(object.__new__(user)) == "<User (transient)>"
        assert sent == found
    assert repr(one) == r"<User 'a\nb', 1>"  # the context has ended


# __bind_key__ ---------------------------------------------------------------------------------


class KeyOfTenant(str, enum.Enum):
    AUDIT = "audit"


def a_metaclass(base: Any) -> Any:
    """A class whose key is computed by its metaclass."""
    meta = type("Meta", (type(base),), {"__bind_key__": property(lambda _: "audit")})
    return meta("Thing", (base,), {"id": Column(Integer, primary_key=True), "__tablename__": "t"})


@pytest.mark.parametrize(
    "key",
    [
        property(lambda _: "audit"),
        cached_property(lambda _: "audit"),
        classmethod(lambda _: "audit"),
        declared_attr.directive(lambda _: "audit"),
        lambda: "audit",
        b"audit",
        1,
        "audit".encode,
        KeyOfTenant.AUDIT,
    ],
)
@pytest.mark.parametrize("make_base", [declarative, made_by_database, declarative_base])
def test_a_bind_key_that_is_no_plain_string_is_refused(key: Any, make_base: Any) -> None:
    """Its engine is found once, so that of one tenant would be that of all."""
    with pytest.raises(SetupError, match="'__bind_key__' of the model 'Thing' is of type"):
        a_model(make_base(), __bind_key__=key, __tablename__="thing")


def test_a_bind_key_of_a_metaclass_or_a_mixin_is_refused_as_well() -> None:
    """Wherever the class has it from."""
    mixin = type("Mixin", (), {"__bind_key__": property(lambda _: "audit")})
    with pytest.raises(SetupError, match="is of type 'property'"):
        a_model(declarative(), "Thing", mixin)
    with pytest.raises(SetupError, match="is of type 'property'"):
        a_metaclass(declarative())


def test_none_and_a_string_are_bind_keys() -> None:
    """None means the default engine, also where the parent has a key."""
    base: Any = declarative()
    abstract = type("Abstract", (base,), {"__abstract__": True, "__bind_key__": "audit"})
    assert a_model(abstract, "One").__table__.info == {"bind_key": "audit"}
    assert a_model(abstract, "Two", __bind_key__=None).__table__.info == {}
    db = Database(base)
    assert list(db.metadatas["audit"].tables) == ["one"]
    assert list(db.metadatas[None].tables) == ["two"]


@anywhere
def test_rows_of_db_model_are_stored(make_app: MakeApp, witness: Witness) -> None:
    """The whole way, with a second connection as the witness."""
    db = Database()
    post = a_model(db.Model, "BlogPost", title=Column(String(10)))
    app: Flask = make_app(db)

    @app.post("/")
    def create() -> str:
        db.session.add(post(title="one"))
        return ""

    assert app.test_client().post("/").status_code == 200
    assert witness.ask("SELECT title FROM blog_post") == ["one"]
