"""When nothing is proposed, and how much is filled where something is."""

from __future__ import annotations

import pytest
from infill_cases import asked
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.span import Gap, Scene
from lacuna_ls.infill.syntax import SyntaxTree
from lacuna_ls.infill.trigger import Decline, decide


def decided(marked: str, language: str = "python", is_excluded=lambda path: False, **options) -> Gap | Decline:
    request = asked(marked, language, **options)
    row = language_for(language, request.path)
    snapshot = Snapshot(request.text)
    tree = SyntaxTree.around(row, request.text, request.start, request.end)
    indent = snapshot.indent(request.start, request.indent, row.indent)
    return decide(request, Scene(snapshot, tree, indent), is_excluded)


@pytest.mark.parametrize(
    ("marked", "options", "reason"),
    [
        pytest.param("fo‸o = 1\n", {}, "inside-word", id="letters on both sides"),
        pytest.param("fo‸o = 1\n", {"is_explicit": True}, "inside-word", id="asking by a key does not help"),
        pytest.param("x = 1  # a ‸\n", {"in_comments": False}, "comment", id="comments are off"),
        pytest.param("f(a‸, b) + c\n", {}, "mid-line", id="passing by: nothing is missing here"),
        pytest.param("x = 1‸ + y\n", {}, "mid-line", id="behind a whole value"),
        pytest.param("x = '" + "a" * 6000 + "‸'\n", {}, "too-large", id="a generated line"),
    ],
)
def test_declines(marked, options, reason):
    assert decided(marked, **options) == Decline(reason)


@pytest.mark.parametrize(
    ("marked", "options", "extent"),
    [
        pytest.param("", {}, "line", id="an empty document"),
        pytest.param("x = ‸\n", {}, "rest", id="at the end of a line"),
        pytest.param("ret‸\n", {}, "rest", id="at the end of a word"),
        pytest.param("x = f(‸)\n", {}, "rest", id="before an auto-closed bracket"),
        pytest.param("x = f('a‸')\n", {}, "rest", id="before an auto-closed quote and a bracket"),
        pytest.param("x = 'a‸')\n", {}, "node", id="before a bracket that is another line's"),
        pytest.param("f(‸),\n", {}, "node", id="before a bracket and what the user put behind it"),
        pytest.param("x = f(‸))\n", {}, "node", id="before a bracket too many"),
        pytest.param("# f(‸)\n", {}, "node", id="a bracket in a comment"),
        pytest.param("f(‸, b) + c\n", {}, "node", id="a value is missing, though code stands right"),
        pytest.param("x = ‸ + y\n", {}, "node", id="an operand is missing"),
        pytest.param("x = 1  # a ‸\n", {}, "rest", id="in a comment, allowed"),
        pytest.param("x = 1‸ + y\n", {"is_explicit": True}, "node", id="asked by a key, mid-line"),
        pytest.param("a = 1\n‸\nb = 2\n", {}, "line", id="an empty line"),
        pytest.param("def f():\n    ‸\n", {}, "block", id="an empty body"),
        pytest.param("def f():\n    ‸\n    return 1\n", {}, "line", id="a body that is there already"),
        pytest.param("def f():\n    ‸\n", {"kind": "line"}, "line", id="only a line is wanted"),
        pytest.param("def f():‸\n", {}, "block", id="behind a header"),
        pytest.param("d = {'a':‸\n", {}, "rest", id="a colon in a mapping is no header"),
        pytest.param("d = {\n    'a': ‸\n}\n", {}, "rest", id="nor where the mapping began further up"),
        pytest.param("class A:\n    size: ‸\n", {}, "rest", id="an annotation is no header"),
        pytest.param("def f(\n    a,\n) -> int:‸\n", {}, "block", id="the last line of a long header"),
        pytest.param("def f():\n    while (a\n           and b):‸\n", {}, "block", id="the last line of a condition"),
        pytest.param("a = 1\n‸\nb = 2\n", {"kind": "block"}, "block", id="a block is wanted on an empty line"),
        pytest.param("x = ‸1\ny‸ = 2\n", {}, "span", id="a chosen span"),
        pytest.param("if a:‸\nb\n", {}, "block", id="behind a header"),
        pytest.param("switch (a) {‸\ncase 1:\n  b();\n}\n", {"language": "javascript"}, "rest", id="above a label"),
        pytest.param("x = ‸\n", {"kind": "span"}, "span", id="an empty span by name"),
    ],
)
def test_extent(marked, options, extent):
    gap = decided(marked or "‸", **options)
    assert isinstance(gap, Gap)
    assert gap.extent == extent


def test_an_excluded_path_is_declined_before_anything_else():
    found = decided("A=‸\n", "text", lambda path: path.endswith(".env"), path="/p/.env")
    assert found == Decline("excluded")


@pytest.mark.parametrize(
    ("language", "marked", "lead", "tail"),
    [
        pytest.param("python", "def f():\n‸\n", "    ", "", id="an empty line gets its indentation"),
        pytest.param("python", "def f():\n  ‸\n", "", "", id="indentation that is there is kept"),
        pytest.param("python", "def f():‸\n", "\n    ", "", id="a body behind its header"),
        pytest.param("python", "def f():\n    return 1\n‸\n", "", "", id="after a return the level above"),
        pytest.param("javascript", "/**\n * A.\n */\n‸\n", "", "", id="below a comment at the margin"),
        pytest.param("java", "class A {\n  /**\n   * A.\n   */\n‸\n}\n", "  ", "", id="below a comment further in"),
        pytest.param("c", "/* a\n * b\n‸\n", " ", "", id="within a comment"),
        pytest.param("lua", "--[[ a\n]]\nif a then\n  b = c[d[1]]\n‸\nend\n", "  ", "", id="brackets end no comment"),
        pytest.param("python", "x = [\n‸\n]\n", "    ", "", id="inside an open bracket"),
        pytest.param("python", "class A:\n\tdef f():\n‸\n", "\t\t", "", id="a tab where tabs are used"),
        pytest.param("python", "if a:\r\n    b\r\nif c:‸\r\n", "\r\n    ", "", id="CRLF in the lead"),
        pytest.param("javascript", "function f() {‸}\n", "\n  ", "\n", id="between auto-closed braces"),
        pytest.param("javascript", "function f() {‸\n", "\n  ", "\n}", id="nobody has closed the brace"),
        pytest.param("javascript", "const a = {‸}\n", "", "", id="an object literal is no block"),
        pytest.param("go", "func f() {‸}\n", "\n\t", "\n", id="Go indents by tabs"),
        pytest.param("go", "func f() {\n\tif a &&\n\t\tb {‸}\n}\n", "\n\t\t", "\n\t", id="a header of two lines"),
        pytest.param("java", "class A {\n    void f(int a,\n           int b) {‸}\n}\n", "\n        ", "\n    ",
                     id="parameters below each other"),
        pytest.param("python", "if x:\n    def f(a,\n          b):‸\n", "\n        ", "", id="the same in Python"),
        pytest.param("c", "int f(void)\n{‸}\n", "\n    ", "\n", id="a brace on a line of its own"),
        pytest.param("python", "if a == '(':‸\n", "\n    ", "", id="a bracket in a string opens nothing"),
        pytest.param("go", "func f() {\n\tswitch a {‸}\n}\n", "\n\t\t", "\n\t", id="the cases of a switch"),
        pytest.param("go", "func f() {\n\tswitch a.(type) {‸}\n}\n", "\n\t\t", "\n\t", id="of a switch by type"),
        pytest.param("go", "func f() {\n\tselect {‸}\n}\n", "\n\t\t", "\n\t", id="of a select"),
        pytest.param("javascript", "f();\n{‸}\n", "", "", id="a block of its own"),
    ],
)
def test_lead_and_tail(language, marked, lead, tail):
    gap = decided(marked, language)
    assert isinstance(gap, Gap)
    assert (gap.lead, gap.tail) == (lead, tail)


def test_white_space_right_of_the_cursor_is_replaced():
    gap = decided("x = ‸  \ny\n")
    assert isinstance(gap, Gap)
    assert (gap.start, gap.end) == (4, 6)


def test_what_is_replaced_ends_with_the_window():
    gap = decided(f"x = f(‸){' ' * 30_000}\n", is_explicit=True)
    assert isinstance(gap, Gap)
    assert gap.closed.rstrip() == ")"
    assert gap.end == gap.start + len(gap.closed) < 30_000


def test_the_popups_word_is_the_beginning_of_the_proposal():
    request_text = "x = se\n"
    gap = decided("x = ‸se‸\n", typed="self")
    assert isinstance(gap, Gap)
    assert gap.lead == "self"
    assert request_text[gap.start : gap.end] == "se"
    assert gap.extent == "rest"


def test_the_popups_word_may_end_inside_another():
    assert decided("x = ‸se‸lf\n", typed="sel") == Decline("inside-word")
