"""What the code around a gap asks of it: an import statement that the document lacks, or a line that binds a name.

From the names that nothing in the document binds (unresolved.py) and what other files import (imports.py). Python
alone. A statement is a draft like those from similar places: it has a confidence, and passes the same gates. Knows no
model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .imports import ImportTable, Origin, imports_of, located, written
from .snapshot import STYLE_WINDOW, Snapshot
from .span import Gap, Scene, surroundings
from .syntax import SyntaxTree
from .unresolved import Unresolved, unresolved_names

MAX_NAMES = 12
"""With more names than these a document is not one that lacks a few imports."""

SURE, SURE_BEGUN = (0.74, 0.86, 0.92), (0.9, 0.95, 0.96)
"""How often a statement was exactly right, by the number of files that have its names from there (none, one, more);
the second where it has begun. Of 1,013 of them in held-out packages."""

ONE_OF_SEVERAL = 0.4
"""Where several statements are missing each will be wanted, and which comes first is a matter of taste."""

_BEGUN = re.compile(r"(?:from|import)\s")
_FROM = re.compile(r"from[ \t]+(\S+)[ \t]+import[ \t]+(.*)\Z")
_RELATIVE = re.compile(r"^[ \t]*from[ \t]+\.", re.MULTILINE)
_CAPITALS = re.compile(r"[A-Z0-9_]{2,}\Z")
_NO_CODE = re.compile(r"(?>\s|#[^\n]*\n|[rRuU]?\"{3}(?s:.*?)\"{3}|[rRuU]?'{3}(?s:.*?)'{3})*+")
"""Never tried again in another way: a string ends at its first mark, and many of them would take for ever."""


@dataclass(frozen=True, slots=True)
class MissingImport:
    """A statement. rest: what of it follows the head. num_files: how many have the least usual of its names from there.

    purity: the least share of the files that import one of its names and have it from there. is_only: whether no other
    statement is missing. has_begun: whether it stands there in part.
    """

    rest: str
    num_files: int
    purity: float
    is_only: bool
    has_begun: bool

    def probability(self) -> float:
        """How likely the statement is exactly right."""
        by_files = SURE_BEGUN if self.has_begun else SURE
        sure = by_files[min(self.num_files, len(by_files) - 1)] * self.purity
        return sure if self.is_only or self.has_begun else ONE_OF_SEVERAL * sure


class Needs:
    """Looks a document over once a line: typing on in a line changes nothing of what the others ask for."""

    def __init__(self, table: ImportTable) -> None:
        self._table = table
        self._found: tuple[str, str, tuple[Unresolved, ...]] = ("", "", ())
        """What stands above and below the line that was asked about last, and what nothing binds there."""

    def imports(self, scene: Scene, gap: Gap, path: str) -> list[MissingImport]:
        """What may follow the head of the gap's line where an import statement may stand."""
        if scene.language.name != "python" or not _is_place(scene, gap):
            return []
        names = [each for each in self._names(scene, gap) if each.is_reached]
        return missing_imports(head_of(scene, gap), names, self._table, path, scene.snapshot.text)

    def name(self, scene: Scene, gap: Gap, path: str) -> str:
        """The name that a statement in the gap has to bind, since the code below it in its function uses it; "" where
        there is none, or an import brings it.
        """
        head = head_of(scene, gap)
        # what is asked of the tree last: most gaps are of another kind
        if scene.language.name != "python" or (head and not head.isidentifier()) or not _is_statement(scene, gap):
            return ""
        for each in self._names(scene, gap):
            if each.is_local and each.name.startswith(head) and not self._table.find(each.name, path):
                return each.name
        return ""

    def _names(self, scene: Scene, gap: Gap) -> tuple[Unresolved, ...]:
        snapshot = scene.snapshot
        start, end = snapshot.line_start(gap.start), snapshot.line_end(gap.end)
        above, below = snapshot.text[:start], snapshot.text[end:]
        if gap.indent:
            # what a block's last line belongs to, its indentation alone tells
            below = f"{gap.indent}pass{below}"
        if self._found[:2] != (above, below):
            self._found = (above, below, unresolved_names(scene.language, above + below, start))
        return self._found[2]


def missing_imports(
    head: str, names: Sequence[Unresolved], table: ImportTable, path: str, text: str
) -> list[MissingImport]:
    """The statements that begin with head and bind some of names; those whose names are used first come first.

    text: the document, whose own imports say how it writes a module.
    """
    if not 0 < len(names) <= MAX_NAMES:
        return []
    is_relative = _is_relative(text, path)
    statements: dict[str, list[tuple[Origin, float]]] = {}
    for each in names:
        origins = table.find(each.name, path)
        if not origins:
            continue
        best = origins[0]
        wants_dots = best.num_relative > best.num_dotted if is_relative is None else is_relative
        module = written(best, path, wants_dots)
        begin = f"from {module} import " if best.name else _import(module, best.alias)
        purity = (best.num_files + 1) / (sum(origin.num_files for origin in origins) + 1)
        statements.setdefault(begin, []).append((best, purity))
    begun = _FROM.match(head)
    found: list[MissingImport] = []
    for begin, members in statements.items():
        parts = sorted((_part(origin) for origin, _ in members), key=_order)
        whole = begin + ", ".join(parts) if members[0][0].name else begin
        if begun is not None and begin == f"from {begun[1]} import ":
            whole = head + _rest_of_names(begun[2], parts)
        if whole.startswith(head) and len(whole) > len(head):
            num_files = min(origin.num_files for origin, _ in members)
            purity = min(purity for _, purity in members)
            found.append(MissingImport(whole[len(head) :], num_files, purity, len(statements) == 1, bool(head)))
    return found


def head_of(scene: Scene, gap: Gap) -> str:
    """The gap's line so far, without its indentation."""
    return (surroundings(scene.snapshot, gap.start, gap.end).head + gap.lead).lstrip()


def _is_statement(scene: Scene, gap: Gap) -> bool:
    """Whether a gap goes to the end of a line that is no part of a string, nor of what stands in brackets."""
    tree = scene.tree
    return gap.extent in ("line", "rest") and not tree.is_in_string(gap.start) and not tree.is_in_brackets(gap.start)


def _is_place(scene: Scene, gap: Gap) -> bool:
    """Whether an import statement may stand in a gap: one has begun there, or the statement above or below is one, or
    nothing but comments and a docstring stands above.
    """
    head = head_of(scene, gap)
    has_begun = _BEGUN.match(head) is not None
    may_begin = has_begun or "from".startswith(head) or "import".startswith(head)
    if not may_begin or not _is_statement(scene, gap):
        return False
    if has_begun:
        return True
    column = len(gap.indent)
    beside = _beside(scene.snapshot, gap)
    if any(_is_import(scene.tree, offset, column) for offset in beside):
        return True
    start = scene.snapshot.line_start(gap.start)
    return not column and start <= STYLE_WINDOW and _NO_CODE.fullmatch(scene.snapshot.text, 0, start) is not None


def _beside(snapshot: Snapshot, gap: Gap) -> list[int]:
    """Where the last character above the gap's line stands, and the first below, white space apart."""
    start, end = snapshot.line_start(gap.start), snapshot.line_end(gap.end)
    above, below = snapshot.text[max(0, start - STYLE_WINDOW) : start], snapshot.text[end : end + STYLE_WINDOW]
    last, first = start - len(above) + len(above.rstrip()) - 1, end + len(below) - len(below.lstrip())
    return [offset for offset, part in ((last, above), (first, below)) if part.strip()]


def _is_import(tree: SyntaxTree, offset: int, column: int) -> bool:
    """Whether what stands at offset is part of an import statement that begins in this column."""
    node = tree.node_at(offset)
    while node is not None and node.type not in tree.language.import_nodes:
        node = node.parent
    return node is not None and node.start_point.column == column


def _is_relative(text: str, path: str) -> bool | None:
    """Whether a text has the modules of its own package with dots in front; None where it has none of them."""
    if _RELATIVE.search(text):
        return True
    return False if any(located(each.module, path) != each.module for each in imports_of(text)) else None


def _import(module: str, alias: str) -> str:
    return f"import {module}" if module.partition(".")[0] == alias else f"import {module} as {alias}"


def _part(origin: Origin) -> str:
    return origin.name if origin.name == origin.alias else f"{origin.name} as {origin.alias}"


def _order(part: str) -> tuple[int, str, str]:
    """isort's and ruff's: constants, then classes, then the rest; each by its letters."""
    kind = 0 if _CAPITALS.match(part) else 1 if part[:1].isupper() else 2
    return kind, part.lower(), part


def _rest_of_names(begun: str, parts: Sequence[str]) -> str:
    """What goes on with a list of names that has begun; "" where nothing does."""
    *whole, last = (part.strip() for part in begun.split(","))
    left = [part for part in parts if part not in whole]
    first = next((part for part in left if part.startswith(last)), None)
    if first is None:
        return ""
    return ", ".join([first[len(last) :], *(part for part in left if part is not first)])
