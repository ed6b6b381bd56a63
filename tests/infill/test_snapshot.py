"""Lines, line endings and indentation around an offset."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacuna_ls.infill.request import IndentStyle
from lacuna_ls.infill.snapshot import Snapshot, detect_indent, offset_at

TEXTS = st.lists(st.sampled_from(["a", "\n", "\r\n", " ", "\t", "𝒳", "def f():", "é"]), max_size=30).map("".join)


@given(TEXTS, st.data())
def test_a_line_holds_no_newline_and_the_pieces_make_the_text(text, data):
    offset = data.draw(st.integers(0, len(text)))
    if text[offset - 1 : offset + 1] == "\r\n":
        # between carriage return and newline there is no cursor
        return
    snapshot = Snapshot(text)
    start, end = snapshot.line_start(offset), snapshot.line_end(offset)
    assert start <= offset <= end
    assert "\n" not in text[start:end]
    assert start == 0 or text[start - 1] == "\n"
    assert end == len(text) or text[end] in "\r\n"
    assert snapshot.indent_at(offset) == text[start:end][: len(text[start:end]) - len(text[start:end].lstrip(" \t"))]


@given(TEXTS, st.data())
def test_line_and_column_are_the_inverse_of_offset_at(text, data):
    offset = data.draw(st.integers(0, len(text)))
    if text[offset - 1 : offset + 1] == "\r\n":
        return
    line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
    assert offset_at(text, line, column) == offset


@pytest.mark.parametrize(
    ("line", "column"),
    [
        pytest.param(0, 1, id="lines count from 1"),
        pytest.param(3, 1, id="past the last line"),
        pytest.param(1, 5, id="past the last column, on the carriage return"),
        pytest.param(1, 0, id="columns count from 1"),
    ],
)
def test_offset_at_refuses_places_that_are_not_there(line, column):
    with pytest.raises(ValueError, match="line"):
        offset_at("abc\r\nde", line, column)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        pytest.param("def f():\n    a\n    if b:\n        c\n", "    ", id="four spaces"),
        pytest.param("a {\n  b {\n    c\n  }\n}\n", "  ", id="two spaces, though four appear"),
        pytest.param("a\n\tb\n\t\tc\n", "\t", id="tabs"),
        pytest.param("a\n\tb\n\tc\n  d\n", "\t", id="mostly tabs"),
        pytest.param(
            "x = f(a,\n      b)\nif x:\n    y\nif z:\n    w\n", "    ", id="continuation lines do not count more"
        ),
        pytest.param(
            "class A {\n  int a =\n      1;\n  f(\n      b,\n      c(\n          d));\n}\n",
            "  ",
            id="what goes on with a statement is deeper",
        ),
    ],
)
def test_detect_indent(text, unit):
    found = detect_indent(text)
    assert found is not None
    assert found.unit == unit


def test_indent_of_a_flat_text_comes_from_the_editor_then_from_the_language():
    snapshot = Snapshot("a\nb\n")
    assert snapshot.indent(0, IndentStyle(8, True)).unit == " " * 8
    assert snapshot.indent(0, IndentStyle(8, False)).unit == "\t"
    assert snapshot.indent(0, None, "\t").unit == "\t"


def test_what_the_text_shows_beats_the_editors_settings():
    assert Snapshot("a:\n\tb\n").indent(0, IndentStyle(4, True)).is_tabs


@pytest.mark.parametrize(
    ("text", "offset", "newline"),
    [
        pytest.param("a\r\nb\nc", 3, "\r\n", id="the nearest before decides"),
        pytest.param("a\r\nb\nc", 5, "\n", id="mixed file, later part"),
        pytest.param("a\r\nb", 0, "\r\n", id="nothing before: the first one"),
        pytest.param("ab", 1, "\n", id="none at all: the default"),
    ],
)
def test_newline(text, offset, newline):
    assert Snapshot(text).newline(offset) == newline


def test_lines_around_skip_blank_ones_and_stay_near():
    snapshot = Snapshot("first\n\n   \nhere\r\n\r\nbelow\r\nlast")
    offset = snapshot.text.index("here") + 2
    assert snapshot.line_above(offset) == "first"
    assert snapshot.lines_below(offset, 5) == ["below", "last"]
