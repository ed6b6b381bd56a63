"""The layout: what the model reads, in which order, and that typing only appends to it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine.problem import NOISE
from lacuna_ls.infill.layout import (
    LINE_GRID,
    TOKEN_GRID,
    Limits,
    build_prompt,
    canvas_of,
    file_header,
    middle_tokens,
    prefix_tokens,
    suffix_tokens,
)
from lacuna_ls.infill.tokenizer import Tokenizer

CODE = st.text(alphabet="ab (:=)\n\t_é𝒳1", max_size=400)


@given(prefix=CODE, suffix=CODE)
@settings(max_examples=60, deadline=None)
def test_a_short_file_is_shown_whole_suffix_first(small_tokenizer: Tokenizer, prefix: str, suffix: str) -> None:
    t = small_tokenizer
    prompt = build_prompt(t, prefix, suffix, limits=Limits(2000, 2000, 0))
    assert prompt.tokens == (t.suf, *t.encode(suffix), t.pre, *t.encode(prefix), t.mid)
    assert (prompt.num_prefix, prompt.num_suffix) == (len(t.encode(prefix)), len(t.encode(suffix)))


@given(prefix=CODE, suffix=CODE, neighbours=CODE)
@settings(max_examples=60, deadline=None)
def test_no_part_exceeds_its_budget(small_tokenizer: Tokenizer, prefix: str, suffix: str, neighbours: str) -> None:
    limits = Limits(num_prefix=24, num_suffix=10, num_neighbour=8)
    prompt = build_prompt(small_tokenizer, prefix, suffix, neighbours, limits)
    assert prompt.num_prefix <= 24
    assert prompt.num_suffix <= 10
    assert prompt.num_neighbour <= 8
    assert len(prompt.tokens) <= limits.num_prompt


def test_typing_on_a_line_only_appends_to_the_prompt(small_tokenizer: Tokenizer) -> None:
    before = "".join(f"value_{i} = compute({i})\n" for i in range(60))
    budget = 48
    previous = prefix_tokens(small_tokenizer, before, budget)
    moves = 0
    typed = ""
    for char in "total = sum(":
        typed += char
        now = prefix_tokens(small_tokenizer, before + typed, budget)
        # the last word may be tokenised anew while it grows; the window's start stays
        moves += now[:8] != previous[:8]
        previous = now
    assert moves == 0


def test_a_cut_window_starts_on_the_line_grid_and_moves_only_there(small_tokenizer: Tokenizer) -> None:
    starts: list[int] = []
    for n in range(30, 60):
        text = "".join(f"v{i:03d} = {i % 10}\n" for i in range(n))
        shown = small_tokenizer.decode(prefix_tokens(small_tokenizer, text, 60))
        first = int(shown[1:4])
        assert text.endswith(shown)
        assert first % LINE_GRID == 0
        starts.append(first)
    assert sum(a != b for a, b in pairwise(starts)) <= len(starts) // LINE_GRID + 1


def test_a_line_longer_than_the_budget_is_cut_on_the_token_grid(small_tokenizer: Tokenizer) -> None:
    text = "x = [" + ", ".join(str(i % 10) for i in range(900))
    whole = small_tokenizer.encode(text[-80 * 8 :])
    shown = prefix_tokens(small_tokenizer, text, 80)
    assert 0 < len(shown) <= 80
    assert whole[-len(shown) :] == shown or (len(whole) - len(shown)) % TOKEN_GRID == 0


def test_a_suffix_is_cut_after_a_newline_where_one_fits(small_tokenizer: Tokenizer) -> None:
    text = "\n    return a\n\n\ndef other(b):\n    return b\n" * 5
    shown = suffix_tokens(small_tokenizer, text, 30)
    assert len(shown) <= 30
    assert small_tokenizer.decode(shown).endswith("\n")
    assert text.startswith(small_tokenizer.decode(shown))


def test_text_that_spells_a_special_token_stays_text(small_tokenizer: Tokenizer) -> None:
    ids = small_tokenizer.encode("x = '<mid><eos>'")
    assert small_tokenizer.mid not in ids
    assert small_tokenizer.eos not in ids
    assert small_tokenizer.decode(ids) == "x = '<mid><eos>'"


@pytest.mark.parametrize(
    ("end_at", "num_free"),
    [
        (None, 6),  # a free canvas
        (2, 2),  # a candidate length: the end pinned from there on
        (0, 0),  # the answer "nothing"
    ],
)
def test_canvases(small_tokenizer: Tokenizer, end_at: int | None, num_free: int) -> None:
    canvas = canvas_of(6, end_at, small_tokenizer)
    assert len(canvas.tokens) == 6
    assert canvas.pinned.count(False) == num_free
    assert all(token == small_tokenizer.eos for token, pin in zip(canvas.tokens, canvas.pinned, strict=True) if pin)
    assert (canvas.tokens[0] == NOISE) == (end_at != 0)


def test_a_middle_ends_with_the_end_token(small_tokenizer: Tokenizer) -> None:
    assert middle_tokens(small_tokenizer, "a b") == [*small_tokenizer.encode("a b"), small_tokenizer.eos]


def test_the_header_is_the_import_lines_before_the_gap() -> None:
    text = '"""Doc."""\nimport os\nfrom a import b\n\nx = 1\nimport late\n' + "y = 2\n" * 60 + "import too_late\n"
    assert file_header(text, len(text)) == "import os\nfrom a import b\nimport late\n"
    assert file_header(text, text.index("from")) == "import os\n"
