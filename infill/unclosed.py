"""What a proposal may leave open: while something is written its end is not there yet.

The second judgement of what the gate refuses (gate.py): what was open before, and is closed nowhere below, may stay so,
and brackets that a proposal ends with are for the user to close. Knows nothing of how a proposal was made.
"""

from __future__ import annotations

from dataclasses import dataclass

from .brackets import scan_blocks, scan_brackets
from .gate import STATEMENT, STILL_DUE, Change, breaks, breaks_as_it_stands, is_worse, says_in_vain
from .python_parser import may_become_python
from .snapshot import Snapshot
from .syntax import WHOLE, Span, SyntaxTree, readable

MAX_BELOW_CHARS = 40_000
"""How far down it is looked for what closes an open bracket, or a docstring: about 3 ms of the scanner."""

MAX_OPEN = 50
"""Brackets open at once, beyond which nobody is writing them: a parser may take seconds to end them all."""

_HUNGRY = frozenset("([,=+-*/%<>|&^!~?:.")
"""After one of these an operand is still to come, or may be."""

_DUE = ("", ": pass")
"""What may end a statement or a header of Python behind a bracket."""


def due_after(
    tree: SyntaxTree, snapshot: Snapshot, start: int, end: int, text: str, is_body_due: bool = False
) -> str | None:
    """The closing marks that text in place of [start, end) leaves to the user; None where it breaks what was whole.

    What was open before, and is not closed below, may stay so: somebody is writing it. "" where text opens nothing
    else. is_body_due: as in adds_errors; brackets that text ends with may then be open, too.
    """
    change = Change.of(tree, snapshot, start, end, text)
    if says_in_vain(change):
        return None
    if not breaks(change, is_body_due):
        return ""
    marks = _open_marks(change)
    if marks is None or (marks.opened and not is_body_due):
        return None
    if not _may_be_closed(change, marks):
        return None
    # a word that closes a block has a line of its own, which is not for an editor to write behind the cursor
    return "" if "\n" in marks.opened else marks.opened


@dataclass(frozen=True, slots=True)
class _Open:
    """The marks that would end what is open where a line ends, and is not closed below: before a change, and after.

    opened: those of brackets that the change opens.
    """

    before: str
    after: str
    opened: str


def _open_marks(change: Change) -> _Open | None:
    """What there is to close; None where that is nothing, or where the change opens what it does not end with.

    While something is written, its end is not there yet: the brackets, or the quotes of a docstring. No parser can make
    anything of such a text, with a proposal or without it.
    """
    tree, language, at = change.tree, change.tree.language, change.line_end - change.tree.base
    if at > len(tree.text):
        return None
    before = scan_blocks(language, tree.text[:at])
    after = scan_blocks(language, change.changed.text[: at + change.grown])
    if after.num_unterminated > before.num_unterminated or after.num_stray > before.num_stray:
        return None
    if len(before.open_brackets) > MAX_OPEN:
        return None
    rest = change.snapshot.text[change.line_end : change.line_end + MAX_BELOW_CHARS]
    is_all = change.line_end + len(rest) == len(change.snapshot.text)
    if after.mark not in ("", before.mark):
        return None
    if before.mark and not (is_all and scan_brackets(language, tree.text[:at] + rest).mark):
        return None
    num_kept = len(after.open_brackets)
    while after.open_brackets[:num_kept] != before.open_brackets[:num_kept]:
        num_kept -= 1
    opened = "".join(reversed(after.open_brackets[num_kept:]))
    last, is_by_word = change.text.rstrip()[-1:], "\n" in opened
    if opened and (change.has_tail or not (is_by_word or last in {pair[0] for pair in language.brackets})):
        return None
    below = change.snapshot.followed_by(change.end, change.snapshot.indent_at(change.start))
    is_brace = language.blocks == "braces" and last == "{" and not below.startswith(last)
    if opened and below and not is_brace:
        # it would be the lines below that stand in a list or in a call, or a brace that is there already
        return None
    strays = scan_blocks(language, rest).strays
    if num_kept < _num_closed(before.open_brackets, strays):
        # it closes what is closed below
        return None
    marks = [scan.mark + _unclosed(scan.open_brackets, strays) for scan in (before, after)]
    if marks[0] and not (is_all and tree.has_errors):
        # it may be closed further down than can be seen; and what a grammar is content with, the scanner misreads
        return None
    if marks[0]:
        # what stands below says nothing before all is closed
        marks = [scan.mark + _unclosed(scan.open_brackets, ()) for scan in (before, after)]
    return _Open(marks[0], marks[1], opened) if marks[0] or opened else None


def _unclosed(awaited: tuple[str, ...], strays: tuple[str, ...]) -> str:
    """Which of the marks that are awaited at the end of a line, outermost first, the text below does not have."""
    return "".join(reversed(awaited[_num_closed(awaited, strays) :]))


def _num_closed(awaited: tuple[str, ...], strays: tuple[str, ...]) -> int:
    """How many of the marks that are awaited at the end of a line, outermost first, the text below has.

    strays: those of the text below that nothing is open for there; the last may close what the window does not reach.
    """
    # what is closed below was opened first
    sizes = range(min(len(awaited), len(strays)), -1, -1)
    return next(size for size in sizes if awaited[:size][::-1] == strays[:size])


def _may_be_closed(change: Change, marks: _Open) -> bool:
    """Whether the text is fine once the user has closed what is open."""
    tree, text, at = change.tree, change.text, change.line_end
    if tree.language.name == "python":
        # what stands below says nothing before that is closed
        if marks.before and not _breaks_off(change):
            return True
        ended = (Change.of(tree, change.snapshot, change.start, change.end, text + marks.opened + due) for due in _DUE)
        return bool(marks.opened) and not all(breaks_as_it_stands(each, False) for each in ended)
    front, back = tree.margins(*change.lines)
    end = at
    if marks.before:
        end, back = tree.base + len(tree.text), 0
    changed = _closed(change.changed, (at + change.grown, end + change.grown), marks.after, (front, back))
    damage = changed.damage((front, back))
    if damage == WHOLE:
        return True
    closed = _closed(tree, (at, end), marks.before, (front, back))
    here, there = (change.lines[0], change.start + len(text)), (change.lines[0], change.end)
    return not is_worse(changed, damage, here, closed, there, (front, back))


def _closed(tree: SyntaxTree, span: Span, marks: str, margins: tuple[int, int]) -> SyntaxTree:
    """The window with marks in place of a span from the end of a line on, and what makes it least broken beside them:
    an operand that is still to come, the end of a statement or an element, the body of a header."""
    inner = marks[: next((at for at, mark in enumerate(marks) if mark in "}\n"), len(marks))]
    best = tree.replaced(*span, marks)
    least = best.damage(margins)
    is_hungry = tree.text[: span[0] - tree.base].rstrip(" \t")[-1:] in _HUNGRY
    dues = ("", *(tree.language.word_dues or STILL_DUE))
    others = ((operand, due) for operand in ("", "_")[: 1 + is_hungry] for due in dues)
    for operand, due in others if marks else ():
        if least == WHOLE:
            break
        closed = tree.replaced(*span, operand + inner + due + marks[len(inner) :])
        damage = closed.damage(margins)
        best, least = (closed, damage) if damage < least else (best, least)
    return best


def _breaks_off(change: Change) -> bool:
    """Whether no program may begin with the text up to the end of the changed line, where one may without the change.

    Also where nobody can tell: an error further up hides all below it, unless it stands before this statement.
    """
    tree, line_start = change.tree, change.lines[0] - change.tree.base
    before = readable(tree.language, tree.text[: change.start - tree.base])
    tail = tree.text[change.end - tree.base : change.line_end - tree.base]
    statements = [match.start() for match in STATEMENT.finditer(before) if match.start() <= line_start]
    first = next((at for at in (0, *statements[-1:]) if may_become_python(before[at:])), None)
    return first is None or not may_become_python(before[first:] + change.text + tail)
