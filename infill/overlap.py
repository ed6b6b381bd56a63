"""Where a middle repeats what already stands around it: the tail of its line, the lines below, or itself.

Pure functions on text. Knows no document, no language and no syntax tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_LOOP = re.compile(r"([^\n]{0,12}?[A-Za-z][^\n]{0,20}?)\1{4,}")
MAX_SAME = 16
"""A letter may stand so often in a row: 0xFFFFFFFFFFFFFFFF."""

_LETTER_IN_QUOTES = re.compile(r"['\"][^'\"]*[^\W\d_]")
_SENTENCE_END = re.compile(r"\s.*[.!?)`]$")
_SPACE = re.compile(r"\s+")
_BLOCK_END = re.compile(r"(?:end|fi|done|esac)\W*")
_MARKS = ")]}>,;:"
_QUOTES = "\"'`"


def normalized(line: str) -> str:
    """A line without its white space, for comparison."""
    return _SPACE.sub("", line)


def is_substantive(line: str) -> bool:
    """Whether a line says something, so that saying it twice is a repetition: brackets and `else:` are not enough."""
    return has_words(line) and normalized(line) not in ("else:", "}else{", "try:", "try{")


def has_words(line: str) -> bool:
    """Whether there is more than marks and a digit in a line: two letters or digits, or a letter in quotes.

    A word that closes a block is such a mark where a language has no braces.
    """
    if _BLOCK_END.fullmatch(line.strip()):
        return False
    num_alnum = sum(char.isalnum() for char in line)
    return num_alnum >= 2 or (num_alnum == 1 and _LETTER_IN_QUOTES.search(line) is not None)


def overlap_variants(middle: str, tail: str) -> list[str]:
    """The middle as it may be meant, given what stands right of it: the wanted readings, best first.

    tail: the rest of the line. A longer overlap comes first where it is a whole tail or at least three characters; the
    caller decides among them by what the result looks like. White space is no difference. A whole tail that is more
    than closing marks is never meant twice, however broken the text around is; nor are quotes and nothing else.
    """
    tail = tail.rstrip()
    wanted = normalized(tail)
    if not wanted or "\n" in middle:
        return [middle]
    sure: list[str] = []
    perhaps: list[str] = []
    body = middle.rstrip()
    squeezed = normalized(body)
    # what stood between the two still has to, unless the tail brings its own
    keeps_space = not tail[0].isspace()
    is_text = bool(wanted.strip(_MARKS + _QUOTES))
    if squeezed.endswith(wanted) and (is_text or (squeezed == wanted and wanted.strip(_MARKS))):
        return [_without_last(body, len(wanted), keeps_space)]
    for size in range(min(len(wanted), len(squeezed)), 0, -1):
        if not squeezed.endswith(wanted[:size]):
            continue
        shorter = _without_last(body, size, keeps_space)
        if size == len(wanted) or size >= 3:
            sure.append(shorter)
        else:
            perhaps.append(shorter)
    # at a tie the first wins: remove a sure overlap, keep a doubtful one
    return [*sure[:2], middle, *perhaps[:2]]


def _without_last(text: str, num_visible: int, keeps_space: bool) -> str:
    end = len(text)
    while num_visible:
        end -= 1
        num_visible -= not text[end].isspace()
    return text[:end] if keeps_space else text[:end].rstrip(" \t")


def repeats_below(lines: list[str], below: list[str]) -> int | None:
    """The index of the first line from which on lines repeat the lines below the gap, or None.

    lines: the proposal's lines, blank ones included; below: the lines under the gap that are not blank.
    """
    shown = [normalized(line) for line in lines]
    wanted = [normalized(line) for line in below]
    for i in range(len(shown)):
        run = [line for line in shown[i:] if line]
        if not run or not shown[i] or len(run) > len(wanted) or run != wanted[: len(run)]:
            continue
        if any(is_substantive(line) for line in run):
            return i
    return None


def runs_into(before: str, tail: str, is_word: Callable[[str], bool]) -> bool:
    """Whether what stands on the line up to here and what stands right of it would become one word, or be a string with
    something attached to it. tail: not what before ends with.
    """
    last, first = before[-1:], tail[:1]
    if last and last in "\"'" and before.count(last) % 2 == 0:
        return is_word(first) or (bool(first) and first in "\"'")
    return is_word(last) and is_word(first)


def is_stuck_sentence(middle: str, tail: str) -> bool:
    """Whether words of prose that end something would be followed by a word without a blank: it was another line's."""
    return tail[:1].isalnum() and _SENTENCE_END.search(middle) is not None


def is_loop(text: str) -> bool:
    """Whether text says the same thing over and over: what a small model does when it is lost."""
    # one letter many times is a number, a colour or a pattern of file names
    if any(len(set(match[1])) > 1 or len(match[0]) > MAX_SAME for match in _LOOP.finditer(text)):
        return True
    lines = [normalized(line) for line in text.split("\n") if line.strip()]
    for period in range(1, len(lines) // 3 + 1):
        for i in range(len(lines) - 3 * period + 1):
            unit = lines[i : i + period]
            if any(is_substantive(line) for line in unit) and lines[i : i + 3 * period] == unit * 3:
                return True
    return False
