"""The indentation of an answer in the document's own style, whatever step the model wrote it in.

A model may answer in steps of four in a file of two, counted from the cursor's column or from the margin. The style is
the one under which fewest lines stand where none can; the document's own unless another explains more. What stands
inside of a string is text and stays. Knows no document and no tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .brackets import LineEnd
from .languages import Language
from .snapshot import Indent, indent_of
from .span import opens_block

STEPS = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class _Style:
    """step: columns of one level. origin: columns of the level that the middle begins in."""

    step: int
    origin: int


@dataclass(frozen=True, slots=True)
class _Placed:
    """A line whose indentation says something. is_due: it has to be deeper than the one above, being the first of a
    block. may_go_on: it may be deeper, going on with a statement.
    """

    width: int
    is_due: bool
    may_go_on: bool


def columns(line: str, indent: Indent) -> int:
    """Columns of a line's indentation; a tab is one level of the document."""
    return len(indent_of(line).replace("\t", " " * _unit(indent)))


def restyled(middle: str, ends: Sequence[LineEnd], begins_at: str, indent: Indent, language: Language) -> str:
    """Middle with the indentation of its second and later lines in the document's style.

    ends: `line_ends` of middle. begins_at: the indentation of the line that it begins in.
    """
    lines = middle.split("\n")
    widths = [columns(line, indent) for line in lines]
    unit, base = _unit(indent), columns(begins_at, indent)
    own = style = _Style(unit, base)
    placed = _placed(lines, widths, ends, language)
    fewest = _num_misplaced(placed, own)
    others = [_Style(step, base) for step in STEPS if step != unit]
    if base % unit == 0:
        others += [_Style(step, base // unit * step) for step in STEPS if step != unit]
    for other in others if fewest and language.blocks != "none" else ():
        if (num := _num_misplaced(placed, other)) < fewest:
            fewest, style = num, other
    moved = [base - style.origin]
    for i, line in enumerate(lines[1:], 1):
        width = widths[i]
        if ends[i - 1].aligned_with >= 0:
            # it stands below something of that line, not on a level
            new = max(0, width + moved[ends[i - 1].aligned_with])
        elif width >= style.origin:
            level, rest = divmod(width - style.origin, style.step)
            new = base + level * unit + rest
        else:
            new = width if style.origin == base else width // style.step * unit
        moved.append(new - width)
        if ends[i - 1].state == "string":
            continue
        if ends[i].state != "string":
            line = line.rstrip(" \t")
        lead = "\t" * (new // unit) + " " * (new % unit) if indent.is_tabs else " " * new
        body = line.lstrip(" \t")
        lines[i] = lead + body if body else ""
    return "\n".join(lines)


def _unit(indent: Indent) -> int:
    # how wide a tab is shown says nothing of what a model writes in its stead
    return 4 if indent.is_tabs else indent.width


def _placed(
    lines: Sequence[str], widths: Sequence[int], ends: Sequence[LineEnd], language: Language
) -> list[_Placed]:
    has_braces = language.blocks == "braces"
    found: list[_Placed] = []
    is_open = may_go_on = False
    for i, line in enumerate(lines):
        body = line.strip()
        if i and (not body or ends[i - 1].state != "code" or body.startswith(language.line_comments)):
            continue
        # a label stands where it likes, and so does what goes on inside of brackets
        is_label = has_braces and body.endswith(":")
        inside = ends[i - 1].innermost if i else ""
        if i and not is_label and (not inside or (has_braces and inside == "{")):
            found.append(_Placed(widths[i], is_open and body[0] not in "}])", may_go_on))
        is_open = opens_block(line, language)
        may_go_on = has_braces and not is_open and not body.endswith((";", "}"))
    return found


def _num_misplaced(placed: Sequence[_Placed], style: _Style) -> int:
    """How many lines stand where none can, up to the first that is further out than the middle begins."""
    levels = [style.origin]
    num = 0
    for line in placed:
        if line.width < style.origin:
            return num + ((style.origin - line.width) % style.step > 0)
        is_deeper = line.width > levels[-1]
        if line.is_due:
            num += line.width != levels[-1] + style.step
        elif is_deeper:
            num += not line.may_go_on
        while line.width < levels[-1]:
            levels.pop()
        if line.width > levels[-1]:
            # coming back, it stands between two levels
            num += not line.is_due and not is_deeper
            levels.append(line.width)
    return num
