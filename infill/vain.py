"""Lines of Python that parse and yet cannot be meant: no parser refuses them, and no person writes them.

What may be meant after all is left: decorated definitions (overloads, setters), a condition that calls something, what
the user wrote himself. On 8,328 places of real files the true text is never one of these. Knows nothing of proposals
beyond where one stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import tree_sitter

from .syntax import SyntaxTree

_CLAUSES = frozenset({"if_statement", "elif_clause", "except_clause", "case_clause"})
_JUMPS = frozenset({"return_statement", "raise_statement", "break_statement", "continue_statement"})
_CLAUSE_WORD = re.compile(r"\s*(?:if|elif|except|case)\b")
_ALIAS = re.compile(r"\s+as\s+\w+$")


def is_in_vain(tree: SyntaxTree, start: int, end: int) -> bool:
    """Whether a line of Python that ends with a proposal parses and yet cannot be meant. [start, end): the proposal.

    That is a statement that sets something to itself; a `=` in front of one, which makes an assignment a comparison
    that nobody reads; a `return` outside of functions, or a jump right under a jump; an import, a definition or a
    clause of one statement that its neighbours have already. Where the user wrote the telling part, it is meant.
    """
    if tree.language.name != "python" or tree.tree is None:
        return False
    first, offset = tree.text.rfind("\n", 0, start - tree.base) + 1, 0
    lines = tree.text[first : end - tree.base].split("\n")
    for line in lines:
        at = tree.base + first + offset + len(line) - len(line.lstrip(" \t"))
        offset += len(line) + 1
        if line.strip() and any(_is_vain(tree, node, start, end) for node in _beginning_at(tree, at)):
            return True
    return False


def _beginning_at(tree: SyntaxTree, offset: int) -> Iterator[tree_sitter.Node]:
    """The nodes whose first character stands at offset, from the smallest to the largest."""
    node = tree.node_at(offset)
    while node is not None and node.parent is not None and tree.span_of(node)[0] == offset:
        yield node
        node = node.parent


def _is_vain(tree: SyntaxTree, node: tree_sitter.Node, start: int, end: int) -> bool:
    parent = node.parent
    if parent is None or node.has_error:
        return False
    if node.type == "expression_statement" and node.named_child_count == 1:
        return _changes_nothing(tree, node.named_children[0], start, end)
    if node.type in _JUMPS and _is_misplaced(tree, node, start):
        return True
    if node.type in tree.language.import_nodes and tree.span_of(node)[1] > start:
        return any(_same(other, node) for other in _siblings(node))
    definitions = tree.language.definition_nodes
    if node.type in definitions and parent.type != "decorated_definition":
        name = node.child_by_field_name("name")
        if name is None or name.text == b"_" or tree.span_of(name)[1] <= start:
            return False
        names = [each.child_by_field_name("name") for each in _siblings(node) if each.type in definitions]
        return any(other is not None and other.text == name.text for other in names)
    if node.type in _CLAUSES:
        header, whole = _header(tree, node, start), node if node.type == "if_statement" else parent
        return bool(header) and [_header(tree, each) for each in (whole, *whole.named_children)].count(header) > 1
    return False


def _changes_nothing(tree: SyntaxTree, node: tree_sitter.Node, start: int, end: int) -> bool:
    """Whether a statement sets something to itself, or compares where it would have set something."""
    if node.type == "comparison_operator":
        local = end - tree.base
        return start < end and tree.text[local - 1 : local + 1] == "=="
    left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
    if node.type != "assignment" or left is None or right is None or not _same(left, right):
        return False
    # in a class it takes a name over from outside
    return tree.span_of(right)[1] > start and _scope(tree, node) != "class_definition"


def _is_misplaced(tree: SyntaxTree, node: tree_sitter.Node, start: int) -> bool:
    """Whether a jump cannot be reached, or returns from nothing."""
    before = node.prev_named_sibling
    if before is not None and before.type in _JUMPS and tree.span_of(node)[0] >= start:
        return True
    if node.type != "return_statement" or _scope(tree, node) == "function_definition":
        return False
    if tree.tree is not None and tree.tree.root_node.has_error:
        # one further up may hide the header
        return False
    outermost = node
    while outermost.parent is not None and outermost.parent.parent is not None:
        outermost = outermost.parent
    # a window may begin inside of a function, whose lines are indented
    return outermost.start_point.column == 0


def _scope(tree: SyntaxTree, node: tree_sitter.Node) -> str:
    """The type of the definition that a node stands in; "" for none."""
    return next((outer.type for outer in tree.definitions_around(node)), "")


def _siblings(node: tree_sitter.Node) -> list[tree_sitter.Node]:
    """The other statements of its block: at the top of a window that begins inside of one, not all are."""
    if node.parent is None:
        return []
    column = node.start_point.column
    others = (each for each in node.parent.named_children if each.start_point.column == column)
    return [each for each in others if each.id != node.id]


def _same(first: tree_sitter.Node, second: tree_sitter.Node) -> bool:
    return first.id != second.id and first.text == second.text


def _header(tree: SyntaxTree, node: tree_sitter.Node, start: int = -1) -> str:
    """What a clause waits for; "" where it ends before start, and where asking twice may give two answers: a call."""
    body = next((child for child in node.children if child.type == ":"), None)
    if node.type not in _CLAUSES or body is None or tree.span_of(body)[0] <= start:
        return ""
    low, high = tree.span_of(node)[0] - tree.base, tree.span_of(body)[0] - tree.base
    header = tree.text[low:high].strip()
    is_call = "(" in header and node.type not in ("except_clause", "case_clause")
    word = _CLAUSE_WORD.match(header)
    if is_call or word is None or "await " in header or ":=" in header:
        return ""
    header = header[word.end() :].strip()
    return _ALIAS.sub("", header) if node.type == "except_clause" else header
