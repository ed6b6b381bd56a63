"""The syntax gate: would this proposal leave the document more broken than it is?

Three witnesses, each compared like with like (the same window before the change, and the same window without the line
that is being written): errors of the tree, unbalanced brackets, and for Python the interpreter's own parser, because
tree-sitter's Python grammar forgives missing bodies and wrong indentation. That one also tells what the lines below
need, and whether what stands above may still become a program. In a window that is broken anyway, unless indentation
makes its blocks, brackets count more than errors, and errors only near the gap. Some errors no parser sees: a name that
is given twice in one list of parameters, and in Python what cannot be meant (vain.py). Knows nothing of how a proposal
was made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import tree_sitter

from .python_parser import is_python, may_become_python
from .snapshot import Snapshot
from .span import begins_header
from .syntax import WHOLE, Damage, Span, SyntaxTree, readable
from .vain import is_in_vain

MAX_PARSED_CHARS = 8_000
"""Longest piece of Python that the interpreter's parser reads on the keystroke path (about 2 ms)."""

MAX_DOUBTFUL_CHARS = 40_000
"""The same where the window shows errors already, perhaps only because it begins inside of something long."""

MAX_NEED_CHARS = 4_000
"""The same where it is asked what the lines around need, once for each of the lines below (a millisecond or less)."""

_NEEDED = ("if 1:", "_(", "def _(", "_ = [", "_ = {", "_({", "_([")
"""Lines that open what stands below. None that closes what is open above: the user may go on there."""

STILL_DUE = (";", ",", " {}")
"""What may end a statement, an element or a header in languages with braces."""

_LINE_BELOW = re.compile(r"[^\n]*\s*[^\n]*")

STATEMENT = re.compile(r"^(?!else\b|elif\b|except\b|finally\b|case\b)[A-Za-z_@]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Change:
    """Putting text in place of [start, end). tree: the window around the span as it is; changed: afterwards.

    lines: the whole lines that the span stands in. line_end: where the last of them ends, without its newline.
    """

    tree: SyntaxTree
    snapshot: Snapshot
    start: int
    end: int
    text: str
    changed: SyntaxTree
    lines: Span
    line_end: int

    @classmethod
    def of(cls, tree: SyntaxTree, snapshot: Snapshot, start: int, end: int, text: str) -> Change:
        lines, line_end = (snapshot.line_start(start), _after_line(snapshot, end)), snapshot.line_end(end)
        return cls(tree, snapshot, start, end, text, tree.replaced(start, end, text), lines, line_end)

    @property
    def grown(self) -> int:
        """By how much the change makes the document longer."""
        return len(self.text) - (self.end - self.start)

    @property
    def has_tail(self) -> bool:
        """Whether something stands behind the span on its line, whose end the window reaches."""
        tail = self.snapshot.text[self.end : self.line_end]
        return bool(tail.strip()) and self.line_end <= self.tree.base + len(self.tree.text)


def adds_errors(
    tree: SyntaxTree, snapshot: Snapshot, start: int, end: int, text: str, is_body_due: bool = False
) -> bool:
    """Whether putting text in place of [start, end) breaks what was whole. tree: the window around the span.

    is_body_due: a header whose body is not written yet is fine, because the user writes on from there.
    """
    change = Change.of(tree, snapshot, start, end, text)
    return says_in_vain(change) or breaks(change, is_body_due)


def breaks(change: Change, is_body_due: bool) -> bool:
    """Whether the change breaks what was whole. is_body_due: see adds_errors."""
    if not breaks_as_it_stands(change, is_body_due):
        return False
    tree, text, at = change.tree, change.snapshot.text, change.line_end
    line = change.snapshot.line_at(change.end).rstrip()
    if not change.has_tail or line.endswith(":") or not begins_header(line, tree.language):
        return True
    # `if f()` with the gap between the brackets: the user has not come to the colon yet
    with_colon = Snapshot(f"{text[:at]}:{text[at:]}")
    ended = Change.of(tree.replaced(at, at, ":"), with_colon, change.start, change.end, change.text)
    return breaks_as_it_stands(ended, True)


def says_in_vain(change: Change) -> bool:
    """Whether what is new gives a name twice, or cannot be meant."""
    new = (change.start, change.start + len(change.text))
    return change.changed.repeats_name(*new) or is_in_vain(change.changed, *new)


def breaks_as_it_stands(change: Change, is_body_due: bool) -> bool:
    """Whether the change breaks the text as it stands, without what the user may still put behind the line."""
    tree = change.tree
    is_more_broken = _is_more_broken(change, change.changed)
    if tree.language.name != "python":
        return is_more_broken and not _may_be_ended(change)
    # an error further up makes errors of whole definitions below it; the interpreter reads each by itself
    is_by_itself = is_more_broken and tree.has_errors
    if is_more_broken and not is_by_itself:
        return True
    limit = MAX_DOUBTFUL_CHARS if change.changed.has_errors else MAX_PARSED_CHARS
    low, high = _piece(change, limit)
    if high - low > limit:
        # too long to be read in time: what the tree says counts
        return is_by_itself
    piece = readable(tree.language, change.snapshot.text[low:high])
    before, after = piece[: change.start - low], piece[change.end - low :]
    if is_python(before + change.text + after):
        return False
    return is_by_itself or _breaks_python(change, before, after, is_body_due)


def _may_be_ended(change: Change) -> bool:
    """Whether the user may still end the statement that what stands to the right keeps the proposal from ending."""
    if change.tree.language.blocks != "braces" or not change.has_tail:
        return False
    at = change.line_end + change.grown
    return not all(_is_more_broken(change, change.changed.replaced(at, at, mark)) for mark in STILL_DUE)


def _is_more_broken(change: Change, changed: SyntaxTree) -> bool:
    """Whether changed, the window after the change, is worse than the window as it is, or than the window without the
    line that is being written."""
    tree, text, (low, high) = change.tree, change.snapshot.text, change.lines
    margins = tree.margins(low, high)
    after = changed.damage(margins)
    if after == WHOLE:
        return False
    here = low, change.start + len(change.text)
    if is_worse(changed, after, here, tree, (low, change.end), margins):
        return True
    # the line being written is broken by nature; without it the text shows what the proposal has to live up to, unless
    # a brace of the user's own would go with it, and make good for one that the window's edge cut off
    own = text[low : change.start] + text[change.end : high]
    is_fair = own.count("{") == own.count("}") or len(tree.text) == len(text)
    if not is_fair or low < tree.base or high > tree.base + len(tree.text):
        return False
    return is_worse(changed, after, here, tree.replaced(low, high, ""), (low, low), margins)


def _after_line(snapshot: Snapshot, offset: int) -> int:
    newline = snapshot.text.find("\n", offset)
    return len(snapshot.text) if newline < 0 else newline + 1


def is_worse(
    changed: SyntaxTree, after: Damage, here: Span, tree: SyntaxTree, there: Span, margins: tuple[int, int]
) -> bool:
    """Whether a window is more broken with the proposal, which stands at here, than without it, where the gap is there.

    after: the damage of changed.

    Where it is broken anyway (the window begins inside of something, the grammar does not know a macro), a parser that
    recovers counts now more, now fewer errors for reasons far away: then brackets count more, and errors have to be
    near. Not where lines end statements: there recovery stays near, and this would let through more that is wrong.
    """
    before = tree.damage(margins)
    if before == WHOLE or tree.language.blocks == "indentation":
        return after.exceeds(before)
    if after.num_unbalanced != before.num_unbalanced:
        return after.num_unbalanced > before.num_unbalanced
    return after.num_errors > before.num_errors and _num_near(changed, here) > _num_near(tree, there)


def _num_near(tree: SyntaxTree, span: Span) -> int:
    """How many errors touch the lines of a span or the next one below."""
    below = _LINE_BELOW.match(tree.text, span[1] - tree.base)
    stop = tree.base + below.end() if below is not None else span[1]
    return sum(first <= stop and last >= span[0] for first, last in tree.error_spans())


def _breaks_python(change: Change, before: str, after: str, is_body_due: bool) -> bool:
    """Whether the change makes no Python of what was Python, or had a place for what is.

    before, after: what stands around the change in the piece that should parse by itself.
    """
    text, size = change.text, change.lines[1] - change.end
    tail, below = after[: change.line_end - change.end], after[change.line_end - change.end :]
    indent = change.snapshot.indent_at(change.start)
    # what the user may go on with: the body of a header, what is decorated, the statement that a comment is about
    level = f"\n{indent}{text[: len(text) - len(text.lstrip())]}"
    line = (before[len(before) - (change.start - change.lines[0]) :] + text + tail).strip()
    more: tuple[str, ...] = ()
    if line.endswith(":"):
        more = (f"{level} pass", f"{level} pass{level}finally: pass")
    elif line.startswith("@"):
        more = (f"{level}def _(): pass",)
    elif line.startswith("#"):
        more = (f"{level}pass",)
    if is_body_due and any(is_python(before + text + tail + each + below) for each in more):
        return False
    head, rest = before[: len(before) - (change.start - change.lines[0])], after[size:]
    # whole as it stands, whole without the line, or whole with a statement that does nothing in its place
    old = change.snapshot.text[change.start : change.end]
    baselines = [before + old + after, head + rest, f"{head}{indent}pass\n{rest}"]
    if len(before) + len(old) + len(after) <= MAX_NEED_CHARS:
        # or with what the lines below need there: a body needs a header, a bracket the one that opens it
        baselines += [f"{head}{indent}{line}\n{rest}" for line in _NEEDED]
        baselines.append(f"{before}_:{after}")
    if any(is_python(baseline) for baseline in baselines):
        return True
    # whatever stands below: nothing that the user may write on can mend a beginning that is wrong
    return change.tree.is_code_at(change.start) and may_become_python(before) and not may_become_python(before + text)


def _piece(change: Change, limit: int) -> Span:
    """Whole lines around the change that should parse by themselves: a definition, or top-level statements.

    The piece is what belongs together after the change: half a statement may stand around a gap that the text makes
    whole. Returns a span of the document as it is.
    """
    snapshot, changed, grown = change.snapshot, change.changed, change.grown
    start, end, (line_start, after_line) = change.start, change.end, change.lines
    outermost: tree_sitter.Node | None = None
    node = changed.node_at(line_start + len(snapshot.indent_at(start)))
    while node is not None and node.parent is not None:
        if node.type in changed.language.definition_nodes:
            low, high = changed.span_of(node)
            low, high = snapshot.line_start(min(low, start)), _after_line(snapshot, max(high - grown - 1, end))
            if low < line_start and end < high:
                return low, high
        outermost, node = node, node.parent
    # no further than what may be parsed; a statement's own end is the tree's to say, as strings have lines, too
    base, stop = max(0, line_start - limit), min(len(snapshot.text), end + limit)
    local = snapshot.text[base:start] + change.text + snapshot.text[end:stop]
    # the first word of this line has to be seen whole: one that goes on begins no statement
    found = (base + match.start() for match in STATEMENT.finditer(local, 0, line_start + len("finally ") - base))
    starts = [at for at in found if at <= line_start] or [line_start]
    # a decorator and what it decorates are one statement
    while len(starts) > 1 and local[starts[-2] - base] == "@":
        starts.pop()
    if outermost is not None:
        after_line = max(after_line, _after_line(snapshot, max(changed.span_of(outermost)[1] - grown - 1, end)))
    is_decorator = local[starts[-1] - base] == "@" and outermost is None
    for match in STATEMENT.finditer(local, after_line + grown - base):
        if not is_decorator:
            return starts[-1], base + match.start() - grown
        is_decorator = match[0] == "@"
    return starts[-1], stop
