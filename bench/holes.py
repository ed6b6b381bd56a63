"""Cut holes into a snapshot at a seed: what is taken out, and what a perfect proposal would put back.

Edges are canonical, as in training: a hole never begins or ends inside indentation, begins at the first character
after it where it begins a line, and never contains the newline after it. Only code is taken out, no comment and no
docstring. Every kind has a random stream of its own, so that asking for one more kind moves no other hole. What stands
below a hole is the finished file, or what is there while its function is being written (written.py). Knows no server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from random import Random
from typing import Any, Literal, get_args

from ..infill.languages import LANGUAGES, Language
from ..infill.syntax import SyntaxTree
from .snapshot import Snapshot, SourceFile
from .written import Begun, Written, begun, is_function

HoleKind = Literal[
    "line", "rest-of-line", "mid-word", "multi-line", "block", "function-body", "arguments", "span", "gaps"
]
KINDS: tuple[HoleKind, ...] = get_args(HoleKind)
DEFAULT_KINDS: tuple[HoleKind, ...] = ("line", "rest-of-line", "block")
WRITTEN_KINDS: tuple[HoleKind, ...] = ("line", "rest-of-line", "mid-word", "multi-line", "block", "function-body")
"""What ends with its line, so that it can be written before anything stands below it."""

MAX_MIDDLE_CHARS = 400
MAX_BODY_CHARS = 1600
MAX_BLOCK_LINES = 8
MAX_BODY_LINES = 24
MAX_SPAN_LINES = 3
MIN_GAP_LINES = 4
"""How far apart two gaps of one document are at least."""

_ATTEMPTS_PER_HOLE = 60
_PIECES = re.compile(r"\w+|[ \t]+|[^\w\s]")
_WORDS = re.compile(r"[^\W\d]\w+")
_LINE = re.compile(r"([ \t\f]*)([^\n]*?)[ \t]*\r?(?:\n|\Z)")
_ARGUMENT_NODES = frozenset({"argument_list", "arguments"})
_BY_NAME = {language.name: language for language in LANGUAGES}

Span = tuple[int, int]
Progress = Callable[[int], object]
"""Told how many of what is done are done."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Spans `[start, end)` of file.text that are taken out; more than one only for the kind "gaps".

    begun: the document, where more than that is missing because its function is still being written.
    """

    file: SourceFile
    kind: HoleKind
    spans: tuple[Span, ...]
    begun: Begun | None = None

    @property
    def id(self) -> str:
        """Names the hole in results: the same in every run at the same seed, another one in another document."""
        place = f"{self.file.path}:{self.kind}:" + "+".join(f"{start}-{end}" for start, end in self.spans)
        return place if self.begun is None else f"{place}:{self.begun.written}"

    @property
    def references(self) -> tuple[str, ...]:
        """What was taken out, gap by gap."""
        return tuple(self.file.text[start:end] for start, end in self.spans)

    @property
    def text(self) -> str:
        """The document with everything taken out."""
        if self.begun is not None:
            return self.begun.text
        kept: list[str] = []
        last = 0
        for start, end in self.spans:
            kept.append(self.file.text[last:start])
            last = end
        return "".join([*kept, self.file.text[last:]])


class Survey:
    """What the cutters need to know about one file, found once."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.text = file.text
        self.language: Language = _BY_NAME[file.language]

    @cached_property
    def lines(self) -> list[Span]:
        """For each line that is not blank: where its indentation ends, and where its text ends."""
        found = [match.span(2) for match in _LINE.finditer(self.text) if match.end() > match.start()]
        return [(start, end) for start, end in found if start < end]

    @cached_property
    def code_lines(self) -> list[int]:
        """Indices into lines of those that begin as code."""
        return [number for number, (start, _) in enumerate(self.lines) if self.is_code(start)]

    @cached_property
    def tree(self) -> SyntaxTree:
        return SyntaxTree.parse(self.language, self.text)

    def is_code(self, offset: int) -> bool:
        """Whether the text at offset is neither comment nor inside a string."""
        first = offset + 1
        return not (self.tree.is_in_comment(first) or self.tree.is_in_string(offset) or self._is_docstring(offset))

    def _is_docstring(self, offset: int) -> bool:
        node = self.tree.node_at(offset + 1)
        while node is not None and node.type not in self.language.string_nodes:
            node = node.parent
        if node is None or self.tree.span_of(node)[0] != offset:
            return False
        return node.parent is not None and node.parent.type == "expression_statement"

    @cached_property
    def nodes(self) -> dict[str, list[Span]]:
        """Candidate spans of the kinds that come from the tree, in the order of the text."""
        found: dict[str, list[Span]] = {"block": [], "function-body": [], "arguments": []}
        if self.tree.tree is None:
            return found
        stack: list[Any] = [self.tree.tree.root_node]
        while stack:
            node = stack.pop()
            stack.extend(reversed(node.children))
            if node.type in _ARGUMENT_NODES and node.end_byte - node.start_byte > 2:
                start, end = self.tree.span_of(node)
                found["arguments"].append((start + 1, end - 1))
            body = node.child_by_field_name("body") if node.type in self.language.definition_nodes else None
            if body is not None and is_function(node.type):
                found["function-body"].append(self._inside(body, skips_docstring=True))
            elif node.type in self.language.block_nodes and not _is_definition_body(node, self.language):
                found["block"].append(self._inside(node))
        for kind, spans in found.items():
            found[kind] = [span for raw in spans if (span := self._trimmed(raw)) is not None and self._fits(span, kind)]
        return found

    def _inside(self, node: Any, *, skips_docstring: bool = False) -> Span:
        """The text of a block without its braces, and without the docstring of a function."""
        start, end = self.tree.span_of(node)
        if self.text[start : start + 1] == "{":
            return start + 1, end - 1
        if skips_docstring and node.named_child_count > 1:
            first = node.named_children[0]
            if first.type == "expression_statement" and first.named_children[0].type in self.language.string_nodes:
                start = self.tree.span_of(node.named_children[1])[0]
        return start, end

    def _trimmed(self, span: Span) -> Span | None:
        middle = self.text[span[0] : span[1]]
        start, end = span[0] + len(middle) - len(middle.lstrip()), span[0] + len(middle.rstrip())
        return (start, end) if start < end else None

    def _fits(self, span: Span, kind: str) -> bool:
        middle = self.text[span[0] : span[1]]
        num_lines = middle.count("\n") + 1
        if kind == "arguments":
            return len(middle) <= MAX_MIDDLE_CHARS
        starts_line = not self.text[self.text.rfind("\n", 0, span[0]) + 1 : span[0]].strip()
        if not starts_line or not self.is_code(span[0]):
            return False
        if kind == "function-body":
            return num_lines <= MAX_BODY_LINES and len(middle) <= MAX_BODY_CHARS
        return 2 <= num_lines <= MAX_BLOCK_LINES and len(middle) <= MAX_MIDDLE_CHARS


def _is_definition_body(node: Any, language: Language) -> bool:
    return node.parent is not None and node.parent.type in language.definition_nodes


def _line(survey: Survey, rng: Random) -> list[Span] | None:
    return [survey.lines[rng.choice(survey.code_lines)]] if survey.code_lines else None


def _rest_of_line(survey: Survey, rng: Random) -> list[Span] | None:
    if not survey.code_lines:
        return None
    start, end = survey.lines[rng.choice(survey.code_lines)]
    # a cursor stands after something typed: behind any piece but the last, never in front of white space that
    # would then begin the proposal
    edges = [match.end() for match in _PIECES.finditer(survey.text, start, end)]
    edges = [edge for edge in edges[:-1] if not survey.text[edge].isspace() and survey.is_code(edge)]
    return [(rng.choice(edges), end)] if edges else None


def _mid_word(survey: Survey, rng: Random) -> list[Span] | None:
    """The rest of a line from inside one of its words: what is asked while somebody types."""
    if not survey.code_lines:
        return None
    start, end = survey.lines[rng.choice(survey.code_lines)]
    words = [match.span() for match in _WORDS.finditer(survey.text, start, end) if survey.is_code(match.start())]
    if not words:
        return None
    first, last = rng.choice(words)
    return [(rng.randrange(first + 1, last), end)]


def _multi_line(survey: Survey, rng: Random) -> list[Span] | None:
    if not survey.code_lines:
        return None
    first = rng.choice(survey.code_lines)
    last = first + rng.randint(1, MAX_BLOCK_LINES - 1)
    return [(survey.lines[first][0], survey.lines[last][1])] if last < len(survey.lines) else None


def _span(survey: Survey, rng: Random) -> list[Span] | None:
    if not survey.code_lines:
        return None
    first = rng.choice(survey.code_lines)
    last = min(first + rng.choice((0, 0, 0, 1, 1, MAX_SPAN_LINES - 1)), len(survey.lines) - 1)
    start = rng.randrange(*survey.lines[first])
    low = max(start, survey.lines[last][0]) + 1
    return [(start, rng.randint(low, survey.lines[last][1]))]


def _gaps(survey: Survey, rng: Random) -> list[Span] | None:
    if not survey.code_lines:
        return None
    number = rng.choice(survey.code_lines)
    chosen = [number]
    for _ in range(rng.randint(1, 3)):
        number += rng.randint(MIN_GAP_LINES, 4 * MIN_GAP_LINES)
        if number in survey.code_lines:
            chosen.append(number)
    return [survey.lines[each] for each in chosen] if len(chosen) > 1 else None


def _from_tree(kind: HoleKind) -> Callable[[Survey, Random], list[Span] | None]:
    def cut(survey: Survey, rng: Random) -> list[Span] | None:
        spans = survey.nodes[kind]
        return [rng.choice(spans)] if spans else None

    return cut


_CUTTERS: dict[HoleKind, Callable[[Survey, Random], list[Span] | None]] = {
    "line": _line,
    "rest-of-line": _rest_of_line,
    "mid-word": _mid_word,
    "multi-line": _multi_line,
    "block": _from_tree("block"),
    "function-body": _from_tree("function-body"),
    "arguments": _from_tree("arguments"),
    "span": _span,
    "gaps": _gaps,
}


def is_canonical(text: str, span: Span) -> bool:
    """Whether the edges of a hole keep to the canonical form described in the module's docstring."""
    start, end = span
    if not 0 <= start < end <= len(text):
        return False
    middle = text[start:end]
    starts_line = not text[text.rfind("\n", 0, start) + 1 : start].strip(" \t\f")
    last_start = text.rfind("\n", 0, end) + 1
    if starts_line and middle[0].isspace():
        return False
    return middle[-1] not in "\r\n" and (last_start <= start or bool(text[last_start:end].strip()))


def cut_holes(
    snapshot: Snapshot,
    kinds: Sequence[HoleKind],
    num_holes: int,
    seed: int = 0,
    progress: Progress = lambda found: None,
    *,
    written: Written = "finished",
) -> list[Hole]:
    """About num_holes holes in equal parts for each of kinds; fewer where the snapshot has no more of a kind.

    Files are drawn by their number of lines. progress is told the number of holes so far. written: how far the function
    around a hole is there; the same places in every state, but for those that nobody comes to in an editor that closes
    brackets: others stand in for them.
    Raises: ValueError for an unknown kind, or one that this state does not have.
    """
    known = KINDS if written == "finished" else WRITTEN_KINDS
    unknown = set(kinds) - set(known)
    if unknown:
        raise ValueError(f"unknown kinds of holes: {sorted(unknown)}; known are {known}")
    surveys: dict[str, Survey] = {}
    weights = list(accumulate(file.num_lines for file in snapshot.files))
    holes: list[Hole] = []
    for number, kind in enumerate(kinds):
        rng = Random(f"{seed}/{kind}")
        share = num_holes // len(kinds) + (number < num_holes % len(kinds))
        found: dict[str, Hole] = {}
        for _ in range(_ATTEMPTS_PER_HOLE * share):
            if len(found) == share:
                break
            file = rng.choices(snapshot.files, cum_weights=weights)[0]
            survey = surveys.setdefault(file.path, Survey(file))
            spans = _CUTTERS[kind](survey, rng)
            if spans is None or not all(is_canonical(file.text, span) for span in spans):
                continue
            limit = MAX_BODY_CHARS if kind == "function-body" else MAX_MIDDLE_CHARS
            if max(end - start for start, end in spans) > limit:
                continue
            hole = Hole(file, kind, tuple(spans))
            if written != "finished":
                document = begun(survey.tree, file.text, spans[0], written)
                if document is None:
                    continue
                hole = replace(hole, begun=document)
            found.setdefault(hole.id, hole)
            progress(len(holes) + len(found))
        holes += found.values()
    return holes
