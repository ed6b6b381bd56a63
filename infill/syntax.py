"""What the syntax tree says about a document around an offset: comment, string, block, and how damaged the text is.

A `SyntaxTree` is a value over a WINDOW of the document, about WINDOW_CHARS on each side of the gap and snapped to
lines that begin in column 0, so that a file of 200,000 lines or a line of one megabyte costs what a small file costs.
What begins before the window (a very long docstring) is not seen; damage is therefore only ever compared with the
damage of the same window before the change. Within one window a keystroke is an incremental parse. Knows no proposal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import tree_sitter

from .brackets import scan_brackets
from .languages import Language

WINDOW_CHARS = 8_000
"""How far the window reaches on each side of the gap, before it is snapped."""

BRACKET_CHARS = 4_000
"""How far brackets are counted on each side of a change: the scanner is slower than an incremental parse."""

MAX_LEVELS = 8
"""How far up the list is looked for that a parameter or a named argument belongs to."""

_WINDOW_GRID = 4096
_END_TAGS = re.compile(rb"(?:</[\w:.-]+\s*>?\s*)+")
_COLUMN_0 = re.compile(r"^[^\s)\]}#*]", re.MULTILINE)
_AFTER_BLANK = re.compile(r"^[ \t]*\r?\n(?=[ \t]+[^\s)\]}#*])", re.MULTILINE)


@dataclass(frozen=True, slots=True, order=True)
class Damage:
    """How broken a text is; smaller is better. num_errors: ERROR and MISSING nodes. num_unbalanced: stray brackets."""

    num_errors: int
    num_unbalanced: int

    def exceeds(self, other: Damage) -> bool:
        """Whether this is worse than other in either respect."""
        return self.num_errors > other.num_errors or self.num_unbalanced > other.num_unbalanced


WHOLE = Damage(0, 0)

Span = tuple[int, int]
"""[start, end) of a document."""


def window_around(text: str, start: int, end: int) -> Span:
    """The part of text that is parsed for a gap [start, end): stays put while the user types."""
    low = max(0, (start - WINDOW_CHARS) // _WINDOW_GRID * _WINDOW_GRID)
    if low:
        low = _snapped(text, low, start)
    high = min(len(text), end + WINDOW_CHARS)
    if high < len(text):
        high = _snapped(text, high, min(len(text), high + _WINDOW_GRID))
    return low, high


def _snapped(text: str, low: int, high: int) -> int:
    """The first place in [low, high) where a piece of source may begin: a line in column 0, or else after a blank one.

    The body of a long class has no line in column 0. Where nothing fits, the next line, or low itself.
    """
    line = text.find("\n", low, high) + 1
    if not line:
        return low
    outermost = _COLUMN_0.search(text, line, high)
    if outermost:
        return outermost.start()
    inner = _AFTER_BLANK.search(text, line, high)
    return inner.end() if inner else line


@dataclass(frozen=True, slots=True)
class SyntaxTree:
    """One parsed window. text: the window. base: its offset in the document; all other offsets are the document's."""

    language: Language
    text: str
    base: int
    data: bytes
    tree: tree_sitter.Tree | None

    @classmethod
    def parse(cls, language: Language, text: str, base: int = 0, previous: SyntaxTree | None = None) -> SyntaxTree:
        """Parse a window of a document; incrementally where previous is an older state of the same window."""
        grammar = language.load()
        data = _encoded(readable(language, text))
        if grammar is None:
            return cls(language, text, base, data, None)
        old = None
        if previous is not None and previous.tree is not None and previous.language is language:
            if previous.base == base and previous.data == data:
                return previous
            if previous.base == base:
                old = _edited(previous.tree, previous.data, data)
        parser = tree_sitter.Parser(grammar)
        return cls(language, text, base, data, parser.parse(data) if old is None else parser.parse(data, old))

    @classmethod
    def around(
        cls, language: Language, text: str, start: int, end: int, previous: SyntaxTree | None = None
    ) -> SyntaxTree:
        """Parse the window of a document around the gap [start, end)."""
        low, high = window_around(text, start, end)
        return cls.parse(language, text[low:high], low, previous)

    def replaced(self, start: int, end: int, new: str) -> SyntaxTree:
        """The tree of the same window with [start, end) replaced by new; the window must contain the span."""
        low, high = start - self.base, end - self.base
        if not 0 <= low <= high <= len(self.text):
            raise ValueError(f"span [{start}, {end}) is outside the window of {len(self.text)} at {self.base}")
        return SyntaxTree.parse(self.language, self.text[:low] + new + self.text[high:], self.base, self)

    def margins(self, start: int, end: int) -> tuple[int, int]:
        """What `damage` need not scan for brackets around a change of [start, end): from the front, and from the back.

        The same margins hold for the window after the change, so that like is compared with like.
        """
        low, high = max(0, start - self.base - BRACKET_CHARS), min(len(self.text), end - self.base + BRACKET_CHARS)
        front = _snapped(self.text, low, start - self.base) if low else 0
        back = _snapped(self.text, high, len(self.text)) if high < len(self.text) else high
        return front, len(self.text) - back

    def damage(self, margins: tuple[int, int] = (0, 0)) -> Damage:
        """How broken the window is. margins: see there."""
        num_errors = sum(1 for _ in self._errors())
        if self.tree is not None and not num_errors:
            # a grammar that is content has matched every bracket and quote, where the scanner may misread one
            return WHOLE
        text = self.text[margins[0] : len(self.text) - margins[1]] if any(margins) else self.text
        return Damage(num_errors, scan_brackets(self.language, text).num_unbalanced)

    @property
    def has_errors(self) -> bool:
        """Whether the window has ERROR or MISSING nodes; without a grammar it has none."""
        return next(self._errors(), None) is not None

    def error_spans(self) -> list[Span]:
        """The spans of ERROR and MISSING nodes, in document offsets."""
        return [self.span_of(node) for node in self._errors()]

    def num_nodes(self) -> int:
        """How many nodes the window has; none without a grammar."""
        return self.tree.root_node.descendant_count if self.tree is not None else 0

    def is_code_at(self, offset: int) -> bool:
        """Whether what is written at offset is neither in a string nor in a comment."""
        return not self.is_in_string(offset) and not self.is_in_comment(offset)

    def is_in_comment(self, offset: int) -> bool:
        """Whether text typed at offset would be part of a comment."""
        if self.tree is None:
            return scan_brackets(self.language, self.text, offset - self.base).state == "comment"
        byte = self._byte(offset)
        for node in self._ancestors(byte, byte - 1):
            if node.type in self.language.comment_nodes and node.start_byte < byte:
                # a line comment goes on at its very end; a block comment that is closed does not
                text = text_of(node)
                is_block = text.startswith(tuple(pair[0] for pair in self.language.block_comments))
                ends = tuple(pair[1] for pair in self.language.block_comments)
                return byte < node.end_byte or not (is_block and text.endswith(ends))
        return False

    def is_in_string(self, offset: int) -> bool:
        """Whether text typed at offset would be part of a string literal (not of code inside one)."""
        if self.tree is None:
            return False
        byte = self._byte(offset)
        for node in self._ancestors(byte, byte):
            if node.type in self.language.code_in_string:
                return False
            if node.type in self.language.string_nodes:
                return node.start_byte < byte < node.end_byte
        # an unterminated string has no node of its own; the scanner knows
        is_broken = self.tree.root_node.has_error
        return is_broken and scan_brackets(self.language, self.text, offset - self.base).state == "string"

    def node_at(self, offset: int) -> tree_sitter.Node | None:
        """The smallest named node that spans offset."""
        byte = self._byte(offset)
        return self.tree.root_node.named_descendant_for_byte_range(byte, byte) if self.tree else None

    def span_of(self, node: tree_sitter.Node) -> Span:
        """The span of a node of this tree, in document offsets."""
        return self._offset(node.start_byte), self._offset(node.end_byte)

    def definitions_around(self, node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
        """The definitions that a node stands in, the innermost first."""
        outer = node.parent
        while outer is not None:
            if outer.type in self.language.definition_nodes:
                yield outer
            outer = outer.parent

    def is_alone(self, start: int, end: int) -> bool:
        """Whether what stands in [start, end) is a statement by itself, and no part of a larger one."""
        node = self.node_at(start)
        return node is not None and self.span_of(node) == (start, end)

    def is_in_brackets(self, offset: int) -> bool:
        """Whether what begins at offset is part of a list, a literal or a definition's head, and no statement."""
        byte, marks = self._byte(offset), {pair[0] for pair in self.language.brackets}
        around = (node for node in self._ancestors(byte, byte) if node.type not in self.language.block_nodes)
        return any(node.child_count and node.children[0].type in marks for node in around)

    def repeats_name(self, start: int, end: int) -> bool:
        """Whether a parameter, or an argument given by name, in [start, end) has the name of another of its list.

        Grammars and parsers let that pass; what compiles a program does not.
        """
        first, last = self._byte(start), self._byte(end)
        # going up costs more the deeper a text is nested, and a name stands near to its list
        for node in islice(self._ancestors(first, first), MAX_LEVELS):
            is_list = node.type in self.language.parameter_nodes
            named = [_name(each) for each in node.named_children if is_list or each.type in self.language.keyword_nodes]
            if len(named) > 1:
                # an underscore is no name
                names = [(name.text, first <= name.start_byte < last) for name in named if name and name.text != b"_"]
                texts = [text for text, _ in names]
                return any(is_new and texts.count(text) > 1 for text, is_new in names)
            if node.type in self.language.block_nodes:
                break
        return False

    def _errors(self) -> Iterator[tree_sitter.Node]:
        # a node may have an error that no node shows
        stack = [self.tree.root_node] if self.tree is not None and self.tree.root_node.has_error else []
        while stack:
            node = stack.pop()
            if (node.is_error or node.is_missing) and not self._ends_outer(node):
                yield node
            stack.extend(child for child in node.children if child.has_error or child.is_missing)

    def _ends_outer(self, node: tree_sitter.Node) -> bool:
        """Whether a node is the end of elements that may have begun before the window."""
        return self.base > 0 and node.type == "ERROR" and _END_TAGS.fullmatch(node.text or b"") is not None

    def _ancestors(self, first: int, last: int) -> Iterator[tree_sitter.Node]:
        """The nodes that span the bytes between the two positions, from the smallest to the root."""
        if self.tree is None:
            return
        low, high = max(0, min(first, last)), max(first, last)
        node: tree_sitter.Node | None = self.tree.root_node
        smallest = self.tree.root_node.descendant_for_byte_range(low, high)
        # from the root down, because each step up begins at the root
        found: list[tree_sitter.Node] = []
        while node is not None and smallest is not None:
            found.append(node)
            node = node.child_with_descendant(smallest) if node != smallest else None
        yield from reversed(found)

    def _byte(self, offset: int) -> int:
        local = offset - self.base
        return local if len(self.data) == len(self.text) else len(_encoded(self.text[:local]))

    def _offset(self, byte: int) -> int:
        if len(self.data) == len(self.text):
            return self.base + byte
        return self.base + len(self.data[:byte].decode("utf-8", "replace"))


def _name(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """What a parameter or an argument is called, or None where it is a pattern or has no name."""
    inner: tree_sitter.Node | None = node
    while inner is not None and inner.type != "identifier":
        named = (inner.child_by_field_name(field) for field in ("name", "pattern", "declarator"))
        # what stands first may be a type: `int a`, and `Json(a): Json<A>` of Rust
        first = inner.named_child(0) if inner.named_child_count else None
        is_type = first is not None and first == inner.child_by_field_name("type")
        inner = next((each for each in named if each is not None), None if is_type else first)
    return inner


def text_of(node: tree_sitter.Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def readable(language: Language, text: str) -> str:
    """Lines with blanks in the place of what the grammar does not know, so that offsets stay true."""
    return re.sub(language.unread, _blanks, "\n" + text)[1:] if language.unread else text


def _blanks(match: re.Match[str]) -> str:
    return "\n" * match[0].startswith("\n") + " " * len(match[0].lstrip("\n"))


def _encoded(text: str) -> bytes:
    # a lone surrogate becomes one question mark, so that offsets stay true
    return text.encode("utf-8", "replace")


def _common_prefix(first: bytes, second: bytes) -> int:
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _edited(tree: tree_sitter.Tree, old: bytes, new: bytes) -> tree_sitter.Tree:
    """A copy of tree that knows which bytes changed between old and new."""
    start = _common_prefix(old, new)
    tail = min(len(old), len(new)) - start
    shared = _common_prefix(old[len(old) - tail :][::-1], new[len(new) - tail :][::-1]) if tail else 0
    old_end, new_end = len(old) - shared, len(new) - shared
    copy = tree.copy()
    copy.edit(start, old_end, new_end, _point(new, start), _point(old, old_end), _point(new, new_end))
    return copy


def _point(data: bytes, byte: int) -> tuple[int, int]:
    return data.count(b"\n", 0, byte), byte - data.rfind(b"\n", 0, byte) - 1
