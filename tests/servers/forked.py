"""An app that uses its database while it is imported, before the server forks.

The database comes from the environment. What the master process has in its pool is named in
every answer, so that a test can see whether it is still alive.
"""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_uow import Database, Flask
from tests.servers.celery_client import configured


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"

    text: Mapped[str] = mapped_column(primary_key=True)


db = Database(Base)
app = Flask(__name__)
app.config.from_prefixed_env()
app.register_extension(db)
with app.app_context():
    db.create_all()
    master = db.session.scalar(text("SELECT pg_backend_pid()"))


def answer(token: str) -> dict[str, Any]:
    """Ask the database for *token*, more than once, and store it."""
    found = [db.session.scalar(text("SELECT :token"), {"token": token}) for _ in range(5)]
    db.session.add(Note(text=token))
    return {"found": found, "pid": os.getpid(), "master": master}


app.post("/<token>")(answer)


if "CELERY_FOLDER" in os.environ:  # this is a Celery worker
    celery = configured(os.environ["CELERY_FOLDER"])

    @celery.task(name="answer")  # type: ignore[untyped-decorator]
    def answer_task(token: str) -> dict[str, Any]:
        with app.app_context():
            found = answer(token)
            db.session.commit()
        return found
