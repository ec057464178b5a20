"""The checker of random runs notices what it is there to notice."""

from __future__ import annotations

import pytest

from tests.support.history import History


@pytest.fixture
def history() -> History:
    """One unit of each outcome."""
    history = History()
    for token in ("stored", "refused", "in doubt"):
        history.begin(token)
    history.ok("stored")
    history.failed("refused", "409")
    return history


@pytest.mark.parametrize("stored", [["stored"], ["stored", "in doubt"]])
def test_history_that_is_explained_passes(stored: list[str], history: History) -> None:
    """What is in doubt may be stored or not."""
    history.check(stored)


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        ([], "1 told ok, not stored: stored"),
        (["stored", "refused"], "1 told failed, but stored: refused (failed: 409)"),
        (["stored", "stored"], "1 stored more than once: stored"),
        (["stored", "in doubt", "in doubt"], "1 stored more than once: in doubt"),
        (["stored", "other"], "1 stored, but nobody began it: other"),
    ],
)
def test_what_disagrees_is_named(stored: list[str], sentence: str, history: History) -> None:
    """Each kind of disagreement, with the tokens and the outcome of the whole run."""
    with pytest.raises(AssertionError) as caught:
        history.check(stored)
    assert sentence in str(caught.value)
    assert "1 ok, 1 failed, 1 unknown of which" in str(caught.value)


def test_token_has_one_beginning_and_one_end(history: History) -> None:
    """A run that mixes up its tokens proves nothing."""
    with pytest.raises(ValueError, match="has begun before"):
        history.begin("stored")
    with pytest.raises(ValueError, match="has an outcome"):
        history.failed("stored", "409")
