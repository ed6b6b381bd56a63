"""What stands around a line: docstrings are passed by, and a block keeps its own shape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacuna_ls.infill.places import Lines, Place, above_docstring, block_at, past_docstring


@pytest.mark.parametrize(
    ("text", "first", "behind"),
    [
        pytest.param('def f():\n    """One line."""\n    pass\n', 1, 2, id="in one line"),
        pytest.param('def f():\n    r"""More\n\n    lines.\n    """\n    pass\n', 1, 4, id="blank lines do not count"),
        pytest.param("def f():\n    '''Other\n    marks.'''\n    pass\n", 1, 3, id="other marks"),
        pytest.param("def f():\n    pass\n", 1, 1, id="none"),
        pytest.param('def f():\n    """Open\n    pass\n', 1, 1, id="never closed"),
        pytest.param('x = """\n    text"""\ny\n', 0, 0, id="a string that is a value"),
    ],
)
def test_a_docstring_is_passed_by_in_both_directions(text, first, behind):
    lines = Lines.of(text)
    assert past_docstring(lines, first) == behind
    if behind > first:
        assert above_docstring(lines, behind - 1) == first - 1


def test_what_ends_no_docstring_stays():
    lines = Lines.of('a\nx = """\n"""\nb\n')
    assert above_docstring(lines, 0) == 0
    assert above_docstring(lines, 2) == 2
    assert above_docstring(Lines.of(""), -1) == -1


PLACE = Place("", ("if a:", ""), ("end", ""))


def test_a_block_is_moved_to_the_gap_with_its_blank_lines():
    lines = Lines.of("    if a:\n        b\n\n            c  \n        d\n    end\n")
    block = block_at(lines, 1, PLACE, "\t")
    assert block is not None
    assert (block.first, block.text, block.likeness) == (1, "b\n\n\t    c\n\td", pytest.approx(1.0))
    assert block_at(lines, 1, PLACE, "", is_cut_off=True) is not None, "something stands below it"
    assert block_at(Lines.of("if a:\n  b\n"), 1, PLACE, "", is_cut_off=True) is None
    assert block_at(lines, 1, Place("x", PLACE.above, PLACE.below), "") is None
    assert block_at(lines, 4, Place("", ("no", ""), ("", "")), "") is None, "in no way alike"


LINES = st.lists(st.sampled_from(["if a:", "  b", "    c", "", "end", '"""', "  \t d"]), max_size=12)


@given(LINES, st.integers(0, 12))
def test_a_block_is_there_word_by_word(lines, i):
    text = Lines.of("\n".join(lines))
    block = block_at(text, i, PLACE, "    ")
    if block is not None:
        words = [line.strip() for line in block.text.split("\n") if line.strip()]
        there = [line.strip() for line in lines if line.strip()]
        assert words == there[i : i + len(words)]
