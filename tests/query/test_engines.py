"""Models on another engine than the default one."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.exceptions import NotFound

from flask_uow import Database, Flask
from tests.support.databases import TestDatabase, on


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entries"
    __bind_key__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(20))


@on("sqlite-file", "postgresql")
def test_helpers_ask_the_engine_of_the_model(database: TestDatabase, tmp_path: Path) -> None:
    """For the rows, the total, the estimate, and what its driver can compare."""
    db, app = Database(Base), Flask("tests", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'default.db'}"
    app.config["SQLALCHEMY_BINDS"] = {"audit": database.url}
    app.register_extension(db)
    with app.app_context():
        db.create_all()
        try:
            db.session.add_all(Entry(id=number, text=f"{number}") for number in range(1, 8))
            db.session.commit()
            assert db.get_or_404(Entry, "3").text == "3"
            with pytest.raises(NotFound):
                db.get_or_404(Entry, 2**31)
            assert db.one_or_404(select(Entry.text).where(Entry.id == 3)) == "3"
            by_id = select(Entry).order_by(Entry.id)
            assert db.first_or_404(by_id).id == 1
            assert db.paginate(by_id, per_page=3).total == 7
            estimated = db.paginate(by_id, per_page=3, count="estimated")
            assert estimated.is_estimate == (database.name == "postgresql")
            texts = select(func.upper(Entry.text)).order_by(Entry.id)
            assert db.paginate(texts, per_page=3, page=2).items == ["4", "5", "6"]
        finally:
            db.session.rollback()
            db.drop_all()
