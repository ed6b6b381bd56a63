"""What an edit asks for elsewhere: renames within their scope, repeated calls, calls of a changed signature."""

from __future__ import annotations

import pytest
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.related import find_related


def related(text, line, old_line, language="python"):
    """(line number, text there now, text proposed) of every related span, and the text with all known ones applied."""
    start = sum(len(each) for each in text.splitlines(keepends=True)[:line])
    found = find_related(language_for(language), text, start, old_line)
    places = [(text.count("\n", 0, each.start), text[each.start : each.end], each.text) for each in found]
    for each in sorted(found, key=lambda each: -each.start):
        if each.text is not None:
            text = text[: each.start] + each.text + text[each.end :]
    return places, text


def test_a_parameter_is_renamed_in_its_function_only():
    text = (
        "def f(width):\n    area = height * height\n    return area + height\n\n\ndef g(height):\n    return height\n"
    )
    places, after = related(text, 0, "def f(height):")
    assert [place[0] for place in places] == []
    # another definition of the old name makes it ambiguous; without one it is clear
    text = text.split("\n\n\n")[0] + "\n"
    places, after = related(text, 0, "def f(height):")
    assert after == "def f(width):\n    area = width * width\n    return area + width\n"


def test_a_function_is_renamed_everywhere_but_as_an_attribute_or_in_words():
    text = 'def new(a):\n    """old things"""\n    return a\n\n\nx = old(1)  # old\ny = box.old\nz = [old, old(2)]\n'
    places, after = related(text, 0, "def old(a):")
    assert after == text.replace("x = old(1)", "x = new(1)").replace("[old, old(2)]", "[new, new(2)]")
    assert len(places) == 3


def test_a_method_is_renamed_where_it_is_an_attribute():
    text = "class A:\n    def new(self):\n        return self.old()\n\n\nold = 1\n"
    places, after = related(text, 1, "    def old(self):")
    # the module has a name `old` of its own
    assert places == []
    text = "class A:\n    def new(self):\n        return self.old()\n\n\nprint(A().old())\n"
    places, after = related(text, 1, "    def old(self):")
    assert after == text.replace("old", "new")


def test_an_attribute_is_renamed_with_its_dots():
    text = "self.new = 1\nprint(self.old, old)\n"
    _, after = related(text, 0, "self.old = 1")
    assert after == "self.new = 1\nprint(self.new, old)\n"


def test_a_variable_that_stands_twice_in_the_edited_line():
    text = "new = 1\nb = old + 1\n"
    assert related("new = new0 = 1\nb = old\n", 0, "old = new0 = 1")[1] == "new = new0 = 1\nb = new\n"
    assert related(text, 0, "old = 1")[1] == "new = 1\nb = new + 1\n"


def test_changing_a_use_renames_nothing():
    text = "def old():\n    pass\n\n\nnew()\nold()\n"
    assert related(text, 4, "old()")[0] == []


def test_a_keyword_argument_is_not_the_variable():
    text = "new = 1\nf(old=old)\n"
    assert related(text, 0, "old = 1")[1] == "new = 1\nf(old=new)\n"


def test_the_same_call_is_changed_alike():
    text = "f(a, b)\nx = f(a) + g.f(a)\nf(a)\ns = 'f(a)'\n"
    _, after = related(text, 0, "f(a)")
    assert after == "f(a, b)\nx = f(a, b) + g.f(a)\nf(a, b)\ns = 'f(a)'\n"


def test_a_signature_points_at_the_arguments_of_its_calls():
    text = "def f(a, b):\n    return a\n\n\nf(1)\nx = [f(2), f]\n"
    places, after = related(text, 0, "def f(a):")
    assert places == [(4, "1", None), (5, "2", None)]
    assert after == text


@pytest.mark.parametrize(
    ("text", "old"),
    [("x = 1\ny = x\n", "x = 1"), ("\ny = x\n", "x = 1"), ("x = 2\ny = 1\n", "x = 1"), ("# new\nold\n", "# old")],
    ids=["nothing changed", "the line was emptied", "a number", "a comment"],
)
def test_edits_that_ask_for_nothing(text, old):
    assert related(text, 0, old)[0] == []


@pytest.mark.parametrize(
    ("language", "text", "old", "after"),
    [
        ("javascript", "function fresh(a) { return a; }\nold(1);\n", "function old(a) { return a; }", "fresh(1);"),
        (
            "go",
            "func fresh() int { return 1 }\nfunc b() int { return old() }\n",
            "func old() int { return 1 }",
            "return fresh()",
        ),
        ("rust", "fn fresh() -> i32 { 1 }\nfn b() -> i32 { old() }\n", "fn old() -> i32 { 1 }", "{ fresh() }"),
    ],
    ids=["javascript", "go", "rust"],
)
def test_other_languages(language, text, old, after):
    assert after in related(text, 0, old, language)[1]


def test_plain_text_and_huge_files_have_no_tree():
    assert related("new\nold\n", 0, "old", "plaintext")[0] == []
    assert related("new = 1\n" + "old\n" * 200_000, 0, "old = 1")[0] == []
