"""From the model's text to a proposal: cut at the natural end, fit it to what stands around it, or refuse it.

Refusing is better than showing rubbish, and better than showing half of something: a result is cut only where it ends
by nature (line, block, suffix). Knows no token and no model. Reasons of refusal, stable keys: "empty", "garbled",
"unfinished", "repeats-suffix", "repeats-prefix", "repetition", "indentation", "syntax", "unchanged".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .brackets import LineEnd, line_ends, scan_brackets
from .languages import PLAIN_TEXT, Language
from .overlap import has_words, is_loop, is_stuck_sentence, normalized, overlap_variants, repeats_below, runs_into
from .restyle import columns, restyled
from .snapshot import Snapshot, width_of
from .span import Gap, Scene, Surroundings, is_closed, is_closing, is_label, opens_block, surroundings
from .syntax import SyntaxTree
from .unclosed import due_after

_GARBLED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Trimmed:
    """Text to put in place of the gap, lead and tail included. middle: the model's part of it.

    due: the marks that close the brackets which text ends with, and leaves to the user to close.
    """

    text: str
    middle: str
    due: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A result that is not shown. reason: a short stable key."""

    reason: str


def trim(raw: str, is_complete: bool, gap: Gap, scene: Scene, *, is_gated: bool = True) -> Trimmed | Refusal:
    """What to show of a model's middle.

    raw: the decoded middle. is_complete: whether the model ended it by an end or stop token. is_gated: whether new
    syntax errors are a reason to refuse.
    """
    snapshot, tree = scene.snapshot, scene.tree
    here = surroundings(snapshot, gap.start, gap.end)
    middle = raw.replace("\r\n", "\n").replace("\r", "\n")
    if _GARBLED.search(middle):
        return Refusal("garbled")
    ends: list[LineEnd] = []
    if gap.is_multiline:
        ends = line_ends(tree.language, middle)
        middle = restyled(middle, ends, gap.indent, scene.indent, tree.language)
    ended = _natural_end(middle, ends, is_complete, gap, here, scene)
    if isinstance(ended, Refusal):
        return ended
    middle = _without_edges(ended, gap, here)
    if not middle.strip():
        return Refusal("empty")
    fitted = _fitted(middle, gap, here, scene)
    if isinstance(fitted, Refusal):
        return fitted
    if fitted.strip() == ";" and _ends_nothing(gap, scene):
        return Refusal("empty")
    newline = snapshot.newline(gap.start, tree.language.newline)
    closed = gap.closed.rstrip()
    for at in range(len(closed)):
        if is_closed(here.head + gap.lead + fitted, closed[at:], tree.language):
            # it ends before what the editor has closed, or between two marks of it
            fitted += closed[at:]
            break
    middle = fitted.replace("\n", newline)
    text = _lead(gap, middle, scene) + middle + gap.tail
    if text == snapshot.text[gap.start : gap.end]:
        return Refusal("unchanged")
    if closed and text.removeprefix(gap.lead).strip() == closed.strip():
        return Refusal("empty")
    if gap.is_multiline and not _is_indented_well(fitted, gap, tree.language):
        return Refusal("indentation")
    due: str | None = ""
    if is_gated:
        # what is there already stays there, and the user may go on behind it
        stays = len(gap.closed) if closed and text.endswith(closed) else 0
        new = text.removesuffix(closed) if stays else text
        due = due_after(tree, snapshot, gap.start, gap.end - stays, new, _is_body_due(gap, here, snapshot))
    return Trimmed(text, middle, due) if due is not None else Refusal("syntax")


def _lead(gap: Gap, middle: str, scene: Scene) -> str:
    """The gap's lead; a bracket that closes stands one level further out than what it encloses, and so do labels where
    the next one does; a directive stands at the margin."""
    language, indent = scene.language, scene.indent
    level = gap.lead.rpartition("\n")[2]
    has_line = level != gap.lead or scene.snapshot.line_start(gap.start) == gap.start
    if level.strip(" \t") or not has_line:
        return gap.lead
    if middle.startswith(language.margin_marks):
        return gap.lead.removesuffix(level)
    closes = middle[:1] in {pair[1] for pair in language.brackets} and level == gap.lead
    width = columns(gap.indent, indent)
    first, *others = middle.split("\n")
    labels = (line for line in others if is_label(line, language))
    if closes or (is_label(first, language) and any(columns(line, indent) < width for line in labels)):
        return gap.lead.removesuffix(indent.unit)
    return gap.lead


def _is_body_due(gap: Gap, here: Surroundings, snapshot: Snapshot) -> bool:
    """Whether a header may stand without its body: the user began its line, or nothing of a block follows directly."""
    if gap.is_multiline or gap.is_edit:
        return False
    return bool(here.head.strip()) or not snapshot.followed_by(gap.end, gap.indent)


def _natural_end(
    middle: str, ends: list[LineEnd], is_complete: bool, gap: Gap, here: Surroundings, scene: Scene
) -> str | Refusal:
    if gap.extent == "span":
        return middle if is_complete else Refusal("unfinished")
    if gap.extent == "block":
        return _block_end(middle, ends, is_complete, gap, scene)
    line, newline, _ = middle.partition("\n")
    if not newline and not is_complete:
        return Refusal("unfinished")
    if newline and is_closed(here.head + gap.lead + line, gap.closed, scene.language):
        # it goes on inside of the brackets in the next line
        return Refusal("unfinished")
    tail = here.tail.strip()
    if gap.extent == "node" and newline and tail and not normalized(line).endswith(normalized(tail)):
        # the model wrote on past the line although code stands to the right: what it meant to put there is unknown
        is_cut = _up_to_closed(here.head + gap.lead, line, tail, gap, scene.tree) != line
        return line if is_cut else Refusal("unfinished")
    return line


def _block_end(middle: str, ends: list[LineEnd], is_complete: bool, gap: Gap, scene: Scene) -> str | Refusal:
    """The lines of middle that belong to the block: until one is indented less, or closes more than was opened."""
    language, indent = scene.language, scene.indent
    lines = middle.split("\n")
    width = columns(gap.indent, indent)
    end = len(lines) if is_complete else len(lines) - 1
    for i, line in enumerate(lines[:end]):
        if line.lstrip(" \t").startswith(language.margin_marks):
            continue
        # what stands inside of a string or a comment has no level
        is_level = i and line.strip() and ends[i - 1].state == "code" and not is_label(line, language)
        is_closed = language.blocks == "braces" and ends[i].num_braces < 0
        if is_closed or (is_level and columns(line, indent) < width):
            end = i
            break
    if end == 0:
        return Refusal("empty" if is_complete else "unfinished")
    kept = lines[:end]
    while kept and not kept[-1].strip():
        kept.pop()
    if kept and opens_block(kept[-1], language) and end < len(lines):
        # the header of a block that was cut off would be half of something
        return Refusal("unfinished")
    return "\n".join(kept)


def _without_edges(middle: str, gap: Gap, here: Surroundings) -> str:
    """Middle without the white space that its canonical form does not have."""
    blanks = " \t" if gap.extent == "span" else " \t\n"
    head = gap.lead or here.head
    if not head or head[-1].isspace():
        middle = middle.lstrip(blanks)
    if gap.tail or not here.tail or here.tail[0].isspace():
        middle = middle.rstrip(blanks)
    return middle


def _fitted(middle: str, gap: Gap, here: Surroundings, scene: Scene) -> str | Refusal:
    """Middle without what already stands to its right and below it, and no repetition of the lines around it."""
    head = (here.head + gap.lead).rsplit("\n", 1)[-1]
    beside = middle if gap.tail else _beside(head, middle, here.tail, gap, scene.tree)
    if isinstance(beside, Refusal):
        return beside
    return _between(head, beside, gap, here, scene.snapshot) if beside.strip() else Refusal("empty")


def _beside(head: str, middle: str, tail: str, gap: Gap, tree: SyntaxTree) -> str | Refusal:
    """Middle without what stands to its right already."""
    middle = _without_comment(middle, tail, gap, tree)
    closed = _up_to_closed(head, middle, tail, gap, tree)
    variants = [closed if each == middle else each for each in overlap_variants(middle, tail)]
    fitting = variants[0]
    if len(variants) > 1:
        # a bracket to the right may be the editor's or the user's: the text that is left whole knows
        fitting = min(variants, key=lambda variant: _damage_with(variant, gap, tree))
    if fitting == middle and gap.extent != "span":
        # a name or a value follows directly, and the model had another one in mind
        is_stuck = is_stuck_sentence(middle, tail) and not tree.is_code_at(gap.start)
        if is_stuck or runs_into(head + middle, tail, tree.language.is_word):
            return Refusal("syntax")
    quotes = fitting.strip()
    if quotes and not quotes.strip("\"'`") and (tail or gap.closed).startswith(quotes) and tree.is_in_string(gap.start):
        # two more quotes in front of those that end a string are an empty one behind it
        return Refusal("repeats-suffix")
    return fitting


def _between(head: str, middle: str, gap: Gap, here: Surroundings, snapshot: Snapshot) -> str | Refusal:
    """Middle up to where it repeats the lines below; none that repeats a line around it, or itself."""
    below = snapshot.lines_below(gap.end, 12)
    if gap.tail:
        below = [line for line in (*gap.tail.split("\n")[1:-1], gap.tail.split("\n")[-1] + here.tail, *below) if line]
    lines = (head + middle + (here.tail if not gap.tail else "")).split("\n")
    cut = repeats_below(lines, below)
    if cut is not None:
        if cut == 0 or not gap.is_multiline:
            return Refusal("repeats-suffix")
        middle = "\n".join(middle.split("\n")[:cut]).rstrip(" \t\n")
        lines = lines[:cut]
        if not middle.strip():
            return Refusal("repeats-suffix")
    if len(lines) == 1 and below and _is_same(middle, below[0]):
        return Refusal("repeats-suffix")
    above = snapshot.line_above(gap.start)
    if _is_same(lines[0], above) or _is_same(middle, above):
        return Refusal("repeats-prefix")
    if is_loop(middle):
        return Refusal("repetition")
    return middle


def _up_to_closed(head: str, middle: str, tail: str, gap: Gap, tree: SyntaxTree) -> str:
    """Middle up to a bracket of its own that stands right of it already, where its line would have that once too often.

    The editor closed it by itself, and the model wrote on behind it: `x > 0) {` between `if (` and `)`.
    """
    first = tail.strip()[:1]
    if not first or first not in middle or first not in ")]}" or not is_closing(tail, tree.language):
        return middle
    # inside of a string or a comment quotes are no marks
    language = tree.language if tree.is_code_at(gap.start) else PLAIN_TEXT
    whole, own = (scan_brackets(language, line).num_stray for line in (head + middle + tail, head + tail))
    if whole <= own:
        return middle
    is_open = scan_brackets(language, head).open_brackets
    for match in re.finditer(re.escape(first), middle):
        before = scan_brackets(language, head + middle[: match.start()])
        if before.state == "code" and before.open_brackets == is_open:
            return middle[: match.start()].rstrip()
    return middle


def _without_comment(middle: str, tail: str, gap: Gap, tree: SyntaxTree) -> str:
    """Middle up to a comment that it ends with, where something stands to its right: that would be commented out."""
    marks = [mark for mark in tree.language.line_comments if mark in middle]
    if not marks or not tail.strip() or "\n" in middle or tree.is_in_comment(gap.start):
        return middle
    changed = tree.replaced(gap.start, gap.end, gap.lead + middle)
    at = gap.start + len(gap.lead)
    if not changed.is_in_comment(at + len(middle)):
        return middle
    ends = (match for mark in marks for match in re.finditer(re.escape(mark), middle))
    starts = [match.start() for match in ends if changed.is_in_comment(at + match.end())]
    return middle[: min(starts)].rstrip() if starts else middle


def _ends_nothing(gap: Gap, scene: Scene) -> bool:
    """Whether a semicolon in this gap would end no statement: behind a block it is one, or nobody writes any here."""
    around = (*scene.snapshot.lines_above(gap.start, 100), *scene.snapshot.lines_below(gap.end, 100))
    if not any(line.rstrip().endswith(";") for line in around):
        return True
    return scene.tree.replaced(gap.start, gap.end, ";").is_alone(gap.start, gap.start + 1)


def _is_same(line: str, other: str) -> bool:
    return has_words(line) and normalized(line) == normalized(other)


def _damage_with(middle: str, gap: Gap, tree: SyntaxTree) -> tuple[int, int]:
    changed = tree.replaced(gap.start, gap.end, gap.lead + middle + gap.tail)
    damage = changed.damage(tree.margins(gap.start, gap.end))
    return damage.num_unbalanced, damage.num_errors


def _is_indented_well(middle: str, gap: Gap, language: Language) -> bool:
    """Whether every line of a block goes deeper only under an opener, and comes back only to a level it left.

    Only for languages whose blocks are their indentation, and only for lines outside of brackets and strings.
    """
    if language.blocks != "indentation" or gap.extent != "block":
        return True
    levels = [len(gap.indent.expandtabs(8))]
    is_open = False
    ends = line_ends(language, middle)
    for i, line in enumerate(middle.split("\n")):
        if '"""' in line or "'''" in line:
            return True
        if i and line.strip() and ends[i - 1].depth <= 0:
            width = width_of(line, 8)
            if width > levels[-1] and not is_open:
                return False
            if width > levels[-1]:
                levels.append(width)
            while width < levels[-1]:
                levels.pop()
                if not levels or width > levels[-1]:
                    return False
        if line.strip() and not line.lstrip().startswith("#"):
            is_open = opens_block(line, language) or line.rstrip().endswith("\\")
    return True
