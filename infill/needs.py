"""What the code around a gap asks of it: an import statement that the document lacks, or a line that binds a name.

From the names that nothing in the document binds (unresolved.py) and what other files import (imports.py). Lines that
bind a name are Python's alone. A statement is a draft like those from similar places: it has a confidence, and passes
the same gates. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .imports import Family, ImportTable
from .snapshot import STYLE_WINDOW, Snapshot
from .span import Gap, Scene, surroundings
from .syntax import SyntaxTree
from .unresolved import Unresolved, unresolved_names

MAX_NAMES = 12
"""With more names than these a document is not one that lacks a few imports."""

ONE_OF_SEVERAL = 0.4
"""Where several statements are missing each will be wanted, and which comes first is a matter of taste."""

MAX_LEVELS = 8
"""How far up the statement is looked for that the end of a line belongs to."""


@dataclass(frozen=True, slots=True)
class MissingImport:
    """A statement. rest: what of it follows the head. sure: how likely it is exactly right if it is the one that is
    wanted. is_only: whether no other statement that is missing fits.
    """

    rest: str
    sure: float
    is_only: bool

    def probability(self) -> float:
        """How likely the statement is exactly right."""
        return self.sure if self.is_only else ONE_OF_SEVERAL * self.sure


class Needs:
    """Looks a document over once a line: typing on in a line changes nothing of what the others ask for."""

    def __init__(self, tables: Sequence[ImportTable]) -> None:
        """tables: one a family of languages."""
        self._tables = {language: table for table in tables for language in table.family.languages}
        self._found: tuple[str, str, tuple[Unresolved, ...]] = ("", "", ())
        """What stands above and below the line that was asked about last, and what nothing binds there."""

    def imports(self, scene: Scene, gap: Gap, path: str) -> list[MissingImport]:
        """What may follow the head of the gap's line where an import statement may stand."""
        table = self._tables.get(scene.language.name)
        if table is None or not _is_place(scene, gap, table.family):
            return []
        names = [each for each in self._names(scene, gap) if each.is_reached]
        if not names:
            return []
        snapshot = scene.snapshot
        tail = snapshot.text[gap.end : snapshot.line_end(gap.end)]
        text = snapshot.text[: gap.start] + snapshot.text[gap.end :]
        return missing_imports(head_of(scene, gap), tail, names, table, path, text)

    def name(self, scene: Scene, gap: Gap, path: str) -> str:
        """The name that a statement in the gap has to bind, since the code below it in its function uses it; "" where
        there is none, or an import brings it.
        """
        table, head = self._tables["python"], head_of(scene, gap)
        # what is asked of the tree last: most gaps are of another kind
        if scene.language.name != "python" or (head and not head.isidentifier()) or not _is_statement(scene, gap):
            return ""
        for each in self._names(scene, gap):
            if each.is_local and each.name.startswith(head) and not table.find(each.name, path):
                return each.name
        return ""

    def _names(self, scene: Scene, gap: Gap) -> tuple[Unresolved, ...]:
        snapshot = scene.snapshot
        start, end = snapshot.line_start(gap.start), snapshot.line_end(gap.end)
        above, below = snapshot.text[:start], snapshot.text[end:]
        if gap.indent and scene.language.blocks == "indentation":
            # what a block's last line belongs to, its indentation alone tells
            below = f"{gap.indent}pass{below}"
        if self._found[:2] != (above, below):
            self._found = (above, below, unresolved_names(scene.language, above + below, start))
        return self._found[2]


def missing_imports(
    head: str, tail: str, names: Sequence[Unresolved], table: ImportTable, path: str, text: str
) -> list[MissingImport]:
    """The statements that begin with head, end with tail and bind some of names; those whose names are used first come
    first.

    text: the document, whose own imports say how it writes a module.
    """
    family = table.family
    known = [(each, origins) for each in names if (origins := table.find(each.name, path))]
    if not known or len(names if family.counts_all else known) > MAX_NAMES:
        return []
    fitting: list[tuple[str, float]] = []
    for each in family.statements(head, tail, known, table, path, text):
        rest = _between(each.text, head, tail)
        if rest:
            by_files = family.sure_begun if head else family.sure
            fitting.append((rest, by_files[min(each.num_files, len(by_files) - 1)] * each.purity))
    return [MissingImport(rest, sure, len(fitting) == 1) for rest, sure in fitting]


def _between(whole: str, head: str, tail: str) -> str:
    """What of a statement stands behind head and before tail, which may be the first mark of its rest alone, as an
    editor closes it; "" where it does not fit.
    """
    end = whole.find(tail.strip(), len(head)) if tail.strip() else len(whole)
    if not whole.startswith(head) or end < 0:
        return ""
    rest = whole[len(head) : end]
    return rest.rstrip() if tail[:1].isspace() else rest


def head_of(scene: Scene, gap: Gap) -> str:
    """The gap's line so far, without its indentation."""
    return (surroundings(scene.snapshot, gap.start, gap.end).head + gap.lead).lstrip()


def _is_statement(scene: Scene, gap: Gap) -> bool:
    """Whether a gap goes to the end of a line that is no part of a string, nor of what stands in brackets."""
    tree = scene.tree
    return gap.extent in ("line", "rest") and not tree.is_in_string(gap.start) and not tree.is_in_brackets(gap.start)


def _is_place(scene: Scene, gap: Gap, family: Family) -> bool:
    """Whether an import statement may stand in a gap: one has begun there, or the statement above or below is one, or
    nothing but comments and a docstring stands above, and nothing below that has to stand above it.
    """
    head, snapshot = head_of(scene, gap), scene.snapshot
    has_begun = family.begun.match(gap.indent + head) is not None
    may_begin = has_begun or any(word.startswith(head) for word in family.words)
    if not may_begin or gap.is_multiline or gap.extent == "span":
        return False
    start = snapshot.line_start(gap.start)
    if has_begun:
        first = start + len(snapshot.indent_at(gap.start))
        return scene.tree.is_code_at(first) and not scene.tree.is_in_brackets(first)
    if not _is_statement(scene, gap):
        return False
    column = len(gap.indent)
    is_top = not column and start <= STYLE_WINDOW and family.no_code.fullmatch(snapshot.text, 0, start) is not None
    if is_top and family.leads.match(snapshot.text, snapshot.line_end(gap.end)):
        return False
    if any(_is_import(scene.tree, offset, column, family) for offset in _beside(snapshot, gap)):
        return True
    return is_top


def _beside(snapshot: Snapshot, gap: Gap) -> list[int]:
    """Where the last character above the gap's line stands, and the first below, white space apart."""
    start, end = snapshot.line_start(gap.start), snapshot.line_end(gap.end)
    above, below = snapshot.text[max(0, start - STYLE_WINDOW) : start], snapshot.text[end : end + STYLE_WINDOW]
    last, first = start - len(above) + len(above.rstrip()) - 1, end + len(below) - len(below.lstrip())
    return [offset for offset, part in ((last, above), (first, below)) if part.strip()]


def _is_import(tree: SyntaxTree, offset: int, column: int, family: Family) -> bool:
    """Whether what stands at offset is part of an import statement that begins in this column."""
    node = tree.node_at(offset)
    for _ in range(MAX_LEVELS):
        if node is None:
            return False
        if node.type in tree.language.import_nodes or family.is_import(node):
            return node.start_point.column == column
        node = node.parent
    return False
