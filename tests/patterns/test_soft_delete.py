"""Soft delete: rows that queries skip."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import ForeignKey, func, select, update
from sqlalchemy.orm import Mapped, aliased, mapped_column, relationship, selectinload

from flask_uow import Database
from tests.support.recipes import Recipe


@pytest.fixture
def notes(recipe: Recipe, app: Flask, db: Database, models: Any) -> Any:
    """Two notes of one folder, of which the first is deleted."""

    names = recipe("Soft delete", create_all=False)
    names.Note.folder_id = mapped_column(ForeignKey("folders.id"))

    class Folder(models.Base):  # type: ignore[misc]  # a fixture
        __tablename__ = "folders"
        id: Mapped[int] = mapped_column(primary_key=True)

    Folder.notes = relationship(names.Note, order_by=names.Note.id)
    names.Folder = Folder
    with app.app_context(), db.atomic() as session:
        db.create_all()
        session.add(Folder(notes=[names.Note(title="old"), names.Note(title="new")]))
    with app.app_context(), db.atomic() as session:
        session.get_one(names.Note, 1).deleted_at = datetime.now()
    return names


def test_no_query_finds_a_deleted_row(notes: Any, app: Flask, db: Database) -> None:
    """By a key, in a join, of an alias, in the total of a page, lazily or eagerly."""
    note, folder = notes.Note, notes.Folder
    with app.app_context():
        session = db.session
        assert session.scalars(select(note.title)).all() == ["new"]
        assert session.get(note, 1) is None
        assert session.scalar(select(func.count()).select_from(note)) == 1
        assert session.scalar(select(func.count(note.id))) == 1
        assert session.scalars(select(note.title).select_from(folder).join(folder.notes)).all() == [
            "new"
        ]
        alias = aliased(note)
        assert session.scalars(select(alias.title)).all() == ["new"]
        assert db.paginate(select(note), page=1).total == 1
        assert len(db.paginate_by_key(select(note).order_by(note.id)).items) == 1
        assert [found.title for found in session.scalars(select(folder)).one().notes] == ["new"]
    with app.app_context():
        session.add(new := folder(id=2))
        session.flush()
        session.execute(update(note).values(folder_id=2))
        assert [found.title for found in new.notes] == ["new"]  # of an object that was not loaded
        session.rollback()
        eager = session.scalars(select(folder).options(selectinload(folder.notes))).one()
        assert [found.title for found in eager.notes] == ["new"]


def test_a_deleted_row_can_be_asked_for(notes: Any, app: Flask, db: Database) -> None:
    """And its object can be refreshed."""
    with app.app_context():
        query = select(notes.Note).order_by(notes.Note.id).execution_options(with_deleted=True)
        old, new = db.session.scalars(query).all()
        assert (old.title, new.title) == ("old", "new")
        db.session.refresh(old)
        db.session.expire(old, ["title"])
        assert old.title == "old"
        db.session.expire(old)
        assert old.title == "old"
