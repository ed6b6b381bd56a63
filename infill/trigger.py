"""Decide whether to propose anything at this cursor, and how much: the step before any token is spent.

Answers with a `Gap`, or with a `Decline` whose reason is a short stable key: "inside-word", "mid-line", "comment",
"excluded", "too-large". Rules that only keep quiet while typing do not apply to a request the user asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tree_sitter

from .brackets import scan_brackets
from .request import InfillRequest
from .snapshot import indent_of
from .span import (
    Extent,
    Gap,
    Scene,
    Surroundings,
    expected_indent,
    is_closed,
    is_closing,
    is_empty_block,
    opens_block,
    statement_indent,
    surroundings,
)
from .syntax import SyntaxTree

MAX_TEXT_CHARS = 50_000_000
MAX_LINE_CHARS = 5_000
"""Lines longer than this are generated or minified: a proposal there helps nobody."""

_HUNGRY = "([{,=+-*/%<>|&^!~?:.@ \t"
"""After one of these a value or a name is missing, so code to the right does not mean that the user only passes by."""


@dataclass(frozen=True, slots=True)
class Decline:
    """A deliberate "nothing here". reason: a short stable key."""

    reason: str


def decide(
    request: InfillRequest, scene: Scene, is_excluded: Callable[[str], bool] = lambda path: False
) -> Gap | Decline:
    """The gap to fill for a request, or why there is none. is_excluded: whether a path may not be proposed in."""
    language = scene.language
    if request.path and is_excluded(request.path):
        return Decline("excluded")
    if len(request.text) > MAX_TEXT_CHARS:
        return Decline("too-large")
    start, end = request.start, request.end
    here = surroundings(scene.snapshot, start, end)
    if not request.is_explicit and len(here.head) + len(here.tail) > MAX_LINE_CHARS:
        return Decline("too-large")
    # the popup's word is as good as typed: it stands in the proposal's lead
    head = here.head + request.typed
    if _is_cursor(request):
        if language.is_word(head[-1:]) and language.is_word(here.tail[:1]):
            return Decline("inside-word")
        if not request.is_explicit:
            if not request.in_comments and scene.tree.is_in_comment(start):
                return Decline("comment")
            if here.tail.strip() and not is_closing(here.tail, language) and not _is_hungry(head):
                return Decline("mid-line")
    return _gap(request, scene, here)


def _is_cursor(request: InfillRequest) -> bool:
    """Whether the request is a cursor (perhaps with the word that a popup would put there), not a chosen span."""
    return request.kind != "span" and (request.start == request.end or bool(request.typed))


def _is_hungry(head: str) -> bool:
    return not head.strip() or head[-1] in _HUNGRY


def _gap(request: InfillRequest, scene: Scene, here: Surroundings) -> Gap:
    start, end = request.start, request.end
    line_indent = scene.snapshot.indent_at(start) if here.head.strip() else here.head
    lead = request.typed
    if request.kind == "span" or not _is_cursor(request):
        return Gap(start, end, "span", indent=line_indent, lead=lead)
    if not here.head and not lead and not here.tail.strip():
        # the canonical middle begins after the indentation, so an empty line gets it before the model is asked
        line_indent = lead = expected_indent(scene, start)
    if not here.tail.strip():
        # white space right of the cursor would stand behind the proposal; it goes with it, as far as the tree reaches
        end = min(end + len(here.tail), scene.tree.base + len(scene.tree.text))
    if request.kind in ("auto", "block"):
        block = _block_gap(request, scene, here, Gap(start, end, "block", indent=line_indent, lead=lead))
        if block is not None:
            return block
    head, closed = here.head + request.typed, here.tail[: scene.tree.base + len(scene.tree.text) - end]
    if is_closed(head, closed, scene.language):
        # the user has not come to these marks yet: what he would write includes them, and may go on behind them
        return Gap(start, end + len(closed), "rest", indent=line_indent, lead=lead, closed=closed)
    extent: Extent = "node"
    if not here.tail.strip():
        extent = "line" if not head.strip() else "rest"
    return Gap(start, end, extent, indent=line_indent, lead=lead)


def _block_gap(request: InfillRequest, scene: Scene, here: Surroundings, gap: Gap) -> Gap | None:
    """The gap of a block: on an empty line under a header, right behind a header, or between `{` and `}`."""
    snapshot, tree, language = scene.snapshot, scene.tree, scene.language
    head, tail = here.head + request.typed, here.tail.strip()
    if not head.strip() and not tail:
        above = snapshot.line_above(gap.start)
        header_indent = indent_of(above)
        is_body = opens_block(above, language) and len(gap.indent) > len(header_indent)
        if is_body and is_empty_block(scene, gap.start, header_indent):
            return gap
        return gap if request.kind == "block" else None
    is_header = opens_block(head, language) and not tree.is_in_string(gap.start)
    owner = _owner(tree, gap.start)
    if head.strip() in ("{", ":") and owner is None:
        is_header = False
    if is_header and not tree.is_in_comment(gap.start) and _is_block_mark(tree, gap.start, head):
        # the lines of a header that go on with it may be further in
        header_indent = statement_indent(scene, gap.start)
        if owner is not None:
            header_indent = snapshot.indent_at(tree.span_of(owner)[0])
        newline = snapshot.newline(gap.start, language.newline)
        body = header_indent + scene.indent.unit
        lead = request.typed + newline + body
        if not tail and is_empty_block(scene, gap.start, header_indent):
            closing = newline + header_indent + "}"
            is_open = head.endswith("{") and _mends(tree, gap.start, closing)
            return Gap(gap.start, gap.end, "block", indent=body, lead=lead, tail=closing if is_open else "")
        if tail.startswith("}") and head.endswith("{"):
            return Gap(gap.start, gap.end, "block", indent=body, lead=lead, tail=newline + header_indent)
    return gap if request.kind == "block" and not tail else None


def _owner(tree: SyntaxTree, offset: int) -> tree_sitter.Node | None:
    """What the block belongs to whose brace stands left of offset; None for a block of its own, and without braces."""
    node = tree.node_at(max(tree.base, offset - 1)) if tree.language.blocks == "braces" else None
    owner = node.parent if node is not None and node.type in tree.language.block_nodes else None
    if owner is None or owner.parent is None or owner.is_error or owner.type in tree.language.block_nodes:
        return None
    return owner


def _mends(tree: SyntaxTree, offset: int, closing: str) -> bool:
    """Whether a closing bracket at offset would leave the text less broken: nobody has closed the block yet."""
    margins = tree.margins(offset, offset)
    closed = tree.replaced(offset, offset, closing).damage(margins)
    return closed.num_unbalanced < tree.damage(margins).num_unbalanced


def _is_block_mark(tree: SyntaxTree, offset: int, head: str) -> bool:
    """Whether the mark left of offset opens a block of statements, and not a mapping, a slice or a type."""
    if tree.language.blocks == "indentation":
        return not scan_brackets(tree.language, head).open_brackets
    node = tree.node_at(max(tree.base, offset - 1))
    return node is not None and node.type in tree.language.block_nodes
