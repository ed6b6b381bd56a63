"""An immutable look at one document: lines around an offset, line ending, indentation style.

Every question is answered from the text near the offset, never by a pass over the whole text, so that a keystroke costs
the same in a file of 100 lines and of 200,000. Knows no language and no syntax tree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .request import IndentStyle

STYLE_WINDOW = 3_000
"""Characters on each side of an offset that indentation is read from, and neighbouring lines are looked for in."""

_INDENT = re.compile(r"[ \t]*")
_LEADING = re.compile(r"^([ \t]*)[^\s][^\n]*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Indent:
    """How a document indents. unit: one level as text: a tab, or spaces. width: columns of one level."""

    unit: str
    width: int

    @property
    def is_tabs(self) -> bool:
        return self.unit == "\t"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of one document. Offsets are code-point indices."""

    text: str

    def line_start(self, offset: int) -> int:
        """Where the line of offset begins."""
        return self.text.rfind("\n", 0, offset) + 1

    def line_end(self, offset: int) -> int:
        """Where the line of offset ends, its newline (and the carriage return before it) not included."""
        newline = self.text.find("\n", offset)
        end = len(self.text) if newline < 0 else newline
        return end - 1 if end > offset and newline >= 0 and self.text[end - 1] == "\r" else end

    def line_at(self, offset: int) -> str:
        return self.text[self.line_start(offset) : self.line_end(offset)]

    def indent_at(self, offset: int) -> str:
        """The leading spaces and tabs of the line of offset."""
        match = _INDENT.match(self.text, self.line_start(offset), self.line_end(offset))
        return match.group() if match else ""

    def line_above(self, offset: int) -> str:
        """The nearest line above that is not blank, without its newline; "" where there is none within sight."""
        return next(iter(self.lines_above(offset, 1)), "")

    def lines_above(self, offset: int, num_lines: int) -> list[str]:
        """Up to num_lines lines before the line of offset that are not blank, the nearest first."""
        start = self.line_start(offset)
        lines = self.text[max(0, start - STYLE_WINDOW) : start].split("\n")
        return [line.rstrip("\r") for line in reversed(lines) if line.strip()][:num_lines]

    def lines_below(self, offset: int, num_lines: int) -> list[str]:
        """Up to num_lines lines after the line of offset that are not blank, without their newlines."""
        newline = self.text.find("\n", offset)
        if newline < 0:
            return []
        lines = self.text[newline + 1 : newline + 1 + STYLE_WINDOW].split("\n")
        return [line.rstrip("\r") for line in lines if line.strip()][:num_lines]

    def followed_by(self, offset: int, indent: str) -> str:
        """The next line, without its white space, where it is indented at least so: what belongs to the same block, or
        to one inside of it; "" otherwise."""
        newline = self.text.find("\n", offset)
        below = self.line_at(newline + 1) if newline >= 0 else ""
        return below.strip() if width_of(below) >= width_of(indent) else ""

    def newline(self, offset: int, default: str = "\n") -> str:
        """The line ending in use around offset: that of the nearest newline before it, otherwise of the first one."""
        at = self.text.rfind("\n", 0, offset)
        if at < 0:
            at = self.text.find("\n")
        if at < 0:
            return default
        return "\r\n" if at > 0 and self.text[at - 1] == "\r" else "\n"

    def indent(self, offset: int, style: IndentStyle | None = None, default: str = "    ") -> Indent:
        """How the document indents: what the text around offset shows, then the editor's settings, then default."""
        style = style or IndentStyle()
        if self.indent_at(offset).startswith("\t"):
            return Indent("\t", style.tab_size or 4)
        shown = detect_indent(self.text[max(0, offset - STYLE_WINDOW) : offset + STYLE_WINDOW])
        width = style.tab_size or (shown.width if shown and not shown.is_tabs else 0)
        if shown is not None:
            return Indent("\t", width or 4) if shown.is_tabs else shown
        if style.insert_spaces is False:
            return Indent("\t", width or 4)
        default_width = len(default.expandtabs(4))
        if style.insert_spaces:
            return Indent(" " * (width or default_width), width or default_width)
        return Indent(default, width or default_width)


def indent_of(line: str) -> str:
    """The spaces and tabs that a line begins with."""
    return line[: len(line) - len(line.lstrip(" \t"))]


def width_of(line: str, tab: int = 4) -> int:
    """The columns of a line's indentation; a tab goes to the next multiple of tab."""
    return len(indent_of(line).expandtabs(tab))


def detect_indent(text: str) -> Indent | None:
    """The indentation that a piece of text shows, or None where it shows none.

    The unit of spaces is the most common step between neighbouring lines that goes deeper, under a line that opens a
    block where there is one: what goes on with a statement may be twice as deep.
    """
    num_tabs = num_spaces = 0
    steps: dict[int, int] = {}
    block_steps: dict[int, int] = {}
    before, is_open = 0, False
    for match in _LEADING.finditer(text):
        lead = match.group(1)
        if lead.startswith("\t"):
            num_tabs += 1
            continue
        width = len(lead)
        num_spaces += width > 0
        step = width - before
        if 2 <= step <= 8:
            steps[step] = steps.get(step, 0) + 1
            if is_open:
                block_steps[step] = block_steps.get(step, 0) + 1
        before, is_open = width, match.group().rstrip().endswith(("{", ":"))
    if not num_tabs and not steps:
        return None
    if num_tabs > num_spaces:
        return Indent("\t", 4)
    if not steps:
        return None
    # continuation lines step by odd widths now and then; the most common step, the smaller at a tie, is the unit
    steps = block_steps or steps
    width = min(steps, key=lambda step: (-steps[step], step))
    return Indent(" " * width, width)


def offset_at(text: str, line: int, column: int) -> int:
    """The offset of a line and a column, both counted from 1, as people write them: for the command line.

    Raises: ValueError where the text has no such line, or the line no such column.
    """
    start = 0
    for _ in range(line - 1):
        newline = text.find("\n", start)
        if newline < 0:
            raise ValueError(f"the text has no line {line}")
        start = newline + 1
    end = Snapshot(text).line_end(start)
    if line < 1 or not 1 <= column <= end - start + 1:
        raise ValueError(f"line {line} has no column {column}; its columns are 1 to {end - start + 1}")
    return start + column - 1
