"""Serves many greenlets at once from one app; a program, because gevent changes the process.

``python -m tests.support.greenlets URL`` prints how many requests got 200, how many rows were
stored, how many different sessions were seen and how many requests were inside at once.
"""

from __future__ import annotations

import sys

REQUESTS = 12


def main(url: str) -> None:
    from gevent import monkey

    monkey.patch_all()
    import gevent
    from flask import Flask

    from flask_uow import Database
    from tests.support.models import Base, User
    from tests.support.witness import Witness

    app = Flask("greenlets")
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": REQUESTS}
    db = Database(Base, app)
    sessions: list[object] = []
    inside = most = 0

    @app.post("/<name>")
    def create(name: str) -> str:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        first = db.session()
        gevent.sleep(0.01)  # the others run
        db.session.add(User(name=name))
        gevent.sleep(0.01)
        assert db.session() is first
        sessions.append(first)
        inside -= 1
        return ""

    with app.app_context():
        db.create_all()
    jobs = [gevent.spawn(app.test_client().post, f"/{number}") for number in range(REQUESTS)]
    answers = [job.get() for job in jobs]
    succeeded = sum(answer.status_code == 200 for answer in answers)
    print(succeeded, Witness(url).count(), len(set(sessions)), most)
    with app.app_context():
        db.engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1])
