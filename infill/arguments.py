"""Drafts of a call's arguments: what the function takes, where something is in sight that is called so.

Mostly a parameter is given something of its own name: where all that a function needs has a name that is in sight, so
the arguments are in seven of ten calls. A draft like those from similar places: it has a confidence, and passes the
same gates. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .calibration import logistic
from .callees import signatures_of
from .calls import Call, call_at
from .definitions import rules_of
from .index import LineIndex
from .parameters import Kind, Parameter, Rules, Signature
from .scopes import Scope, scope_of
from .snapshot import width_of
from .span import Gap, Scene, begins_header

MAX_SIGNATURES = 3
"""A name that means more different things says too little."""

NUM_AROUND = 12
"""In so many lines above and below it is looked how lines end."""

_OWN = re.compile(r"(\$?\w+)\W+")
_NO_VALUE = re.compile(r"\s*(?:let|return)\b|[^=]*[^=!<>]=(?!=)")
_WORD = re.compile(r"[A-Za-z_$][\w$]*\Z")
_BY_NAME = re.compile(r"([A-Za-z_]\w*)\s*=(?!=)\s*(\w*)\Z")
_NAMED = re.compile(r"([A-Za-z_]\w*)\s*=(?!=)")

# logistic regressions fitted by tests/support/fit_arguments.py, on Python, on JavaScript with TypeScript, and on Go,
# Rust, Java, C#, C, C++, PHP, Ruby and Lua together
WEIGHTS_BY_NAME = (
    0.828, -0.001, 0.014, 0.201, -0.303, 0.541, -0.249, -0.885, -0.784, 0.548, 0.995, -0.057, -0.132, -1.042, -2.044,
    -1.437, -3.426, -1.805, 1.043, 0.711, -0.061, -0.481, -1.379, -0.123,
)  # fmt: skip
WEIGHTS_IN_ORDER = (
    -0.103, 1.259, 1.274, 0.585, 1.685, -0.351, -0.248, -1.044, -0.261, 0.818, 0.186, -0.683, -0.772, -0.289, -1.289,
    -0.642, 0.0, -0.03, 0.722, 1.054, -0.514, 0.326, 0.0, 0.0,
)  # fmt: skip
WEIGHTS_MORE = (
    0.58, 0.025, 1.151, 0.226, -0.098, 0.176, -0.824, -0.913, -0.228, 0.353, 0.25, -0.351, -0.235, -0.38, -1.551,
    -0.182, 0.0, -1.021, 0.873, 0.711, 0.098, -0.079, -0.665, 0.056,
)  # fmt: skip
"""For Python, which gives arguments by name as well, for JavaScript, and for all other languages."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """A draft. text: what follows the head of the line. features: what `probability` weighs. kind: by which weights."""

    text: str
    features: tuple[float, ...]
    kind: Kind

    def probability(self) -> float:
        """How likely the draft is exactly right."""
        weights = {"by_name": WEIGHTS_BY_NAME, "in_order": WEIGHTS_IN_ORDER, "more": WEIGHTS_MORE}[self.kind]
        return logistic(weights, self.features)


def arguments_for(scene: Scene, gap: Gap, path: str, index: LineIndex) -> list[Arguments]:
    """What may follow the head of the gap's line where it ends within the arguments of a call; the likeliest first."""
    rules = rules_of(scene.language)
    if rules is None or gap.extent in ("line", "block", "span") or "\n" in gap.lead:
        return []
    call = call_at(scene, gap, rules)
    if call is None or (call.receiver == "other" and not call.owner and call.name in rules.builtin):
        return []
    end = _end(scene, gap, call, rules)
    if end is None:
        return []
    found = list(signatures_of(scene, gap, call, path, index, rules))
    distinct = list(dict.fromkeys(found))
    if not distinct or len(distinct) > MAX_SIGNATURES:
        return []
    scope = scope_of(scene, gap, rules)
    if call.receiver == "none" and call.name in scope.parameters:
        # whatever the caller has been given
        return []
    drafts: dict[str, Arguments] = {}
    for signature in distinct[:2]:
        for text, features in _drafts(call, signature, rules, scope):
            blank = "" if call.has_blank else " "
            known = (float(len(distinct) > 1), float(end != ")"), float(end == ""), *features)
            each = Arguments(f"{blank}{text}{end}", (*_of_call(call), *known), rules.weights)
            if each.text.strip() and each.text not in drafts:
                drafts[each.text] = each
    return sorted(drafts.values(), key=lambda each: -each.probability())


def _end(scene: Scene, gap: Gap, call: Call, rules: Rules) -> str | None:
    """What follows the last argument; None where that is not to be written here."""
    snapshot, language = scene.snapshot, scene.language
    tail = snapshot.text[gap.end : snapshot.line_end(gap.end)].strip()
    if tail:
        return "" if tail.startswith(")") else None
    line = snapshot.line_at(gap.start)
    below = next(iter(snapshot.lines_below(gap.end, 1)), "")
    if below.strip()[:1] in (")", "]") or (
        below and width_of(below) > width_of(line) and not begins_header(line, language)
    ):
        # the arguments stand in the lines below
        return None
    closers = f"){call.outer}"
    above = snapshot.line_above(gap.start).rstrip()
    if above.endswith(("(", "[", ",")) or (language.blocks == "indentation" and above.endswith("{")):
        return f"{closers},"
    if language.blocks == "indentation":
        return f"{closers}:" if begins_header(line, language) else closers
    around = (*snapshot.lines_above(gap.start, NUM_AROUND), *snapshot.lines_below(gap.end, NUM_AROUND))
    return closers + _after(call, line, below, around, rules)


def _after(call: Call, line: str, below: str, around: Sequence[str], rules: Rules) -> str:
    """What follows the last bracket of a line where no indentation makes blocks."""
    for head, mark, then in rules.header_ends:
        match = head.match(line) if call.outer.endswith(mark) else None
        if match is not None:
            return "" if _has_brace_below(head, around, rules) else match.expand(then)
    if "}" in call.outer:
        return ""
    if rules.value is not None and below.strip()[:1] == "}" and not _NO_VALUE.match(line):
        function = next((match for each in around if (match := rules.value.match(each))), None)
        return "" if function is None or function["none"] is None else ";"
    if rules.end is not None:
        return rules.end
    return ";" if sum(each.rstrip().endswith(";") for each in around) > 1 else ""


def _has_brace_below(head: re.Pattern[str], around: Sequence[str], rules: Rules) -> bool:
    """Whether the braces of such blocks are mostly lines of their own."""
    if not rules.brace_below:
        return False
    ends = [each.rstrip()[-1:] for each in around if head.match(each)]
    return ends.count(")") > ends.count("{")


def _drafts(
    call: Call, signature: Signature, rules: Rules, scope: Scope
) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Texts for the rest of the arguments, each with what is known of it."""
    named = {match[1] for each in call.given if (match := _NAMED.match(each))} if rules.keyword else set[str]()
    num_in_order = len(call.given) - len(named)
    in_order = [each for each in signature.parameters if not each.by_name]
    left = [*in_order[num_in_order:], *(each for each in signature.parameters if each.by_name)]
    left = [each for each in left if each.name not in named]
    begun_by_name = _BY_NAME.match(call.begun) if rules.keyword else None
    if num_in_order > len(in_order) or not (not call.begun or begun_by_name or _WORD.match(call.begun)):
        return
    begun = call.begun
    if begun_by_name:
        # its value is what comes first, and what follows it has to have its name, too
        left.sort(key=lambda each: each.name != begun_by_name[1])
        if not left or left[0].name != begun_by_name[1]:
            return
        left[0] = replace(left[0], is_optional=False)
        named.add(begun_by_name[1])
        begun = f"{begun_by_name[1]}={begun_by_name[2]}"
    needed = {each: value for each in left if not each.is_optional and (value := value_of(each, rules, scope))}
    if len(needed) < sum(not each.is_optional for each in left):
        return
    optional = [each for each in left if each.is_optional and scope.has(each.name)]
    plain = [f"{each.name}={value}" if named or each.by_name else value for each, value in needed.items()]
    ways = [_Way(plain)]
    if rules.keyword:
        ways.append(_Way([*plain, *(f"{each.name}={each.name}" for each in optional)], num_optional=len(optional)))
        if needed and not call.given:
            ways.append(_Way([f"{each.name}={value}" for each, value in needed.items()], is_named=True))
    elif optional == [each for each in left if each.is_optional][: len(optional)]:
        ways.append(_Way([*plain, *(each.name for each in optional)], num_optional=len(optional)))
    passes_on = scope.more and (signature.more or call.receiver == "super")
    if passes_on and not any(each in scope.more for each in call.given):
        ways.append(_Way([*plain, *scope.more], passes_on=True))
    may_be_empty = rules.leaves_empty == "all" or (rules.leaves_empty == "certain" and not signature.more)
    num_members = sum(value != each.name for each, value in needed.items())
    for way in ways:
        text = ", ".join(way.arguments)
        if not text.startswith(begun) or (not text and (call.given or not may_be_empty)):
            continue
        is_none = not needed
        yield text[len(begun) :], (
            float(is_none), float(len(needed) > 1), float(len(needed) > 2), float(num_members > 0),
            float(bool(optional) and not way.num_optional), float(way.num_optional > 0), float(way.is_named),
            float(bool(signature.more)), float(way.passes_on), min(len(call.begun), 6) / 6,
            float(is_none and call.receiver == "own"), float(is_none and call.receiver == "other"),
            float(is_none and bool(left)), float(bool(needed) and scope.parameters.issuperset(needed.values())),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to write the rest of the arguments. num_optional: of those that have a default. is_named: whether those
    that need not are given by name. passes_on: whether what the caller takes besides is handed on.
    """

    arguments: list[str]
    num_optional: int = 0
    is_named: bool = False
    passes_on: bool = False


def _of_call(call: Call) -> tuple[float, ...]:
    return (
        1.0,
        float(call.receiver == "own"),
        float(call.receiver == "super"),
        float(call.receiver == "other"),
        float(call.is_new or (call.receiver != "own" and call.name[:1].isupper())),
        float(bool(call.given)),
        float(bool(call.outer)),
    )


def value_of(parameter: Parameter, rules: Rules, scope: Scope) -> str:
    """What a parameter is given: something that is called so, or a field or a member of the caller's own object; ""
    where nothing is in sight."""
    if scope.has(parameter.name):
        return parameter.name
    if not parameter.name:
        return ""
    field = re.search(rules.field.replace("NAME", re.escape(parameter.name)), scope.members) if rules.field else None
    if field is not None:
        return field["name"]
    own = _OWN.match(rules.member)
    if own is None or not scope.has(own[1]):
        return ""
    name = parameter.name.removeprefix(rules.sigil)
    is_member = re.search(rf"(?<!\w){re.escape(own[0] + name)}\b(?!\()", scope.members)
    return f"{own[0]}{name}" if is_member else ""
