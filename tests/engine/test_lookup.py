"""Looked-up drafts beside a search over all matches, and what they save."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacuna_ls.engine.errors import CheckpointError
from lacuna_ls.engine.lookup import MAX_MATCH, MIN_MATCH, TABLE, NGrams, looked_up, propose, read_ngrams
from safetensors.numpy import save_file

TOKENS = st.lists(st.integers(0, 3), max_size=40)


def slow(tokens: list[int], num_tokens: int) -> list[int]:
    """Every size from the longest down, every place from the last back."""
    for size in range(MAX_MATCH, MIN_MATCH - 1, -1):
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == tokens[len(tokens) - size :] and size < len(tokens):
                following = tokens[start + size :]
                return (following * num_tokens)[:num_tokens]
    return []


@given(tokens=TOKENS, num_tokens=st.integers(1, 5))
def test_the_longest_match_wins_and_the_latest_of_equals(tokens: list[int], num_tokens: int):
    assert looked_up(tokens, num_tokens) == slow(tokens, num_tokens)


def test_what_stood_behind_the_last_tokens():
    assert looked_up([7, 1, 2, 3, 4, 5, 9, 1, 2]) == [3, 4, 5]
    assert looked_up([7, 1, 2, 9, 2]) == []
    assert looked_up([]) == []
    assert looked_up([1, 5, 6, 5, 6]) == [5, 6, 5]


@given(tokens=TOKENS, num_tokens=st.integers(1, 5))
def test_what_is_looked_up_comes_first_and_the_table_fills_in(tokens: list[int], num_tokens: int):
    table = NGrams((1, 2, 3, 0), {0 * 4 + 1: 0, 2 * 4 + 3: 3})
    found = propose(tokens, table, num_tokens)
    seen = list(tokens)
    for token in found:
        usual = table.after_two.get(seen[-2] * 4 + seen[-1]) if len(seen) > 1 else None
        expected = slow(seen, 1) or [table.after_one[seen[-1]] if usual is None else usual]
        assert [token] == expected
        seen.append(token)
    assert len(found) == (num_tokens if tokens else 0)


def test_without_a_table_only_what_stood_before_is_drafted():
    assert propose([7, 1, 2, 9, 2], NGrams()) == []
    assert propose([1, 5, 6, 5, 6], NGrams()) == [5, 6, 5]


@pytest.mark.parametrize(
    ("one", "two", "fits"),
    [([1, 2, 0], [[5, 2]], True), ([1, 2, 0, 0], [[5, 2]], False), ([1, -2, 0], [[5, 2]], False),
     ([1, 2, 0], [[5, 3]], False)],
    ids=["its own", "more tokens", "no token", "no token behind a pair"],
)  # fmt: skip
def test_a_table_of_other_tokens_is_refused(tmp_path: Path, one: list[int], two: list[list[int]], fits: bool):
    tables = {f"{TABLE}one": np.array(one, np.int16), f"{TABLE}two": np.array(two, np.int32)}
    save_file(tables, tmp_path / "model.safetensors")
    if fits:
        assert read_ngrams(tmp_path / "model.safetensors", 3) == NGrams(one, {5: 2})
    else:
        with pytest.raises(CheckpointError, match=r"model\.safetensors.*vocabulary"):
            read_ngrams(tmp_path / "model.safetensors", 3)


@pytest.mark.parametrize(
    "tables",
    [
        {"one": np.array([1, 2, 0])},
        {"one": np.array([[1], [2], [0]]), "two": np.array([[5, 2]])},
        {"one": np.array([1.0, 2.0, 0.0]), "two": np.array([[5, 2]])},
        {"one": np.array([1, 2, 0]), "two": np.array([5, 2])},
        {"one": np.array([1, 2, 0]), "two": np.array([[5, 2, 1]])},
    ],
    ids=["a half", "another shape", "floats", "no pairs", "threes"],
)
def test_what_is_no_table_is_refused(tmp_path: Path, tables: dict[str, np.ndarray]):
    save_file({f"{TABLE}{name}": table for name, table in tables.items()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*pack the model again"):
        read_ngrams(tmp_path / "model.safetensors", 3)
