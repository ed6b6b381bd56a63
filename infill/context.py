"""What else the model gets to read: signatures of names in use, similar regions elsewhere, and what was edited lately.

Within a budget of characters, each piece only where it is not in the window already, secrets redacted, excluded files
left out. The choice is sticky: it is made when the cursor comes to a line and stays while that line is typed, and
pieces that are still useful keep their place on the next line: whatever changes here is read by the model anew.
What was edited lately stands last, because it changes most.
Knows no model.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import tree_sitter

from .languages import language_for_path
from .layout import Limits
from .privacy import redact
from .request import InfillRequest, Neighbour
from .snapshot import Snapshot
from .span import Gap
from .syntax import SyntaxTree, text_of

NEARBY_LINES = 12
"""The names in use are those of this many lines above and below the gap, and of its own line."""

EDITED_SHARE = 0.5
"""At most so much of the budget is for what was edited lately."""

REGION_LINES = 12
MAX_NEIGHBOUR_CHARS = 200_000
MAX_SIGNATURE_CHARS = 160
MAX_REMEMBERED = 32

_NAME = re.compile(r"[^\W\d]\w{2,}")
_COMMON = frozenset(
    """
    and assert async await auto bool break case catch char class const continue def default del elif else enum
    except export extends false final finally float for from func function global goto if implements import in
    instanceof int interface is lambda len let long match mut namespace new nil none nonlocal not null or
    package pass print private protected pub public raise range return self short sizeof static str string
    struct super switch this throw throws trait true try type typedef typeof undefined union unsigned use using
    var virtual void where while with yield
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text worth reading. names: the identifiers that make it so. is_signature: one declaration, its body left out."""

    text: str
    names: frozenset[str]
    is_signature: bool


def names_in(text: str) -> Counter[str]:
    """The identifiers of a text that are not everywhere, with how often they occur."""
    return Counter(name for name in _NAME.findall(text) if name.lower() not in _COMMON)


def gatherer_for(limits: Limits, is_excluded: Callable[[str], bool], chars_per_token: int) -> ContextGatherer:
    """A gatherer for prompts within limits. chars_per_token: how much text a token is worth, on the safe side."""
    budget, above, below = (
        num * chars_per_token for num in (limits.num_neighbour, limits.num_prefix, limits.num_suffix)
    )
    return ContextGatherer(budget, above, is_excluded, below)


class ContextGatherer:
    """Callable: a request, its snapshot, its tree and its gap in; text for the prompt out, at most budget_chars."""

    def __init__(
        self,
        budget_chars: int,
        window_chars: int = 600,
        is_excluded: Callable[[str], bool] = lambda path: False,
        below_chars: int | None = None,
    ) -> None:
        """window_chars: about how much text before the gap the prompt shows anyway; below_chars: behind it, None: as
        much."""
        self._budget = budget_chars
        self._window = window_chars
        self._below = window_chars if below_chars is None else below_chars
        self._is_excluded = is_excluded
        self._pieces: OrderedDict[tuple[str, int], list[Piece]] = OrderedDict()
        self._chosen: OrderedDict[str, tuple[tuple[int, str], list[Piece]]] = OrderedDict()

    def __call__(self, request: InfillRequest, snapshot: Snapshot, tree: SyntaxTree, gap: Gap) -> str:
        """The chosen pieces, one after the other; the same text as before while the same line is being typed."""
        if self._budget <= 0:
            return ""
        line_start = snapshot.line_start(gap.start)
        # the line above stands for the place, so that edits elsewhere do not move it
        place = (snapshot.text.count("\n", max(0, line_start - 4_000), line_start), snapshot.line_above(gap.start))
        before = self._chosen.get(request.path)
        if before is not None and before[0] == place:
            pieces = before[1]
        else:
            pieces = self._choose(request, snapshot, tree, gap, before[1] if before else [])
            self._chosen[request.path] = (place, pieces)
            self._chosen.move_to_end(request.path)
            if len(self._chosen) > MAX_REMEMBERED:
                self._chosen.popitem(last=False)
        return "".join(piece.text.rstrip("\n") + "\n" for piece in pieces)

    def _choose(
        self, request: InfillRequest, snapshot: Snapshot, tree: SyntaxTree, gap: Gap, before: list[Piece]
    ) -> list[Piece]:
        wanted = names_in(_nearby(snapshot, gap))
        shown = snapshot.text[max(0, gap.start - self._window) : gap.end + self._below]
        pool = list(self._own(request, tree, gap))
        for neighbour in request.neighbours:
            if not self._is_excluded(neighbour.path):
                pool += self._of(neighbour)
        rarity = Counter(name for piece in pool for name in piece.names)
        ranked = sorted(
            ((_score(piece, wanted, rarity, len(pool)), -i, piece) for i, piece in enumerate(pool)), reverse=True
        )
        edited = self._edited(request, shown)
        room = self._budget - sum(len(piece.text) + 1 for piece in edited)
        shown += "".join(piece.text for piece in edited)
        chosen: list[Piece] = []
        for score, _, piece in ranked:
            if score <= 0:
                break
            if len(piece.text) < room and piece.text.strip() not in shown and piece not in chosen:
                chosen.append(piece)
                room -= len(piece.text) + 1
        # pieces that stay keep their order and come first; what is new is read after them
        stable = [piece for piece in before if piece in chosen]
        return stable + [piece for piece in chosen if piece not in stable] + edited

    def _edited(self, request: InfillRequest, shown: str) -> list[Piece]:
        """The newest of what was edited lately, the newest last, within their share of the budget."""
        room = self._budget * EDITED_SHARE
        found: list[Piece] = []
        for each in reversed(request.edited):
            text = redact(each.text).strip("\n")
            if not text.strip() or self._is_excluded(each.path) or text.strip() in shown:
                continue
            is_whole = len(text) < room
            if not is_whole:
                text = _core(text, room)
            if text.strip():
                found.insert(0, Piece(text, frozenset(), False))
            if not is_whole:
                break
            room -= len(text) + 1
            shown += text
        return found

    def _own(self, request: InfillRequest, tree: SyntaxTree, gap: Gap) -> Iterator[Piece]:
        """Signatures of the same document that its windows do not show."""
        for start, piece in _signatures(tree):
            if not gap.start - self._window < start < gap.end + self._below:
                yield piece

    def _of(self, neighbour: Neighbour) -> list[Piece]:
        text = neighbour.text[:MAX_NEIGHBOUR_CHARS]
        key = (neighbour.path, hash(text))
        known = self._pieces.get(key)
        if known is None:
            text = redact(text)
            tree = SyntaxTree.parse(language_for_path(neighbour.path), text)
            known = [piece for _, piece in _signatures(tree)]
            known += list(_regions(text))
            self._pieces[key] = known
            if len(self._pieces) > MAX_REMEMBERED:
                self._pieces.popitem(last=False)
        self._pieces.move_to_end(key)
        return known


def _core(text: str, room: float) -> str:
    """The lines in the middle of a text that are shorter than room: what was edited, without what stands around it."""
    lines = text.split("\n")
    while lines and sum(map(len, lines)) + len(lines) > room:
        lines.pop(0 if len(lines) % 2 else -1)
    return "\n".join(lines)


def _nearby(snapshot: Snapshot, gap: Gap) -> str:
    low = high = gap.start
    for _ in range(NEARBY_LINES):
        low = snapshot.line_start(low - 1) if low > 0 else 0
        newline = snapshot.text.find("\n", high)
        high = len(snapshot.text) if newline < 0 else newline + 1
    # a line of a megabyte must not make this slow
    return snapshot.text[max(low, gap.start - 2_000) : min(high, gap.end + 2_000)]


def _score(piece: Piece, wanted: Counter[str], rarity: Counter[str], num_pieces: int) -> float:
    shared = [name for name in piece.names if name in wanted]
    if not shared:
        return 0.0
    weight = sum(math.log1p(num_pieces / rarity[name]) * (1 + math.log(wanted[name])) for name in shared)
    # a signature answers for one name; a region has to earn its length
    return 2 * weight if piece.is_signature else weight / math.sqrt(1 + len(piece.names))


def _signatures(tree: SyntaxTree) -> Iterator[tuple[int, Piece]]:
    """(offset, piece) of every definition in the window: its head without the body, on one line."""
    if tree.tree is None:
        return
    stack: list[tree_sitter.Node] = [tree.tree.root_node]
    num_seen = 0
    while stack and num_seen < 2_000:
        node = stack.pop()
        num_seen += 1
        if node.type in tree.language.definition_nodes:
            piece = _signature(node)
            if piece is not None:
                yield tree.span_of(node)[0], piece
        elif node.type not in _CONTAINERS and node.parent is not None and node.type not in tree.language.block_nodes:
            continue
        stack.extend(reversed(node.named_children))


_CONTAINERS = frozenset(
    ("decorated_definition", "export_statement", "namespace_definition", "mod_item", "impl_item", "preproc_ifdef")
)


def _signature(node: tree_sitter.Node) -> Piece | None:
    name = node.child_by_field_name("name") or node.child_by_field_name("declarator")
    if name is None or node.text is None:
        return None
    body = node.child_by_field_name("body")
    end = body.start_byte - node.start_byte if body is not None else len(node.text)
    head = " ".join(node.text[: min(end, 4 * MAX_SIGNATURE_CHARS)].decode("utf-8", "replace").split())
    if not head or len(head) > MAX_SIGNATURE_CHARS:
        return None
    called = re.search(r"[^\W\d]\w*", text_of(name).split("(", 1)[0][::-1])
    own = called.group()[::-1] if called else ""
    return Piece(redact(head), frozenset((own,)), True) if len(own) > 2 else None


def _regions(text: str) -> Iterator[Piece]:
    """Pieces of at most REGION_LINES lines, cut at blank lines where there are any."""
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.strip():
            lines.append(line.rstrip())
        if lines and (not line.strip() or len(lines) == REGION_LINES):
            region = "\n".join(lines)
            yield Piece(region, frozenset(names_in(region)), False)
            lines = []
