"""What clients were told, against what is stored: a checker for runs that nobody can predict.

Every unit of work carries a token of its own and stores it. The history knows, of every token,
what the client was told::

    history = History()
    token = history.begin()
    history.ok(token)              # it must be stored
    history.failed(token, error)   # it must not be stored
                                   # neither: nobody knows, it may be stored or not
    history.check(stored)          # the tokens that a witness found

Whatever the outcome, no token is stored twice, and none that nobody began.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator


class History:
    """The tokens of a run, and what became of each. May be used by many threads.

    :ivar outcomes: of each token ``"ok"``, ``"unknown"``, or why it failed.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self._lock = threading.Lock()

    def begin(self, token: str | None = None) -> str:
        """Note that a unit begins; until something else is noted, its outcome is unknown.

        :param token: the token to use; by default a new one.
        """
        token = token or uuid.uuid4().hex
        with self._lock:
            if token in self.outcomes:
                raise ValueError(f"the token {token} has begun before")
            self.outcomes[token] = "unknown"
        return token

    def ok(self, token: str) -> None:
        """Note that the client was told of a success."""
        self._conclude(token, "ok")

    def failed(self, token: str, why: object) -> None:
        """Note that the client was told of a failure that leaves nothing behind."""
        self._conclude(token, f"failed: {why}")

    def _conclude(self, token: str, outcome: str) -> None:
        with self._lock:
            if self.outcomes[token] != "unknown":
                raise ValueError(f"the token {token} has an outcome: {self.outcomes[token]}")
            self.outcomes[token] = outcome

    def count(self, outcome: str) -> int:
        """How many units are ``"ok"``, ``"failed"`` or ``"unknown"``."""
        return sum(found.partition(":")[0] == outcome for found in self.outcomes.values())

    @property
    def acknowledged(self) -> list[str]:
        """The tokens whose clients were told of a success."""
        return [token for token, outcome in self.outcomes.items() if outcome == "ok"]

    def check(self, stored: Iterable[str]) -> None:
        """Compare with what a witness found.

        :param stored: the token of every row, so one that is stored twice is there twice.
        :raises AssertionError: naming up to ten tokens of each kind of disagreement.
        """
        found = Counter(stored)
        wrong = "\n".join(self._differences(found))
        assert not wrong, f"{wrong}\n{self.summary(found)}"

    def summary(self, stored: Iterable[str] = ()) -> str:
        """The run in one line."""
        found = set(stored)
        unknown = [token for token, outcome in self.outcomes.items() if outcome == "unknown"]
        there = sum(token in found for token in unknown)
        return (
            f"{self.count('ok')} ok, {self.count('failed')} failed,"
            f" {len(unknown)} unknown of which {there} stored"
        )

    def _differences(self, stored: Counter[str]) -> Iterator[str]:
        of = self.outcomes
        kinds = {
            "told ok, not stored": [t for t, what in of.items() if what == "ok" and not stored[t]],
            "told failed, but stored": [
                f"{token} ({what})"
                for token, what in of.items()
                if what.startswith("failed") and stored[token]
            ],
            "stored more than once": [token for token, times in stored.items() if times > 1],
            "stored, but nobody began it": [token for token in stored if token not in of],
        }
        for kind, tokens in kinds.items():
            if tokens:
                yield f"{len(tokens)} {kind}: {', '.join(tokens[:10])}"
