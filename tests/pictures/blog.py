"""The app of two pictures: its command forgets the commit, and its view loads row by row."""

from __future__ import annotations

import click
from flask import Flask
from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from flask_uow import Database


class Base(DeclarativeBase): ...


class Author(Base):
    __tablename__ = "authors"
    name: Mapped[str] = mapped_column(primary_key=True)


class Post(Base):
    __tablename__ = "posts"
    title: Mapped[str] = mapped_column(primary_key=True)
    author_name: Mapped[str] = mapped_column(ForeignKey("authors.name"))
    author: Mapped[Author] = relationship()


db = Database(Base)
app = Flask(__name__)
app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", TESTING=True)


@app.get("/posts")
def list_posts() -> list[str]:
    posts = db.session.scalars(select(Post).order_by(Post.title))
    return list(map(describe, posts))


def describe(post: Post) -> str:
    return f"{post.title}, by {post.author.name}"


db.init_app(app)
with app.app_context(), db.atomic() as session:
    db.create_all()
    for name in ("ada", "grace", "alan"):
        session.add(Post(title=f"About {name}", author=Author(name=name)))


@app.cli.command()
@click.argument("name")
def add_author(name: str) -> None:
    db.session.add(Author(name=name))
