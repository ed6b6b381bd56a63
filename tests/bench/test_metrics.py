"""Judgements of single proposals, and the sums: the figures that everything else rests on."""

from __future__ import annotations

import math
import re

import pytest
from lacuna_ls.bench.metrics import (
    NOTHING,
    Judgement,
    calibration_error,
    coverage_curve,
    has_wrong_indent,
    indent_style,
    interval,
    judge,
    judge_begun,
    mean,
    percentile,
    repeats_suffix,
)
from lacuna_ls.bench.written import begun
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.syntax import SyntaxTree

PYTHON = language_for("python")

BEFORE = "def area(radius):\n    size = "
AFTER = "\n    return size\n"
REFERENCE = "compute(radius, 2)"


def judged(new: str, before: str = BEFORE, after: str = AFTER, reference: str = REFERENCE, num_replaced: int = 0):
    cursor = len(before)
    return judge(before + after, cursor, reference, new, "python", replaced=(cursor, cursor + num_replaced))


def test_the_original_is_exact_and_harmless():
    verdict = judged(REFERENCE)
    assert verdict.is_exact
    assert verdict.is_line_exact
    assert verdict.is_prefix
    assert verdict.similarity == 1.0
    assert verdict.is_valid
    assert [verdict.has_syntax_error, verdict.has_unbalanced, verdict.has_repeated_suffix] == [False] * 3


def test_white_space_at_line_ends_does_not_count():
    assert judged(REFERENCE + "  ").is_exact
    assert judged(REFERENCE + "\n").is_exact


def test_something_else_is_measured():
    verdict = judged("compute(radius, 3)")
    assert not verdict.is_exact
    assert verdict.is_valid
    assert verdict.similarity == pytest.approx(17 / 18)


@pytest.mark.parametrize(
    ("new", "has_error", "has_unbalanced"),
    [
        pytest.param("size = compute(radius", True, True, id="open-bracket"),
        pytest.param("size = compute(radius))", True, True, id="closed-twice"),
        pytest.param("size = 'radius", True, True, id="open-string"),
        pytest.param("return return", True, False, id="nonsense"),
        pytest.param("size = radius", False, False, id="sound"),
    ],
)
def test_damage_to_a_sound_document_is_found(new: str, has_error: bool, has_unbalanced: bool):
    verdict = judged(new, before="def area(radius):\n    ", reference="size = 1")
    assert verdict.has_syntax_error is has_error
    assert verdict.has_unbalanced is has_unbalanced
    assert verdict.is_valid is not has_error


@pytest.mark.parametrize(
    "new",
    [
        pytest.param("compute(radius", id="open-bracket"),
        pytest.param("return return", id="nonsense"),
    ],
)
def test_what_was_broken_by_the_hole_and_stays_broken_is_not_valid(new: str):
    # `size = ` is an error before anything is proposed. Python says that a program has become none; where only the
    # tree can be asked, none is introduced, and none is mended
    verdict = judged(new)
    assert verdict.has_syntax_error
    assert not verdict.is_valid
    before, after = "function area(radius) {\n  let size = ", ";\n  return size\n}\n"
    span = len(before), len(before)
    verdict = judge(before + after, span[0], "3", new, "javascript", replaced=span)
    assert not verdict.has_syntax_error
    assert not verdict.is_valid


LOOP = "def total(a):\n    c = 0\n    "
RETURN = "\n    return a\n"
"""A function whose next line is the hole, and what follows it."""


@pytest.mark.parametrize(
    ("before", "reference", "new", "after", "is_broken"),
    [
        pytest.param(LOOP, "c = 1", "for b in a:", RETURN, True, id="a-header-before-a-line-of-its-own-level"),
        pytest.param(LOOP, "c = 1", "y = 2\n        z = 3", RETURN, True, id="deeper-without-a-reason"),
        pytest.param(LOOP, "c = 1", "if b:\n        pass\n  c = 1", RETURN, True, id="between-two-levels"),
        pytest.param(LOOP, "while c:", "for b in a:", "\n        c += b\n", False, id="its-body-follows"),
        pytest.param(LOOP, "c = 1", "for b in a:", "\n\n\nx = 1\n", False, id="its-body-may-still-be-written"),
        pytest.param(LOOP + "for b ", "in c: a", "in a:", RETURN, False, id="the-user-began-this-header"),
        pytest.param(LOOP + "for b ", "in c: a", "of a:", RETURN, True, id="no-header-at-all"),
        pytest.param(LOOP, "c = 1", "if c:\n        for b in a:", "\n\n\nx = 1\n", True, id="a-block-is-whole"),
        pytest.param("print 'old'\n" + LOOP, "c = 1", "for b in a:", RETURN, False, id="no-python-before-either"),
    ],
)
def test_python_that_python_does_not_read_is_broken(before: str, reference: str, new: str, after: str, is_broken: bool):
    verdict = judged(new, before=before, after=after, reference=reference)
    assert verdict.has_syntax_error is is_broken
    assert verdict.is_valid is not is_broken


@pytest.mark.parametrize(("new", "is_harm"), [("items = []", False), ("items = [", False), (")", True), ("1 +", True)])
def test_one_line_of_several_is_no_harm_where_the_user_can_go_on(new: str, is_harm: bool):
    before, after = "def f():\n    ", "\n        print(i)\n"
    reference = "items = [\n        1,\n    ]\n    for i in items:"
    at = len(before)
    judged = judge(before + after, at, reference, new, "python", replaced=(at, at))
    assert judged.has_syntax_error is is_harm
    # it is not whole yet, though
    assert not judged.is_valid


def test_the_original_is_exact_whatever_python_says():
    verdict = judged("for b in a:", before=LOOP, after=RETURN, reference="for b in a:")
    assert (verdict.is_exact, verdict.is_valid, verdict.has_syntax_error) == (True, True, False)


def test_damage_that_was_there_is_not_the_proposals():
    before = "broken = (((\n\ndef f():\n    size = "
    verdict = judged("1", before=before)
    assert not verdict.has_syntax_error
    assert verdict.is_valid


def test_a_right_beginning_is_a_prefix():
    reference = "first = 1\n    second = 2"
    verdict = judged("first = 1", before="def f():\n    ", reference=reference)
    assert (verdict.is_exact, verdict.is_line_exact, verdict.is_prefix) == (False, True, True)
    verdict = judged("first", before="def f():\n    ", reference=reference)
    assert (verdict.is_line_exact, verdict.is_prefix) == (False, False)


def test_an_answer_that_replaces_what_follows_is_judged_on_the_document():
    after = ")\n    return size\n"
    assert judged("radius, 2)", before=BEFORE + "compute(", after=after, reference="radius, 2", num_replaced=1).is_exact
    verdict = judged("radius, 2)", before=BEFORE + "compute(", after=after, reference="radius, 2")
    assert not verdict.is_exact
    assert verdict.has_unbalanced


def judged_begun(source: str, new: str, num_replaced: int, written: str, language: str = "python"):
    """source: a file with the hole between ⟦ and ⟧. num_replaced: how much of what is behind the cursor is replaced."""
    head, reference, tail = re.split("[⟦⟧]", source)
    tree = SyntaxTree.parse(language_for(language), head + reference + tail)
    document = begun(tree, tree.text, (len(head), len(head) + len(reference)), written)  # type: ignore[arg-type]
    assert document is not None
    cursor = len(head)
    return judge_begun(document, cursor, reference, new, language, replaced=(cursor, cursor + num_replaced))


def faults(verdict: Judgement) -> list[str]:
    found = {
        "syntax": verdict.has_syntax_error,
        "brackets": verdict.has_unbalanced,
        "repeats": verdict.has_repeated_suffix,
        "indent": verdict.has_wrong_indent,
    }
    return [name for name, is_there in found.items() if is_there]


TWO = "def f():\n    a = g(h(⟦1, 2))⟧\n    return a\n\n\nb = 3\n"
GOES_ON = "a = g(h(⟦1,⟧\n        2))\nb = 3\n"
PARTLY = "a = g(h(⟦1),⟧\n      2)\nb = 3\n"


@pytest.mark.parametrize(
    ("source", "new", "num_replaced"),
    [
        pytest.param(TWO, "1, 2", 0, id="the-marks-stay"),
        pytest.param(TWO, "1, 2))", 2, id="the-marks-are-replaced"),
        pytest.param(TWO, "1, 2)", 1, id="one-of-them-is-replaced"),
        pytest.param(GOES_ON, "1,", 0, id="the-author-types-them-later"),
        pytest.param(GOES_ON, "1,", 2, id="and-they-are-gone"),
        pytest.param(PARTLY, "1),", 1, id="the-author-types-one-later"),
        pytest.param(PARTLY, "1),", 2, id="and-it-is-gone"),
    ],
)
def test_a_line_is_exact_whoever_closes_it(source: str, new: str, num_replaced: int):
    verdict = judged_begun(source, new, num_replaced, "closed")
    assert (verdict.is_exact, verdict.is_line_exact, verdict.is_prefix, verdict.is_valid) == (True,) * 4
    assert verdict.similarity == 1.0
    assert not faults(verdict)


@pytest.mark.parametrize(
    ("source", "new", "num_replaced", "found"),
    [
        pytest.param(TWO, "1, 3", 0, [], id="something-else"),
        pytest.param(TWO, "1, 2))", 0, ["syntax", "brackets"], id="closed-again"),
        pytest.param("a = f(g(h(⟦1)))⟧\n", "1)))", 0, ["syntax", "brackets", "repeats"], id="and-that-is-a-repetition"),
        pytest.param(TWO, "1, [2", 0, ["syntax", "brackets"], id="opened-inside"),
        pytest.param(TWO, "1, 2", 1, ["brackets"], id="a-mark-is-lost"),
        pytest.param(GOES_ON, "1", 0, [], id="less-than-the-line"),
        pytest.param(PARTLY, "1", 0, [], id="the-marks-are-no-part-of-the-line"),
        pytest.param("f(\n    ⟦1,⟧\n    2\n)\n", "1,\n)", 0, ["syntax", "brackets"], id="closed-below-already"),
    ],
)
def test_what_is_not_the_line_among_marks(source: str, new: str, num_replaced: int, found: list[str]):
    verdict = judged_begun(source, new, num_replaced, "closed")
    assert not verdict.is_exact
    assert faults(verdict) == found


BODY = "class A {\n  f() {\n    if (a) {\n      ⟦b();⟧\n    }\n  }\n\n  g() {}\n}\n"


@pytest.mark.parametrize(
    ("source", "language", "new", "is_exact", "found"),
    [
        pytest.param(TWO, "python", "1, 2))", True, [], id="the-line"),
        pytest.param(TWO, "python", "1, 2", False, [], id="what-was-open-is-open"),
        pytest.param(TWO, "python", "1)", False, [], id="one-of-two-is-closed"),
        pytest.param(TWO, "python", "1, [2", False, ["brackets"], id="more-is-open"),
        pytest.param(TWO, "python", "1, '2", False, ["syntax", "brackets"], id="a-quote-is-open"),
        pytest.param(TWO, "python", "1)))", False, ["syntax", "brackets"], id="more-is-closed"),
        pytest.param(TWO, "python", "1 2))", False, ["syntax"], id="no-python"),
        pytest.param(TWO, "python", "1,  # one", False, [], id="a-comment-behind-what-is-open"),
        pytest.param(GOES_ON, "python", "1, [", False, ["brackets"], id="more-than-the-author-leaves-open"),
        pytest.param("a = ⟦[⟧\n    1\n]\n", "python", "g(", False, [], id="as-much-as-the-author"),
        pytest.param(
            "class A:\n    ⟦def f(self):⟧\n        pass\n", "python", "@property", False, [], id="the-author-can-go-on"
        ),
        pytest.param("def f():\n    ⟦a = 1⟧\n    b = 2\n", "python", "if a:\n    b", False, ["syntax"], id="no-body"),
        pytest.param(BODY, "javascript", "b();", True, [], id="bodies-are-open"),
        pytest.param(BODY, "javascript", "b();\n    }", False, [], id="one-is-closed"),
        pytest.param(BODY, "javascript", "b();\n    }\n  }", False, [], id="both-are-closed"),
        pytest.param(BODY, "javascript", "b(", False, ["brackets"], id="opened-in-a-body"),
        pytest.param(BODY, "javascript", "b()); // c", False, ["syntax", "brackets"], id="closed-in-a-body"),
        pytest.param(BODY, "javascript", "b(]", False, ["syntax", "brackets"], id="closed-by-another-mark"),
    ],
)
def test_while_brackets_are_open(source: str, language: str, new: str, is_exact: bool, found: list[str]):
    verdict = judged_begun(source, new, 0, "open", language)
    assert verdict.is_exact is is_exact
    assert faults(verdict) == found
    assert not (verdict.is_valid and found)


def test_sound_is_what_leaves_no_more_to_close_than_the_author():
    assert judged_begun(TWO, "3))", 0, "open").is_valid
    assert not judged_begun(TWO, "3)", 0, "open").is_valid
    assert judged_begun(BODY, "c();", 0, "open", "javascript").is_valid


def test_one_line_of_several_among_marks():
    source = "a = g(⟦1,\n      2)⟧\n"
    verdict = judged_begun(source, "1,", 0, "closed")
    assert (verdict.is_exact, verdict.is_line_exact, verdict.is_prefix) == (False, True, True)
    assert judged_begun(source, "1,\n      2", 0, "closed").is_exact
    assert not faults(verdict)


@pytest.mark.parametrize(
    ("language", "source", "new"),
    [
        pytest.param("python", "def f():\n    ⟦a = g(\n        1,\n    )\n    return a⟧\n", "a = g(", id="a-bracket"),
        pytest.param("javascript", "function f() {\n  ⟦let a = 1,\n    b = 2⟧\n}\n", "let a = 1,", id="a-comma"),
        pytest.param(
            "python", "⟦@property\ndef f():\n    pass⟧\n\n\n@property\ndef g(): 1\n", "@property", id="what-follows-it"
        ),
    ],
)
@pytest.mark.parametrize("written", ["open", "closed"])
def test_the_authors_own_first_lines_harm_nothing(language: str, source: str, new: str, written: str):
    verdict = judged_begun(source, new, 0, written, language)
    assert (verdict.is_exact, verdict.is_prefix, faults(verdict)) == (False, True, [])


def test_python_of_another_time_is_judged_by_the_tree():
    source = "print 'old'\ndef f():\n    a = g(⟦1)⟧\n"
    assert not faults(judged_begun(source, "2)", 0, "open"))
    assert faults(judged_begun(source, "2))", 0, "open")) == ["syntax", "brackets"]


def test_a_begun_function_has_what_follows_it():
    source = "def f():\n    ⟦a = 1⟧\n    b = 2\n\n\ndef g():\n    pass\n"
    assert faults(judged_begun(source, "a = 1\n\n\ndef g():", 0, "open")) == ["repeats"]
    assert faults(judged_begun(source, "if a:\n          b = 1", 0, "open")) == ["indent"]
    assert judged_begun(source, " ", 0, "open") == NOTHING


def test_nothing_is_nothing():
    assert judged("") == judged("  \n") == NOTHING


@pytest.mark.parametrize(
    ("new", "after", "reference", "expected"),
    [
        pytest.param("a, b)]", ")]\nx", "a, b", False, id="two-characters-are-too-few-to-blame"),
        pytest.param("a, key=1)", ", key=1)\nx", "a", True, id="rest-of-the-line-again"),
        pytest.param("x = 1\nreturn size", "\nreturn size\n", "x = 1", True, id="next-line-again"),
        pytest.param("x = 1\nreturn size", "\n\n  return size\n", "x = 1", True, id="next-line-after-a-blank"),
        pytest.param("x = 1\n}", "\n}\n", "x = 1", False, id="a-bracket-is-no-line"),
        pytest.param("foo()", "\nfoo()\n", "foo()", False, id="the-original-says-it-twice-too"),
        pytest.param("x = 1", "\nreturn size\n", "x = 1", False, id="fine"),
    ],
)
def test_repeats_suffix(new: str, after: str, reference: str, expected: bool):
    assert repeats_suffix(new, after, reference) is expected


@pytest.mark.parametrize(
    ("new", "lead", "expected"),
    [
        pytest.param("x = 1", "    ", False, id="fine"),
        pytest.param("  x = 1", "    ", True, id="more-space-behind-the-indentation"),
        pytest.param("if x:\n        y", "    ", False, id="one-level-deeper"),
        pytest.param("if x:\n      y", "    ", True, id="half-a-level"),
        pytest.param("if x:\n\ty", "    ", True, id="a-tab-among-spaces"),
        pytest.param("f(\n      y)", "    ", False, id="inside-brackets-anything-goes"),
        pytest.param("f(a,\n           b)\n  c", "    ", True, id="outside-again"),
        pytest.param("a\n\n    b", "    ", False, id="blank-lines-are-free"),
        pytest.param("if x:\n            y", "    ", True, id="two-levels-deeper"),
        pytest.param("while x:  # c\n\n            y", "    ", True, id="two-levels-deeper-behind-a-comment"),
        pytest.param("def g(\n            a,\n    ):\n        b", "    ", False, id="a-header-over-several-lines"),
        pytest.param('"""Say.\n\n    with:\n            x\n    """', "    ", False, id="inside-a-string-anything-goes"),
    ],
)
def test_wrong_indent(new: str, lead: str, expected: bool):
    document = "def f():\n    a = 1\n    if a:\n        b = 2\n" + lead
    assert has_wrong_indent(PYTHON, document, new, document) is expected


@pytest.mark.parametrize(
    ("language", "unit", "new", "expected"),
    [
        pytest.param("python", "  ", "if x:\n      y", True, id="four-spaces-in-a-file-of-two"),
        pytest.param("python", "  ", "if x:\n    y", False, id="two-spaces-in-a-file-of-two"),
        pytest.param("javascript", "  ", "if (x) {\n      y();\n  }", True, id="four-spaces-between-braces"),
        pytest.param("javascript", "  ", "if (x) {\n    y();\n  }", False, id="two-spaces-between-braces"),
        pytest.param("go", "\t", "if x {\n\t\t\ty()\n\t}", True, id="two-tabs"),
        pytest.param("go", "\t", "if x {\n\t\ty()\n\t}", False, id="one-tab"),
    ],
)
def test_a_step_is_the_files_own(language: str, unit: str, new: str, expected: bool):
    before = f"first {{\n{unit}second {{\n{unit}{unit}third\n{unit}}}\n{unit}"
    assert has_wrong_indent(language_for(language), before, new, before) is expected


def test_the_style_is_that_of_the_original():
    # what shows the style of so short a file is what was taken out
    before, reference = "def f(x):\n  ", "if x:\n    y = 1\n    z = 2"
    verdict = judged("if x:\n    y = 1", before=before, after="\n", reference=reference)
    assert not verdict.has_wrong_indent


@pytest.mark.parametrize(
    ("text", "style"),
    [
        pytest.param("a\n  b\n    c\n", (False, 2), id="two"),
        pytest.param("a\n\tb\n\t\tc\n", (True, 4), id="tabs"),
        pytest.param("a\nb\n", (False, 4), id="none-says-the-language"),
    ],
)
def test_indent_style(text: str, style: tuple[bool, int]):
    assert indent_style(text, PYTHON) == style


def test_percentiles_are_values_that_occurred():
    values = list(map(float, range(1, 101)))
    assert [percentile(values, p) for p in (0, 50, 95, 99, 100)] == [1.0, 50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 95) == 7.0
    assert math.isnan(percentile([], 50))
    assert math.isnan(mean([]))


def test_intervals_hold_the_rate_and_are_honest_about_few():
    low, high = interval(0, 10)
    assert low == pytest.approx(0.0, abs=1e-12)
    # Wilson's interval of 0 of 10, published everywhere
    assert high == pytest.approx(0.2775, abs=1e-3)
    assert interval(50, 100)[0] < 0.5 < interval(50, 100)[1]
    assert interval(0, 0) == (0.0, 1.0)


def test_the_curve_goes_from_strict_to_everything():
    pairs = [(0.9, True), (0.9, True), (0.5, False), (0.1, True)]
    points = coverage_curve(pairs, 8)
    assert [(p.min_confidence, p.coverage, p.precision) for p in points] == [
        (0.9, 0.25, 1.0),
        (0.5, 0.375, pytest.approx(2 / 3)),
        (0.1, 0.5, 0.75),
    ]
    many = coverage_curve([(number / 1000, number % 2 == 0) for number in range(1000)], 1000)
    assert len(many) <= 50
    assert many[-1].coverage == 1.0


def test_calibration():
    assert calibration_error([(1.0, True), (0.0, False)]) == 0.0
    assert calibration_error([(0.75, True), (0.75, False)]) == pytest.approx(0.25)
    assert math.isnan(calibration_error([]))
