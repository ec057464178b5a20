"""The database of the ledger: ``db``, and the base of its models."""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import MetaData, String
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase

from flask_uow import Database

# MariaDB ignores case when it compares text, unless the collation is a binary one. SQLite and
# PostgreSQL never ignore it.
_TEXT = String(200).with_variant(
    mysql.VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)


class Base(DeclarativeBase):
    """The base of all models.

    Every constraint has a name, because a violation is recognized by that name: ``refusals.py``.
    """

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map: ClassVar = {str: _TEXT}


db = Database(Base)
