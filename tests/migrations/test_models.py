"""Models of ``flask_uow.Model``: their tables and constraints are created once, and by name."""

from __future__ import annotations

import enum
import re
from typing import Any

import pytest
from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Enum,
    ForeignKey,
    Integer,
    MetaData,
    NullPool,
    String,
    UniqueConstraint,
    create_engine,
    inspect,
)
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase

from flask_uow import Model
from tests.migrations.projects import Project
from tests.support.databases import concurrently


class Color(enum.Enum):
    RED = 1


def model(base: Any, class_name: str, **fields: Any) -> Any:
    """Define a model, which is kept by its base."""
    key = Column(Integer, primary_key=True)
    defined = type(class_name, (base,), {"id": key, "__module__": __name__, **fields})
    base.defined = [*getattr(base, "defined", []), defined]
    return defined


def define(metadata: MetaData, **more: Any) -> None:
    base: Any = type("Base", (Model, DeclarativeBase), {"metadata": metadata})
    model(base, "Owner")
    model(
        base,
        "LineItem",
        owner_id=Column(ForeignKey("owner.id"), index=True),
        is_new=Column(Boolean(create_constraint=True)),
        kind=Column(Enum("a", "b", native_enum=False, create_constraint=True)),
        first=Column(Enum(Color, native_enum=False, create_constraint=True)),
        second=Column(Enum(Color, native_enum=False, create_constraint=True)),
        price=Column(Integer, unique=True),
        code=Column(String(10)),
        __table_args__=(
            CheckConstraint("code <> ''"),
            CheckConstraint("price > 0", name="price"),
            UniqueConstraint("code", "price"),
        ),
        **more,
    )


def with_more(metadata: MetaData) -> None:
    define(metadata, size=Column(Integer, unique=True))


@concurrently
def test_migrations_of_named_constraints_are_stable(project: Project) -> None:
    """One revision creates them, a second finds no change, and both directions run."""
    project.do("db", "init")
    text = project.migrate(define)
    names = set(re.findall(r"op\.f\(['\"](\w+)['\"]\)", text))
    assert {"pk_line_item", "fk_line_item_owner_id_owner", "uq_line_item_code_price"} <= names
    assert project.tables() == {"owner", "line_item"}
    project.do("db", "check", models=define)
    assert "No file" in project.do("db", "migrate", models=define)
    engine = create_engine(project.url, poolclass=NullPool)
    found = inspect(engine)
    assert {check["name"] for check in found.get_check_constraints("line_item")} >= {
        "ck_line_item_kind",
        "ck_line_item_first",
        "ck_line_item_second",
    }
    assert [key["name"] for key in found.get_foreign_keys("line_item")] == [
        "fk_line_item_owner_id_owner"
    ]
    for column, value in (("price", "0"), ("kind", "'c'"), ("code", "''"), ("second", "'X'")):
        with pytest.raises((IntegrityError, OperationalError), match=r"(?i)constraint|check"):
            project.query(f"INSERT INTO line_item ({column}) VALUES ({value})")
    second = project.migrate(with_more)
    assert "uq_line_item_size" in second
    project.do("db", "check", models=with_more)
    project.do("db", "downgrade", "base", models=with_more)
    assert project.tables() == set()
