"""Cut holes in source text: which span of a file becomes the middle that a model must fill.

Pure Python and language-agnostic: lines, indentation and brackets, no syntax tree. So the same function runs on the
GPU machine, in evaluation and in the benchmark, and costs little beside a training step. It knows neither tokens
nor prompts: offsets in, offsets out. Weighting between files is the corpus reader's business.

Canonical form of hole edges (training, evaluation AND serving keep to it; `is_canonical` checks it):

* a middle is never empty, never begins or ends inside leading whitespace, and never contains its trailing newline:
  `start` lies at or after the end of the indentation of its line, `end` lies after the last character of the
  last line's indentation, at most at the end of that line without the newline (and without a carriage return);
* a *rest-of-line* or *line* middle lies within one line and ends at its end; a *line* middle starts exactly after
  the indentation;
* a *block* middle starts exactly after the indentation of its first line and ends at the end of its last line, which
  is not blank: the newline after it belongs to the suffix;
* a *node* middle (inside of brackets, right-hand side) neither starts nor ends with whitespace: the newline and the
  indentation after an opening bracket belong to the prefix, those before the closing one to the suffix.

Offsets are code-point offsets (Python string indices).
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Literal, NamedTuple, get_args

HoleKind = Literal["rest-of-line", "line", "node", "block", "span"]
KINDS: tuple[HoleKind, ...] = get_args(HoleKind)
# facts/infill.md, "A recipe": 45 % rest of line, 25 % whole line, 20 % syntax node (two kinds here), 10 % random span
KIND_WEIGHTS: dict[HoleKind, float] = {"rest-of-line": 0.45, "line": 0.25, "node": 0.12, "block": 0.08, "span": 0.10}

MAX_MIDDLE_CHARS = 400
MAX_BLOCK_LINES = 8
MAX_SPAN_LINES = 3
PROSE_WEIGHT = 0.3
MID_WORD_SHARE = 0.15
_ATTEMPTS = 12

_LICENCE = re.compile(r"copyright|licen[cs]e|spdx-|all rights reserved", re.IGNORECASE)
# indentation, the mark of a comment if the line is one, the line up to its newline (and carriage return)
_LINES = re.compile(
    r"(([ \t\f]*)(#|//|/\*|\*(?=[\s/]|\Z)|--(?=\s))?[^\n\r]*(?:\r(?!\n|\Z)[^\n\r]*)*)\r?(?:\n|\Z)",
)
# only the marks: telling strings and comments apart costs ten times as much, and prose merely weighs less
_TRIPLE_QUOTE = re.compile(r"\"{3}|'{3}")
_PIECES = re.compile(r"\w+|\s+|[^\w\s]")
# what a right-hand side follows: an assignment (not a comparison), or a keyword that takes a value
_EXPRESSION = re.compile(
    r"(?:(?<![=!<>:+\-*/%&|^~@])(?:[+\-*/%&|^@:]|//|\*\*|>>|<<)?=(?![=>])|\b(?:return|yield|await)\b)[ \t]+"
)
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Hole:
    """A span `[start, end)` of a text, in code points, in the canonical form of this module."""

    start: int
    end: int
    kind: HoleKind


class _Line(NamedTuple):
    """One line: where it starts, where its indentation ends, where it ends without its newline."""

    start: int
    indent: int
    end: int
    is_comment: bool

    @property
    def is_blank(self) -> bool:
        return self.indent == self.end

    @property
    def width(self) -> int:
        return self.indent - self.start


@dataclass(frozen=True, slots=True)
class _Survey:
    """What every kind of hole needs to know about a text, found once."""

    text: str
    lines: list[_Line]
    weights: list[float]
    cumulative: list[float]

    def pick(self, rng: Random) -> int | None:
        """An index of a line, by weight; None where no line may be cut."""
        if not self.cumulative or self.cumulative[-1] <= 0:
            return None
        index = bisect_right(self.cumulative, rng.random() * self.cumulative[-1])
        return min(index, len(self.lines) - 1)


def _num_header_lines(text: str, lines: Sequence[_Line]) -> int:
    """Number of leading lines that belong to a licence header (comments at the top that speak of a licence)."""
    last = 0
    for number, line in enumerate(lines):
        if line.is_blank:
            continue
        if not line.is_comment:
            break
        if _LICENCE.search(text, line.indent, line.end):
            last = number + 1
    # the sentences after the word "licence" are part of the header: run on to the end of that comment block
    while 0 < last < len(lines) and lines[last].is_comment:
        last += 1
    return last


# a few entries, because callers take several holes of one text one after the other
@lru_cache(maxsize=4)
def _survey(text: str) -> _Survey:
    lines = [
        _Line(match.start(), match.end(2), match.end(1), match.end(3) >= 0)
        for match in _LINES.finditer(text)
        if match.end() > match.start()
    ]
    weights = [0.0 if line.indent == line.end else PROSE_WEIGHT if line.is_comment else 1.0 for line in lines]
    starts = [line.start for line in lines]
    opening: re.Match[str] | None = None
    for mark in _TRIPLE_QUOTE.finditer(text):
        if opening is None:
            opening = mark
        elif mark.group() == opening.group():
            first, last = bisect_right(starts, opening.start()) - 1, bisect_right(starts, mark.start()) - 1
            # a string that shares its first line with code (an assignment) leaves that line its full weight
            inner = first if lines[first].indent >= opening.start() - 1 else first + 1
            is_licence = first < 3 and _LICENCE.search(text, opening.end(), mark.start()) is not None
            for number in range(inner, last + 1):
                weights[number] = 0.0 if is_licence else min(weights[number], PROSE_WEIGHT)
            opening = None
    for number in range(_num_header_lines(text, lines)):
        weights[number] = 0.0
    return _Survey(text, lines, weights, list(accumulate(weights)))


def _rest_of_line(survey: _Survey, number: int, rng: Random) -> tuple[int, int] | None:
    line = survey.lines[number]
    pieces = [match.span() for match in _PIECES.finditer(survey.text, line.indent, line.end)]
    words = [span for span in pieces if span[1] - span[0] >= 2 and survey.text[span[0]].isalnum()]
    if words and rng.random() < MID_WORD_SHARE:
        begin, end = rng.choice(words)
        return rng.randrange(begin + 1, end), line.end
    edges = [begin for begin, _ in pieces[1:]]
    return (rng.choice(edges), line.end) if edges else None


def _whole_line(survey: _Survey, number: int, rng: Random) -> tuple[int, int] | None:
    del rng
    line = survey.lines[number]
    return line.indent, line.end


def _balanced_end(text: str, start: int, *, closing: str | None) -> int | None:
    """Where the bracket opened just before `start` closes (`closing`), or where an expression's line ends (None)."""
    stack: list[str] = [closing] if closing else []
    quote = ""
    limit = min(len(text), start + MAX_MIDDLE_CHARS + 40)
    position = start
    while position < limit:
        char = text[position]
        if quote:
            if char == "\\":
                position += 1
            elif char == quote or char == "\n":
                quote = ""
        elif char in "\"'`":
            quote = char
        elif char in _BRACKETS:
            stack.append(_BRACKETS[char])
        elif char in ")]}":
            if not stack or stack.pop() != char:
                return None
            if closing and not stack:
                return position
        elif char == "\n" and not closing and not stack:
            return position
        position += 1
    return len(text) if position >= len(text) and not closing and not stack else None


def _node(survey: _Survey, number: int, rng: Random) -> tuple[int, int] | None:
    line, text = survey.lines[number], survey.text
    starts: list[tuple[int, str | None]] = [
        (offset + 1, _BRACKETS[text[offset]]) for offset in range(line.indent, line.end) if text[offset] in _BRACKETS
    ]
    expression = _EXPRESSION.search(text, line.indent, line.end)
    if expression:
        starts += [(expression.end(), None)] * max(1, len(starts))
    if not starts:
        return None
    start, closing = rng.choice(starts)
    end = _balanced_end(text, start, closing=closing)
    if end is None:
        return None
    # the comma after a keyword argument's or an item's value belongs to the list, not to the value
    middle = text[start:end] if closing else text[start:end].rstrip(", \t\r")
    return start + len(middle) - len(middle.lstrip()), start + len(middle.rstrip())


def _block(survey: _Survey, number: int, rng: Random) -> tuple[int, int] | None:
    lines, text = survey.lines, survey.text
    if rng.random() < 0.5 and text[lines[number].start : lines[number].end].rstrip().endswith((":", "{")):
        # the body under a header: begins at the next line that is not blank, and must be deeper
        header = number
        number += 1
        while number < len(lines) and lines[number].is_blank:
            number += 1
        if number >= len(lines) or lines[number].width <= lines[header].width:
            return None
    width, last = lines[number].width, number
    for follower in range(number + 1, len(lines)):
        if lines[follower].is_blank:
            continue
        if lines[follower].width < width:
            break
        last = follower
        if last - number >= MAX_BLOCK_LINES:
            return None
    if last == number or survey.weights[number] == 0.0:
        return None
    return lines[number].indent, lines[last].end


def _span(survey: _Survey, number: int, rng: Random) -> tuple[int, int] | None:
    lines = survey.lines
    first = lines[number]
    start = rng.randrange(first.indent, first.end)
    last = lines[min(number + rng.choice((0, 0, 0, 1, 1, 2)), len(lines) - 1)]
    low = max(start, last.indent) + 1
    return (start, rng.randint(low, last.end)) if low <= last.end else None


_CUTTERS = {"rest-of-line": _rest_of_line, "line": _whole_line, "node": _node, "block": _block, "span": _span}


def is_canonical(text: str, hole: Hole) -> bool:
    """Whether the edges of a hole keep to the canonical form described in the module's docstring."""
    if not 0 <= hole.start < hole.end <= len(text):
        return False
    first_start = text.rfind("\n", 0, hole.start) + 1
    last_start = text.rfind("\n", 0, hole.end) + 1
    newline = text.find("\n", hole.end)
    line_end = len(text) if newline < 0 else newline
    at_line_end = text[hole.end : line_end] in ("", "\r")
    lead, middle = text[first_start : hole.start], text[hole.start : hole.end]
    starts_line = not lead.strip(" \t\f")
    if starts_line and middle[0] in " \t\f\r\n":
        return False
    if middle.endswith("\n") or (last_start > hole.start and not text[last_start : hole.end].strip(" \t\f")):
        return False
    if hole.kind in ("rest-of-line", "line"):
        return "\n" not in middle and at_line_end and (hole.kind == "rest-of-line" or starts_line)
    if hole.kind == "block":
        return starts_line and at_line_end and bool(text[last_start : hole.end].strip())
    return hole.kind == "span" or middle == middle.strip()


def _sample(survey: _Survey, rng: Random, kind: HoleKind) -> Hole | None:
    for _ in range(_ATTEMPTS):
        number = survey.pick(rng)
        if number is None:
            return None
        cut = _CUTTERS[kind](survey, number, rng)
        if cut is None or not 0 < cut[1] - cut[0] <= MAX_MIDDLE_CHARS:
            continue
        hole = Hole(cut[0], cut[1], kind)
        if is_canonical(survey.text, hole):
            return hole
    return None


def sample_hole(text: str, rng: Random) -> Hole | None:
    """One hole by the training mix (`KIND_WEIGHTS`), or None where nothing can be cut (blank or all licence)."""
    survey = _survey(text)
    kind = rng.choices(KINDS, [KIND_WEIGHTS[kind] for kind in KINDS])[0]
    return _sample(survey, rng, kind) or _sample(survey, rng, "line")


def sample_holes(text: str, rng: Random, kinds: Sequence[HoleKind] = KINDS, count: int = 1) -> list[Hole]:
    """Up to `count` different holes of EACH of `kinds`, in the order of `kinds`: for evaluation at a fixed seed.

    Holes of one kind do not repeat; a file too small for a kind gives fewer. Holes may overlap: each is its own task.
    """
    survey = _survey(text)
    holes: list[Hole] = []
    for kind in kinds:
        found: list[Hole] = []
        for _ in range(3 * count):
            hole = _sample(survey, rng, kind) if len(found) < count else None
            if hole is not None and hole not in found:
                found.append(hole)
        holes += found
    return holes
