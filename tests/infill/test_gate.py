"""The syntax gate against Python's own parser: a proposal has to be what the lines around the gap need."""

from __future__ import annotations

import ast
import textwrap

import pytest
from lacuna_ls.infill.gate import adds_errors
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.python_parser import may_become_python
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.syntax import SyntaxTree
from lacuna_ls.infill.unclosed import due_after
from lacuna_ls.infill.vain import is_in_vain

PYTHON = language_for("python")

CASES = {
    "the header of a body": (
        "def send(sock, bound):\n    sock.append(bound)\n    ^\n        return sock[bound]\n    return None\n",
        ["if bound in sock:", "for bound in sock:", "with sock as bound:"],
        ["bound = sock.bound", "return bound"],
    ),
    "the header of a method": (
        "class Listener:\n    hook = None\n\n    ^\n        assert not self.closed\n        return self\n",
        ["async def connect(self):", "def connect(self) -> Listener:"],
        ["await checkpoint()", "closed = False"],
    ),
    "a clause of what stands above": (
        "if a > 1:\n    b = 1\nel^\n    c = 1\n",
        ["se:", "if a:"],
        ["se", "sewhere:", "if"],
    ),
    "another clause of what stands around": (
        "try:\n    a = 1\nexcept A:\n    b = 1\n^\n    c = 1\nfinally:\n    d = 1\n",
        ["except B:", "else:"],
        ["c = 1", "finally:", "if a:"],
    ),
    "an opening bracket": (
        "import os\n\n^\n    first,\n    second,\n)\n\nx = first\n",
        ["from a import (", "names = ("],
        ["await sleep(1)", "import first"],
    ),
    "the call whose arguments follow": (
        'def test(tmp_path):\n    with context():\n        ^\n            ["--file", str(tmp_path)],\n        )\n',
        ["main(", "assert main("],
        ['tmp_path = "x"', "main()"],
    ),
    "the end of a header of several lines": (
        "def f(task):\n    if (\n        task.a is None\n    ) or task.^\n        reason = 1\n        return reason\n",
        ["b:", "b and task.c:"],
        ["b is None", "b"],
    ),
    "the name of a function": (
        "x = 1\n\n\ndef make^\n    env: int,\n    args: str,\n) -> int:\n    return 1\n",
        ["_it(", "("],
        ["_it(args: str) -> dict:", "_it():"],
    ),
    "the bracket that is open": (
        "def f(env):\n    env.write('\\n'.join([\n        str(env),\n    ^\n    env.close()\n",
        ["]))", "str(f)]))"],
        [")", "}", "return env"],
    ),
    "what may stand in a bracket": (
        "def f(self):\n    return self.g(\n        ^\n\ndef g(self):\n    return 1\n",
        ["self)", "*self.b)"],
        ["return self.a", "self.a = 1; b", "@overload"],
    ),
    "two brackets at once": (
        "def f(env):\n    ^\n        'mime': env,\n    })\n    return env\n",
        ["env.update({", "return dict({"],
        ["env = {", "env.update("],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_lines_around_need(name):
    text, good, bad = CASES[name]
    at = text.index("^")
    text = text.replace("^", "")
    tree, snapshot = SyntaxTree.around(PYTHON, text, at, at), Snapshot(text)
    for answer in good:
        assert not adds_errors(tree, snapshot, at, at, answer), answer
    for answer in bad:
        with pytest.raises(SyntaxError):
            ast.parse(text[:at] + answer + text[at:])
        assert adds_errors(tree, snapshot, at, at, answer), answer


def _is_refused(language, marked, text):
    at = marked.index("^")
    whole = marked.replace("^", "")
    tree = SyntaxTree.around(language_for(language), whole, at, at)
    return adds_errors(tree, Snapshot(whole), at, at, text)


def test_an_error_far_away_of_a_window_that_is_broken_anyway_is_no_reason():
    text = "module.exports = {\n" + "\tf(a) {\n\t\tif (a) {\n\t\t\treturn 1;\n\t\t}\n\t},\n" * 400 + "};\n"
    at = text.index("\t\t}\n", len(text) // 2)
    broken = text[:at] + "\t\t^" + text[at + len("\t\t}") :]
    assert not _is_refused("javascript", broken, "}")
    header = text.index("if (a) {", len(text) // 2) + len("if (")
    broken = text[:header] + "^" + text[header + 1 :]
    assert not _is_refused("javascript", broken, "a")
    assert _is_refused("javascript", broken, "a]")


@pytest.mark.parametrize(
    ("marked", "proposal"),
    [
        ("a(\n  {\n    'd': f(1),\n    ^\n      'v',\n      i=None,\n    ),\n  }\n)\n", "'e': f"),
        ("class A:\n    def __i^\n        self,\n        a: int,\n    ) -> None:\n        pass\n", "nit__"),
    ],
)
def test_what_the_line_breaks_by_itself_excuses_no_error_in_it(marked, proposal):
    assert _is_refused("python", marked, proposal)


@pytest.mark.parametrize("tail", [")", "]"])
def test_what_the_user_still_has_to_write_is_no_error(tail):
    opening = {")": "(", "]": "["}[tail]
    marked = f"void f(void)\n{{\n    int x = g{opening}^{tail}\n    h();\n}}\n"
    assert not _is_refused("c", marked, "a")
    assert _is_refused("c", marked, "a b")
    # where nothing stands to the right, the proposal ends its statement itself
    assert _is_refused("c", marked.replace(f"^{tail}", "^"), f"a{tail}")
    assert not _is_refused("c", marked.replace(f"^{tail}", "^"), f"a{tail};")


BELOW = {
    "python": "\n\n\ndef g(b):\n    \"\"\"Other.\"\"\"\n    return [b]\n",
    "javascript": "\n\nfunction g(b) {\n  return [b];\n}\n",
    "go": "\n\nfunc g(b int) int {\n\treturn b\n}\n",
    "java": "\n\n    int g(int b) {\n        return h(b);\n    }\n}\n",
    "rust": "\n\nfn g(b: u8) -> u8 {\n    h(b)\n}\n",
}
"""What follows a function that is being written, and of which nothing stands below the cursor."""


@pytest.mark.parametrize(
    ("language", "above", "good", "bad"),
    [
        pytest.param("python", 'def f(a):\n    """The ', ["root of a.", 'root."""'], ['root""" of a'], id="docstring"),
        pytest.param("python", "x = f(\n    a", ["=1,", ", b)", "(1)"], [" b,", "))", "]", " = 1; c"], id="arguments"),
        pytest.param("python", "def f(\n    a", [": str | None = None,", ") -> int:"], [": str a,", "))"], id="a head"),
        pytest.param("python", "def f(a):\n    if (a and\n        a.", ["b", "b):"], ["b c", "b]"], id="a condition"),
        pytest.param("python", "def f():\n    # see ", ["the other one", "g."], [], id="a body that is a comment"),
        pytest.param("python", "@a.", ["b"], ["b c", "(b"], id="a decorator"),
        pytest.param("javascript", "function f(a) {\n  if (a", [" && b)", " && c) h();"], [" b) c();", "]"], id="if"),
        pytest.param("javascript", "/**\n * Finds ", ["the root."], [], id="a comment"),
        pytest.param("javascript", "const x = {\n  a: f(", ["b,", "b),"], ["b c,", "b]"], id="an object"),
        pytest.param("go", "func f(a int) {\n\tx := g(", ["a,", "a)"], ["a b)", "a]"], id="Go"),
        pytest.param("java", "class A {\n    int f(int a) {\n        g(", ["a,", "a);"], ["a b);", "a]"], id="Java"),
        pytest.param("rust", "fn f(a: u8) -> u8 {\n    let b = g(", ["a,", "a);"], ["a b);", "a];"], id="Rust"),
    ],
)
def test_while_something_is_written_its_end_is_not_there(language, above, good, bad):
    whole, at = above + BELOW[language], len(above)
    tree, snapshot = SyntaxTree.around(language_for(language), whole, at, at), Snapshot(whole)
    for answer in good:
        assert due_after(tree, snapshot, at, at, answer, is_body_due=True) == "", answer
    for answer in bad:
        assert due_after(tree, snapshot, at, at, answer, is_body_due=True) is None, answer


@pytest.mark.parametrize(
    ("language", "above", "text", "due"),
    [
        pytest.param("javascript", "function f(a) {\n  if (a", ") {", "}", id="a header"),
        pytest.param("javascript", "items.map(", "(x) => {", "}", id="a call that the user opened"),
        pytest.param("javascript", "items.", "map((x) => {", "})", id="a call"),
        pytest.param("javascript", "const x = ", "{", "}", id="an object"),
        pytest.param("go", "func f(a int) ", "int {", "}", id="Go"),
        pytest.param("python", "x = ", "f(", ")", id="Python"),
        pytest.param("python", "x = f(", "{", "}", id="in a bracket that is open"),
        pytest.param("python", "def f", "(", ")", id="a head"),
    ],
)
def test_what_a_line_opens_where_it_ends_is_told(language, above, text, due):
    at = len(above)
    for below in (BELOW[language], ""):
        whole = above + below
        tree, snapshot = SyntaxTree.around(language_for(language), whole, at, at), Snapshot(whole)
        assert due_after(tree, snapshot, at, at, text, is_body_due=True) == due
        # not where a line that nobody began would take what follows in, and not before the end of the line
        assert due_after(tree, snapshot, at, at, text) is None
        assert due_after(tree, snapshot, at, at, text + "a", is_body_due=True) != due or text == "f("


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        pytest.param("x = f(1, 2\n\ndef g(a):\n    return ^\n", ["a + 1"], ["a b c", "def"], id="what is open above"),
        pytest.param("print 1\n\ndef g(a):\n    x = f(^\n", ["a, b)", "a,"], ["a b)", "a,)]"], id="an error above"),
        pytest.param("x = f(a, ^ b\n\n\ny = 1\n", ["c,", "c +"], ["c", "c)"], id="what stands to the right"),
    ],
)
def test_what_is_open_already_excuses_no_error(text, good, bad):
    tree, snapshot, at = marked(text)
    for answer in good:
        assert due_after(tree, snapshot, at, at, answer, is_body_due=True) == "", answer
    for answer in bad:
        assert due_after(tree, snapshot, at, at, answer, is_body_due=True) is None, answer


def test_what_is_closed_below_the_window_is_not_open():
    row = '  {"a": {"b": [1, 2]}},\n'
    text = "[\n" + row * 4_000 + '  {"a": 1}\n]\n'
    for num_rows in (10, 3_000):
        at = text.index(row) + num_rows * len(row) - 1
        tree = SyntaxTree.around(language_for("json"), text, at, at)
        assert tree.has_errors
        assert due_after(tree, Snapshot(text), at, at, '"b": 2,', is_body_due=True) is None


def test_what_is_open_a_thousand_times_is_not_closed():
    text = "([" * 3_500 + "\n"
    at = len(text) - 1
    tree = SyntaxTree.around(language_for("javascript"), text, at, at)
    assert due_after(tree, Snapshot(text), at, at, "b, (", is_body_due=True) is None


def test_a_brace_that_stands_below_is_not_opened_twice():
    text = "if ()\n{\n  b();\n}\n"
    at = len("if (")
    tree = SyntaxTree.around(language_for("javascript"), text, at, at)
    assert due_after(tree, Snapshot(text), at, at + 1, "a) {", is_body_due=True) is None
    assert due_after(tree, Snapshot(text), at, at + 1, "a)", is_body_due=True) == ""


def test_a_comment_is_no_body_where_nobody_goes_on():
    tree, snapshot, at = marked("def f():\n    ^\n\n\nx = 1\n")
    assert due_after(tree, snapshot, at, at, "# see", is_body_due=True) == ""
    assert due_after(tree, snapshot, at, at, "# see") is None


def test_a_bracket_that_ends_below_is_not_due():
    above, below = "x = ", "\n    1,\n)\n"
    tree = SyntaxTree.around(PYTHON, above + below, len(above), len(above))
    assert due_after(tree, Snapshot(above + below), len(above), len(above), "(") == ""
    # nor does it open what it would take the lines below for
    text = "def f():\n    x = \n    y = 1\n    return x\n"
    at = text.index("x = ") + len("x = ")
    tree = SyntaxTree.around(PYTHON, text, at, at)
    assert due_after(tree, Snapshot(text), at, at, "(", is_body_due=True) is None


def test_who_writes_inside_of_an_open_bracket_may_go_on():
    text = "def f(self):\n    return self.g(\n        a,\n        \n\n\ndef g(self):\n    return 1\n"
    at = text.index("a,\n        ") + len("a,\n        ")
    tree, snapshot = SyntaxTree.around(PYTHON, text, at, at), Snapshot(text)
    assert not adds_errors(tree, snapshot, at, at, "b,")
    assert not adds_errors(tree, snapshot, at, at, "b)")


@pytest.mark.parametrize(
    ("text", "may_become"),
    [
        ("def f(", True),
        ("def f(a):", True),
        ("def f(a):\n    return (a,", True),
        ("    try:\n        x = 1\n", True),
        ('x = """not closed\n', True),
        ("@decorated\n", True),
        ("if a:\n    b = [1, 2\n", True),
        ("x = 1 +", False),
        ("x = 'not closed", False),
        ("f([1)", False),
        ("f(\n    return 1", False),
        ("x = = 1\n", False),
        ("if a:\nb = 1\nc", False),
        ("def f():\n    x = 1\n  y = 2\nz", False),
    ],
)
def test_what_a_program_may_begin_with(text, may_become):
    assert may_become_python(text) is may_become


def test_what_is_broken_anyway_keeps_nothing_back():
    # two things are wrong here, and no line in this place mends both
    text = textwrap.dedent(
        """\
        def f(a):
            b = = a
            ^
                return b
        """
    )
    at = text.index("^")
    text = text.replace("^", "")
    tree, snapshot = SyntaxTree.around(PYTHON, text, at, at), Snapshot(text)
    assert not adds_errors(tree, snapshot, at, at, "c = a")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        pytest.param("for n in a:\n    t^\n", "otal = total", id="sets a name to itself"),
        pytest.param("def f(self):\n    ^\n", "self.id = self.id", id="sets an attribute to itself"),
        pytest.param("total ^= 0\n", "=", id="makes an assignment a comparison"),
        pytest.param("def f():\n    return 1\n\n\n^\n", "return 2", id="returns from nothing"),
        pytest.param("if a:\n    ^\n", "return 2", id="returns from nothing, indented"),
        pytest.param("def f():\n    return 1\n    ^\n", "return 2", id="a jump under a jump"),
        pytest.param("import os\nimport re\n^\nx = 1\n", "import os", id="imports twice"),
        pytest.param("im^\nfrom a import (\n    b,\n)\nimport re\n", "port re", id="imports what the lines below do"),
        pytest.param("def f():\n    a\n\n\ndef ^\n", "f(a):\n    b", id="defines twice"),
        pytest.param("class A:\n    def f(a):\n        a\n\n    d^\n        b\n", "ef f(a):", id="a method twice"),
        pytest.param("try:\n    a\nexcept A:\n    b\nexcept B:\n    c\nex^\n    d\n", "cept A:", id="catches twice"),
        pytest.param("try:\n    a\nexcept ^\n    b\nexcept A as e:\n    c\n", "A:", id="catches what is caught below"),
        pytest.param("if a > 1:\n    b\nelif a:\n    c\nel^\n    d\n", "if a > 1:", id="asks twice"),
        pytest.param("if a >^\n    b\nelif a > 1:\n    c\n", " 1:", id="asks what is asked below"),
        pytest.param("match a:\n    case [1]:\n        b\n    ca^\n        c\n", "se [1]:", id="matches twice"),
    ],
)
def test_what_parses_and_cannot_be_meant(text, answer):
    tree, snapshot, at = marked(text)
    assert adds_errors(tree, snapshot, at, at, answer, is_body_due=True)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        pytest.param("class A:\n    f^\n", "oo = foo", id="a class takes a name over"),
        pytest.param("total ^= 0\n", "+", id="adds"),
        pytest.param("assert total ^= 0\n", "=", id="a comparison that is read"),
        pytest.param("f(x=^)\n", "x", id="an argument of the same name"),
        pytest.param("def f():\n    return 1\n    ^\n", "yield", id="makes a generator of it"),
        pytest.param("def f():\n    if a:\n        return 1\n    ^\n", "return 2", id="another way out"),
        pytest.param("def f():\n    return 1\n    return^\n", " 2", id="the user began it"),
        pytest.param("    a = 1\n    ^\n", "return a", id="a piece of a function"),
        pytest.param("import os\nif a:\n    ^\n", "import os", id="imports in another block"),
        pytest.param("@overload\ndef f(): ...\n\n\nd^\n    b\n", "ef f(a):", id="overloads"),
        pytest.param("@property\ndef f(a):\n    a\n\n\n@f.setter\nd^\n    b\n", "ef f(a, b):", id="a setter"),
        pytest.param("    def f(a):\n        a\n\n\nd^\n    b\n", "ef f(a):", id="the window begins in a class"),
        pytest.param("def _():\n    a\n\n\nd^\n    b\n", "ef _():", id="an underscore is no name"),
        pytest.param("def f():\n    a\n\n\ndef f^\n    b\n", "(a):", id="the user wrote the name"),
        pytest.param("try:\n    a\nexcept A:\n    b\nex^\n    c\n", "cept (A, B):", id="catches more"),
        pytest.param("if f():\n    b\nel^\n    d\n", "if f():", id="a call may answer otherwise"),
        pytest.param("if a:\n    b\n^\n    d\n", "if a:", id="another statement"),
        pytest.param("match a:\n    case 1 if b:\n        b\n    ca^\n        c\n", "se 1:", id="without the guard"),
    ],
)
def test_what_looks_so_and_may_be_meant(text, answer):
    tree, _, at = marked(text)
    assert not is_in_vain(tree.replaced(at, at, answer), at, at + len(answer))


def marked(text: str) -> tuple[SyntaxTree, Snapshot, int]:
    at = text.index("^")
    text = text.replace("^", "")
    return SyntaxTree.around(PYTHON, text, at, at), Snapshot(text), at


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        ("if f(^)", ""),
        ("    for a in g(^)", ""),
        ("while a[^]", ""),
        ("def f(^)", "    return 1\n"),
        ("class A(^)", "    a = 1\n"),
    ],
)
def test_a_header_may_still_lack_its_colon(head, rest):
    before = "def g():\n    a = 1\n" if head[0] == " " else "a = 1\n"
    marked = f"{before}{head}\n{rest}"
    assert not _is_refused("python", marked, "a")
    assert _is_refused("python", marked, "a b")
    assert _is_refused("python", marked, "a))")


@pytest.mark.parametrize("broken", ["def total(values)", "x = [1, 2", "if a", "class A"])
def test_an_error_further_up_makes_none_of_a_definition_that_is_whole(broken):
    marked = f"import os\n\n\n{broken}\n    return sum(values)\n\n\ndef f(paths):\n    return ^\n"
    assert not _is_refused("python", marked, "len(paths)")
    assert _is_refused("python", marked, "len(paths")
    assert _is_refused("python", marked, "len(paths))")


def test_an_element_may_have_begun_above_the_window():
    items = "".join(f"<li>{number}</li>\n" for number in range(2_000))
    assert not _is_refused("html", f"<ul>\n{items}</u^\n<p>a</p>\n", "l>")
    assert _is_refused("html", "<li>1</li>\n</u^\n<p>a</p>\n", "l>")


@pytest.mark.parametrize("magic", ["!ls -l | wc", "%matplotlib inline", "%%time"])
def test_what_a_notebook_says_beside_python_is_no_error(magic):
    marked = f"{magic}\nimport os\n{magic}\nx = ^\n{magic}\n"
    assert not _is_refused("python", marked, "len(a)")
    assert _is_refused("python", marked, "len(a")
    assert _is_refused("python", marked, "a b")
    # whoever is no notebook gets none
    assert _is_refused("python", "import os\n^\nx = 1\n", magic)


@pytest.mark.parametrize(
    ("language", "written", "line"),
    [
        pytest.param("lua", "function M.run(a)\n  for _, item in pairs(a) do\n    ", "if item.ok then", id="lua"),
        pytest.param("lua", "M.each(function(item)\n  ", "print(item)", id="lua: a block within a call"),
        pytest.param("lua", "function M.run()\n  repeat\n    ", "step()", id="lua: until"),
        pytest.param("ruby", "class A\n  def run(items)\n    ", "items.each do |item|", id="ruby"),
        pytest.param("ruby", "class A\n  def run(a)\n    while a.any? do\n      ", "items.pop", id="ruby: a loop"),
        pytest.param("ruby", "class A\n  def run(items)\n    words = %w[( { ]\n    ", "items.pop", id="ruby: words"),
        pytest.param("bash", "run() {\n  if [ -f x ]; then\n    ", 'cat "$x"', id="bash"),
        pytest.param("bash", "for each in *; do\n  ", "case $each in", id="bash: a case in a loop"),
    ],
)
def test_a_word_that_closes_a_block_may_still_be_due(language: str, written: str, line: str) -> None:
    rest = {"lua": "return M\n", "ruby": "end\n", "bash": "exit 0\n"}[language]
    for below in ("", "\n\n", f"\n\n{rest}"):
        text = written + below
        at = len(written)
        tree = SyntaxTree.around(language_for(language), text, at, at)
        assert due_after(tree, Snapshot(text), at, at, line, is_body_due=True) == "", below
        assert due_after(tree, Snapshot(text), at, at, line + " ]", is_body_due=True) is None, below


@pytest.mark.parametrize(
    ("language", "text", "line"),
    [
        pytest.param("lua", "function f()\n  ^\n  g()\nend\n", "if a then", id="lua: a header above lines"),
        pytest.param("lua", "function f()\n  ^\n  g()\nend\n", "for a in b", id="lua: a header without its word"),
        pytest.param("lua", "if a then\n  if b then\n    g(h^\n  end\nend\n", "(i)) end", id="lua: closed below"),
        pytest.param("ruby", "def f\n  ^\n  g\nend\n", "if a", id="ruby: a header above lines"),
        pytest.param("bash", "f() {\n  ^\n  g\n}\n", "if a; then", id="bash: a header above lines"),
    ],
)
def test_a_word_that_closes_a_block_is_not_due_where_all_is_written(language: str, text: str, line: str) -> None:
    at = text.index("^")
    text = text.replace("^", "")
    tree = SyntaxTree.around(language_for(language), text, at, at)
    assert due_after(tree, Snapshot(text), at, at, line, is_body_due=True) is None
