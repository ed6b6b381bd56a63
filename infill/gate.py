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

import ast
import re
import warnings

import tree_sitter

from .snapshot import Snapshot
from .span import begins_header
from .syntax import Damage, SyntaxTree
from .vain import is_in_vain

Span = tuple[int, int]

MAX_PARSED_CHARS = 8_000
"""Longest piece of Python that the interpreter's parser reads on the keystroke path (about 2 ms)."""

MAX_DOUBTFUL_CHARS = 40_000
"""The same where the window shows errors already, perhaps only because it begins inside of something long."""

MAX_NEED_CHARS = 4_000
"""The same where it is asked what the lines around need, once for each of the lines below (a millisecond or less)."""

_NEEDED = ("if 1:", "_(", "def _(", "_ = [", "_ = {", "_({", "_([")
"""Lines that open what stands below. None that closes what is open above: the user may go on there."""

_INCOMPLETE = 0x4000
"""PyCF_ALLOW_INCOMPLETE_INPUT of the standard library's codeop, which its stubs do not name."""

_STILL_DUE = (";", ",", " {}")
"""What may end a statement, an element or a header in languages with braces."""

_LINE_BELOW = re.compile(r"[^\n]*\s*[^\n]*")

_STATEMENT = re.compile(r"^(?!else\b|elif\b|except\b|finally\b|case\b)[A-Za-z_@]", re.MULTILINE)


def adds_errors(
    tree: SyntaxTree, snapshot: Snapshot, start: int, end: int, text: str, is_body_due: bool = False
) -> bool:
    """Whether putting text in place of [start, end) breaks what was whole. tree: the window around the span.

    is_body_due: a header whose body is not written yet is fine, because the user writes on from there.
    """
    if not _breaks(tree, snapshot, start, end, text, is_body_due):
        return False
    line_end = snapshot.line_end(end)
    if not _lacks_colon(tree, snapshot, end) or line_end > tree.base + len(tree.text):
        return True
    # `if f()` with the gap between the brackets: the user has not come to the colon yet
    with_colon = Snapshot(f"{snapshot.text[:line_end]}:{snapshot.text[line_end:]}")
    return _breaks(tree.replaced(line_end, line_end, ":"), with_colon, start, end, text, True)


def _lacks_colon(tree: SyntaxTree, snapshot: Snapshot, end: int) -> bool:
    """Whether a gap's line begins as a header, and goes on behind the gap to no colon."""
    tail = snapshot.text[end : snapshot.line_end(end)].strip()
    return bool(tail) and not tail.endswith(":") and begins_header(snapshot.line_at(end), tree.language)


def _breaks(
    tree: SyntaxTree, snapshot: Snapshot, start: int, end: int, text: str, is_body_due: bool
) -> bool:
    """The same of the text as it stands, without what the user may still put behind the line."""
    changed = tree.replaced(start, end, text)
    if changed.repeats_name(start, start + len(text)) or is_in_vain(changed, start, start + len(text)):
        return True
    after = changed.damage(tree.margins(snapshot.line_start(start), _after_line(snapshot, end)))
    is_broken = bool(after.num_errors or after.num_unbalanced)
    limit = MAX_DOUBTFUL_CHARS if is_broken else MAX_PARSED_CHARS
    if is_broken and _is_more_broken(tree, snapshot, start, end, text, changed):
        if tree.language.name == "python" and tree.damage().num_errors:
            # an error further up makes errors of whole definitions below it; the interpreter reads each by itself
            low, high = _piece(changed, snapshot, start, end, text, limit)
            return high - low > limit or not is_python(snapshot.text[low:start] + text + snapshot.text[end:high])
        line_end = snapshot.line_end(end)
        if tree.language.blocks != "braces" or not snapshot.text[end:line_end].strip():
            return True
        if line_end > tree.base + len(tree.text):
            # the end of a line without one in sight
            return True
        # what stands to the right keeps the proposal from ending its statement, which the user still has to
        at = line_end + len(text) - (end - start)
        ended = (changed.replaced(at, at, mark) for mark in _STILL_DUE)
        if all(_is_more_broken(tree, snapshot, start, end, text, each) for each in ended):
            return True
    if tree.language.name != "python":
        return False
    low, high = _piece(changed, snapshot, start, end, text, limit)
    return high - low <= limit and _breaks_python(tree, snapshot, (low, high), start, end, text, is_body_due)


def _is_more_broken(
    tree: SyntaxTree, snapshot: Snapshot, start: int, end: int, text: str, changed: SyntaxTree
) -> bool:
    """Whether the window with text in place of [start, end), which is changed, is worse than the window as it is, or
    than the window without the line that is being written."""
    line = snapshot.line_start(start), _after_line(snapshot, end)
    margins = tree.margins(*line)
    here = line[0], start + len(text)
    after = changed.damage(margins)
    if _is_worse(changed, after, here, tree, (line[0], end), margins):
        return True
    # the line being written is broken by nature; without it the text shows what the proposal has to live up to, unless
    # a brace of the user's own would go with it, and make good for one that the window's edge cut off
    own = snapshot.text[line[0] : start] + snapshot.text[end : line[1]]
    is_fair = own.count("{") == own.count("}") or len(tree.text) == len(snapshot.text)
    if not is_fair or line[0] < tree.base or line[1] > tree.base + len(tree.text):
        return False
    return _is_worse(changed, after, here, tree.replaced(line[0], line[1], ""), (line[0], line[0]), margins)


def _after_line(snapshot: Snapshot, offset: int) -> int:
    newline = snapshot.text.find("\n", offset)
    return len(snapshot.text) if newline < 0 else newline + 1


def _is_worse(
    changed: SyntaxTree, after: Damage, here: Span, tree: SyntaxTree, there: Span, margins: tuple[int, int]
) -> bool:
    """Whether a window is more broken with the proposal, which stands at here, than without it, where the gap is there.

    after: the damage of changed.

    Where it is broken anyway (the window begins inside of something, the grammar does not know a macro), a parser that
    recovers counts now more, now fewer errors for reasons far away: then brackets count more, and errors have to be
    near. Not where lines end statements: there recovery stays near, and this would let through more that is wrong.
    """
    before = tree.damage(margins)
    is_whole = not before.num_errors and not before.num_unbalanced
    if is_whole or tree.language.blocks == "indentation":
        return after.exceeds(before)
    if after.num_unbalanced != before.num_unbalanced:
        return after.num_unbalanced > before.num_unbalanced
    return after.num_errors > before.num_errors and _num_near(changed, here) > _num_near(tree, there)


def _num_near(tree: SyntaxTree, span: Span) -> int:
    """How many errors touch the lines of a span or the next one below."""
    below = _LINE_BELOW.match(tree.text, span[1] - tree.base)
    stop = tree.base + below.end() if below is not None else span[1]
    return sum(first <= stop and last >= span[0] for first, last in tree.error_spans())


def _breaks_python(
    tree: SyntaxTree, snapshot: Snapshot, piece: tuple[int, int], start: int, end: int, text: str, is_body_due: bool
) -> bool:
    low, high = piece
    before, after = snapshot.text[low:start], snapshot.text[end:high]
    if is_python(before + text + after):
        return False
    line_end = snapshot.line_end(end)
    if is_body_due and (text + snapshot.text[end:line_end]).rstrip().endswith(":"):
        body = f"\n{snapshot.indent_at(start)}{text[: len(text) - len(text.lstrip())]} pass"
        if is_python(before + text + snapshot.text[end:line_end] + body + snapshot.text[line_end:high]):
            return False
    line_start = snapshot.line_start(start)
    head = snapshot.text[low:line_start]
    rest = snapshot.text[_after_line(snapshot, end) : high]
    indent = snapshot.indent_at(start)
    # whole as it stands, whole without the line, or whole with a statement that does nothing in its place
    baselines = [before + snapshot.text[start:end] + after, head + rest, f"{head}{indent}pass\n{rest}"]
    if high - low <= MAX_NEED_CHARS:
        # or with what the lines below need there: a body needs a header, a bracket the one that opens it
        baselines += [f"{head}{indent}{line}\n{rest}" for line in _NEEDED]
        baselines.append(f"{before}_:{after}")
    if any(is_python(baseline) for baseline in baselines):
        return True
    # whatever stands below: nothing that the user may write on can mend a beginning that is wrong
    return tree.is_code_at(start) and may_become_python(before) and not may_become_python(before + text)


def _piece(
    changed: SyntaxTree, snapshot: Snapshot, start: int, end: int, text: str, limit: int
) -> tuple[int, int]:
    """Whole lines around [start, end) that should parse by themselves: a definition, or top-level statements.

    changed: the window with text in place of [start, end). The piece is what belongs together there: half a statement
    may stand around a gap that the text makes whole. Returns a span of the document as it is.
    """
    grown = len(text) - (end - start)
    line_start, after_line = snapshot.line_start(start), _after_line(snapshot, end)
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
    local = snapshot.text[base:start] + text + snapshot.text[end:stop]
    # the first word of this line has to be seen whole: one that goes on begins no statement
    found = (base + match.start() for match in _STATEMENT.finditer(local, 0, line_start + len("finally ") - base))
    starts = [at for at in found if at <= line_start] or [line_start]
    # a decorator and what it decorates are one statement
    while len(starts) > 1 and local[starts[-2] - base] == "@":
        starts.pop()
    if outermost is not None:
        after_line = max(after_line, _after_line(snapshot, max(changed.span_of(outermost)[1] - grown - 1, end)))
    is_decorator = local[starts[-1] - base] == "@" and outermost is None
    for match in _STATEMENT.finditer(local, after_line + grown - base):
        if not is_decorator:
            return starts[-1], base + match.start() - grown
        is_decorator = match[0] == "@"
    return starts[-1], stop


def may_become_python(text: str) -> bool:
    """Whether a program may begin with these lines, as this interpreter's parser sees it; see is_python.

    Source: codeop of the standard library, which tells an incomplete command from a wrong one by the same flag.
    """
    return _complaint(text, _INCOMPLETE) in ("", "incomplete input")


def is_python(text: str) -> bool:
    """Whether this interpreter's parser accepts a piece of Python, taken at whatever indentation it stands."""
    return not _complaint(text)


def _complaint(text: str, flags: int = 0) -> str:
    """What the parser says against a piece of Python; "" for nothing."""
    if text.lstrip("\r\n")[:1] in (" ", "\t"):
        text = "if 1:\n" + text
    try:
        with warnings.catch_warnings():
            # an invalid escape in the user's file is none of our business
            warnings.simplefilter("ignore")
            compile(text, "<text>", "exec", ast.PyCF_ONLY_AST | flags, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return error.msg if isinstance(error, SyntaxError) else type(error).__name__
    return ""
