"""Drafts of a definition's head: what follows the name of a function where others of that name are defined.

A method that another class has, too, mostly takes the same: overrides, visitors, fixtures, implementations of a
protocol. A draft like those from similar places: it has a confidence, and passes the same gates. Knows no model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .calibration import logistic
from .callees import type_around
from .definitions import rules_of
from .index import LineIndex
from .parameters import Definition, Rules, definition_at, definitions_of
from .places import rest_of
from .privacy import REDACTED
from .scopes import lines_above
from .snapshot import width_of
from .span import Gap, Scene, surroundings

MAX_VOTES = 8
"""More definitions than that say no more."""

MAX_CLASSES = 8
"""In so many places further up it is looked for the class."""

MAX_WIDTH = 80
"""A line that is indented more stands in no class."""

MAX_HEAD_CHARS = 400
"""A longer head is for nobody to write, and of a longer line of a class no more is read."""

MAX_CLASS_CHARS = 200_000
"""So far up it is looked for the class."""

_NAMED = re.compile(r"\b(?:def|function|func|fn)\b\s*\*?\s*(?P<name>[\w$]+)")
_MEMBER = re.compile(r"\s+(?:(?:public|private|protected|static|async|override|get|set)\s+)*[*#]?(?P<name>[\w$]+)\s*\(")
_ONLY_DECLARES = re.compile(r"\b(?:interface|declare|abstract(?![ \t\w]*\bclass)|trait\b.*\{)")
_WORD = re.compile(r"[A-Za-z_$][\w$]*")
_NO_KIN = frozenset(
    """
    class object extends implements export default abstract declare ABC ABCMeta Generic Protocol metaclass
    """.split()  # noqa: SIM905
)

# a logistic regression fitted by tests/support/fit_heads.py
WEIGHTS = (-5.307, 3.586, 1.188, 0.548, 0.232, 1.261, 0.793, 0.355, 1.115, 0.604, -0.593, 0.589, -0.427, -0.355)


@dataclass(frozen=True, slots=True)
class Head:
    """A draft. text: what follows the line so far. features: what `probability` weighs."""

    text: str
    features: tuple[float, ...]

    def probability(self) -> float:
        """How likely the draft is exactly right."""
        return logistic(WEIGHTS, self.features)


def heads_for(scene: Scene, gap: Gap, path: str, index: LineIndex) -> list[Head]:
    """What may follow the name in the gap's line where that begins to define a function; the likeliest first."""
    rules = rules_of(scene.language)
    text, line_start = scene.snapshot.text, scene.snapshot.line_start(gap.start)
    here = surroundings(scene.snapshot, gap.start, gap.end)
    head = here.head + gap.lead
    if rules is None or gap.extent != "rest" or here.tail.strip() or "\n" in gap.lead:
        return []
    name = _name(head, scene, gap, rules)
    if not name or not scene.tree.is_code_at(gap.start):
        return []
    own = [each for each in definitions_of(rules, text, name) if not line_start <= each.at <= gap.end]
    found = [(True, text, each) for each in own[:MAX_VOTES]]
    if rules.reach != "file":
        found += [(False, there, each) for other, there, each in index.definitions(rules, name) if other != path]
    if not found:
        # most functions are the only ones of their name
        return []
    house = _house(rules, text, line_start)
    kin = _kin(text, house)
    only_declares = _ONLY_DECLARES.search(f"{head}\n{type_around(text, line_start)}") is not None
    votes: dict[str, list[tuple[bool, bool]]] = {}
    for is_own, there, each in found:
        rest = _rest(there, each, head)
        if each.is_class or each.is_member != head[:1].isspace() or not rest or REDACTED in rest:
            continue
        if rest.endswith(";") != only_declares and scene.language.blocks == "braces":
            # an interface says what its classes have, and ends it in another way
            continue
        other_house = _house(rules, there, each.at)
        if is_own and (house >= 0 or not head[:1].isspace()) and other_house == house:
            # what a class or a module has twice has a getter and a setter, or is overloaded
            continue
        is_kin = bool(kin & _kin(there, other_house))
        votes.setdefault(rest, []).append((is_own, is_kin))
    if not votes:
        return []
    total = sum(map(len, votes.values()))
    heads = [line for line in scene.tree.text.split("\n") if "(" in line and rules.defines.match(line)]
    num_typed = sum("->" in line for line in heads)
    drafts: list[Head] = []
    for rest, places in votes.items():
        share = len(places) / total
        features = (
            1.0, share, float(total > 1), float(total > 2), float(total > 3), float(share == 1),
            float(any(is_own for is_own, _ in places)), float("(" in head), float(any(is_kin for _, is_kin in places)),
            float(not kin), float(name.startswith("__")), float(not head[:1].isspace()),
            float("->" in rest and 2 * num_typed < len(heads)), float("->" not in rest and 2 * num_typed > len(heads)),
        )  # fmt: skip
        drafts.append(Head(rest, features))
    return sorted(drafts, key=lambda each: -each.probability())


def _house(rules: Rules, text: str, at: int) -> int:
    """Where the class begins in which the line at `at` stands; -1 where it stands in none, as far as that shows."""
    width = width_of(text[at : at + MAX_WIDTH])
    start = at
    for _ in range(MAX_CLASSES if width else 0):
        start = text.rfind("class ", max(0, at - MAX_CLASS_CHARS), start)
        if start < 0:
            break
        start = text.rfind("\n", 0, start) + 1
        found = definition_at(rules, text, start)
        if found is not None and found.is_class and width_of(text[start : start + MAX_WIDTH]) < width:
            return start
    return -1


def _kin(text: str, house: int) -> frozenset[str]:
    """The class that begins at house, and its bases; nothing for -1."""
    line = text[house : house + MAX_HEAD_CHARS].partition("\n")[0] if house >= 0 else ""
    return frozenset(_WORD.findall(line)) - _NO_KIN


def _name(head: str, scene: Scene, gap: Gap, rules: Rules) -> str:
    """The name of the function that a line begins to define; "" where it is something else."""
    match = _NAMED.search(head)
    if match is not None:
        return match["name"]
    member = _MEMBER.match(head) if scene.language.blocks == "braces" else None
    if member is None:
        return ""
    # only directly in a class is it no call
    width = width_of(head)
    above = (at for at, line in lines_above(scene.snapshot, gap.start) if width_of(line) < width)
    outer = definition_at(rules, scene.snapshot.text, next(above, gap.start))
    return member["name"] if outer is not None and outer.is_class else ""


def _rest(text: str, definition: Definition, head: str) -> str:
    """What follows the head in the line of a definition; "" where that is not whole, or begins in another way."""
    line = text[definition.at : definition.at + MAX_HEAD_CHARS].partition("\n")[0].rstrip()
    is_whole = len(line) < MAX_HEAD_CHARS and line.count("(") == line.count(")")
    return rest_of(line, head) if is_whole else ""
