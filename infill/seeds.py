"""Drafts for a gap: what stands in the most similar places of this document and of the workspace.

Code repeats itself. A draft is a candidate like the model's own: it passes the same gates, and its confidence says how
often such a draft has been exactly right. Knows no model and no canvas.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from .calibration import logistic
from .index import LineIndex, Match
from .places import (
    DOC_MARKS,
    MAX_BLOCK_LINES,
    MAX_DOC_LINES,
    Lines,
    Place,
    above_docstring,
    alike,
    block_at,
    likeness,
    rest_of,
)
from .privacy import REDACTED
from .snapshot import Snapshot
from .span import Gap, surroundings

OWN_CHARS = 12_000
"""How much of the document itself is looked through on each side of the gap."""

MAX_DRAFTS = 8

LEAST_ALIKE = 0.2
"""A block is looked at closely where the lines above it are so much like those above the gap."""

MAX_LOOKED_AT = 24

_UNKNOWN = "\0"

# logistic regressions fitted by tests/support/fit_drafts.py on holes of twelve installed packages, none of which the
# benchmark uses; the second is for lines of which nothing is written yet, the third for blocks
WEIGHTS_REST = (-2.826, -0.368, 3.632, 0.589, 2.235, 1.198, 0.11)
WEIGHTS_LINE = (-4.405, 2.802, 3.297, 0.0, 2.49, 0.52, 0.03)
WEIGHTS_BLOCK = (-4.624, 1.987, 1.906, -0.818, 1.775, 1.15, -0.187)


@dataclass(frozen=True, slots=True)
class Draft:
    """Text that a similar place has in the gap's stead. likeness: of the most similar such place, in [0, 1].

    votes: how much of all the likeness found speaks for this text, in [0, 1]. num_head: characters of the line so far.
    is_own: whether it stands in the same document. is_block: whether it is for a gap across lines.
    """

    text: str
    likeness: float
    votes: float
    num_head: int
    is_own: bool
    is_block: bool = False

    def features(self) -> tuple[float, ...]:
        """What `probability` weighs."""
        head = min(self.num_head, 24) / 24
        if self.is_block:
            # how much is written of the first line says little there; how many lines have to be right says more
            head = (self.text.count("\n") + 1) / MAX_BLOCK_LINES
        is_twin = float(self.likeness > 0.99)
        return (1.0, self.likeness, self.votes, head, self.likeness * self.votes, is_twin, float(self.is_own))

    def probability(self) -> float:
        """How likely the draft is exactly right."""
        weights = WEIGHTS_BLOCK if self.is_block else WEIGHTS_REST if self.num_head else WEIGHTS_LINE
        return logistic(weights, self.features())


def place_of(snapshot: Snapshot, gap: Gap) -> Place:
    """The lines around a gap; above one across lines, those above the docstring where one stands there."""
    here = surroundings(snapshot, gap.start, gap.end)
    *begun, head = (here.head + gap.lead).split("\n")
    _, *after = (gap.tail + here.tail).split("\n")
    num = MAX_DOC_LINES + 2 if gap.is_multiline else 2
    above = [*(line for line in reversed(begun) if line.strip()), *snapshot.lines_above(gap.start, num)]
    below = [*(line for line in after if line.strip()), *snapshot.lines_below(gap.end, 2)]
    if gap.is_multiline:
        lines = Lines.of("\n".join(reversed(above)))
        above = above[len(lines.starts) - 1 - above_docstring(lines, len(lines.starts) - 1) :]
    first, second, *_ = (*above, "", "")
    third, fourth, *_ = (*below, "", "")
    return Place(head.lstrip(), (first, second), (third, fourth))


def drafts_for(snapshot: Snapshot, gap: Gap, index: LineIndex | None = None, path: str = "") -> list[Draft]:
    """The different texts that similar places suggest, the best first: a line's rest, or a block's lines.

    Nothing for a span, which ends anywhere.
    """
    if gap.extent == "span":
        return []
    place = place_of(snapshot, gap)
    is_block = gap.is_multiline
    if is_block:
        own = _own_blocks(snapshot, gap, place)
        known = index.similar_blocks(place, gap.indent) if index is not None else []
    else:
        own = _own(snapshot, gap, place)
        known = index.similar(place) if index is not None else []
    # the document's own lines are in the index too, but older; a secret that was taken out is nothing to write
    others = [match for match in known if match.path != path and REDACTED not in match.rest]
    total = sum(match.likeness for match in (*own, *others))
    drafts: dict[str, Draft] = {}
    for matches, is_own in ((own, True), (others, False)):
        for match in matches:
            same = drafts.get(match.rest)
            best = max(match.likeness, same.likeness if same else 0.0)
            votes = (same.votes if same else 0.0) + match.likeness / (total + 0.2)
            is_here = is_own or bool(same and same.is_own)
            drafts[match.rest] = Draft(match.rest, best, votes, len(place.head), is_here, is_block)
    return sorted(drafts.values(), key=lambda draft: -(draft.likeness + draft.votes))[:MAX_DRAFTS]


def _own_blocks(snapshot: Snapshot, gap: Gap, place: Place) -> list[Match]:
    text = snapshot.text
    low, high = snapshot.line_start(max(0, gap.start - OWN_CHARS)), gap.end + OWN_CHARS
    # the gap's own line ends what is indented more, and what it does not end is not whole
    indent = snapshot.indent_at(gap.start) if "\n" in gap.lead else gap.indent
    above = Lines.of(_plain(text[low : snapshot.line_start(gap.start)]) + indent + _UNKNOWN)
    below = Lines.of(_plain(text[snapshot.line_end(gap.end) : high]))
    alikeness: list[tuple[float, bool, int]] = []
    for is_above, lines in ((True, above), (False, below)):
        before, before_that = "", ""
        for i in range(len(lines.starts)):
            line = lines.line(i)
            if place.head in line:
                score = _alike_above(place, before, before_that)
                if before.endswith(DOC_MARKS):
                    up = above_docstring(lines, i - 1)
                    score = max(score, _alike_above(place, lines.line(up), lines.line(up - 1)))
                if score >= LEAST_ALIKE:
                    alikeness.append((score, is_above, i))
            before, before_that = line, before
    found: list[Match] = []
    # to look closely costs more than all the rest
    for _, is_above, i in heapq.nlargest(MAX_LOOKED_AT, alikeness):
        is_cut_off = not is_above and high < len(text)
        block = block_at(above if is_above else below, i, place, gap.indent, is_cut_off=is_cut_off)
        if block is not None and _UNKNOWN not in block.text:
            found.append(Match("", i, block.text, block.likeness))
    return sorted(found, key=lambda match: -match.likeness)[:MAX_DRAFTS]


def _alike_above(place: Place, first: str, second: str) -> float:
    return 0.7 * alike(first, place.above[0]) + 0.3 * alike(second, place.above[1])


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n")


def _own(snapshot: Snapshot, gap: Gap, place: Place) -> list[Match]:
    text = snapshot.text
    low, high = snapshot.line_start(max(0, gap.start - OWN_CHARS)), gap.end + OWN_CHARS
    above = [line for line in text[low : snapshot.line_start(gap.start)].split("\n") if line.strip()]
    below = [line for line in text[snapshot.line_end(gap.end) : high].split("\n") if line.strip()]
    # nobody knows the gap's own line yet, so it makes no place like another
    lines = ["", "", *above, _UNKNOWN, *below, "", ""]
    found: list[Match] = []
    for i in range(2, len(lines) - 2):
        line = lines[i]
        # most lines are no candidates; this is cheaper than looking closely
        if line is _UNKNOWN or place.head not in line:
            continue
        rest = rest_of(line, place.head)
        score = likeness(place, (lines[i - 1], lines[i - 2]), (lines[i + 1], lines[i + 2])) if rest else 0.0
        if score:
            found.append(Match("", i, rest, score))
    return sorted(found, key=lambda match: -match.likeness)[:MAX_DRAFTS]
