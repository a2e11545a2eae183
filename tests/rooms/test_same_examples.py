"""The examples of property tests hang on their seed alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

from tests.same_examples import bounded


def drawn() -> list[tuple[int, str, float]]:
    found: list[tuple[int, str, float]] = []

    @bounded(200)
    @given(st.tuples(st.integers(), st.text(max_size=8), st.floats(allow_nan=False)))
    def draw(one: Any) -> None:
        found.append(one)

    draw()
    return found


def test_other_numbers_in_the_code_give_no_other_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    before = drawn()
    more = Constants()
    for value in range(4711, 4911):
        more.add(value)
    monkeypatch.setattr(providers, "_get_local_constants", lambda: more)

    assert len(before) >= 200
    assert drawn() == before
