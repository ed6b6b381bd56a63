"""Drafts for a gap: what stands in the most similar places of this document and of the workspace.

Code repeats itself. A draft is a candidate like the model's own: it passes the same gates, and its confidence says how
often such a draft has been exactly right. Knows no model and no canvas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .index import LineIndex, Match, Place, likeness, rest_of
from .snapshot import Snapshot
from .span import Gap, surroundings

OWN_CHARS = 12_000
"""How much of the document itself is looked through on each side of the gap."""

MAX_DRAFTS = 8

_UNKNOWN = "\0"

# logistic regressions fitted by tests/support/fit_drafts.py on holes of twelve installed packages, none of which the
# benchmark uses; the second is for lines of which nothing is written yet
WEIGHTS_REST = (-2.826, -0.368, 3.632, 0.589, 2.235, 1.198, 0.11)
WEIGHTS_LINE = (-4.405, 2.802, 3.297, 0.0, 2.49, 0.52, 0.03)


@dataclass(frozen=True, slots=True)
class Draft:
    """Text that a similar place has in the gap's stead. likeness: of the most similar such place, in [0, 1].

    votes: how much of all the likeness found speaks for this text, in [0, 1]. num_head: characters of the line so far.
    is_own: whether it stands in the same document.
    """

    text: str
    likeness: float
    votes: float
    num_head: int
    is_own: bool

    def features(self) -> tuple[float, ...]:
        """What `probability` weighs."""
        head = min(self.num_head, 24) / 24
        is_twin = float(self.likeness > 0.99)
        return (1.0, self.likeness, self.votes, head, self.likeness * self.votes, is_twin, float(self.is_own))

    def probability(self) -> float:
        """How likely the draft is exactly right."""
        weights = WEIGHTS_REST if self.num_head else WEIGHTS_LINE
        total = sum(weight * value for weight, value in zip(weights, self.features(), strict=True))
        return 1 / (1 + math.exp(-total))


def place_of(snapshot: Snapshot, gap: Gap) -> Place:
    """The lines around a gap."""
    here = surroundings(snapshot, gap.start, gap.end)
    above = snapshot.lines_above(gap.start, 2)
    below = snapshot.lines_below(gap.end, 2)
    head = (here.head + gap.lead).rsplit("\n", 1)[-1].lstrip()
    first, second, *_ = (*above, "", "")
    third, fourth, *_ = (*below, "", "")
    return Place(head, (first, second), (third, fourth))


def drafts_for(snapshot: Snapshot, gap: Gap, index: LineIndex | None = None, path: str = "") -> list[Draft]:
    """The different texts that similar places suggest, the best first. Only for gaps within one line."""
    if gap.is_multiline:
        return []
    place = place_of(snapshot, gap)
    own = _own(snapshot, gap, place)
    # the document's own lines are in the index too, but older
    others = [match for match in index.similar(place) if match.path != path] if index is not None else []
    total = sum(match.likeness for match in (*own, *others))
    drafts: dict[str, Draft] = {}
    for matches, is_own in ((own, True), (others, False)):
        for match in matches:
            known = drafts.get(match.rest)
            best = max(match.likeness, known.likeness if known else 0.0)
            votes = (known.votes if known else 0.0) + match.likeness / (total + 0.2)
            drafts[match.rest] = Draft(match.rest, best, votes, len(place.head), is_own or bool(known and known.is_own))
    return sorted(drafts.values(), key=lambda draft: -(draft.likeness + draft.votes))[:MAX_DRAFTS]


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
