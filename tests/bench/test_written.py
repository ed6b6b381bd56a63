"""Documents as they are while a function is written: what stands behind the cursor, in an editor that closes brackets
and in one that does not."""

from __future__ import annotations

import re

import pytest
from lacuna_ls.bench.written import Begun, begun, unit_around
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.syntax import SyntaxTree


def state(source: str, written: str, language: str = "python") -> Begun | None:
    """source: a file with the hole between ⟦ and ⟧."""
    head, hole, tail = re.split("[⟦⟧]", source)
    tree = SyntaxTree.parse(language_for(language), head + hole + tail)
    return begun(tree, tree.text, (len(head), len(head) + len(hole)), written)  # type: ignore[arg-type]


def shown(source: str, written: str, language: str = "python") -> str:
    """The document, with | at the cursor."""
    document, cursor = state(source, written, language), source.index("⟦")
    assert document is not None
    return document.text[:cursor] + "|" + document.text[cursor:]


METHOD = "class A:\n    def f(self):\n        x = ⟦call(1)⟧\n        return x\n\n    def g(self):\n        pass\n"
NESTED = "def f(a):\n    def g(b):\n        c = ⟦b⟧\n        return c\n\n    return g\n"
CALLBACK = "class A {\n  f() {\n    a.map((x) => {\n      ⟦x()⟧\n      y()\n    })\n    z()\n  }\n\n  g() {}\n}\n"


@pytest.mark.parametrize(
    ("source", "language", "is_open", "is_closed"),
    [
        pytest.param(
            METHOD,
            "python",
            "class A:\n    def f(self):\n        x = |\n\n    def g(self):\n        pass\n",
            "class A:\n    def f(self):\n        x = |\n\n    def g(self):\n        pass\n",
            id="the-rest-of-the-function-is-not-there",
        ),
        pytest.param(
            NESTED,
            "python",
            "def f(a):\n    def g(b):\n        c = |\n\n    return g\n",
            "def f(a):\n    def g(b):\n        c = |\n\n    return g\n",
            id="the-function-around-goes-on",
        ),
        pytest.param(
            "a = f(g(⟦1, 2))⟧\nb = 2\n", "python", "a = f(g(|\nb = 2\n", "a = f(g(|))\nb = 2\n", id="on-the-line"
        ),
        pytest.param(
            "a = f({\n    'k': [\n        1,\n        ⟦2,⟧\n        3,\n    ],\n})\nb = 2\n",
            "python",
            "a = f({\n    'k': [\n        1,\n        |\nb = 2\n",
            "a = f({\n    'k': [\n        1,\n        |\n    ]\n})\nb = 2\n",
            id="marks-of-broken-lines-stand-below",
        ),
        pytest.param(
            "a = f(1,\n      ⟦2)⟧\nb = 2\n",
            "python",
            "a = f(1,\n      |\nb = 2\n",
            "a = f(1,\n      |)\nb = 2\n",
            id="other-marks-go-on-with-the-cursor",
        ),
        pytest.param(
            "a = [1, {\n    2: g(⟦3),⟧\n}]\nb = 2\n",
            "python",
            "a = [1, {\n    2: g(|\nb = 2\n",
            "a = [1, {\n    2: g(|)\n}]\nb = 2\n",
            id="both",
        ),
        pytest.param('a = f"{b.⟦c}"⟧\n', "python", 'a = f"{b.|\n', 'a = f"{b.|}"\n', id="code-in-a-string"),
        pytest.param("a = f(r'b⟦c')⟧\n", "python", "a = f(r'b|\n", "a = f(r'b|')\n", id="in-a-string"),
        pytest.param(
            'a = f("""b\nc⟦d""")⟧\n',
            "python",
            'a = f("""b\nc|\n',
            'a = f("""b\nc|""")\n',
            id="in-a-string-of-several-lines",
        ),
        pytest.param(
            "class A:\n    x = ⟦1⟧\n    y = 2\n",
            "python",
            "class A:\n    x = |\n    y = 2\n",
            "class A:\n    x = |\n    y = 2\n",
            id="a-member-of-a-class",
        ),
        pytest.param(
            "if a:\n    b = ⟦1⟧\n    c = 2\nd = 3\n",
            "python",
            "if a:\n    b = |\nd = 3\n",
            "if a:\n    b = |\nd = 3\n",
            id="a-statement",
        ),
        pytest.param(
            "def f(⟦a, b):⟧\n    return a\n\n\nc = 1\n",
            "python",
            "def f(|\n\n\nc = 1\n",
            "def f(|)\n\n\nc = 1\n",
            id="its-header",
        ),
        pytest.param(
            "def f():\n    a = ⟦1\n\n\ndef g():\n    b = 2⟧\n    c = 3\n\n\nd = 4\n",
            "python",
            "def f():\n    a = |\n\n\nd = 4\n",
            "def f():\n    a = |\n\n\nd = 4\n",
            id="a-hole-over-two-functions",
        ),
        pytest.param(
            "def f():\r\n    a(\r\n        ⟦1⟧\r\n    )\r\nb = 2\r\n",
            "python",
            "def f():\r\n    a(\r\n        |\r\nb = 2\r\n",
            "def f():\r\n    a(\r\n        |\r\n    )\r\nb = 2\r\n",
            id="windows-line-ends",
        ),
        pytest.param(
            CALLBACK,
            "javascript",
            "class A {\n  f() {\n    a.map((x) => {\n      |\n\n  g() {}\n}\n",
            "class A {\n  f() {\n    a.map((x) => {\n      |\n    })\n  }\n\n  g() {}\n}\n",
            id="braces-of-bodies",
        ),
        pytest.param(
            "const o = {\n  f() {\n    return ⟦1;⟧\n  }, // done\n  g() {},\n};\n",
            "javascript",
            "const o = {\n  f() {\n    return |\n  g() {},\n};\n",
            "const o = {\n  f() {\n    return |\n  }\n  g() {},\n};\n",
            id="what-stands-behind-the-function-goes-with-it",
        ),
        pytest.param(
            "class A { f() { return ⟦1;⟧ } }\n",
            "javascript",
            "class A { f() { return | }\n",
            "class A { f() { return |} }\n",
            id="but-not-what-closes-something-around-it",
        ),
        pytest.param("a = `${b.⟦c}`;⟧\n", "javascript", "a = `${b.|\n", "a = `${b.|}`\n", id="a-template"),
        pytest.param(
            "namespace n {\nint f() {\n  return ⟦1;⟧\n}\nint a;\n}\n",
            "cpp",
            "namespace n {\nint f() {\n  return |\nint a;\n}\n",
            "namespace n {\nint f() {\n  return |\n}\nint a;\n}\n",
            id="a-function-of-a-namespace",
        ),
        pytest.param(
            "namespace n {\nint a = ⟦1;⟧\nint b;\n}\n",
            "cpp",
            "namespace n {\nint a = |\nint b;\n}\n",
            "namespace n {\nint a = |\nint b;\n}\n",
            id="a-member-of-a-namespace",
        ),
    ],
)
def test_what_stands_there_while_it_is_written(source: str, language: str, is_open: str, is_closed: str):
    assert shown(source, "open", language) == is_open
    assert shown(source, "closed", language) == is_closed


@pytest.mark.parametrize(
    ("source", "language"),
    [
        pytest.param("f(\n    1,\n⟦)⟧\n", "python", id="a-bracket-below"),
        pytest.param("f(\n    1,\n    ⟦2)⟧\n", "python", id="behind-something"),
        pytest.param("a = f(g(⟦))⟧\n", "python", id="nothing-else"),
        pytest.param("if (a) {\n  b()\n⟦} else {⟧\n  c()\n}\n", "javascript", id="a-brace-below"),
    ],
)
def test_nobody_closes_what_an_editor_has_closed(source: str, language: str):
    assert state(source, "closed", language) is None
    assert state(source, "open", language) is not None


def test_what_is_there_ends_behind_the_marks():
    source = "def f():\n    a = [\n        g(⟦1),⟧\n    ]\n"
    document, cursor = state(source, "closed"), source.index("⟦")
    assert document is not None
    assert document.text[cursor : document.reach] == ")\n    ]"
    # typed by the author behind one character
    assert document.beside == ((")", 1),)
    document = state(source, "open")
    assert document is not None
    assert (document.reach, document.beside) == (cursor, ())


@pytest.mark.parametrize(
    ("num_lines", "kept"),
    [pytest.param(1, "])", id="after-one"), pytest.param(2, ")", id="after-two"), pytest.param(3, "", id="after-all")],
)
def test_marks_are_kept_until_the_author_types_them(num_lines: int, kept: str):
    source = "a = f([⟦1,\n2],\n3)⟧\n"
    document = state(source, "closed")
    assert document is not None
    assert document.kept("1,\n2],\n3)", num_lines) == kept


def test_a_place_in_no_statement_is_a_unit_of_its_own():
    tree = SyntaxTree.parse(language_for("text"), "some words\n")
    assert unit_around(tree, 3) == (3, 4)
