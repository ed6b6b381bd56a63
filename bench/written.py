"""A file as it is while one of its functions is being written: what stands behind the cursor, and what does not yet.

*finished*: everything does, as for somebody who changes code that exists. *open*: the function around the cursor ends
there, and the rest of the file follows; what was opened in it stays open, also the brace of its own body. *closed*:
the same in an editor that closes brackets and quotes by itself. Where there is no function, it is the member of a class
or the top-level statement. Knows no server and no kind of hole.

What VS Code does decides where the marks of *closed* stand: they are right behind the cursor and go on with it, into
the next line, too. Only where a line is broken between a bracket and its mark, the mark, with all that stands behind
it, gets a line of its own below, indented as the line of that bracket is. So quotes are always behind the cursor, and
the ends of `items.map((x) => {` stand together in one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

from ..infill.snapshot import indent_of
from ..infill.syntax import Span, SyntaxTree

Written = Literal["finished", "open", "closed"]
STATES: tuple[Written, ...] = get_args(Written)

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_HOUSES = ("namespace", "module", "mod_item")
"""Words in the types of nodes which, like classes, hold definitions and are none that the tables know."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A document whose function is written up to the cursor, which stands where the hole begins.

    beside: the marks right behind the cursor, innermost first, each with the offset in the hole's reference where the
    author types it himself (beyond its end: in a later line). reach: where in text what is there of the function ends.
    """

    written: Written
    text: str
    beside: tuple[tuple[str, int], ...]
    reach: int

    def kept(self, reference: str, num_lines: int) -> str:
        """The marks beside the cursor that the first num_lines lines of the reference do not have: the author goes on
        in a later line, and they still stand behind what he typed."""
        size = len("\n".join(reference.split("\n")[:num_lines]))
        return "".join(mark for mark, at in self.beside if at >= size)


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is open at an offset: the spans of the opening and the closing mark in the finished file."""

    opening: Span
    closing: Span


def begun(tree: SyntaxTree, text: str, hole: Span, written: Literal["open", "closed"]) -> Begun | None:
    """The document while what is in hole is to be written next. tree: of all of text, the finished file.

    None where nobody writes it there, because an editor has: it is marks that stand behind the cursor, or closes what
    is closed in a line below.
    """
    cursor = hole[0]
    unit = unit_around(tree, cursor)
    end = _without_rest(text, max(unit[1], unit_around(tree, hole[1] - 1)[1], hole[1]))
    if written == "open":
        return Begun(written, text[:cursor] + text[end:], (), cursor)
    marks = sorted(_open_marks(tree, cursor, unit[0]), key=lambda mark: mark.opening)
    broken = [number for number, mark in enumerate(marks, 1) if _ends_line(text, mark.opening[1], cursor)]
    num_below = broken[-1] if broken else 0
    if any(mark.closing[0] < hole[1] for mark in marks[:num_below]):
        return None
    beside = tuple((text[slice(*mark.closing)], mark.closing[0] - cursor) for mark in marks[num_below:][::-1])
    if text[slice(*hole)] == "".join(mark for mark, at in beside if at < hole[1] - cursor):
        return None
    newline = "\r\n" if "\r\n" in text else "\n"
    below = ""
    for first, last in reversed(list(pairwise([0, *broken]))):
        start = text.rfind("\n", 0, marks[last - 1].opening[0]) + 1
        below += newline + indent_of(text[start:]) + "".join(text[slice(*m.closing)] for m in marks[first:last][::-1])
    head = text[:cursor] + "".join(mark for mark, _ in beside) + below
    return Begun(written, head + text[end:], beside, len(head))


def unit_around(tree: SyntaxTree, offset: int) -> Span:
    """What the character at offset is a part of: the innermost function, else the member or the top-level statement."""
    node = tree.node_at(offset)
    while node is not None and node.parent is not None:
        around = node.parent.parent
        if around is None or _is_function(tree, node) or (_is_house(tree, around) and _is_body(node.parent, around)):
            return tree.span_of(node)
        node = node.parent
    return offset, offset + 1


def _is_function(tree: SyntaxTree, node: Any) -> bool:
    return node.type in tree.language.definition_nodes and is_function(node.type)


def is_function(node_type: str) -> bool:
    """Whether definitions of this type are functions."""
    return any(word in node_type for word in ("function", "method", "constructor"))


def _is_house(tree: SyntaxTree, node: Any) -> bool:
    is_known = node.type in tree.language.definition_nodes and not is_function(node.type)
    return is_known or any(word in node.type for word in _HOUSES)


def _is_body(node: Any, around: Any) -> bool:
    return around.child_by_field_name("body") == node


def _without_rest(text: str, end: int) -> int:
    """Behind what goes with it to the end of its line: a comma, a comment; not what closes something around it."""
    newline = text.find("\n", end)
    line_end = newline if newline >= 0 else len(text)
    line_end -= text[end:line_end].endswith("\r")
    return end if any(mark in text[end:line_end] for mark in _CLOSING.values()) else line_end


def _ends_line(text: str, offset: int, cursor: int) -> bool:
    """Whether a line that ends before the cursor has nothing more behind offset."""
    newline = text.find("\n", offset, cursor)
    return newline >= 0 and not text[offset:newline].strip()


def _open_marks(tree: SyntaxTree, offset: int, first: int) -> Iterator[_Mark]:
    """Brackets and quotes that are opened in [first, offset) and closed later."""
    node = tree.node_at(offset)
    while node is not None:
        for opening, closing in _pairs(tree, node):
            if first <= opening[0] and opening[1] <= offset <= closing[0]:
                yield _Mark(opening, closing)
        node = node.parent


def _pairs(tree: SyntaxTree, node: Any) -> Iterator[tuple[Span, Span]]:
    """The marks that enclose parts of a node."""
    if node.type in tree.language.string_nodes:
        content, (start, end) = node.text.decode("utf-8", "replace"), tree.span_of(node)
        quote = next((each for each in tree.language.quotes if content.endswith(each)), "")
        at = start + content.find(quote)
        if quote and at + 2 * len(quote) <= end:
            yield (at, at + len(quote)), (end - len(quote), end)
    awaited: list[Any] = []
    for child in node.children:
        # the type of an anonymous node is its text
        if child.is_named or child.is_missing:
            continue
        if child.type[-1:] in _CLOSING:
            awaited.append(child)
        elif awaited and child.type == _CLOSING[awaited[-1].type[-1]] * len(child.type):
            yield tree.span_of(awaited.pop()), tree.span_of(child)
