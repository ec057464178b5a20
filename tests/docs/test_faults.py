"""``docs/explanation/faults.md`` says of each fault what the tests say."""

from __future__ import annotations

import pytest

from tests.docs import faults
from tests.docs.pages import ROOT


@pytest.mark.slow
def test_table_is_the_one_of_the_tests() -> None:
    """If this fails: ``python -m tests.docs.faults`` writes it anew."""
    page = faults.PAGE.read_text(encoding="utf-8")
    assert page == faults.written(page)


@pytest.mark.slow
def test_every_fault_is_tested_or_has_a_reason() -> None:
    """And none has both, so that no reason outlives its test."""
    tested = {row.number for row in faults.rows()}
    assert not tested & faults.OPEN.keys()
    assert tested | faults.OPEN.keys() >= faults.KNOWN


@pytest.mark.slow
def test_tests_of_a_row_exist() -> None:
    """Those that are named by hand may have been renamed."""
    for row in faults.rows():
        for test in row.tests:
            path, _, name = test.partition("::")
            assert name in {function.name for function in faults.tests_of(ROOT / "tests" / path)}


def test_rows_are_sentences_that_fit_a_table() -> None:
    """No full stop, no bar, a capital at the start."""
    texts = [text for row in faults.rows() for text in (row.fault, row.then)]
    texts += [text for pair in faults.OPEN.values() for text in pair]
    for text in texts:
        assert text == text.strip(" .")
        assert "|" not in text
        assert text[0].isupper()
