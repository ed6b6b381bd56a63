"""Places in source text: what stands around a line, how alike two places are, and the block that begins at one.

Lines that are blank are passed by, and so are docstrings above a block. Knows text, no path, no document and no model.
"""

from __future__ import annotations

import functools
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from .overlap import is_substantive
from .snapshot import indent_of, width_of

MAX_BLOCK_LINES = 12
MAX_BLOCK_CHARS = 800
"""Longer blocks are no drafts: whole functions repeat less than what they are made of."""

MAX_DOC_LINES = 40
"""A longer docstring is not passed by."""

DOC_MARKS = ('"""', "'''")

_WORD = re.compile(r"\w+")
_DOC_START = re.compile(r"\s*[rRbBuU]?(\"\"\"|''')")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gap is: the two lines above and below it that are not blank, the nearest first, and its line so far."""

    head: str
    above: tuple[str, str]
    below: tuple[str, str]


@dataclass(slots=True)
class Lines:
    """A text by its lines that are not blank."""

    text: str
    starts: array[int]
    """Where each of them begins in text."""

    @classmethod
    def of(cls, text: str) -> Lines:
        return cls(text, array("I", _line_starts(text)))

    def line(self, i: int) -> str:
        """The line without white space at its end; "" where there is none."""
        if not 0 <= i < len(self.starts):
            return ""
        start = self.starts[i]
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else len(self.text)].rstrip()


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that begin at line number first. text: what follows the head, indented for the gap.

    likeness: of its place, in [0, 1].
    """

    first: int
    text: str
    likeness: float


def _line_starts(text: str) -> Iterator[int]:
    at = 0
    for line in text.split("\n"):
        if line.strip():
            yield at
        at += len(line) + 1


def rest_of(line: str, head: str) -> str:
    """What follows head in a line that begins with it, indentation apart; "" where it does not, or nothing follows."""
    body, begun = line.strip(), head.lstrip()
    return body[len(begun) :] if body.startswith(begun) else ""


def likeness(place: Place, above: tuple[str, str], below: tuple[str, str]) -> float:
    """How alike two places are by the words of the lines around them; the nearest lines count most."""
    # that both stand at the top or at the end of their file makes no likeness by itself
    near = sum(alike(a, b) for a, b in ((place.above[0], above[0]), (place.below[0], below[0])) if a.strip())
    if not near:
        return 0.0
    return 0.35 * near + 0.15 * (alike(place.above[1], above[1]) + alike(place.below[1], below[1]))


def alike(first: str, second: str) -> float:
    """How alike two lines are: 1 for the same, 0 for no word in common."""
    if first == second or first.strip() == second.strip():
        return 1.0
    a, b = _words(first), _words(second)
    return len(a & b) / len(a | b) if a and b else 0.0


@functools.lru_cache(maxsize=16_384)
def _words(line: str) -> frozenset[str]:
    return frozenset(_WORD.findall(line[:400]))


def past_docstring(lines: Lines, i: int) -> int:
    """The line behind the docstring that begins at line i; i where none does."""
    begun = _DOC_START.match(lines.line(i))
    if begun is None:
        return i
    if lines.line(i).count(begun[1]) > 1:
        return i + 1
    ends = (k + 1 for k in range(i + 1, i + MAX_DOC_LINES) if begun[1] in lines.line(k))
    return next(ends, i)


def above_docstring(lines: Lines, i: int) -> int:
    """The line above the docstring that ends at line i; i where none does."""
    last = lines.line(i)
    mark = last[-3:]
    if mark not in DOC_MARKS:
        return i
    for k in range(i, max(-1, i - MAX_DOC_LINES), -1):
        begun = _DOC_START.match(lines.line(k))
        # a mark alone in its line ends a docstring more often than it begins one
        if begun is not None and begun[1] == mark and (k < i or (last.count(mark) > 1)):
            return k - 1
    return i


def block_at(lines: Lines, i: int, place: Place, indent: str, *, is_cut_off: bool = False) -> Block | None:
    """The block that begins at line i, where it goes on from the place's head: to the line before one that is indented
    less, or that stands below the gap already. None: there is none, it is too long, or in no way alike.

    indent: of the gap's line. is_cut_off: a block that goes to the end of lines is not whole.
    """
    first = lines.line(i)
    rest = rest_of(first, place.head)
    if not rest:
        return None
    lead = indent_of(first)
    end, width = i + 1, width_of(first)
    below = place.below[0].strip() if is_substantive(place.below[0]) else ""
    while end < len(lines.starts):
        line = lines.line(end)
        if width_of(line) < width or (below and line.strip() == below):
            break
        end += 1
        if end - i > MAX_BLOCK_LINES:
            return None
    if is_cut_off and end == len(lines.starts):
        return None
    stop = lines.text.find("\n", lines.starts[end - 1])
    raw = lines.text[lines.starts[i] : stop if stop >= 0 else len(lines.text)].rstrip()
    if len(raw) > MAX_BLOCK_CHARS:
        return None
    up = above_docstring(lines, i - 1)
    score = likeness(place, (lines.line(up), lines.line(up - 1)), (lines.line(end), lines.line(end + 1)))
    if not score:
        return None
    return Block(i, "\n".join((rest, *(_moved(line, lead, indent) for line in raw.split("\n")[1:]))), score)


def _moved(line: str, lead: str, indent: str) -> str:
    line = line.rstrip()
    if not line:
        return ""
    return indent + line[len(lead) :] if line.startswith(lead) else line
