"""The syntax gate: would this proposal leave the document more broken than it is?

Three witnesses, each compared like with like (the same window before the change, and the same window without the line
that is being written): errors of the tree, unbalanced brackets, and for Python the interpreter's own parser, because
tree-sitter's Python grammar forgives missing bodies and wrong indentation. Knows nothing of how a proposal was made.
"""

from __future__ import annotations

import ast
import re
import warnings

from .snapshot import Snapshot
from .syntax import SyntaxTree

MAX_PARSED_CHARS = 8_000
"""Longest piece of Python that the interpreter's parser reads on the keystroke path (about 2 ms)."""

MAX_DOUBTFUL_CHARS = 40_000
"""The same where the window shows errors already, perhaps only because it begins inside of something long."""

_STATEMENT = re.compile(r"^(?!else\b|elif\b|except\b|finally\b|case\b)[A-Za-z_@]", re.MULTILINE)


def adds_errors(
    tree: SyntaxTree, snapshot: Snapshot, start: int, end: int, text: str, is_body_due: bool = False
) -> bool:
    """Whether putting text in place of [start, end) breaks what was whole. tree: the window around the span.

    is_body_due: a header whose body is not written yet is fine, because the user writes on from there.
    """
    line = snapshot.line_start(start), _after_line(snapshot, end)
    margins = tree.margins(*line)
    after = tree.replaced(start, end, text).damage(margins)
    if after.num_errors or after.num_unbalanced:
        if after.exceeds(tree.damage(margins)):
            return True
        # the line being written is broken by nature; without it the text shows what the proposal has to live up to
        if line[0] >= tree.base and line[1] <= tree.base + len(tree.text):
            without = tree.replaced(line[0], line[1], "").damage(margins)
            if after.exceeds(without):
                return True
    limit = MAX_DOUBTFUL_CHARS if after.num_errors or after.num_unbalanced else MAX_PARSED_CHARS
    return tree.language.name == "python" and _breaks_python(tree, snapshot, start, end, text, is_body_due, limit)


def _after_line(snapshot: Snapshot, offset: int) -> int:
    newline = snapshot.text.find("\n", offset)
    return len(snapshot.text) if newline < 0 else newline + 1


def _breaks_python(
    tree: SyntaxTree, snapshot: Snapshot, start: int, end: int, text: str, is_body_due: bool, limit: int
) -> bool:
    low, high = _piece(tree, snapshot, start, end, limit)
    if high - low > limit:
        return False
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
    baselines = (before + snapshot.text[start:end] + after, head + rest, f"{head}{indent}pass\n{rest}")
    return any(is_python(baseline) for baseline in baselines)


def _piece(tree: SyntaxTree, snapshot: Snapshot, start: int, end: int, limit: int) -> tuple[int, int]:
    """Whole lines around [start, end) that should parse by themselves: a definition, or a top-level statement."""
    text = snapshot.text
    node = tree.node_at(snapshot.line_start(start) + len(snapshot.indent_at(start)))
    while node is not None:
        if node.type in tree.language.definition_nodes:
            low, high = tree.span_of(node)
            low, high = snapshot.line_start(low), _after_line(snapshot, high - 1)
            if low < snapshot.line_start(start) and end < high:
                return low, high
        node = node.parent
    low = snapshot.line_start(start)
    starts = [match.start() for match in _STATEMENT.finditer(text, max(0, low - limit), low + 1)]
    following = _STATEMENT.search(text, _after_line(snapshot, end), min(len(text), end + limit))
    return (starts[-1] if starts else low), (following.start() if following else min(len(text), end + limit))


def is_python(text: str) -> bool:
    """Whether this interpreter's parser accepts a piece of Python, taken at whatever indentation it stands."""
    if text.lstrip("\r\n")[:1] in (" ", "\t"):
        text = "if 1:\n" + text
    try:
        with warnings.catch_warnings():
            # an invalid escape in the user's file is none of our business
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
