"""Holes by the tree: what waits to be written, and what only looks like it."""

from __future__ import annotations

import itertools

import pytest
from lacuna_ls.infill.holes import find_holes, hole_at
from lacuna_ls.infill.languages import language_for

PYTHON = '''\
from typing import Protocol, overload


class Error(Exception):
    pass


class Reader(Protocol):
    def read(self) -> str: ...


@overload
def f(a: int) -> int: ...


def g(a):
    """Say it."""


def h(a):
    # TODO: write this
    ...


def i(a): pass


def j(a):
    try:
        k = ...
    except ValueError:
        pass
    raise NotImplementedError("later")


def k(a):
    x = 1
    # TODO: and return it


def l(a):
    # TODO: faster
    return a
'''


def shown(language: str, text: str, is_sure: bool | None = True) -> list[tuple[str, str]]:
    holes = find_holes(language_for(language), text)
    return [(hole.kind, text[hole.start : hole.end]) for hole in holes if is_sure is None or hole.is_sure is is_sure]


def test_the_holes_of_a_python_file():
    assert shown("python", PYTHON) == [
        ("body", '"""Say it."""'),
        ("statement", "..."),
        ("statement", "pass"),
        ("value", "..."),
        ("statement", 'raise NotImplementedError("later")'),
        ("todo", "# TODO: and return it"),
    ]


def test_what_is_legitimate_is_no_hole_of_the_file_but_one_under_the_cursor():
    assert shown("python", PYTHON, is_sure=False) == [
        ("statement", "pass"),
        ("statement", "..."),
        ("statement", "..."),
        ("statement", "pass"),
    ]
    offset = PYTHON.index("pass")
    hole = hole_at(language_for("python"), PYTHON, offset)
    assert hole is not None
    assert (hole.start, hole.is_sure) == (offset, False)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        pytest.param(
            "javascript",
            'function f() {}\nconst g = () => {};\nfunction h() { throw new Error("not implemented"); }\n',
            [("body", "{}"), ("body", "{}"), ("statement", 'throw new Error("not implemented");')],
            id="javascript",
        ),
        pytest.param(
            "typescript",
            "class A {\n  f(): void {}\n  g(): number {\n    // TODO\n  }\n}\n",
            [("body", "{}"), ("todo", "// TODO")],
            id="typescript",
        ),
        pytest.param("tsx", "const A = () => { return <div/>; };\n", [], id="tsx without holes"),
        pytest.param(
            "go",
            'package p\n\nfunc f() {\n}\n\nfunc g() int {\n\tpanic("not implemented")\n}\n',
            [("body", "{\n}"), ("statement", 'panic("not implemented")')],
            id="go",
        ),
        pytest.param(
            "rust",
            "fn f() {}\nfn g() -> i32 {\n    todo!()\n}\n",
            [("body", "{}"), ("statement", "todo!()")],
            id="rust",
        ),
        pytest.param(
            "java",
            "class A {\n  void f() {}\n  int g() { throw new UnsupportedOperationException(); }\n}\n",
            [("body", "{}"), ("statement", "throw new UnsupportedOperationException();")],
            id="java",
        ),
        pytest.param(
            "c",
            "void f(void) {}\nint g(void) {\n  // FIXME: count\n}\n",
            [("body", "{}"), ("todo", "// FIXME: count")],
            id="c",
        ),
        pytest.param("cpp", "int A::f() {}\n", [("body", "{}")], id="cpp"),
        pytest.param("cpp", "auto f = [](int a) {};\n", [("body", "{}")], id="a lambda"),
        pytest.param("rust", "let f = |x| {};\n", [("body", "{}")], id="a closure"),
        pytest.param(
            "javascript",
            "function f() {\n  throw new Error(`not implemented`);\n}\n",
            [("statement", "throw new Error(`not implemented`);")],
            id="a template string",
        ),
        pytest.param(
            "cpp",
            'int f() {\n  throw std::logic_error("not implemented");\n}\n',
            [("statement", 'throw std::logic_error("not implemented");')],
            id="thrown in C++",
        ),
        pytest.param("text", "TODO: everything\n", [], id="no grammar, no holes"),
    ],
)
def test_every_language_finds_its_holes(language, text, expected):
    assert shown(language, text) == expected


@pytest.mark.parametrize(
    ("language", "text", "written"),
    [
        pytest.param("python", "def f():\n    pass\n", "def f():\n    return 1\n", id="a statement"),
        pytest.param("python", "def f(): ...\n", "def f():\n    return 1\n", id="a stub on its header's line"),
        pytest.param("python", 'def f():\n    """D."""\n', 'def f():\n    """D."""\n    return 1\n', id="docstring"),
        pytest.param("python", "def f():\n    # TODO\n", "def f():\n    # TODO\n    return 1\n", id="comment"),
        pytest.param("javascript", "function f() {}\n", "function f() {\n  return 1\n}\n", id="an empty body"),
        pytest.param("rust", "let a = todo!();\n", "let a = return 1;\n", id="a value within its line"),
        pytest.param("rust", "fn f() -> u8 { todo!() }\n", "fn f() -> u8 { return 1 }\n", id="a body within its line"),
        pytest.param("python", "def f():\n    # TODO: a\n    # b\n\n    # c\n",
                     "def f():\n    # TODO: a\n    # b\n    return 1\n\n    # c\n", id="a comment of two lines"),
        pytest.param("go", "func f() {\n}\n", "func f() {\n\treturn 1\n}\n", id="an empty body on two lines"),
        pytest.param("python", "def f():\r\n    # TODO\r\n", "def f():\r\n    # TODO\r\n    return 1\r\n", id="CRLF"),
    ],
)
def test_a_filled_hole_stands_where_it_should(language, text, written):
    hole = find_holes(language_for(language), text)[0]
    gap = hole.gap
    assert text[: gap.start] + gap.lead + "return 1" + gap.tail + text[gap.end :] == written


def test_holes_never_overlap_and_huge_files_are_left_alone():
    holes = find_holes(language_for("javascript"), "function f() { const g = () => {}; }\n" * 3)
    for above, below in itertools.pairwise(holes):
        assert above.gap.end <= below.gap.start
    assert find_holes(language_for("python"), "pass\n" * 500_000) == []


def test_hole_at_works_in_a_file_of_any_length_and_finds_nothing_where_there_is_nothing():
    text = "def f(a):\n    return a\n\n\n" * 50_000 + "def g(a):\n    pass\n"
    hole = hole_at(language_for("python"), text, text.index("pass") + 2)
    assert hole is not None
    assert text[hole.start : hole.end] == "pass"
    assert hole_at(language_for("python"), text, 5) is None


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("def f(a):\n\n\nx = 1\n", "def f(a):\n    return a\n\n\nx = 1\n"),
        ("def f(a):", "def f(a):\n    return a"),
        ("def f(a):\n    ", "def f(a):\n    return a\n    "),
        ("def f(a):  # all of it\n\nx = 1\n", "def f(a):  # all of it\n    return a\n\nx = 1\n"),
        ("class A:\r\n\tdef f(\r\n\t\ta,\r\n\t):\r\n\r\n\tb = 1\r\n",
         "class A:\r\n\tdef f(\r\n\t\ta,\r\n\t):\r\n\t\treturn a\r\n\r\n\tb = 1\r\n"),
    ],
    ids=["blank lines", "nothing", "a line begun", "a comment behind", "several lines, tabs, CRLF"],
)  # fmt: skip
def test_a_header_that_nothing_belongs_to_is_a_hole(text: str, filled: str):
    (hole,) = find_holes(language_for("python"), text)
    assert hole.is_sure
    assert hole.kind == "body"
    assert text[: hole.gap.start] + hole.gap.lead + "return a" + text[hole.gap.end :] == filled
    # on the header and on the blank lines below, not on what follows
    for offset in (hole.gap.start, hole.end):
        assert hole_at(language_for("python"), text, offset) == hole
    assert "x = 1" not in text or hole_at(language_for("python"), text, text.index("x = 1")) is None


@pytest.mark.parametrize(
    "text", ["def f(a):\n    # say how\n\nx = 1\n", "def f(a):\n    retur\n", "def f(a)\n\nx = 1\n"]
)
def test_a_header_with_something_below_is_none_of_its_kind(text: str):
    assert "body" not in {kind for kind, _ in shown("python", text, None)}
