"""Syntax errors that a small change mends: which changes are found, and where."""

from __future__ import annotations

import random
import time

import pytest
from infill_cases import TOKENIZER
from lacuna_ls.engine.problem import CanvasResult
from lacuna_ls.infill import repair
from lacuna_ls.infill.infiller import LocalInfiller
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.python_parser import is_python
from lacuna_ls.infill.repair import is_broken_at, repair_at
from lacuna_ls.infill.request import GapSpan, GapsRequest

B = "‸"
PYTHON = language_for("python")


def mended(marked: str, language: str = "python") -> list[str]:
    """The whole texts that a repair at the mark may give."""
    text, at = marked.replace(B, ""), marked.index(B)
    found = repair_at(language_for(language), text, at)
    return [] if found is None else [text[: found.start] + each + text[found.end :] for each in found.texts]


@pytest.mark.parametrize(
    ("language", "marked", "expected"),
    [
        pytest.param("python", f"if a{B}\n    b()\n", "if a:\n    b()\n", id="a colon"),
        pytest.param("python", f"x = f(1, 2{B}\ny = 1\n", "x = f(1, 2)\ny = 1\n", id="a bracket"),
        pytest.param("python", f"x = f(1)){B}\n", "x = f(1)\n", id="a bracket too many"),
        pytest.param("python", f"x = [1){B}\n", "x = [1]\n", id="another bracket"),
        pytest.param("python", f"x = f[1){B}\n", "x = f(1)\n", id="another bracket that opens"),
        pytest.param("python", f"x = 'abc{B}\n", "x = 'abc'\n", id="a quote"),
        pytest.param("python", f"x = f(a b{B})\n", "x = f(a, b)\n", id="a comma"),
        pytest.param("python", f"for x xs{B}:\n    f(x)\n", "for x in xs:\n    f(x)\n", id="a word"),
        pytest.param("python", f"def f():\n    retrun x{B}\n", "def f():\n    return x\n", id="a word misspelt"),
        pytest.param("python", f"x = = 1{B}\n", "x = 1\n", id="a mark too many"),
        pytest.param(
            "python",
            f"x = f(1,\n      2\ny{B} = 3\nreturn_ = 4\n",
            "x = f(1,\n      2)\ny = 3\nreturn_ = 4\n",
            id="a bracket in the line above",
        ),
        pytest.param("python", f"f(1,\r\n  2\r\nx{B} = 3\r\n", "f(1,\r\n  2)\r\nx = 3\r\n", id="another line ending"),
        pytest.param("javascript", f"const a = f(1{B};\n", "const a = f(1);\n", id="javascript"),
        pytest.param("javascript", f"for (const x y{B}) {{\n}}\n", "for (const x of y) {\n}\n", id="another word"),
        pytest.param("json", f'{{\n  "a": 1{B}\n  "b": 2\n}}\n', '{\n  "a": 1,\n  "b": 2\n}\n', id="json"),
        pytest.param("rust", f"fn f() {{\n    let a 1{B};\n}}\n", "fn f() {\n    let a = 1;\n}\n", id="rust"),
    ],
)
def test_the_change_that_was_meant_is_among_them(language, marked, expected):
    assert expected in mended(marked, language)


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        (f"x = [1, 2, 3{B}\ny = 4\n", "x = [1, 2, 3]\ny = 4\n"),
        (f"x = f(a, b{B}\ny = 4\n", "x = f(a, b)\ny = 4\n"),
        (f"def f():\n    retrun x{B}\n", "def f():\n    return x\n"),
    ],
)
def test_the_usual_mend_is_first(marked, expected):
    """It is the answer where the model cannot say how likely it finds a text, as one behind a server."""
    assert mended(marked)[0] == expected


def test_many_marks_in_a_broken_window_take_no_time():
    line = 'return g(a, [b, {"k": (1, 2)}], "s", x=1, y=[i for i in z], w={1: 2}, q=lambda t: t, r=[[1], [3]])'
    text = f"def f(a, b):\n    {line}\n" * 80
    at = text.index("return", 4000)
    text = text[:at] + text[at:].replace(", {", " {", 1).replace("lambda t: t", "lambda t t", 1)
    started = time.process_time()
    found = repair_at(PYTHON, text, at)
    assert found is not None
    assert not found.texts, "two mistakes"
    assert time.process_time() - started < 5


def test_what_makes_text_of_the_code_mends_nothing():
    # without its mark all of a PHP file is text, in which nothing is wrong
    assert mended(f"<?php\n$a = [1, 2{B}\n$b = 3;\n", "php") == []


def test_a_line_near_by_that_the_tree_does_not_reach_is_left_alone():
    long = "y = '" + "a" * 5000 + "'\n"
    text = "a (\n" * 3 + long * 3 + "a b c)\n" + long * 3 + "]]\n"
    found = repair_at(PYTHON, text, text.index("a b c"))
    assert found is not None
    assert text[found.start : found.end] == "a b c)"


def test_what_is_whole_is_left_alone():
    assert repair_at(PYTHON, "x = 1\n", 2) is None
    assert not is_broken_at(PYTHON, "x = 1\ny = = 2\n", 2)
    assert not is_broken_at(PYTHON, "x = (\n\n", 7)


def test_a_command_of_a_notebook_is_no_error():
    lines = ("%matplotlib inline\nimport os\n", "import os\r\n!ls -l | wc\r\nx = 1\r\n", "%%time\nx = (1\n % 2)\n")
    for text in (*lines, 'x = """\n%s"""\ny = 1\n'):
        assert not any(is_broken_at(PYTHON, text, offset) for offset in range(len(text)))
    assert is_broken_at(PYTHON, "x = (1,\n% y\n", 9)


def test_to_look_for_a_mend_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch):
    assert mended(f"x = f(1, 2{B}\n")
    monkeypatch.setattr(repair, "MAX_S", 0.0)
    assert mended(f"x = f(1, 2{B}\n") == []


def test_where_nothing_small_helps_the_line_is_named():
    text = "a = 1\n    first = 1 +* ] -> [ second !\n"
    found = repair_at(PYTHON, text, len(text) - 3)
    assert found is not None
    assert (text[found.start : found.end], found.texts) == ("first = 1 +* ] -> [ second !", ())


LINES = """def f(a, b=(1, 2)):
    items = {'a': [a], 'b': g(b)}
    for key, value in items.items():
        print(key[0])
"""


@pytest.mark.parametrize("seed", range(20))
def test_every_mend_makes_python_of_it(seed):
    rng = random.Random(seed)
    at = rng.choice([number for number, char in enumerate(LINES) if char in "()[]{}:,'="])
    broken = LINES[:at] + rng.choice(["", LINES[at] * 2, ")", "]"]) + LINES[at + 1 :]
    found = repair_at(PYTHON, broken, at)
    if found is None or is_python(broken) or not found.texts:
        return
    assert all(is_python(broken[: found.start] + each + broken[found.end :]) for each in found.texts)


class Scorer:
    """An engine that likes one text."""

    def __init__(self, liked: str) -> None:
        self.liked = liked

    def fill(self, problem, cancelled=None):
        assert problem.decoding == "score"
        texts = [TOKENIZER.decode(canvas.tokens[:-1]) for canvas in problem.canvases]
        results: list[CanvasResult] = []
        for text, canvas in zip(texts, problem.canvases, strict=True):
            length = len(canvas.tokens)
            logprob = (0.0 if text == self.liked else -1.0,) * length
            results.append(CanvasResult(canvas.tokens, (0.0,) * length, logprob, length, 1, True))
        return results


def test_the_likeliest_choice_is_taken():
    text = "x = f(1, 2\n"
    request = GapsRequest(text, (GapSpan(0, 10, is_multiline=False),), "python", choices=("x = f(1), 2", "x = f(1, 2)"))
    for liked in request.choices:
        infiller = LocalInfiller(Scorer(liked), TOKENIZER)
        (fill,) = infiller.fill_gaps(request).fills
        assert fill.proposal is not None
        assert (fill.proposal.text, fill.proposal.start, fill.proposal.end) == (liked, 0, 10)
        assert 0.9 < fill.proposal.confidence < 1


def test_choices_are_for_one_gap():
    with pytest.raises(ValueError, match="2 choices for 0 gaps"):
        GapsRequest("", (), "python", choices=("a", "b"))
