"""From the model's text to a proposal: where it ends, what is taken off, and what is refused."""

from __future__ import annotations

import pytest
from infill_cases import filled
from lacuna_ls.infill.overlap import is_loop, overlap_variants, repeats_below

B = "‸"


@pytest.mark.parametrize(
    ("marked", "answer", "expected"),
    [
        pytest.param(f"x = {B}\n", "f(1)", "x = f(1)\n", id="an end token ends it"),
        pytest.param(f"x = {B}\n", "f(1)\ny = 2", "x = f(1)\n", id="a newline ends a line"),
        pytest.param(f"x = {B}\n", "  f(1)  ", "x = f(1)\n", id="no white space at the edges"),
        pytest.param(f"def f():\n{B}\n", "return 1", "def f():\n    return 1\n", id="indentation from the lead"),
        pytest.param(
            f"def f():\n    {B}\n",
            "a = 1\n    return a\n\n\ndef g():\n    pass",
            "def f():\n    a = 1\n    return a\n",
            id="a block ends where the indentation falls back",
        ),
        pytest.param(
            f"def f():\n    {B}\n",
            "if a:\n        return 1\n    return 2",
            "def f():\n    if a:\n        return 1\n    return 2\n",
            id="a block goes on through deeper lines",
        ),
        pytest.param(f"def f():{B}\n", "return 1", "def f():\n    return 1\n", id="a body behind its header"),
        pytest.param(f"f(\n    a,\n{B}\n", ")", "f(\n    a,\n)\n", id="a closing bracket stands further out"),
        pytest.param(f"f(\n    a,\n{B}\n", "b,", "f(\n    a,\n    b,\n", id="what it encloses does not"),
        pytest.param(
            f"def f():\n    a()\n\n\n{B}\n", "b = 1", "def f():\n    a()\n\n\nb = 1\n", id="two blank lines end a block"
        ),
        pytest.param(f"def f():\n    a()\n\n{B}\n", "b()", "def f():\n    a()\n\n    b()\n", id="one does not"),
    ],
)
def test_natural_end(marked, answer, expected):
    assert filled(marked, answer) == expected


@pytest.mark.parametrize(
    ("language", "marked", "answer", "expected"),
    [
        pytest.param("python", f"x = f({B})\n", "a, b)", "x = f(a, b)\n", id="an auto-closed bracket is not doubled"),
        pytest.param("python", f"x = f({B})\n", "a, b", "x = f(a, b)\n", id="the model minds it"),
        pytest.param("python", f"x = f({B})\n", "a,\n    b)", "(unfinished)", id="it goes on in the next line"),
        pytest.param("python", f"x = f(g({B})\n", "a)", "x = f(g(a))\n", id="a bracket that is needed stays"),
        pytest.param("python", f"x = f(g({B}))\n", "a))", "x = f(g(a))\n", id="two auto-closed brackets"),
        pytest.param("python", f"x = f(g({B}))\n", "a)", "x = f(g(a))\n", id="two, and the first is written"),
        pytest.param("python", f"x = f('{B}')\n", "a'", "x = f('a')\n", id="a quote and a bracket, likewise"),
        pytest.param("python", f"x = f( {B} )\n", ")", "(empty)", id="nothing but what is closed already"),
        pytest.param("python", f"x = '{B}'\n", "abc'", "x = 'abc'\n", id="an auto-closed quote"),
        pytest.param("python", f"x = ['{B}']\n", "a', 'b']", "x = ['a', 'b']\n", id="quote and bracket"),
        pytest.param("python", f"f({B}, key=1)\n", "a, key=1)", "f(a, key=1)\n", id="the rest of the line again"),
        pytest.param("python", f"f({B}, key = 1)\n", "a, key=1)", "f(a, key = 1)\n", id="again in another spacing"),
        pytest.param("python", f"f({B}b, c)\n", "a, b, c)", "f(a, b, c)\n", id="the space before it stays"),
        pytest.param("python", f"x = {B}b or c\n", "a or b or c", "x = a or b or c\n", id="words are not joined"),
        pytest.param("python", f"x = {B} else c\n", "a if b else c", "x = a if b else c\n", id="it has its own space"),
        pytest.param("javascript", f"f({B});\n", "a);", "f(a);\n", id="bracket and semicolon"),
        pytest.param("go", f"\tif ({B})\n", "a > 0) {\n", "\tif (a > 0) {\n", id="it goes on behind a closed bracket"),
        pytest.param("javascript", f"f({B})\n", "a, (b) => {\n  g();", "f(a, (b) => {\n", id="beyond the line"),
        pytest.param("rust", f"fn f() {{\n    g({B})\n}}\n", "a).b(|c| {\n        d", "fn f() {\n    g(a).b(|c| {\n}\n",
                     id="beyond the line, behind a closed bracket"),
        pytest.param("c", f"// see ({B})\n", "f) for it.", "// see (f)\n", id="a closed bracket in a comment"),
        pytest.param("java", f"class A {{ void f() {{\n    g({B})\n}} }}\n", "a, b",
                     "class A { void f() {\n    g(a, b)\n} }\n", id="the semicolon is the user's to write"),
        pytest.param(
            "javascript", f"if (a {B}) {{\n}}\n", "=== b) {", "if (a === b) {\n}\n", id="the rest of a header"
        ),
    ],
)
def test_overlap_with_the_rest_of_the_line_is_removed(language, marked, answer, expected):
    assert filled(marked, answer, language) == expected


@pytest.mark.parametrize(
    ("language", "marked", "answer", "expected"),
    [
        pytest.param("python", f"x = {B}0\n", "self", "(syntax)", id="a number"),
        pytest.param("javascript", f"const a = {B}require('b');\n", "re", "(syntax)", id="a name"),
        pytest.param("ini", f"line-length = {B}120\n", "1", "(syntax)", id="in a language that is not parsed"),
        pytest.param("ini", f'name = {B}"a"\n', '"b"', "(syntax)", id="two strings"),
        pytest.param("ini", f"[{B}project]\n", '"x"', "(syntax)", id="a string and a word"),
        pytest.param("python", f"x = {B}name\n", "self.", "x = self.name\n", id="something between"),
        pytest.param("javascript", f"a.{B}Name();\n", "getName();", "a.getName();\n", id="the model saw it"),
        pytest.param("python", f"x = f(a, {B}b)\n", "c, ", "x = f(a, c, b)\n", id="its own comma"),
        pytest.param("python", f"x = 'a {B}b'\n", "c, ", "x = 'a c, b'\n", id="within a string"),
        pytest.param("python", f"# a {B}logged\n", "if it ends.", "(syntax)", id="a sentence of a comment"),
        pytest.param("python", f'"""Returns {B}the root."""\n', "a (the b)", "(syntax)", id="and of a docstring"),
        pytest.param("python", f"# a {B}logged\n", "if it ends. ", "# a if it ends. logged\n", id="a blank between"),
        pytest.param("python", f"# see {B}path\n", "os.", "# see os.path\n", id="one word"),
        pytest.param("python", f"x = {B}b\n", "a or self.", "x = a or self.b\n", id="a sentence of code"),
    ],
)
def test_nothing_runs_into_what_stands_to_the_right(language, marked, answer, expected):
    assert filled(marked, answer, language, is_explicit=True) == expected


def test_what_stands_to_the_right_is_not_repeated_because_the_text_is_broken_elsewhere():
    # saying `bar, baz)` twice would close the bracket further up
    broken = "def f():\n    x = g(1, \n\n\ndef h():\n    y = foo("
    assert filled(f"{broken}{B}bar, baz)\n    return y\n", "bar, baz)") == "(empty)"
    assert filled(f'def f():\n    """a\n{B}    """\n\n\n"""\n', '"""', is_explicit=True) == "(empty)"
    assert filled(f'def f():\n    """a.{B}"""\n    b\n', '""', is_explicit=True) == "(repeats-suffix)"
    assert filled(f'x = {B}""\n', "f", is_explicit=True) == 'x = f""\n'
    marked = f"{broken}{B}bar, baz)\n    return y\n"
    assert filled(marked, "a, bar, baz)") == marked.replace(B, "a, ")


@pytest.mark.parametrize(
    ("language", "marked", "answer", "expected"),
    [
        pytest.param("python", f"x = f({B}, b)\n", "a  # c", "x = f(a, b)\n", id="code"),
        pytest.param("python", f"x = f({B})  # d\n", "a)  # c", "x = f(a)  # d\n", id="another comment"),
        pytest.param("javascript", f"f({B}, b);\n", "'http://c' // d", "f('http://c', b);\n", id="a mark in a string"),
        pytest.param("python", f"x = {B}\n", "a  # c", "x = a  # c\n", id="nothing stands there"),
        pytest.param("python", f"x = '{B}'\n", "a # b", "x = 'a # b'\n", id="no comment"),
    ],
)
def test_what_stands_to_the_right_is_not_commented_out(language, marked, answer, expected):
    assert filled(marked, answer, language) == expected


@pytest.mark.parametrize(
    ("marked", "answer", "expected"),
    [
        pytest.param(
            f"def f(a):\n    {B}\n    return a\n", "return a", "(repeats-suffix)", id="the line below, exactly"
        ),
        pytest.param(f"a = 1\n{B}\nb  =  2\n", "b = 2", "(repeats-suffix)", id="the line below, in other spacing"),
        pytest.param(f"a = 1\nb = {B}\n\nb = 2\n", "2", "(repeats-suffix)", id="over a blank line"),
        pytest.param(f"a = {B}\nreturn b\n", "return b", "(repeats-suffix)", id="the line below behind another head"),
        pytest.param(
            f"class A:\n    def f(self):\n        {B}\n\n    def g(self):\n        return 2\n",
            "x = 1\n        return x\n\n    def g(self):\n        return 2",
            "class A:\n    def f(self):\n        x = 1\n        return x\n\n    def g(self):\n        return 2\n",
            id="several lines below",
        ),
        pytest.param(f"a = 1\n{B}\n", "a = 1", "(repeats-prefix)", id="the line above"),
        pytest.param(
            f"for a in b:\n    if a:\n        {B}\n    c(a)\n",
            "d(a)\n        e(a)\n    c(a)",
            "for a in b:\n    if a:\n        d(a)\n        e(a)\n    c(a)\n",
            id="a block that runs into the line below",
        ),
    ],
)
def test_the_lines_around_are_never_repeated(marked, answer, expected):
    assert filled(marked, answer) == expected


@pytest.mark.parametrize(
    ("language", "marked", "is_shown"),
    [
        pytest.param("rust", f"use a;\n\nfn f() {{\n    b()\n}}{B}\n", False, id="behind a function"),
        pytest.param("typescript", f"a();\nif (b) {{\n}}{B}\n", False, id="behind a block"),
        pytest.param("c", f"int a;\nvoid f() {{\n}}{B}\n", False, id="where the grammar has no name for it"),
        pytest.param("go", f"package m\n\nfunc f() {{\n\ta(){B}\n}}\n", False, id="where nobody writes any"),
        pytest.param("typescript", f"a();\nconst f = () => {{\n}}{B}\n", True, id="the end of a declaration"),
        pytest.param("rust", f"use a;\n\nfn f() {{\n    b(){B}\n    c()\n}}\n", True, id="the end of a call"),
        pytest.param("c", f"int a;\nstruct b {{\n    int c;\n}}{B}\n", True, id="the end of a type"),
    ],
)
def test_a_semicolon_alone_ends_a_statement(language, marked, is_shown):
    assert filled(marked, ";", language) == (marked.replace(B, ";") if is_shown else "(empty)")


def test_a_closing_brace_under_a_closing_brace_is_no_repetition():
    marked = f"function f() {{\n  if (a) {{\n    b();\n  {B}\n}}\n"
    assert filled(marked, "}", "javascript") == marked.replace(B, "}")


@pytest.mark.parametrize(
    ("language", "marked", "answer", "reason"),
    [
        pytest.param("python", f"x = {B}\ny = 1\n", "f(1", "syntax", id="an open bracket"),
        pytest.param("python", f"x = {B}\ny = 1\n", "f(1))", "syntax", id="a stray bracket"),
        pytest.param("python", f"x = {B}\ny = 1\n", "'abc", "syntax", id="an open quote"),
        pytest.param("python", f"x = {B}\ny = 1\n", "1 2", "syntax", id="no operator"),
        pytest.param("python", f"def f(a, b, {B}):\n    pass\n", "b", "syntax", id="a parameter twice"),
        pytest.param("python", f"f(a=1, b=2, {B})\n", "a=3", "syntax", id="a keyword twice"),
        pytest.param("python", f"f(a=1, b=2, {B})\n", "c=g(a=3)", "", id="a keyword of another call"),
        pytest.param("python", f"f(a, b, {B})\n", "b", "", id="an argument twice"),
        pytest.param("typescript", f"const f = (a: A, {B}) => a;\n", "a: B", "syntax", id="a typed parameter twice"),
        pytest.param("go", f"package m\n\nfunc f(a int) (int, {B}) {{\n}}\n", "int", "", id="a type twice"),
        pytest.param("rust", f"fn f(Json(a): A, {B}) {{}}\n", "Json(b): B", "", id="a pattern's type twice"),
        pytest.param("python", f"def f():\n    if a:\n        {B}\n    b()\n", "else:", "syntax", id="else under if"),
        pytest.param("python", f"if a:\n    b()\n{B}\n", "  c()", "", id="leading spaces are no indentation"),
        pytest.param("python", f"{B}\nx = 1\n", "for a in b:", "syntax", id="a header without a body"),
        pytest.param("python", f"for {B}\nx = 1\n", "a in b:", "", id="a header that the user began"),
        pytest.param("python", f"x = 1\n{B}\n\ny = 1\n", "for a in b:", "", id="a header with room below it"),
        pytest.param("python", f"def f():\n    {B}\n\n    y = 1\n", "if a:", "", id="the same inside a body"),
        pytest.param("python", f"if {B}\nx = 1\n", "a = 2:", "syntax", id="a header that is wrong in itself"),
        pytest.param("python", f"x = {B}\n", "", "empty", id="nothing"),
        pytest.param("python", f"x = {B}\n", "   ", "empty", id="white space"),
        pytest.param("python", f"x = {B}\n", "\nfoo()", "empty", id="a newline at once"),
        pytest.param("python", f"x = {B}\n", "a\x00b", "garbled", id="a control character"),
        pytest.param("python", f"x = {B}\n", "a.b" * 150, "unfinished", id="no end within the canvas"),
        pytest.param("python", f"x = {B}\n", "foo " * 8, "repetition", id="a loop"),
        pytest.param("python", f"f({B}, a)\n", "b\nc", "unfinished", id="on past the line, with code to the right"),
        pytest.param("python", f"def f():\n    {B}\n", "x = 1\n      y = 2", "indentation", id="deeper without reason"),
        pytest.param("go", f"package p\n\nfunc f() {{\n\t{B}\n\tg()\n}}\n", "if x {", "syntax", id="an open brace"),
        pytest.param("rust", f"fn f() {{\n    {B}\n}}\n", "let x = (1;", "syntax", id="Rust"),
        pytest.param("java", f"class A {{\n    {B}\n}}\n", "int x = ;", "syntax", id="Java"),
        pytest.param("c", f"int f(void) {{\n    {B}\n}}\n", "return (1;", "syntax", id="C"),
        pytest.param("cpp", f"int f() {{\n    {B}\n}}\n", "return f(;", "syntax", id="C++"),
        pytest.param("tsx", f"const a = {B};\n", "<div>{x}", "syntax", id="an element that is not closed"),
        pytest.param("text", f"see {B}\nmore\n", "(this", "syntax", id="plain text minds brackets"),
    ],
)
def test_refusals(language, marked, answer, reason):
    shown = filled(marked, answer, language)
    assert shown == f"({reason})" if reason else not shown.startswith("(")


def test_a_document_that_is_broken_elsewhere_still_gets_proposals():
    assert filled(f"def broken(:\n\n\nx = {B}\n", "f(1)").endswith("x = f(1)\n")
    assert filled(f"def broken(:\n\n\nx = {B}\n", "f(1").startswith("(")


def test_an_unfinished_statement_around_the_line_is_no_reason_to_refuse():
    assert filled(f"f(\n    a,\n    {B}\n", "b,") == "f(\n    a,\n    b,\n"


@pytest.mark.parametrize(
    ("marked", "answer", "expected"),
    [
        pytest.param(
            f"class A:\n\tdef f(self):\n\t\t{B}\n",
            "if a:\n            b()\n        c()",
            "class A:\n\tdef f(self):\n\t\tif a:\n\t\t\tb()\n\t\tc()\n",
            id="spaces become tabs",
        ),
        pytest.param(
            f"if x:\n    y()\ndef f():\n    {B}\n",
            "if a:\n\t\tb()\n\tc()",
            "if x:\n    y()\ndef f():\n    if a:\n        b()\n    c()\n",
            id="tabs become spaces",
        ),
        pytest.param(
            f"def f():\r\n    {B}\r\n",
            "a = 1\n    return a",
            "def f():\r\n    a = 1\r\n    return a\r\n",
            id="newlines become CRLF",
        ),
        pytest.param(f"# 𝒳é\nx = '𝒳{B}'\n", "é𝒳'", "# 𝒳é\nx = '𝒳é𝒳'\n", id="astral text"),
    ],
)
def test_the_result_is_in_the_documents_own_style(marked, answer, expected):
    assert filled(marked, answer) == expected


JS = "function f() {\n  g();\n}\n\nfunction h() {\n"
PY = "def f():\n  g()\n\n\ndef h():\n"


@pytest.mark.parametrize(
    ("marked", "answer", "shown"),
    [
        pytest.param(
            f"{JS}  {B}\n}}\n",
            "if (a) {\n      b();\n  }\n  c();",
            "if (a) {\n    b();\n  }\n  c();",
            id="steps of four from the cursor's column",
        ),
        pytest.param(
            f"{JS}  {B}\n}}\n",
            "if (a) {\n        b();\n    }\n    c();",
            "if (a) {\n    b();\n  }\n  c();",
            id="steps of four from the margin",
        ),
        pytest.param(f"{JS}  {B}\n}}\n", "a();\n    b();", "a();\n  b();", id="no step but the first"),
        pytest.param(
            f"{JS}  {B}\n}}\n",
            "return a\n      .b(() => {\n        c();\n      });",
            "return a\n      .b(() => {\n        c();\n      });",
            id="what goes on with a statement is no step",
        ),
        pytest.param(
            f"{JS}  {B}\n}}\n",
            "switch (a) {\n  case 1:\n    b();\n    break;\n  }\n  c();",
            "switch (a) {\n  case 1:\n    b();\n    break;\n  }\n  c();",
            id="a label stands where it likes",
        ),
        pytest.param(
            f"{JS}  {B}\n}}\n",
            "if (a) {\n      b(`\n    x  \n`);\n  }",
            "if (a) {\n    b(`\n    x  \n`);\n  }",
            id="the inside of a template literal stays",
        ),
        pytest.param(
            f"{JS}  {B}\n}}\n",
            "if (a) {\n      x = bb(c,\n             d);\n  }",
            "if (a) {\n    x = bb(c,\n           d);\n  }",
            id="what is aligned moves with what it is aligned with",
        ),
        pytest.param(
            f"{PY}  {B}\n",
            "for a in b:\n      if a:\n          c(a)\n  return d",
            "for a in b:\n    if a:\n      c(a)\n  return d",
            id="Python from the cursor's column",
        ),
        pytest.param(
            f"{PY}  {B}\n",
            "for a in b:\n        c(\n            a,\n        )\n    return d",
            "for a in b:\n    c(\n      a,\n    )\n  return d",
            id="Python from the margin",
        ),
        pytest.param(
            f"{PY}  {B}\n",
            'if a:\n      b = """\n    x\n\ty  \n"""\n  return b',
            'if a:\n    b = """\n    x\n\ty  \n"""\n  return b',
            id="the inside of a long string stays",
        ),
        pytest.param(
            PY.replace("  ", "    ") + f"    {B}\n",
            "if a:\n    return b\n  return c",
            "if a:\n        return b\n    return c",
            id="steps of two from the margin in a file of four",
        ),
        pytest.param(
            PY.replace("  ", "\t") + f"\t{B}\n",
            "if a:\n    return b\n  return c",
            "if a:\n\t\treturn b\n\treturn c",
            id="steps of two in a file of tabs",
        ),
    ],
)
def test_another_width_of_indentation_becomes_the_documents(marked, answer, shown):
    language = "javascript" if "{" in marked else "python"
    assert filled(marked, answer, language, kind="block") == marked.replace(B, shown)


@pytest.mark.parametrize(
    ("language", "marked", "answer"),
    [
        pytest.param(
            "go",
            f"package p\n\nfunc f() int {{\n\t{B}\n}}\n",
            'a := 1\n\tfmt.Println("}")\n\treturn a',
            id="a brace in a string",
        ),
        pytest.param("javascript", f"function f() {{\n  {B}\n}}\n", "// }\n  a();\n  b();", id="in a comment"),
        pytest.param("rust", f"fn f() {{\n    {B}\n}}\n", "let a = '}';\n    g(a);", id="in a character"),
        pytest.param("python", f"def f():\n    {B}\n", 'a = """\nb\n"""\n    return a', id="a string at the margin"),
        pytest.param("python", f"def f():\n    {B}\n", 'a = ")"\n    g(\n        a,\n    )', id="one in a string"),
    ],
)
def test_what_stands_in_a_string_ends_no_block(language, marked, answer):
    assert filled(marked, answer, language, kind="block") == marked.replace(B, answer)


def test_a_span_is_replaced_as_a_whole():
    assert filled(f"x = [{B}1, 2{B}]\ny = 3\n", "a,\n     b") == "x = [a,\n     b]\ny = 3\n"
    assert filled(f"x = {B}1{B}\n", "1") == "(unchanged)"


def test_overlap_variants_come_best_first():
    assert overlap_variants("a)", ")") == ["a", "a)"]
    assert overlap_variants("abc", "") == ["abc"]
    assert overlap_variants("abc", "xyz") == ["abc"]
    # a doubtful overlap of one letter is offered, but not preferred
    assert overlap_variants("ab", "bc") == ["ab", "a"]


def test_repeats_below_wants_something_substantive():
    assert repeats_below(["a = 1", "}"], ["}"]) is None
    assert repeats_below(["a = 1", "b = 2"], ["b = 2", "c"]) == 1
    assert repeats_below(["a = 1", "", "}", "b = 2"], ["}", "b = 2"]) == 2
    assert repeats_below(["a = 1"], []) is None


@pytest.mark.parametrize(
    ("language", "marked", "answer", "expected"),
    [
        pytest.param(
            "c",
            f"void f(void)\n{{{B}}}\n",
            "a();\n#ifdef X\n    b();\n#endif\nout:\n    c();",
            "void f(void)\n{\n    a();\n#ifdef X\n    b();\n#endif\nout:\n    c();\n}\n",
            id="directives and labels end no block",
        ),
        pytest.param(
            "c",
            f"void f(void)\n{{\n    a();\n#ifdef X\n    b();\n{B}\n    c();\n}}\n",
            "#endif",
            "void f(void)\n{\n    a();\n#ifdef X\n    b();\n#endif\n    c();\n}\n",
            id="a directive stands at the margin",
        ),
        pytest.param(
            "yaml",
            f"a:\n  b: 1\n{B}\nc: 2\n",
            "---",
            "a:\n  b: 1\n---\nc: 2\n",
            id="and so does what begins a document",
        ),
        pytest.param(
            "c",
            f"void f(int a)\n{{\n    switch (a) {{{B}}}\n}}\n",
            "case 1:\n        b();\n    case 2:\n        c();",
            "void f(int a)\n{\n    switch (a) {\n    case 1:\n        b();\n    case 2:\n        c();\n    }\n}\n",
            id="the first label stands where the next one does",
        ),
    ],
)
def test_what_stands_further_out_in_a_block(language, marked, answer, expected):
    assert filled(marked, answer, language) == expected


@pytest.mark.parametrize(
    ("text", "is_lost"),
    [
        pytest.param("mask = 0xFFFFFFFFFFFFFFFF", False, id="a mask"),
        pytest.param("a" * 40, True, id="a letter over and over"),
        pytest.param("self.self.self.self.self.", True, id="a word over and over"),
        pytest.param("a = 1\na = 1\na = 1", True, id="a line three times"),
        pytest.param("a = 1\nb = 2\n" * 3, True, id="two lines three times"),
        pytest.param("a = 1\nif a:\n    return b\n" * 3, True, id="three lines three times"),
        pytest.param("a = 1\nb = 2\nc = 3\n" * 2, False, id="three lines twice"),
        pytest.param("# " + "-" * 60, False, id="a ruler"),
        pytest.param("0, 0, 0, 0, 0, 0, 0, 0", False, id="a row of zeros"),
        pytest.param("}\n}\n}\n}", False, id="closing braces"),
        pytest.param("x = a[i] + a[j] + a[k]", False, id="alike is not the same"),
    ],
)
def test_is_loop(text, is_lost):
    assert is_loop(text) is is_lost


WHOLE = [
    "@first\n@second(1)\ndef f():\n    return 1\n",
    "@first(\n    1,\n)\nclass A:\n    size: int\n\n    @property\n    def name(self):\n        return 1\n",
    "def f():\n    items = g(\n        1,\n    )\n    try:\n        h()\n    except KeyError:\n        k()\n",
    "if a:\n    b()\n\nTEXT = '''\\\nOutdated layout\nin order\n'''\n\n\n"
    "class A:\n    def f(\n        self,\n    ):\n        g()\n",
    "from a import (b,\n               c)\nfrom d import e\n\nf = {\n    'a': 1,\n}\n",
]


@pytest.mark.parametrize("text", WHOLE)
def test_what_stood_there_is_never_refused_for_its_syntax(text):
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        code, width = line.rstrip("\n"), len(line) - len(line.lstrip())
        for start in {width, (width + len(code)) // 2} if code.strip() else ():
            marked = "".join(lines[:number]) + code[:start] + B + "\n" + "".join(lines[number + 1 :])
            # asked by a key, as many of these places are passed by while typing
            answer = filled(marked, code[start:], is_explicit=True)
            assert answer not in ("(syntax)", "(unfinished)"), (marked, code[start:])
