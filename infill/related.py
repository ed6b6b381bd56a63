"""What else an edit asks for: the spans of a file that belong to a rename, a changed call, or a changed signature.

A rename and a repeated call are known from the syntax tree alone: the new text is the one the user just wrote. For a
changed signature only the places are known; a model has to say what stands there. Never proposes in the edited line,
and never the old text in place of the new one. Knows no model and no editor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import tree_sitter

from .languages import Language
from .syntax import Span, SyntaxTree, text_of

MAX_CHARS = 400_000
"""Larger files are not searched."""

MAX_SPANS = 32

_TOKEN = re.compile(r"\w+|[^\w\s]")
_NAME = re.compile(r"[^\W\d]\w*\Z")

Change = Literal["rename", "call", "signature"]


@dataclass(frozen=True, slots=True)
class Related:
    """[start, end) belongs to the edit. text: what should stand there, or None when a model has to say.

    confidence: how sure the tree is that the span is meant, in [0, 1].
    """

    start: int
    end: int
    text: str | None
    confidence: float
    change: Change


def find_related(language: Language, text: str, line_start: int, old_line: str) -> list[Related]:
    """What belongs to the edit that turned old_line into the line of text at line_start. Empty when nothing does."""
    if len(text) > MAX_CHARS:
        return []
    line_end = text.find("\n", line_start)
    line_end = len(text) if line_end < 0 else line_end
    new_line = text[line_start:line_end].rstrip("\r")
    found = _difference(old_line.rstrip("\r\n"), new_line)
    if found is None:
        return []
    old, new, column = found
    tree = SyntaxTree.parse(language, text)
    if tree.tree is None:
        return []
    here = (line_start, line_end)
    if _NAME.match(old) and _NAME.match(new):
        return _renamed(tree, here, old, new, line_start + column)
    return _called(tree, here, old_line.rstrip("\r\n"), new_line, line_start + column)


def _difference(old_line: str, new_line: str) -> tuple[str, str, int] | None:
    """The text that differs, widened to whole tokens, and its column in the new line; None when the lines are equal."""
    if old_line == new_line or not old_line.strip() or not new_line.strip():
        return None
    renamed = _one_name(old_line, new_line)
    if renamed is not None:
        return renamed
    low = 0
    while low < min(len(old_line), len(new_line)) and old_line[low] == new_line[low]:
        low += 1
    high = 0
    while high < min(len(old_line), len(new_line)) - low and old_line[-1 - high] == new_line[-1 - high]:
        high += 1
    while low and re.match(r"\w", old_line[low - 1]):
        low -= 1
    while high and re.match(r"\w", old_line[len(old_line) - high]):
        high -= 1
    return old_line[low : len(old_line) - high], new_line[low : len(new_line) - high], low


def _one_name(old_line: str, new_line: str) -> tuple[str, str, int] | None:
    """The name that was replaced by another one, everywhere in the line, and the column of the first."""
    before, after = list(_TOKEN.finditer(old_line)), list(_TOKEN.finditer(new_line))
    pairs = [(a[0], b[0], b.start()) for a, b in zip(before, after, strict=False) if a[0] != b[0]]
    if len(before) != len(after) or not pairs or any(pair[:2] != pairs[0][:2] for pair in pairs):
        return None
    return pairs[0]


def _renamed(tree: SyntaxTree, here: Span, old: str, new: str, at: int) -> list[Related]:
    node = _identifier_at(tree, at)
    if node is None:
        return []
    matches = [each for each in _occurrences(tree, old) if not here[0] <= each[0] < here[1]]
    is_attribute = _is_attribute(tree, at)
    definition = _defined_by(tree, node)
    if definition is None and not is_attribute:
        # a use was changed, not a name: the others still mean what they say
        return []
    if any(_defined_by(tree, other) is not None for _, other in matches):
        return []
    scope, confidence = _scope(tree, node, definition)
    wants_attribute = is_attribute or (definition is not None and _is_member(tree, definition))
    related = [
        Related(start, start + len(old), new, 0.7 if wants_attribute else confidence, "rename")
        for start, other in matches
        if scope[0] <= start < scope[1]
        and _is_attribute(tree, start) == wants_attribute
        and not _is_argument_name(other)
    ]
    return related[:MAX_SPANS]


def _called(tree: SyntaxTree, here: Span, old_line: str, new_line: str, at: int) -> list[Related]:
    node = tree.node_at(at)
    while node is not None:
        start = tree.span_of(node)[0]
        if start < here[0]:
            return []
        if node.type in tree.language.definition_nodes:
            name = node.child_by_field_name("name")
            return _calls_of(tree, here, name) if name is not None and at > tree.span_of(name)[1] else []
        if "call" in node.type and node.child_by_field_name("arguments") is not None:
            return _same_calls(tree, here, node, old_line, new_line)
        node = node.parent
    return []


def _same_calls(
    tree: SyntaxTree, here: Span, call: tree_sitter.Node, old_line: str, new_line: str
) -> list[Related]:
    """Calls that were written exactly as this one was before."""
    start, end = tree.span_of(call)
    if end > here[1]:
        return []
    # what stands around the call did not change
    before, after = new_line[: start - here[0]], new_line[end - here[0] :]
    if not (old_line.startswith(before) and old_line.endswith(after)) or len(old_line) < len(before) + len(after):
        return []
    old = old_line[len(before) : len(old_line) - len(after)]
    new = new_line[len(before) : len(new_line) - len(after)]
    function = call.child_by_field_name("function")
    name = text_of(function) if function is not None else ""
    if not name or not old.startswith(name) or not new.startswith(name):
        return []
    related: list[Related] = []
    whole = tree.text
    place = whole.find(old)
    while place >= 0 and len(related) < MAX_SPANS:
        position = tree.base + place
        is_code = tree.is_code_at(position)
        is_whole = not re.match(r"[\w.]", whole[place - 1 : place])
        if is_code and is_whole and not here[0] <= position < here[1]:
            related.append(Related(position, position + len(old), new, 0.6, "call"))
        place = whole.find(old, place + len(old))
    return related


def _calls_of(tree: SyntaxTree, here: Span, name: tree_sitter.Node) -> list[Related]:
    """The arguments of the calls of a function whose signature changed."""
    text = text_of(name)
    related: list[Related] = []
    for start, node in _occurrences(tree, text):
        if here[0] <= start < here[1]:
            continue
        call = node.parent
        while call is not None and "call" not in call.type and tree.span_of(call)[1] <= start + len(text) + 1:
            call = call.parent
        arguments = call.child_by_field_name("arguments") if call is not None and "call" in call.type else None
        if arguments is None:
            continue
        low, high = tree.span_of(arguments)
        if tree.text[high - tree.base - 1 : high - tree.base] == ")":
            related.append(Related(low + 1, high - 1, None, 0.5, "signature"))
    return related[:MAX_SPANS]


def _occurrences(tree: SyntaxTree, name: str) -> list[tuple[int, tree_sitter.Node]]:
    """Where name stands as an identifier of its own."""
    found: list[tuple[int, tree_sitter.Node]] = []
    for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", tree.text):
        node = _identifier_at(tree, tree.base + match.start())
        if node is not None and text_of(node) == name:
            found.append((tree.base + match.start(), node))
    return found


def _identifier_at(tree: SyntaxTree, offset: int) -> tree_sitter.Node | None:
    node = tree.node_at(offset)
    return node if node is not None and node.type.endswith("identifier") else None


def _is_attribute(tree: SyntaxTree, offset: int) -> bool:
    before = tree.text[: offset - tree.base].rstrip(" \t")
    return before.endswith((".", "->"))


def _is_argument_name(node: tree_sitter.Node) -> bool:
    parent = node.parent
    return parent is not None and parent.type == "keyword_argument" and parent.child_by_field_name("name") == node


def _defined_by(tree: SyntaxTree, node: tree_sitter.Node) -> tree_sitter.Node | None:
    """The node that defines this name here: a function, a class, a parameter, an assignment; None for a use."""
    child, parent = node, node.parent
    while parent is not None:
        if parent.type in tree.language.definition_nodes or "declarator" in parent.type:
            is_name = child in (parent.child_by_field_name("name"), parent.child_by_field_name("declarator"))
            return parent if is_name else None
        if "parameter" in parent.type:
            # `a`, `a: int` and `a=1` alike; a default value is a use
            is_name = child == parent.named_children[0] or parent.type.endswith("parameters")
            return parent if is_name and child != parent.child_by_field_name("value") else None
        if "assignment" in parent.type:
            return parent if child == parent.child_by_field_name("left") and child.type.endswith("identifier") else None
        if not parent.type.endswith(("pattern", "pattern_list")):
            return None
        child, parent = parent, parent.parent
    return None


def _is_member(tree: SyntaxTree, definition: tree_sitter.Node) -> bool:
    """Whether a definition stands directly in a class."""
    outer = next(tree.definitions_around(definition), None)
    return outer is not None and outer.child_by_field_name("parameters") is None


def _scope(
    tree: SyntaxTree, node: tree_sitter.Node, definition: tree_sitter.Node | None
) -> tuple[Span, float]:
    """Where a defined name holds, and how sure that is: its function, or the whole file."""
    everywhere = (tree.base, tree.base + len(tree.text))
    if definition is None:
        return everywhere, 0.7
    around = tree.definitions_around(node)
    functions = [each for each in around if each.child_by_field_name("parameters") is not None]
    if definition in functions:
        # its own name holds outside of it
        functions = functions[functions.index(definition) + 1 :]
    return (tree.span_of(functions[0]), 0.95) if functions else (everywhere, 0.9)
