"""The small mends of a syntax error: a mark put in, taken out or exchanged, or a keyword spelled right.

Most broken lines are one mark away from what was meant, and the rest of them is to stay as it is. Which of several
mends is meant no grammar says; a model may. Knows no model.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rapidfuzz.distance import OSA

from .gate import adds_errors
from .languages import Language
from .snapshot import Snapshot
from .syntax import Span, SyntaxTree

MAX_DISTANCE = 4
"""How many lines away from the cursor's the place may be that mends it: an open bracket is noticed further down."""

MAX_LINE_CHARS = 400
MAX_TRIED = 2_000
MAX_S = 8.0
"""So many changes are tried, those of the nearest lines first, for so long on this thread: each takes up to a
millisecond, but a parser may be lost in odd text."""

MAX_MENDS = 24

_TOKEN = re.compile(r"\w+|[^\w\s]")
_INSERTED = (":", ",", " =", ".", ";", " in", " of", " as")
_EXCHANGED = {";": (":", ","), ":": (";", "=", ","), ",": (".", ";", ":"), ".": (",",), "=": ("==", ":")}


@dataclass(frozen=True, slots=True)
class Repair:
    """[start, end): whole lines without the white space around them. texts: what may stand there instead, the usual
    first."""

    start: int
    end: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    new: str


def is_broken_at(language: Language, text: str, offset: int) -> bool:
    """Whether a syntax error touches the line of an offset."""
    return _is_broken(SyntaxTree.around(language, text, offset, offset), Snapshot(text), offset)


def _is_broken(tree: SyntaxTree, snapshot: Snapshot, offset: int) -> bool:
    low, high = snapshot.line_start(offset), snapshot.line_end(offset)
    return bool(snapshot.text[low:high].strip()) and _touches(tree, low, high)


def _touches(tree: SyntaxTree, low: int, high: int) -> bool:
    return any(start <= high and end >= low for start, end in tree.error_spans())


def repair_at(language: Language, text: str, offset: int) -> Repair | None:
    """What mends the error on the line of an offset, from the nearest lines that can; None where there is no error.

    Where no small change does, the line itself and no texts.
    """
    snapshot, tree = Snapshot(text), SyntaxTree.around(language, text, offset, offset)
    if not _is_broken(tree, snapshot, offset):
        return None
    own = _content(snapshot, offset, offset)
    tries = _tries()
    for lines in _around(snapshot, own):
        edits = (edit for line in lines for _, edit in zip(tries, _edits(tree, text, line), strict=False))
        found = _mending(tree, snapshot, own, edits)
        if found:
            start, end = _content(snapshot, min(edit.start for edit in found), max(edit.end for edit in found))
            texts = (text[start : edit.start] + edit.new + text[edit.end : max(end, edit.end)] for edit in found)
            return Repair(start, end, tuple(dict.fromkeys(each.rstrip() for each in texts)))
    return Repair(*own, ())


def _tries() -> Iterator[None]:
    until = time.thread_time() + MAX_S
    for _ in range(MAX_TRIED):
        if time.thread_time() >= until:
            return
        yield


def _content(snapshot: Snapshot, first: int, last: int) -> Span:
    """The lines from that of first to that of last, without the white space around them."""
    start = snapshot.line_start(first) + len(snapshot.indent_at(first))
    return start, start + len(snapshot.text[start : snapshot.line_end(last)].rstrip())


def _around(snapshot: Snapshot, own: Span) -> Iterator[list[Span]]:
    """The line own, then those above and below it, and so on outwards."""
    yield [own]
    above, below = own
    for _ in range(MAX_DISTANCE):
        above = snapshot.line_start(above) - 1 if above >= 0 else -1
        below = snapshot.text.find("\n", below) + 1 or len(snapshot.text)
        yield [_content(snapshot, at, at) for at in (above, below) if 0 <= at < len(snapshot.text)]


def _edits(tree: SyntaxTree, text: str, line: Span) -> Iterator[_Edit]:
    language = tree.language
    if line[1] - line[0] > MAX_LINE_CHARS or line[0] < tree.base or line[1] > tree.base + len(tree.text):
        return
    quotes = [quote for quote in language.quotes if len(quote) == 1]
    closing = "".join(pair[1] for pair in language.brackets)
    opening = [pair[0] for pair in language.brackets]
    for token in _TOKEN.finditer(text, *line):
        start, end, word = token.start(), token.end(), token.group()
        for mark in (*opening, *quotes):
            yield _Edit(start, start, mark)
        for mark in (*closing, *_INSERTED, *quotes):
            yield _Edit(end, end, mark)
        if word.isalnum():
            near = [each for each in sorted(_keywords(language)) if len(word) > 1 and OSA.distance(word, each) == 1]
            for keyword in near if word not in _keywords(language) else ():
                yield _Edit(start, end, keyword)
        else:
            # of two blanks around it, one
            is_apart = text[start - 1 : start] == " " and text[end : end + 1] == " "
            yield _Edit(start, end + is_apart, "")
            others = (*closing, ":") if word in closing else opening if word in opening else _EXCHANGED.get(word, ())
            for mark in others:
                if mark != word:
                    yield _Edit(start, end, mark)


@functools.cache
def _keywords(language: Language) -> frozenset[str]:
    """The words that a grammar knows by themselves."""
    grammar = language.load()
    if grammar is None:
        return frozenset()
    kinds = (number for number in range(grammar.node_kind_count) if not grammar.node_kind_is_named(number))
    names = (grammar.node_kind_for_id(number) for number in kinds)
    return frozenset(name for name in names if name and len(name) > 1 and name.isalpha() and name.islower())


def _mending(tree: SyntaxTree, snapshot: Snapshot, own: Span, edits: Iterable[_Edit]) -> list[_Edit]:
    """Those after which the text is least broken, less so than now, and no longer in the line own; the usual first."""
    before, num_nodes = tree.damage(), tree.num_nodes()
    fewest = before.num_errors - 1
    found: list[_Edit] = []
    for edit in edits:
        changed = tree.replaced(edit.start, edit.end, edit.new)
        # brackets last, because to count them takes longest
        num_errors = len(changed.error_spans())
        if num_errors > fewest or changed.damage().num_unbalanced > before.num_unbalanced:
            continue
        if changed.num_nodes() * 2 < num_nodes:
            # most of the window is no code any more: `<?php` became text, or a quote swallowed what follows
            continue
        moved = len(edit.new) - (edit.end - edit.start)
        low, high = (at + moved * (edit.start < at) for at in own)
        if _touches(changed, low, high) or adds_errors(tree, snapshot, edit.start, edit.end, edit.new):
            continue
        if num_errors < fewest:
            fewest, found = num_errors, []
        found.append(edit)
    return sorted(found, key=lambda edit: _rarity(edit, snapshot.text[edit.start : edit.end]))[:MAX_MENDS]


def _rarity(edit: _Edit, old: str) -> tuple[bool, bool, bool, int]:
    """How unusual an edit is: keywords are spelt wrong and marks left out, mostly at the end; few are one too many.

    Of 321 lines of Python with one such mistake, the smallest is what was meant in 294; the leftmost edit in 203.
    """
    return not old.isalnum(), not edit.new, edit.new.strip().isalpha(), -edit.start
