"""The tree's answers: comments, strings, errors, and that an incremental parse is as good as a fresh one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.infill.brackets import scan_blocks, scan_brackets
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.syntax import Damage, SyntaxTree, window_around

PYTHON = language_for("python")


def at(marked: str) -> tuple[str, int]:
    return marked.replace("‸", ""), marked.index("‸")


@pytest.mark.parametrize(
    ("language", "marked", "is_inside"),
    [
        pytest.param("python", "# a‸b\nx", True, id="in the middle"),
        pytest.param("python", "# ab‸\nx", True, id="a line comment goes on at its end"),
        pytest.param("python", "‸# ab\nx", False, id="before it"),
        pytest.param("python", "x = '# ‸'\n", False, id="a mark in a string is no comment"),
        pytest.param("python", "# ab\n‸x = 1\n", False, id="the next line"),
        pytest.param("javascript", "/* a‸ */ x;", True, id="block comment"),
        pytest.param("javascript", "/* a */‸ x;", False, id="behind a closed block comment"),
        pytest.param("rust", "// é𝒳‸\nfn f() {}\n", True, id="offsets are code points, the tree counts bytes"),
        pytest.param("go", "package p // a‸", True, id="at the end of the file"),
        pytest.param("c", "int a; // b‸\n", True, id="C"),
        pytest.param("text", "# a‸", False, id="plain text has no comments"),
    ],
)
def test_is_in_comment(language, marked, is_inside):
    text, offset = at(marked)
    assert SyntaxTree.parse(language_for(language), text).is_in_comment(offset) is is_inside


@pytest.mark.parametrize(
    ("language", "marked", "is_inside"),
    [
        pytest.param("python", 'x = "a‸b"\n', True, id="in the middle"),
        pytest.param("python", 'x = "ab"‸\n', False, id="behind"),
        pytest.param("python", 'x = f"a{b‸}c"\n', False, id="code inside a string is code"),
        pytest.param("python", 'def f():\n    """a‸\n    """\n', True, id="docstring"),
        pytest.param("python", "x = 'ab‸\ny = 1\n", True, id="unterminated"),
        pytest.param("javascript", "x = `a${b‸}`;", False, id="template substitution"),
        pytest.param("rust", 'let x = "é‸";', True, id="behind a wide character"),
    ],
)
def test_is_in_string(language, marked, is_inside):
    text, offset = at(marked)
    assert SyntaxTree.parse(language_for(language), text).is_in_string(offset) is is_inside


@pytest.mark.parametrize(
    ("language", "text", "is_broken"),
    [
        pytest.param("python", "def f(a):\n    return a\n", False, id="whole"),
        pytest.param("python", "x = f(a\ny = 1\n", True, id="open bracket"),
        pytest.param("javascript", "function f() { return 1; }", False, id="whole"),
        pytest.param("javascript", "function f( { return 1; }", True, id="missing bracket"),
        pytest.param("go", "package p\n\nfunc f() int {\n\treturn 1\n}\n", False, id="whole"),
        pytest.param("rust", "fn f<'a>(x: &'a str) -> char { 'x' }\n", False, id="a lifetime is no string"),
        pytest.param("java", "class A { int f() { return '\"'; } }", False, id="a quote in a character"),
        pytest.param("tsx", "const a = <div>{x}</div>;", False, id="markup"),
        pytest.param("cpp", "int f() { return 1; }}", True, id="one too many"),
        pytest.param("c", "int f(void) { return 1;", True, id="one too few"),
        pytest.param("text", "don't (panic", True, id="plain text counts brackets, not quotes"),
    ],
)
def test_damage(language, text, is_broken):
    damage = SyntaxTree.parse(language_for(language), text).damage()
    assert (damage > Damage(0, 0)) is is_broken


@pytest.mark.parametrize(
    ("language", "text"),
    [
        pytest.param("rust", "let a = '\"'; let b = '{'; let c = '\\''; let d: &'a str = '\\u{7b}';", id="characters"),
        pytest.param("rust", 'let a = r#"b"(c"#; let d = br"\\";', id="raw strings of Rust"),
        pytest.param("go", "a := `\\`; b := `{`", id="raw strings of Go"),
        pytest.param("cpp", 'auto a = R"(b"c)" u8R"x(d)"(e)x"; int f = 1\'000 + 0x1\'ff;', id="C++"),
        pytest.param("c", "int a = 1'000'000; char b = '(';", id="digits in groups"),
        pytest.param("c", 'char *a = "b\\\r\n(";\r\n', id="a string over two lines, with CRLF"),
        pytest.param("javascript", "a = /\"/; b(/[/'(]/, c); d = e => /`/g;", id="regular expressions"),
        pytest.param("javascript", 'a = b / "c" / d; e = (f) / g("/");', id="division"),
        pytest.param("bash", "f() {\n  cat <<-'EOF' | g\n  it's (\n  EOF\n}\n", id="a heredoc of a shell"),
        pytest.param("bash", "read a <<<YES\n(\nYES=1\n)\n", id="a here-string, which ends on its line"),
        pytest.param("ruby", "a if b =~ /\"(c/ || d.match?(/'/) || e / f", id="regular expressions of Ruby"),
        pytest.param("ruby", "a = <<~SQL.strip\n  it's (\nSQL\nb(1 << A, a <<B)\n", id="of Ruby, and shifts"),
        pytest.param("php", '<?php\r\n$a = <<<EOT\r\nit\'s "(\r\nEOT;\r\n', id="of PHP, with CRLF"),
    ],
)
def test_the_scanner_knows_the_literals_of_a_language(language, text):
    """It decides alone where there is no tree, and where the tree has errors elsewhere."""
    assert scan_brackets(language_for(language), text).num_unbalanced == 0


@pytest.mark.parametrize("language", ["bash", "ruby"])
def test_what_only_looks_like_a_heredoc_is_passed_by_quickly(language):
    started = time.process_time()
    assert scan_brackets(language_for(language), "a <<B\n" * 20_000).num_unbalanced == 0
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("language", "unit"),
    [("bash", "a|"), ("bash", "; "), ("ruby", "def a("), ("ruby", "%w("), ("lua", "[["), ("lua", "[=[")],
)
def test_what_never_ends_is_gone_through_once(language, unit):
    started = time.process_time()
    scan_blocks(language_for(language), unit * (40_000 // len(unit)))
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("language", "text"),
    [
        pytest.param("cpp", "struct TORCH_API Foo final : Bar {\n  C10_CUDA_API int get(int a);\n};\n", id="exported"),
        pytest.param("cpp", "__global__ void __launch_bounds__(256) f(float* __restrict__ a) {}\n", id="a kernel"),
        pytest.param("cpp", "void f() {\n  g<<<grid, block>>>(a);\n  _CCCL_PRAGMA_UNROLL()\n  h();\n}\n", id="launch"),
        pytest.param("c", "int f(void)\n{\n    SIZE_T a = 1;\n    return a > MAX_A ? A_B : C_D;\n}\n", id="not macros"),
    ],
)
def test_macros_that_the_grammar_does_not_know_are_no_errors(language, text):
    tree = SyntaxTree.parse(language_for(language), text)
    assert tree.damage() == Damage(0, 0)
    broken = SyntaxTree.parse(language_for(language), text.replace(";", " b c;", 1).replace(") {}", " {}"))
    assert broken.damage() > Damage(0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "typedef struct _UNICODE_STRING UNICODE_STRING;\nstruct FOO_BAR a;\nenum FOO_KIND b = FOO_ONE;\n",
        "static const UINT_PTR a = 1;\nextern UINT_PTR b;\nUINT_PTR const *c = d;\n",
        "enum class FOO_KIND : int { A };\nstruct A {\n  UINT_PTR a;\n  UINT_PTR b{1};\n  int FOO_FLAG : 3;\n};\n",
        "void f() {\n  for (auto FOO_A : FOO_B) g();\n  switch (a) {\n    case FOO_C : h();\n  }\n}\n",
        "bool a = FOO_A and b or FOO_B not_eq c;\n",
    ],
    ids=["tags", "types", "colons", "values before colons", "words that are marks"],
)
def test_a_name_in_capitals_that_says_something_is_read(text):
    assert SyntaxTree.parse(language_for("cpp"), text).damage() == Damage(0, 0)


def test_damage_exceeds_in_either_respect():
    assert Damage(1, 0).exceeds(Damage(0, 5))
    assert Damage(0, 1).exceeds(Damage(5, 0))
    assert not Damage(1, 1).exceeds(Damage(1, 1))


PIECES = st.sampled_from(
    ["def f(a):\n", "    return a\n", "x = 1\n", "(", ")", "'", "#", "é", "𝒳", "\r\n", "if x:\n    y\n"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join), st.lists(PIECES, max_size=3).map("".join), st.data())
def test_an_incremental_parse_gives_the_tree_of_a_fresh_one(text, new, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    incremental = SyntaxTree.parse(PYTHON, text).replaced(start, end, new)
    fresh = SyntaxTree.parse(PYTHON, text[:start] + new + text[end:])
    assert incremental.data == fresh.data
    assert incremental.tree is not None
    assert fresh.tree is not None
    # error recovery may differ in detail; whether there is an error, and whole trees, may not
    assert incremental.tree.root_node.has_error == fresh.tree.root_node.has_error
    if not fresh.tree.root_node.has_error:
        assert str(incremental.tree.root_node) == str(fresh.tree.root_node)


def test_replaced_refuses_a_span_outside_its_window():
    with pytest.raises(ValueError, match="outside the window"):
        SyntaxTree.parse(PYTHON, "abc", base=10).replaced(0, 1, "x")


def test_the_window_of_a_large_file_is_small_snapped_and_stays_while_typing():
    text = "".join(f"def f{i}(a):\n    return a + {i}\n\n\n" for i in range(50_000))
    cursor = text.index("return a + 30000") + 10
    low, high = window_around(text, cursor, cursor)
    assert high - low < 60_000
    assert text[low:].startswith("def ")
    assert text[:high].endswith("\n")
    for typed in ("x", "xy", "xyz = f(1)"):
        longer = text[:cursor] + typed + text[cursor:]
        assert window_around(longer, cursor + len(typed), cursor + len(typed))[0] == low


def test_a_line_of_one_megabyte_costs_what_a_window_costs():
    text = "x = [" + "1, " * 350_000 + "]\n"
    low, high = window_around(text, 500_000, 500_000)
    assert high - low < 60_000
    started = time.process_time()
    SyntaxTree.around(PYTHON, text, 500_000, 500_000)
    assert time.process_time() - started < 2.0


def test_a_lone_surrogate_keeps_offsets_true():
    text = "x = '\ud800' # é c"
    assert SyntaxTree.parse(PYTHON, text).is_in_comment(len(text))


@pytest.mark.parametrize(
    ("language", "text", "state", "num_unbalanced"),
    [
        pytest.param("python", "f(a, [b", "code", 2, id="two open"),
        pytest.param("python", "f(a]", "code", 2, id="a stray one, and the open one"),
        pytest.param("python", "f('(')", "code", 0, id="a bracket in a string is text"),
        pytest.param("python", "f() # (", "comment", 0, id="a bracket in a comment is text"),
        pytest.param("python", "x = 'a", "string", 1, id="unterminated string"),
        pytest.param("python", 'x = """a\n(', "string", 1, id="unterminated docstring"),
        pytest.param("python", r"x = 'a\'('", "code", 0, id="escaped quote"),
        pytest.param("javascript", "/* ( ", "comment", 0, id="unterminated block comment"),
        pytest.param("javascript", "/* ( */ f(", "code", 1, id="behind a block comment"),
        pytest.param("rust", "fn f<'a>(x: &'a str) {}", "code", 0, id="lifetimes"),
        pytest.param("text", "it's (fine)", "code", 0, id="an apostrophe in prose"),
    ],
)
def test_scan_brackets(language, text, state, num_unbalanced):
    scan = scan_brackets(language_for(language), text)
    assert scan.state == state
    assert scan.num_unbalanced == num_unbalanced


def test_a_deeply_nested_text_is_not_climbed_for_a_name():
    depth = 7_000
    text = "x = " + "[" * depth + "a" + "]" * depth + "\n"
    tree = SyntaxTree.parse(language_for("javascript"), text)
    begun = time.perf_counter()
    assert not tree.repeats_name(4 + depth, 5 + depth)
    # four seconds where every step up begins at the root
    assert tree.is_code_at(4 + depth)
    # half a second where every level is looked at
    assert time.perf_counter() - begun < 0.1
