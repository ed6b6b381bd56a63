"""The gap: which span is replaced, how much may be filled in, and in which canonical form it is shown to the model.

The canonical edges are those the embedded model is trained with: a middle begins after the indentation of its line and
ends before its newline. What the cursor lacks for that (the indentation of an empty line, a typed word) is the gap's
`lead`: it joins the prefix in the prompt and the front of the proposal. Knows no tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .brackets import scan_brackets
from .languages import Language
from .snapshot import Indent, Snapshot, indent_of, width_of
from .syntax import SyntaxTree

MAX_CONTINUED_LINES = 24
"""How far up the beginning of a statement is looked for."""

MAX_COMMENT_LINES = 100

_FIRST_WORD = re.compile(r"\s*\w+")

Extent = Literal["rest", "line", "node", "block", "span"]
"""What a gap ends with: the rest of the line, the whole line, a piece of a line, a block of lines, or anything."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a gap is seen in: the snapshot, the tree of its window around the gap, and how the document indents."""

    snapshot: Snapshot
    tree: SyntaxTree
    indent: Indent

    @property
    def language(self) -> Language:
        return self.tree.language


@dataclass(frozen=True, slots=True)
class Gap:
    """One gap of one snapshot.

    start, end: the span [start, end) to be replaced. extent: what ends the middle.
    lead: text between the prefix and the middle that is not in the document yet; tail: the same behind the middle.
    A proposal is lead + middle + tail.
    indent: indentation of the line that the middle begins in.
    closed: the end of the span, where it is what the editor has closed behind the cursor by itself: a middle that goes
    on behind it (`) -> int:` for `def f(a|)`) takes its place.
    is_edit: nobody goes on writing where the middle ends.
    """

    start: int
    end: int
    extent: Extent
    indent: str = ""
    lead: str = ""
    tail: str = ""
    closed: str = ""
    is_edit: bool = False

    @property
    def is_multiline(self) -> bool:
        """Whether a newline may be part of the middle."""
        return self.extent in ("block", "span")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The line of a gap: what stands left and right of it."""

    head: str
    tail: str


def surroundings(snapshot: Snapshot, start: int, end: int) -> Surroundings:
    """What stands on the line left of start and right of end."""
    return Surroundings(snapshot.text[snapshot.line_start(start) : start], snapshot.text[end : snapshot.line_end(end)])


def is_closing(tail: str, language: Language) -> bool:
    """Whether right of the cursor stands only what an editor closes by itself: brackets, quotes, `;` `,` `:`."""
    marks = {pair[1] for pair in language.brackets} | {quote[0] for quote in language.quotes} | set(";,:")
    ends_comment = tail.strip() in {pair[1] for pair in language.block_comments}
    return ends_comment or all(char in marks or char.isspace() for char in tail)


def is_closed(head: str, tail: str, language: Language) -> bool:
    """Whether what stands right of the cursor closes what was opened left of it on the same line, and nothing else.

    An editor that closes brackets and quotes has put it there while head was typed.
    """
    before, marks = scan_brackets(language, head), tail.strip()
    if before.state == "string" and marks.startswith(before.mark):
        head, marks = head + before.mark, marks[len(before.mark) :]
        before = scan_brackets(language, head)
    elif not marks:
        return False
    awaited = "".join(reversed(before.open_brackets))
    return before.state == "code" and awaited.startswith("".join(marks.split()))


def opens_block(line: str, language: Language) -> bool:
    """Whether a block follows a line like this one: a header, or the last line of one that began further up."""
    line = _without_comment(line, language)
    if language.block_header and re.fullmatch(language.block_header, line):
        return True
    if not language.block_openers or not line.endswith(language.block_openers):
        return False
    return not language.block_words or begins_header(line, language) or _num_closed(line, language) > 0


def begins_header(line: str, language: Language) -> bool:
    """Whether a line begins with one of the words that headers of blocks begin with."""
    first = _FIRST_WORD.match(line)
    return first is not None and first[0].lstrip() in language.block_words


def expected_indent(scene: Scene, offset: int) -> str:
    """The indentation that a new line at offset would get: that of the line above, and one level more after an opener.

    Where a block ended above, two blank lines say so in a language without braces; otherwise the deeper of neighbours
    is the better guess while writing downwards.
    """
    snapshot, language, unit = scene.snapshot, scene.language, scene.indent.unit
    if language.blocks == "indentation" and _follows_two_blank_lines(snapshot, offset):
        return ""
    above = snapshot.line_above(offset)
    comment = _comment_above(snapshot, offset, language)
    if comment is not None:
        # what a comment is about stands below its first line; the others begin with a blank and a star
        return indent_of(comment)
    lead = indent_of(_first_line(snapshot.lines_above(offset, MAX_CONTINUED_LINES), language))
    if opens_block(above, language) or above.rstrip().endswith(("(", "[", "{")):
        return lead + unit
    word = above.strip().split(" ", 1)[0].rstrip(";")
    if language.blocks == "indentation" and word in ("return", "raise", "pass", "break", "continue"):
        return lead.removesuffix(unit)
    return lead


def statement_indent(scene: Scene, offset: int) -> str:
    """The indentation of the line where the statement begins that goes on at offset, as far as its brackets tell."""
    snapshot = scene.snapshot
    line = snapshot.text[snapshot.line_start(offset) : offset]
    return indent_of(_first_line([line, *snapshot.lines_above(offset, MAX_CONTINUED_LINES)], scene.language))


def _first_line(above: Sequence[str], language: Language) -> str:
    """Where the statement begins that ends with the nearest of these lines, as far as its brackets tell."""
    depth = 0
    for line in above:
        depth += _num_closed(line, language)
        if depth <= 0:
            return line
    return above[0] if above else ""


def _comment_above(snapshot: Snapshot, offset: int, language: Language) -> str | None:
    """The first line of a comment of several lines that ends directly above the line of offset."""
    lines = snapshot.lines_above(offset, MAX_COMMENT_LINES)
    for first, last in language.block_comments:
        if lines and lines[0].rstrip().endswith(last) and first not in lines[0]:
            # what ends a comment further up, or a list within a list of Lua, ends another one
            opened = next((line for line in lines[1:] if first in line or last in line), "")
            return opened if opened.lstrip().startswith(first) and last not in opened else None
    return None


def _num_closed(line: str, language: Language) -> int:
    """Brackets closed less those opened in one line; strings are not looked at."""
    return sum(line.count(pair[1]) - line.count(pair[0]) for pair in language.brackets)


def _follows_two_blank_lines(snapshot: Snapshot, offset: int) -> bool:
    line_start = snapshot.line_start(offset)
    lines = snapshot.text[max(0, line_start - 200) : line_start].split("\n")
    return len(lines) > 3 and not lines[-2].strip() and not lines[-3].strip()


def is_empty_block(scene: Scene, offset: int, header_indent: str) -> bool:
    """Whether neither what is deeper than header_indent follows the line of offset, nor a label: the block under the
    header is unwritten."""
    below = scene.snapshot.lines_below(offset, 1)
    return not below or (width_of(below[0]) <= width_of(header_indent) and not is_label(below[0], scene.language))


def is_label(line: str, language: Language) -> bool:
    """Whether a line is the label of what follows, which stands where it likes in a language with braces."""
    body = line.strip()
    return language.blocks == "braces" and (body.endswith(":") or body.startswith("case "))


def _without_comment(line: str, language: Language) -> str:
    for mark in language.line_comments:
        # a comment mark inside a string is rare in a header line, and the worst outcome is one line instead of a block
        line = line.split(mark, 1)[0]
    return line.rstrip()
