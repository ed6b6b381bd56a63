"""Whatever the model says: a proposal that is shown never does harm. Over random documents and random answers."""

from __future__ import annotations

import ast
import inspect
import json.decoder
import random
import textwrap
import warnings
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infill_cases import applied, infiller
from lacuna_ls.infill.brackets import scan_brackets
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.overlap import is_substantive, normalized
from lacuna_ls.infill.python_parser import is_python
from lacuna_ls.infill.request import InfillRequest
from lacuna_ls.infill.syntax import SyntaxTree

PYTHON_SOURCES = (inspect.getsource(json.decoder), inspect.getsource(textwrap), inspect.getsource(random)[:20_000])

JAVASCRIPT = """\
import { a } from "b";

function walk(tree, visit) {
  const stack = [tree];
  while (stack.length) {
    const node = stack.pop();
    if (visit(node) === false) {
      continue;
    }
    stack.push(...node.children.map((child) => ({ child, text: `<${node.name}>` })));
  }
  return { done: true, found: [1, 2, 3] };
}

class Reader {
  constructor(path) {
    this.path = path;
  }

  read() {
    return this.path.split("/").filter((part) => part !== "");
  }
}
"""

GO = """\
package main

import "fmt"

func sum(values []int) int {
\ttotal := 0
\tfor _, v := range values {
\t\tif v > 0 {
\t\t\ttotal += v
\t\t}
\t}
\treturn total
}

func main() {
\tfmt.Println(sum([]int{1, 2, 3}), "done")
}
"""

RUST = """\
fn split(text: &str) -> Vec<char> {
    let quote = '"';
    let closed = '}';
    let escaped = '\\'';
    let raw = r#"a"b("#;
    let mut found: Vec<char> = text.chars().filter(|c| *c == quote).collect();
    found.push(if escaped == closed { quote } else { '(' });
    found.retain(|c| raw.contains(*c));
    found
}
"""

CPP = """\
#include <string>

std::string text() {
  const int limit = 1'000;
  const long far = 0x1'ff'ff;
  const char quote = '"';
  std::string raw = R"(a"b)";
  std::string marked = R"x(a)"b)x";
  return raw + marked + std::to_string(limit + far) + quote;
}
"""

PATTERNS = """\
const quote = /"/;
const paths = text.split(/[/'(]/);
const half = size / 2 / count;
const first = lines.find((line) => /^'+$/.test(line));
const both = (a / 2) + (b / "3".length);
const shown = <p>don't {first}</p>;
"""

SCRAPS = st.sampled_from(
    [
        "(", ")", "[", "]", "{", "}", "'", '"', "`", "\n", "\n    ", "\n\t", "\n        ", "  ", "\t", "\r\n", ",", ":",
        ";", "return x", "x = 1", "f(a, b)", "if a:", "if (a) {", "else:", "#", "//", "é", "𝒳", "\ufffd", "self.",
        "a" * 30, "pass",
    ]
)  # fmt: skip
ANSWERS = st.lists(SCRAPS, max_size=8).map("".join)


def _harm(language, text: str, request: InfillRequest, proposal) -> None:
    """Assert that a proposal does no harm where it was asked for."""
    # what it opens, and leaves to the user to close, is told
    after = applied(text, replace(proposal, text=proposal.text + proposal.closing))
    row = language_for(language)
    # 1. what was balanced stays balanced
    before_scan = scan_brackets(row, text)
    if before_scan.num_unbalanced == 0:
        assert scan_brackets(row, after).num_unbalanced == 0
    # 2. a text without errors gets none, once what is opened holds something, and is ended
    if SyntaxTree.parse(row, text).damage().num_errors == 0:
        opened = [f"{operand}{proposal.closing}{due}" for operand in ("", "_") for due in ("", ";", ",", " {}")]
        ends = opened if proposal.closing else [""]
        wholes = (applied(text, replace(proposal, text=proposal.text + end)) for end in ends)
        assert min(SyntaxTree.parse(row, whole).damage().num_errors for whole in wholes) == 0
    # 3. the line below is not said twice
    end = proposal.start + len(proposal.text)
    own = after[after.rfind("\n", 0, end) + 1 : (after + "\n").index("\n", end)]
    others = after[end:].split("\n", 1)[1:]
    below = next((line for line in "".join(others).split("\n") if line.strip()), "")
    had = text[text.rfind("\n", 0, request.start) + 1 : (text + "\n").index("\n", request.end)]
    if is_substantive(own) and normalized(own) != normalized(had):
        assert normalized(own) != normalized(below)
    # 4. the documents' line ends, and nothing that is not text
    if "\r\n" in text and "\n" not in text.replace("\r\n", ""):
        assert "\n" not in proposal.text.replace("\r\n", "")
    assert "\ufffd" not in proposal.text
    # 5. something is proposed
    assert proposal.text.strip()


def _try(language: str, source: str, cut: tuple[int, int], answer: str) -> bool:
    text = source[: cut[0]] + source[cut[1] :]
    request = InfillRequest(text, cut[0], cut[0], language)
    result = infiller(answer).fill(request)
    for proposal in result.proposals:
        _harm(language, text, request, proposal)
    return bool(result.proposals)


def _cut(source: str, data) -> tuple[int, int]:
    """A hole that ends at its line's end or before a closing bracket, or any short span."""
    start = data.draw(st.integers(0, len(source) - 1))
    newline = source.find("\n", start)
    end = data.draw(st.sampled_from([newline if newline >= 0 else len(source), min(len(source), start + 7), start]))
    return start, max(start, end)


@pytest.mark.parametrize(
    ("language", "sources"),
    [
        pytest.param("python", PYTHON_SOURCES, id="blocks by indentation"),
        pytest.param("javascript", (JAVASCRIPT,), id="blocks by braces, template strings"),
        pytest.param("go", (GO,), id="tabs"),
    ],
)
def test_no_answer_does_harm(language, sources):
    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def check(data):
        source = data.draw(st.sampled_from(sources))
        if data.draw(st.booleans()):
            source = source.replace("\n", "\r\n")
        cut = _cut(source, data)
        truth = source[cut[0] : cut[1]]
        # scraps, the truth, and the truth with scraps around it or with the next lines behind it
        answer = data.draw(
            st.one_of(
                ANSWERS, st.just(truth), ANSWERS.map(lambda scrap: truth + scrap), st.just(source[cut[0] : cut[1] + 80])
            )
        )
        _try(language, source, cut, answer)

    check()


@pytest.mark.parametrize(
    ("language", "source"),
    [
        pytest.param("python", PYTHON_SOURCES[0], id="python"),
        pytest.param("python", PYTHON_SOURCES[1].replace("\n", "\r\n"), id="python with CRLF"),
        pytest.param("python", PYTHON_SOURCES[0].replace("    ", "\t"), id="python with tabs"),
        pytest.param("javascript", JAVASCRIPT, id="javascript"),
        pytest.param("go", GO, id="go"),
        pytest.param("rust", RUST, id="rust: quotes and brackets as characters, raw strings"),
        pytest.param("cpp", CPP, id="c++: raw strings, digits in groups"),
        pytest.param("javascript", PATTERNS, id="javascript: regular expressions, an apostrophe in an element"),
    ],
)
def test_the_truth_is_shown(language, source):
    """The other side of the gate: the real middle of a real line passes it, nearly always, and exactly."""
    rng = random.Random(7)
    lines = [i for i, line in enumerate(source.split("\n")) if len(line.strip()) > 5]
    starts = [0]
    for line in source.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    num_shown = num_exact = num = 0
    reasons = []
    for index in rng.sample(lines, min(60, len(lines))):
        low, high = starts[index], starts[index + 1] - 1
        if source[high - 1] == "\r":
            high -= 1
        indent = len(source[low:high]) - len(source[low:high].lstrip())
        cut = rng.choice([low + indent, rng.randint(low + indent, high - 1)])
        text = source[:cut] + source[high:]
        request = InfillRequest(text, cut, cut, language, kind="line", is_explicit=True)
        result = infiller(source[cut:high]).fill(request)
        if result.declined == "inside-word" or not source[cut:high].strip():
            continue
        num += 1
        num_shown += bool(result.proposals)
        reasons += [(result.declined, source[low:high])] if result.declined else []
        num_exact += bool(result.proposals) and applied(text, result.proposals[0]).split() == source.split()
    assert num_exact == num_shown
    # what is declined repeats a neighbouring line, which real code does now and then
    assert all(reason in ("repeats-suffix", "repeats-prefix", "repetition") for reason, _ in reasons), reasons
    assert num_shown >= 0.93 * num


def test_python_that_parsed_still_parses():
    """The interpreter is the judge of the strictest language rule: bodies and indentation."""
    rng = random.Random(3)
    source = PYTHON_SOURCES[0]
    lines = source.split("\n")
    scraps = [
        "return 1",
        "else:",
        "if a:",
        "    x = 1",
        "x = (",
        "x = 1",
        "for a in b:",
        "pass",
        "def f():",
        "'",
        "x y",
        "try:",
    ]
    num_shown = 0
    for _ in range(250):
        index = rng.randrange(len(lines))
        text = "\n".join([*lines[:index], "", *lines[index:]])
        at = sum(len(line) + 1 for line in lines[:index])
        answer = "\n".join(rng.choice(scraps) for _ in range(rng.randint(1, 3)))
        result = infiller(answer).fill(
            InfillRequest(text, at, at, "python", kind=rng.choice(["auto", "block", "line"]))
        )
        for proposal in result.proposals:
            num_shown += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # a header whose body is not what stands below may still wait for one, and only for that
                is_waiting = proposal.text.endswith(":") and "\n" not in proposal.text
                whole = applied(text, replace(proposal, text=proposal.text + proposal.closing))
                if is_waiting and not is_python(whole):
                    line = whole[whole.rfind("\n", 0, proposal.start) + 1 :]
                    ends = f"\n{line[: len(line) - len(line.lstrip())]}finally: pass" if "try:" in proposal.text else ""
                    whole = applied(text, replace(proposal, text=f"{proposal.text} pass{ends}"))
                ast.parse(whole)
    assert num_shown > 20
