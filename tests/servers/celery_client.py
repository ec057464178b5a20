"""Sends tasks to a Celery worker; a program: ``python -m tests.servers.celery_client FOLDER 200``.

The broker and the results are in FOLDER. The results are printed as JSON, an error as its text.
Before the worker starts, a call for 0 tasks creates the queue: if both create it, one fails.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def configured(folder: str) -> Any:
    """A Celery app that keeps its messages in a database of *folder*.

    Not as files: the file of a message is seen by the worker before it is written.
    """
    celery_package: Any = import_module("celery")
    Path(folder, "results").mkdir(exist_ok=True)
    celery = celery_package.Celery(
        "forked", broker=f"sqla+sqlite:///{folder}/broker.db", backend=f"file://{folder}/results"
    )
    celery.conf.worker_prefetch_multiplier = 1
    return celery


def main(folder: str, tasks: int) -> None:
    celery = configured(folder)
    with celery.connection() as connection:
        connection.default_channel.queue_declare(queue="celery")
    sent = [celery.send_task("answer", [f"token-{number}"]) for number in range(tasks)]
    answers = []
    for result in sent:
        try:
            answers.append(result.get(timeout=60, interval=0.05))
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
