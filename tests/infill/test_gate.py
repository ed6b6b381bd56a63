"""The syntax gate against Python's own parser: a proposal has to be what the lines around the gap need."""

from __future__ import annotations

import ast
import textwrap

import pytest
from lacuna_ls.infill.gate import adds_errors, may_become_python
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.syntax import SyntaxTree

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
