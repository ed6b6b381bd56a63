"""Find the holes of a file: the places where its author left something to be written.

`...`, `pass`, TODO comments, `raise NotImplementedError` and its kin in other languages, empty bodies: by the
tree-sitter query of the language's row. What is a legitimate `pass` or `...` (an exception class, an overload, a
protocol) is no hole of the file, but still one when the user points at it. Knows no model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import tree_sitter

from .languages import Language
from .request import GapSpan
from .snapshot import Snapshot
from .syntax import SyntaxTree

HoleKind = Literal["statement", "value", "todo", "body"]

MAX_CHARS = 2_000_000
"""Files larger than this are not searched as a whole."""

_STUB_MARKS = ("overload", "abstractmethod", "Protocol", "abc.")


@dataclass(frozen=True, slots=True)
class Hole:
    """One hole. gap: what is replaced. start, end: what the user sees as the hole. is_sure: it waits to be written.

    kind: a placeholder statement, a placeholder value, a comment that code should follow, or an empty body.
    """

    gap: GapSpan
    start: int
    end: int
    kind: HoleKind
    is_sure: bool


def find_holes(language: Language, text: str) -> list[Hole]:
    """The holes of a text, from top to bottom, none inside another. Empty without a grammar and for huge texts."""
    if len(text) > MAX_CHARS:
        return []
    return _find(SyntaxTree.parse(language, text), Snapshot(text))


def hole_at(language: Language, text: str, offset: int) -> Hole | None:
    """The hole at an offset, or else on its line; unsure ones count. Costs the same in a file of any length."""
    snapshot = Snapshot(text)
    holes = _find(SyntaxTree.around(language, text, offset, offset), snapshot)
    low, high = snapshot.line_start(offset), snapshot.line_end(offset)
    here = [hole for hole in holes if hole.start <= offset <= hole.end]
    return next(iter(here or [hole for hole in holes if hole.start <= high and hole.end >= low]), None)


@functools.cache
def _query(language: Language) -> tree_sitter.Query | None:
    grammar = language.load()
    return tree_sitter.Query(grammar, language.holes) if grammar is not None and language.holes else None


def _find(tree: SyntaxTree, snapshot: Snapshot) -> list[Hole]:
    query = _query(tree.language)
    if query is None or tree.tree is None:
        return []
    found: list[Hole] = []
    for _, captures in tree_sitter.QueryCursor(query).matches(tree.tree.root_node):
        for name, nodes in captures.items():
            for node in nodes:
                start, end = tree.span_of(node)
                # a comment's node takes the carriage return with it
                end = start + len(snapshot.text[start:end].rstrip())
                hole = _hole(name, node, start, end, tree, snapshot)
                if hole is not None:
                    found.append(hole)
    if tree.language.name == "python":
        found += _without_body(tree, snapshot)
    found.sort(key=lambda hole: (hole.gap.start, -hole.gap.end))
    kept: list[Hole] = []
    for hole in found:
        if not kept or (hole.gap.start >= kept[-1].gap.end and hole.gap != kept[-1].gap):
            kept.append(hole)
    return kept


def _hole(
    name: str, node: tree_sitter.Node, start: int, end: int, tree: SyntaxTree, snapshot: Snapshot
) -> Hole | None:
    is_alone = _is_alone(snapshot, start)
    if name == "body":
        gap = GapSpan(start + 1, end - 1, _line_inside(tree, snapshot, start), _line_like(tree, snapshot, start))
        return Hole(gap, start, end, "body", True)
    if name == "todo" and is_alone and _waits(node):
        at = _after_comments(node, end, tree)
        return Hole(GapSpan(at, at, _line_like(tree, snapshot, start)), start, end, "todo", True)
    if name != "hole":
        return None
    if node.parent is not None and node.parent.type == "assignment":
        return Hole(GapSpan(start, end, is_multiline=False), start, end, "value", True)
    if is_alone:
        return Hole(GapSpan(start, end), start, end, "statement", _is_sure(node))
    if tree.language.blocks == "braces":
        # `let a = todo!();`, `A => todo!(),`, `{ todo!() }`: what replaces it stands where it stood
        kind: HoleKind = "statement" if node.type.endswith("statement") else "value"
        return Hole(GapSpan(start, end, is_multiline=False), start, end, kind, True)
    # `def f(): ...` on one line: what replaces it stands on lines of its own
    gap = GapSpan(_after_mark(snapshot, start), end, _line_inside(tree, snapshot, start))
    return Hole(gap, start, end, "statement", _is_sure(node))


def _line_like(tree: SyntaxTree, snapshot: Snapshot, offset: int) -> str:
    """What begins a new line that is indented like the line of offset."""
    return snapshot.newline(offset, tree.language.newline) + snapshot.indent_at(offset)


def _line_inside(tree: SyntaxTree, snapshot: Snapshot, offset: int) -> str:
    """The same one level further in."""
    return _line_like(tree, snapshot, offset) + snapshot.indent(offset, default=tree.language.indent).unit


def _is_alone(snapshot: Snapshot, start: int) -> bool:
    """Whether only indentation stands before start on its line."""
    return not snapshot.text[snapshot.line_start(start) : start].strip()


def _after_mark(snapshot: Snapshot, start: int) -> int:
    """start without the spaces between it and what stands before it."""
    before = snapshot.text[snapshot.line_start(start) : start]
    return start - (len(before) - len(before.rstrip(" \t")))


def _waits(comment: tree_sitter.Node) -> bool:
    """Whether nothing but comments follows a comment in its block: the code it asks for is not there."""
    node = comment.next_named_sibling
    while node is not None and "comment" in node.type:
        node = node.next_named_sibling
    return node is None


def _after_comments(comment: tree_sitter.Node, end: int, tree: SyntaxTree) -> int:
    """Where the comments end that go on with one, a line each. end: where that one ends."""
    following = comment.next_named_sibling
    while following is not None and following.type == comment.type:
        if following.start_point.row != comment.end_point.row + (comment.end_point.column > 0):
            break
        start, last = tree.span_of(following)
        end = start + len(tree.text[start - tree.base : last - tree.base].rstrip())
        comment, following = following, following.next_named_sibling
    return end


def _is_sure(node: tree_sitter.Node) -> bool:
    """Whether a placeholder is the whole body of a function that is not a mere declaration."""
    if node.type not in ("pass_statement", "expression_statement"):
        return True
    if node.type == "expression_statement" and b"..." not in (node.text or b""):
        return True
    block = node.parent
    owner = block.parent if block is not None else None
    if block is None or owner is None or owner.type != "function_definition":
        return False
    statements = [child for child in block.named_children if child.type != "comment" and not _is_docstring(child)]
    if len(statements) != 1:
        return False
    return not _is_declaration(owner)


def _is_declaration(function: tree_sitter.Node) -> bool:
    """Whether a function is declared on purpose without a body: an overload, an abstract or a protocol's method."""
    around = function.parent
    while around is not None:
        if around.type in ("decorated_definition", "class_definition"):
            head = (around.text or b"")[:400].split(b":\n", 1)[0]
            if any(mark.encode() in head for mark in _STUB_MARKS):
                return True
        around = around.parent
    return False


def _is_docstring(node: tree_sitter.Node) -> bool:
    return node.type == "expression_statement" and [child.type for child in node.named_children] == ["string"]


def _without_body(tree: SyntaxTree, snapshot: Snapshot) -> list[Hole]:
    """Python functions whose body is nothing but a docstring, or nothing at all."""
    found: list[Hole] = []
    stack = [tree.tree.root_node] if tree.tree is not None else []
    while stack:
        node = stack.pop()
        stack += node.named_children if node.type in _CONTAINERS else []
        if node.type != "function_definition":
            continue
        body = node.child_by_field_name("body")
        if body is not None and not body.children:
            found += _header_alone(node, tree, snapshot)
            continue
        if body is None or len(body.named_children) != 1 or not _is_docstring(body.named_children[0]):
            continue
        start, end = tree.span_of(body.named_children[0])
        if not _is_alone(snapshot, start):
            continue
        gap = GapSpan(end, end, _line_like(tree, snapshot, start))
        found.append(Hole(gap, start, end, "body", not _is_declaration(node)))
    return found


def _header_alone(node: tree_sitter.Node, tree: SyntaxTree, snapshot: Snapshot) -> list[Hole]:
    """The hole below a function's header that nothing belongs to: it reaches as far as the blank lines do."""
    start = tree.span_of(node)[0]
    colon = next((child for child in node.children if child.type == ":"), None)
    if colon is None or colon.is_missing:
        return []
    after = snapshot.line_end(tree.span_of(colon)[1])
    blank = len(snapshot.text) - after - len(snapshot.text[after:].lstrip())
    next_line = snapshot.line_start(after + blank)
    is_last = after + blank == len(snapshot.text)
    if not is_last and len(snapshot.indent_at(next_line)) > len(snapshot.indent_at(start)):
        # a comment, which says what is missing, or a line that is being written
        return []
    end = max(after, next_line - 1) if blank else after
    gap = GapSpan(after, after, _line_inside(tree, snapshot, start))
    return [Hole(gap, tree.span_of(colon)[0], end, "body", not _is_declaration(node))]


_CONTAINERS = frozenset(
    ("module", "class_definition", "function_definition", "decorated_definition", "block", "if_statement")
)
