"""CPU of a unit with two statements, on an engine with and without what flask_uow adds to it.

The unit is a plain ``Session`` in all columns: what is measured is the engine. *transactions*
sets SQLite up as flask_uow does and adds nothing else, so that the guard can be told from it.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine, Integer, String, create_engine, insert, make_url, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flask_uow._config.reading import read
from flask_uow._engine import fork, lost_transactions
from flask_uow._engine.build import build
from flask_uow._sqlite import engine as _sqlite_engine

from ._measure import Case, case, interleave, ratio, table

PLAIN, CONTROL, TRANSACTIONS = "off", "off again", "transactions"
GUARD, ALL = "guard and fork", "all: with the pool"


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "benchmark_guard"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", action="append", help="may be repeated; default: a SQLite file")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=100)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        urls = options.url or [f"sqlite:///{Path(folder, 'guard.db')}"]
        rows = [_measured(url, options.rounds, options.repeat) for url in urls]
    print(table(["driver", f"{PLAIN}, µs", CONTROL, TRANSACTIONS, GUARD, ALL], rows))


def _measured(url: str, rounds: int, repeat: int) -> list[str]:
    with ExitStack() as stack:
        cases: dict[str, Case] = {}
        for name in (PLAIN, CONTROL, TRANSACTIONS, GUARD, ALL):
            engine = _engine(name, url)
            stack.callback(engine.dispose)
            if not cases:
                Base.metadata.create_all(engine)
                stack.callback(Base.metadata.drop_all, create_engine(url))
            cases[name] = case("use(engine)", use=_use, engine=engine)
        times = interleave(cases, rounds, repeat)
    base = sorted(times[PLAIN])[len(times[PLAIN]) // 2]
    # On a server nothing is done for transactions, and off is what the guard compares with.
    against = TRANSACTIONS if url.startswith("sqlite") else PLAIN
    return [
        make_url(url).drivername,
        f"{base * 1e6:.0f}",
        ratio(times, CONTROL, PLAIN),
        ratio(times, TRANSACTIONS, PLAIN),
        ratio(times, GUARD, against),
        ratio(times, ALL, against),
    ]


def _engine(name: str, url: str) -> Engine:
    if name == ALL:
        return build(read({"SQLALCHEMY_DATABASE_URI": url}), ".")["default"]
    engine = create_engine(url)
    if name in {TRANSACTIONS, GUARD} and engine.dialect.name == "sqlite":
        _sqlite_engine.set_up_transactions(engine)
    if name == GUARD:
        lost_transactions.watch_transactions(engine)
        fork.protect_from_fork(engine)
    return engine


def _use(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.execute(insert(Row).values(name="Ada"))
        session.execute(select(Row).limit(1)).all()


if __name__ == "__main__":
    main()
