"""Judge one answer against what was taken out, and sum judgements up: pure functions on text and numbers.

Quality is judged on the document as the editor would leave it, with the answer's range replaced. Syntax is judged by
tree-sitter in a window around the hole, always against another state of the same window: the empty hole (was damage
introduced?) and the original (is it as sound as what was there?). Knows no server.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from ..infill.languages import LANGUAGES, Language
from ..infill.syntax import SyntaxTree
from .holes import Span

MIN_REPEATED_CHARS = 3
_BY_NAME = {language.name: language for language in LANGUAGES}
_OPENING, _CLOSING = "([{", ")]}"
_STRINGS = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good one proposal is.

    is_exact: the document is the original again (trailing white space of the proposal apart).
    is_line_exact: the first line is right. is_prefix: right as far as it goes, at least to the end of a line.
    similarity: 1 - Levenshtein distance / longer length, in [0, 1]; 0 for nothing at all.
    is_valid: as sound as the original. has_syntax_error: less sound than the document before the proposal.
    has_unbalanced: more unbalanced brackets or quotes than before. has_repeated_suffix, has_wrong_indent: as named.
    """

    is_exact: bool
    is_line_exact: bool
    is_prefix: bool
    similarity: float
    is_valid: bool
    has_syntax_error: bool
    has_unbalanced: bool
    has_repeated_suffix: bool
    has_wrong_indent: bool


NOTHING = Judgement(False, False, False, 0.0, False, False, False, False, False)
"""The judgement of a decline: it is wrong about everything and harms nothing."""


def judge(document: str, cursor: int, reference: str, new: str, language_name: str, *, replaced: Span) -> Judgement:
    """Judge putting new in place of replaced in document, where reference was taken out at cursor.

    document: with the hole. replaced: what the answer's range covers, usually the cursor alone.
    """
    before, after = document[: replaced[0]], document[replaced[1] :]
    if not new.strip():
        return NOTHING
    # the same region of the original and of the result, so that an answer that replaces more is judged on all of it
    low, high = min(cursor, replaced[0]), max(cursor, replaced[1])
    wanted = document[low:cursor] + reference + document[cursor:high]
    given = document[low : replaced[0]] + new + document[replaced[1] : high]
    shared = _shared_tail(document[cursor:high], given)
    wanted, given = wanted[: len(wanted) - shared], given[: len(given) - shared]
    clean = _without_trailing_space(given)
    is_exact = clean == _without_trailing_space(wanted)
    tree = SyntaxTree.around(_BY_NAME[language_name], document, low, high)
    hole = tree.damage()
    original = tree.replaced(cursor, cursor, reference).damage()
    result = tree.replaced(replaced[0], replaced[1], new).damage()
    lines, wanted_lines = clean.split("\n"), _without_trailing_space(wanted).split("\n")
    return Judgement(
        is_exact=is_exact,
        is_line_exact=bool(lines[0]) and lines[0] == wanted_lines[0],
        is_prefix=is_exact or (bool(clean.strip()) and lines == wanted_lines[: len(lines)]),
        similarity=Levenshtein.normalized_similarity(clean, _without_trailing_space(wanted)),
        is_valid=not result.exceeds(original),
        has_syntax_error=not is_exact and result.num_errors > max(hole.num_errors, original.num_errors),
        has_unbalanced=not is_exact and result.num_unbalanced > max(hole.num_unbalanced, original.num_unbalanced),
        has_repeated_suffix=not is_exact and repeats_suffix(new, after, reference),
        has_wrong_indent=not is_exact and has_wrong_indent(_BY_NAME[language_name], before, new, document),
    )


def _shared_tail(kept: str, given: str) -> int:
    """Number of characters that the end of given shares with kept, the original text under the answer's range."""
    count = 0
    while count < min(len(kept), len(given)) and kept[-1 - count] == given[-1 - count]:
        count += 1
    return count


def _without_trailing_space(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").split("\n")).rstrip()


def repeats_suffix(new: str, after: str, reference: str) -> bool:
    """Whether the end of new says again what stands right behind it, where the original did not.

    On the same line: at least MIN_REPEATED_CHARS characters. Whole lines: the last line of new is the next line that
    is not blank and has more than brackets in it.
    """
    rest = after.split("\n", 1)[0].rstrip()
    tail = new.rstrip()
    if len(rest.strip()) >= MIN_REPEATED_CHARS and tail.endswith(rest) and not reference.rstrip().endswith(rest):
        return True
    following = next((line.strip() for line in after.split("\n")[1:] if line.strip()), "") if not rest else ""
    if len(following) < MIN_REPEATED_CHARS or not any(char.isalnum() for char in following):
        return False
    return _last_line(new) == following and _last_line(reference) != following


def _last_line(text: str) -> str:
    return text.rstrip().rsplit("\n", 1)[-1].strip()


def has_wrong_indent(language: Language, before: str, new: str, document: str) -> bool:
    """Whether new is indented as the document is not: white space after the indentation, tabs for spaces or the
    reverse, or a width that no indentation of this document makes (lines inside brackets or strings are free)."""
    lead = before[before.rfind("\n") + 1 :]
    lines = new.split("\n")
    if not lead.strip() and lines[0][:1].isspace() and lines[0].strip():
        return True
    uses_tabs, unit = indent_style(document, language)
    depth = bracket_depth(lead + lines[0])
    for line in lines[1:]:
        indent = line[: len(line) - len(line.lstrip(" \t"))]
        free = depth > 0 or line.lstrip()[:1] in tuple(_CLOSING) or line.lstrip().startswith("*")
        depth += bracket_depth(line)
        if not line.strip() or not indent:
            continue
        if ("\t" in indent) != uses_tabs or " \t" in indent:
            return True
        if not free and not uses_tabs and len(indent) % unit:
            return True
    return False


def bracket_depth(line: str) -> int:
    """Round and square brackets opened less those closed in one line; strings are left out. Braces make blocks."""
    code = _STRINGS.sub("", line)
    return sum(code.count(char) for char in "([") - sum(code.count(char) for char in ")]")


def indent_style(text: str, language: Language) -> tuple[bool, int]:
    """Whether text is indented by tabs, and by how many spaces otherwise: the commonest step from line to line."""
    widths: dict[int, int] = {}
    num_tabs = num_spaces = last = 0
    for line in text.split("\n"):
        if not (body := line.lstrip(" \t")).strip():
            continue
        indent = line[: len(line) - len(body)]
        num_tabs += indent.startswith("\t")
        num_spaces += indent.startswith(" ")
        step = len(indent) - last
        if 2 <= step <= 8 and "\t" not in indent:
            widths[step] = widths.get(step, 0) + 1
        last = len(indent)
    if num_tabs != num_spaces:
        uses_tabs = num_tabs > num_spaces
    else:
        uses_tabs = language.indent == "\t"
    default = len(language.indent) if language.indent != "\t" else 4
    return uses_tabs, max(widths, key=lambda step: (widths[step], -step)) if widths else default


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def mean(values: Iterable[float]) -> float:
    """The mean; NaN of nothing."""
    found = list(values)
    return math.fsum(found) / len(found) if found else math.nan


def interval(num_hits: int, num_all: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a rate, 95 % by default: honest at 0 of few. Source: Wilson 1927."""
    if not num_all:
        return 0.0, 1.0
    rate, spread = num_hits / num_all, z * z / num_all
    centre = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(rate * (1 - rate) / num_all + spread / (4 * num_all))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Showing only proposals of at least this confidence: the share of holes that get one, and of exact ones in it."""

    min_confidence: float
    coverage: float
    precision: float


def coverage_curve(pairs: Sequence[tuple[float, bool]], num_all: int) -> list[CurvePoint]:
    """Coverage and precision at every confidence that occurs, from the strictest on; at most 50 points.

    pairs: confidence and exactness of each proposal that has one. num_all: number of holes.
    """
    ordered = sorted(pairs, reverse=True)
    points: list[CurvePoint] = []
    num_exact = 0
    for number, (confidence, is_exact) in enumerate(ordered, 1):
        num_exact += is_exact
        if number == len(ordered) or ordered[number][0] < confidence:
            points.append(CurvePoint(confidence, number / num_all, num_exact / number))
    step = max(1, math.ceil(len(points) / 50))
    return points[::-1][::step][::-1]


def calibration_error(pairs: Sequence[tuple[float, bool]], num_bins: int = 10) -> float:
    """Expected calibration error: the mean distance of confidence and exactness over equal bins; NaN of nothing."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, is_exact in pairs:
        bins.setdefault(min(num_bins - 1, int(confidence * num_bins)), []).append((confidence, is_exact))
    gaps = [abs(mean(c for c, _ in part) - mean(e for _, e in part)) * len(part) for part in bins.values()]
    return math.fsum(gaps) / len(pairs) if pairs else math.nan
