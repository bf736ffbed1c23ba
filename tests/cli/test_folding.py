"""Long lines on a terminal: they go on below their last column, and no word is lost or cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpring.cli._folding import LEAST_WIDTH, folded


def test_last_column_goes_on_below_itself() -> None:
    words = "passed its self-test (in use: ipsec-mb: the first that passed its self-test)"
    row = f"AEAD        ipsec-mb         yes  {words}"
    assert list(folded(row, 80)) == [
        "AEAD        ipsec-mb         yes  passed its self-test (in use: ipsec-mb: the",
        "                                  first that passed its self-test)",
    ]
    assert list(folded(row, 160)) == [row]


def test_line_without_columns_has_a_hanging_indent() -> None:
    assert list(folded("  cure: add a route to the endpoint of it", 30)) == [
        "  cure: add a route to the",
        "    endpoint of it",
    ]


@given(st.lists(st.text("ab-/", min_size=1, max_size=12), max_size=30), st.integers(1, 120))
def test_no_word_is_lost_and_no_line_too_wide(words: list[str], width: int) -> None:
    for line in (" ".join(words), "name  yes  " + " ".join(words)):
        parts = list(folded(line, width))
        assert " ".join(parts).split() == line.split()
        if width >= LEAST_WIDTH + 13:
            assert all(len(part) <= width for part in parts)


@pytest.mark.parametrize("line", ["", "  ", "x" * 300, "x  " + "y" * 300])
def test_what_cannot_be_folded_stays(line: str) -> None:
    assert list(folded(line, 80)) == [line]
