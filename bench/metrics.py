"""Judge one answer against what was taken out, and sum judgements up: pure functions on text and numbers.

Quality is judged on the document as the editor would leave it, with the answer's range replaced. Syntax is judged by
tree-sitter in a window around the hole, always against another state of the same window: the empty hole (was damage
introduced?) and the original (is it as sound as what was there?). Python is read by the interpreter's own parser, too:
tree-sitter forgives missing bodies and wrong indentation. Where the function is still being written, the window ends
with what is there of it, and what is open at its end is no fault (`judge_begun`). Knows no server.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from ..infill.brackets import scan_brackets
from ..infill.gate import adds_errors
from ..infill.languages import LANGUAGES, Language
from ..infill.python_parser import is_python, may_become_python
from ..infill.snapshot import Snapshot, detect_indent
from ..infill.span import opens_block
from ..infill.syntax import Span, SyntaxTree
from .written import Begun

MAX_LEFT_LINES = 40
"""So many lines of a hole are tried as what the user writes on."""

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
    is_valid: as sound as the original. has_syntax_error: less sound than the document before the proposal; for Python
    also: the original is a program, and this is none, not even when the user goes on with lines that stood there.
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
    whole = document[:cursor] + reference + document[cursor:]
    in_python = tree.language.name == "python"
    is_broken = not is_exact and in_python and _breaks_python(tree, document, whole, replaced, new)
    is_harm = is_broken or (not is_exact and result.num_errors > max(hole.num_errors, original.num_errors))
    is_harm = is_harm and not (in_python and _can_go_on(document, cursor, reference, new, replaced))
    lines, wanted_lines = clean.split("\n"), _without_trailing_space(wanted).split("\n")
    return Judgement(
        is_exact=is_exact,
        is_line_exact=bool(lines[0]) and lines[0] == wanted_lines[0],
        is_prefix=is_exact or (bool(clean.strip()) and lines == wanted_lines[: len(lines)]),
        similarity=Levenshtein.normalized_similarity(clean, _without_trailing_space(wanted)),
        is_valid=not is_broken and not result.exceeds(original),
        has_syntax_error=is_harm,
        has_unbalanced=not is_exact and result.num_unbalanced > max(hole.num_unbalanced, original.num_unbalanced),
        has_repeated_suffix=not is_exact and repeats_suffix(new, after, reference),
        has_wrong_indent=not is_exact and has_wrong_indent(_BY_NAME[language_name], before, new, whole),
    )


def judge_begun(
    begun: Begun, cursor: int, reference: str, new: str, language_name: str, *, replaced: Span
) -> Judgement:
    """Judge putting new in place of replaced in a document whose function is written up to the cursor.

    Exact is the author's line (or lines): marks that an editor put behind the cursor, and that the author types in a
    later line, are no difference. Syntax is judged up to the end of what is there of the function, so that what closes
    something is no fault, nor what the author can go on from, and the author's own first lines have none.
    has_syntax_error: no Python begins like this, and some does with the reference; elsewhere, when what is open at the
    end is closed, more errors than before and with the reference. has_unbalanced: more brackets and quotes are open
    than before and with the reference, or more of them close nothing.
    """
    if not new.strip():
        return NOTHING
    document, language = begun.text, _BY_NAME[language_name]
    beside = cursor + sum(len(mark) for mark, _ in begun.beside)
    low, high = min(cursor, replaced[0]), max(beside, replaced[1])
    wanted = _without_trailing_space(document[low:cursor] + reference + document[beside:high])
    given = _without_trailing_space(document[low : replaced[0]] + new + document[replaced[1] : high])
    kept = begun.kept(reference, given.count("\n") + 1)
    lines, wanted_lines = given.split("\n"), wanted.split("\n")
    if lines != wanted_lines[: len(lines)]:
        lines[-1] = _without_marks(lines[-1], kept, "".join(wanted_lines[len(lines) - 1 : len(lines)]))
    clean = "\n".join(lines)
    is_exact = clean == wanted
    is_prefix = is_exact or (bool(clean.strip()) and lines == wanted_lines[: len(lines)])

    reach = max(begun.reach, replaced[1])
    author = document[:cursor] + reference + begun.kept(reference, reference.count("\n") + 1) + document[beside:reach]
    result = document[: replaced[0]] + new + document[replaced[1] : reach]
    tree = SyntaxTree.around(language, document[:reach], low, high)
    empty, right, made = (_ending(tree, each) for each in (document[:reach], author, result))
    if language.name == "python" and may_become_python(author):
        # an end that the author goes on from is an error to the tree: a decorator, an operator in brackets
        is_harm = is_worse = not may_become_python(result)
    else:
        is_harm = made.num_errors > max(empty.num_errors, right.num_errors)
        is_worse = made.num_errors > right.num_errors
    has_more_open = made.num_open > max(empty.num_open, right.num_open)
    has_more_stray = made.num_stray > max(empty.num_stray, right.num_stray)
    # what a perfect proposal has to say, where the marks behind the cursor stay
    ending = "".join(mark for mark, _ in begun.beside)
    return Judgement(
        is_exact=is_exact,
        is_line_exact=bool(lines[0]) and lines[0] == wanted_lines[0],
        is_prefix=is_prefix,
        similarity=Levenshtein.normalized_similarity(clean, wanted),
        is_valid=is_exact or not (is_worse or made.num_open > right.num_open or made.num_stray > right.num_stray),
        has_syntax_error=not is_prefix and is_harm,
        has_unbalanced=not is_prefix and (has_more_open or has_more_stray),
        has_repeated_suffix=not is_prefix
        and repeats_suffix(new, document[replaced[1] :], reference.rstrip().removesuffix(ending)),
        has_wrong_indent=not is_prefix
        and has_wrong_indent(language, document[: replaced[0]], new, document[:cursor] + reference + document[reach:]),
    )


def _without_marks(line: str, kept: str, wanted: str) -> str:
    """A line without the marks at its end that an editor keeps there; as few of them as make it what is wanted."""
    ends = (line.removesuffix(kept[number:]) for number in reversed(range(len(kept))))
    return next((end for end in ends if end == wanted), line.removesuffix(kept))


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a text ends. num_open: brackets and quotes. num_errors, num_stray: what is damaged when those are closed."""

    num_open: int
    num_errors: int
    num_stray: int


def _ending(tree: SyntaxTree, text: str) -> _Ending:
    """How the beginning of a document ends, read from where the window of tree begins."""
    part = text[tree.base :]
    scan = scan_brackets(tree.language, part)
    # a comment of one line has no mark that ends it
    ending = (scan.mark or "\n" * (scan.state == "comment")) + "".join(reversed(scan.open_brackets))
    closed = SyntaxTree.parse(tree.language, part + ending, tree.base, tree).damage()
    num_open = len(scan.open_brackets) + (scan.state == "string")
    return _Ending(num_open, closed.num_errors, closed.num_unbalanced)


def _breaks_python(tree: SyntaxTree, document: str, whole: str, replaced: Span, new: str) -> bool:
    """Whether Python accepts the original document and not this one; a header that awaits its body is forgiven."""
    start, end = replaced
    if is_python(document[:start] + new + document[end:]) or not is_python(whole):
        return False
    snapshot = Snapshot(document)
    has_begun = bool(document[snapshot.line_start(start) : start].strip())
    newline = document.find("\n", end)
    is_followed = newline >= 0 and bool(snapshot.line_at(newline + 1).strip())
    if "\n" in new or not (has_begun or not is_followed):
        return True
    # such a header is what the gate refuses unless a body may be due
    is_header = adds_errors(tree, snapshot, start, end, new) and not adds_errors(
        tree, snapshot, start, end, new, is_body_due=True
    )
    return not is_header


def _can_go_on(document: str, cursor: int, reference: str, new: str, replaced: Span) -> bool:
    """Whether lines of the reference behind new make a program of it: one line is no harm where there were several."""
    lines = reference.split("\n")
    before, after = document[: replaced[0]] + new, document[max(cursor, replaced[1]) :]
    return any(is_python("\n".join((before, *lines[k:])) + after) for k in range(1, min(len(lines), MAX_LEFT_LINES)))


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
    reverse, a width that no indentation of this document makes, or a step under an opener that is not one level
    (lines inside brackets or strings are free). document: what its own indentation is read from."""
    lead = before[before.rfind("\n") + 1 :]
    lines = new.split("\n")
    if not lead.strip() and lines[0][:1].isspace() and lines[0].strip():
        return True
    uses_tabs, unit = indent_style(document, language)
    level = 1 if uses_tabs else unit
    above = lead + lines[0]
    depth, in_string = bracket_depth(above), _ends_in_string(above, language, False)
    for line in lines[1:]:
        indent = _indent_of(line)
        free = depth > 0 or in_string or line.lstrip()[:1] in tuple(_CLOSING) or line.lstrip().startswith("*")
        depth += bracket_depth(line)
        in_string = _ends_in_string(line, language, in_string)
        if not line.strip():
            continue
        if indent and (("\t" in indent) != uses_tabs or " \t" in indent):
            return True
        step = len(indent) - len(_indent_of(above))
        # less than a step is no level at all: a syntax error, or the end of a header over several lines
        is_odd_step = step > 0 and step != level and opens_block(above, language)
        if not free and (is_odd_step or (not uses_tabs and len(indent) % unit)):
            return True
        above = line
    return False


def _indent_of(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _ends_in_string(line: str, language: Language, in_string: bool) -> bool:
    """Whether a string over several lines is open behind line. in_string: whether one was before it."""
    # a mark of one character is also a common string's: it would have to be read, not counted
    count = sum(line.count(mark) for mark in language.multiline_quotes if len(mark) > 1)
    return in_string != bool(count % 2)


def bracket_depth(line: str) -> int:
    """Round and square brackets opened less those closed in one line; strings are left out. Braces make blocks."""
    code = _STRINGS.sub("", line)
    return sum(code.count(char) for char in "([") - sum(code.count(char) for char in ")]")


def indent_style(text: str, language: Language) -> tuple[bool, int]:
    """Whether text is indented by tabs, and by how many spaces otherwise, as infill reads it; what is usual in the
    language where it shows none."""
    shown = detect_indent(text)
    if shown is not None:
        return shown.is_tabs, shown.width
    return language.indent == "\t", 4 if language.indent == "\t" else len(language.indent)


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
