"""A bracket scanner that knows comments and strings: what is open at an offset, and how many brackets match nothing.

One regular expression per language and no tree, so it also serves languages without a grammar, and sees the
unterminated string or bracket that a parser's error recovery may hide. Knows no document and no proposal.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import Literal

from .languages import Language

State = Literal["code", "comment", "string"]


@dataclass(frozen=True, slots=True)
class BracketScan:
    """open_brackets: the closing marks still awaited, outermost first. num_stray: closing marks that match nothing.
    strays: those that nothing is open for, in their order.

    num_unterminated: strings that end with their line or with the text. state: what the end of the text is inside of.
    mark: what would end the string or the block comment that the text ends in; "" for none.
    """

    open_brackets: tuple[str, ...]
    num_stray: int
    num_unterminated: int
    state: State
    mark: str = ""
    strays: tuple[str, ...] = ()

    @property
    def num_unbalanced(self) -> int:
        return len(self.open_brackets) + self.num_stray + self.num_unterminated


@dataclass(frozen=True, slots=True)
class LineEnd:
    """What is open where a line ends, counted from the beginning of the text, which is taken for code.

    depth, num_braces: all brackets, and braces alone; below 0 where more were closed than opened. innermost: the
    bracket that was opened last and is still open, or "". aligned_with: the number of its line where something stands
    behind it, so that what follows is aligned with that; -1 for a bracket that ends its line, or none.
    """

    depth: int
    num_braces: int
    innermost: str
    aligned_with: int
    state: State


@functools.cache
def _pattern(language: Language) -> re.Pattern[str]:
    parts: list[str] = []
    comments = [rf"{re.escape(first)}.*?(?:{re.escape(last)}|\Z)" for first, last in language.block_comments]
    comments += [rf"{re.escape(mark)}[^\n]*" for mark in language.line_comments]
    if comments:
        parts.append(f"(?P<comment>{'|'.join(comments)})")
    parts += language.literals
    strings: list[str] = []
    for quote in language.quotes:
        mark = re.escape(quote)
        if quote in language.multiline_quotes:
            strings.append(rf"{mark}(?:[^\\]|\\.)*?(?:{mark}|\Z)")
        else:
            # behind a backslash a line may go on, whatever ends it
            strings.append(rf"{mark}(?:[^{mark}\\\n]|\\(?:\r\n|.))*(?:{mark}|(?=\n)|\Z)")
    if strings:
        parts.append(f"(?P<string>{'|'.join(strings)})")
    parts.append(f"(?P<bracket>[{re.escape(''.join(language.brackets))}])")
    return re.compile("|".join(parts), re.DOTALL)


@functools.cache
def _marks(language: Language) -> re.Pattern[str]:
    """What _pattern finds, and commas."""
    return re.compile(f"{_pattern(language).pattern}|(?P<comma>,)", re.DOTALL)


def scan_brackets(language: Language, text: str, end: int | None = None) -> BracketScan:
    """Scan text[:end] from its beginning, which is taken for code."""
    end = len(text) if end is None else end
    closing = {pair[0]: pair[1] for pair in language.brackets}
    awaited: list[str] = []
    strays: list[str] = []
    num_stray = num_unterminated = 0
    state: State = "code"
    mark = ""
    for match in _pattern(language).finditer(text, 0, end):
        kind = match.lastgroup
        if kind == "bracket":
            char = match.group()
            if char in closing:
                awaited.append(closing[char])
            elif char in awaited:
                # what was opened inside and never closed is unbalanced; going on from the match keeps the count small
                while awaited.pop() != char:
                    num_stray += 1
            else:
                num_stray += 1
                strays.append(char)
        elif kind == "string":
            quote = next(mark for mark in language.quotes if match.group().startswith(mark))
            is_closed = len(match.group()) >= 2 * len(quote) and match.group().endswith(quote)
            num_unterminated += not is_closed
            if match.end() == end and not is_closed:
                state, mark = "string", quote
        elif kind == "comment" and match.end() == end:
            opened = [pair for pair in language.block_comments if match.group().startswith(pair[0])]
            is_line = bool(language.line_comments) and match.group().startswith(language.line_comments)
            is_closed = not is_line and match.group().endswith(tuple(pair[1] for pair in language.block_comments))
            state = "code" if is_closed else "comment"
            mark = opened[0][1] if opened and state == "comment" and not is_line else ""
    return BracketScan(tuple(awaited), num_stray, num_unterminated, state, mark, tuple(strays))


def open_at_end(language: Language, text: str) -> list[int] | None:
    """Where the brackets stand that are open where text ends, outermost first; None where it ends in no code.

    text begins in code. A closing mark that matches nothing says nothing.
    """
    closing = {pair[0]: pair[1] for pair in language.brackets}
    found: list[int] = []
    for match in _pattern(language).finditer(text):
        if match.lastgroup == "bracket":
            char = match.group()
            if char in closing:
                found.append(match.start())
            elif found and closing[text[found[-1]]] == char:
                found.pop()
        elif match.end() == len(text) and match.lastgroup in ("comment", "string"):
            quotes = language.quotes if match.lastgroup == "string" else tuple(m for _, m in language.block_comments)
            # whether it is over
            if not match.group()[1:].endswith(quotes or ("\n",)):
                return None
    return found


@functools.cache
def _block_pattern(language: Language) -> re.Pattern[str]:
    """Brackets, and the words that open and close blocks: groups o0, c0, o1, c1 ..."""
    brackets = re.escape("".join(language.brackets))
    words = (f"(?P<c{i}>{closes})|(?P<o{i}>{opens})" for i, (opens, closes, _) in enumerate(language.word_blocks))
    return re.compile("|".join((f"(?P<bracket>[{brackets}])", *words)))


def scan_blocks(language: Language, text: str) -> BracketScan:
    """scan_brackets of a whole text, with what closes blocks among its brackets, where words do."""
    scan = scan_brackets(language, text)
    if not language.word_blocks:
        return scan
    closing = {pair[0]: pair[1] for pair in language.brackets}
    awaited: list[str] = []
    strays: list[str] = []
    num_skipped = 0
    # a string is a value: `a = "" if b` is no `a = if b`
    for match in _block_pattern(language).finditer(code_of(language, text, '""')):
        kind, mark = match.lastgroup or "", match.group()
        if mark in closing or kind[0] == "o":
            awaited.append(closing[mark] if mark in closing else language.word_blocks[int(kind[1:])][2])
            continue
        if kind != "bracket":
            mark = language.word_blocks[int(kind[1:])][2]
        if mark in awaited:
            while awaited.pop() != mark:
                num_skipped += 1
        else:
            strays.append(mark)
    return replace(
        scan, open_brackets=tuple(awaited), strays=tuple(strays), num_stray=num_skipped + len(strays)
    )


def elements_at(language: Language, text: str, start: int, end: int | None = None) -> tuple[list[str], int] | None:
    """What stands between the bracket at start and the one that closes it, by its commas, and where that one stands.

    An element after which nothing more stands is one, too. None where nothing closes it before end.
    """
    closing = {pair[0]: pair[1] for pair in language.brackets}
    awaited: list[str] = []
    elements: list[str] = []
    at = start + 1
    for match in _marks(language).finditer(text, start, len(text) if end is None else end):
        char = match.group()
        if match.lastgroup == "comma":
            if len(awaited) == 1:
                elements.append(text[at : match.start()].strip())
                at = match.end()
        elif match.lastgroup == "bracket" and char in closing:
            awaited.append(closing[char])
        elif match.lastgroup == "bracket":
            if not awaited or awaited.pop() != char:
                return None
            if not awaited:
                return [*elements, text[at : match.start()].strip()], match.start()
    return None


def code_of(language: Language, text: str, string: str = " ") -> str:
    """A text that begins in code, with a blank in the place of each comment, and string in that of each string."""
    marks = {"comment": " "}
    return _pattern(language).sub(
        lambda match: match.group() if match.lastgroup == "bracket" else marks.get(match.lastgroup or "", string), text
    )


def line_ends(language: Language, text: str) -> list[LineEnd]:
    """The end of each line of text, in one pass."""
    opening = {pair[0] for pair in language.brackets}
    ends: list[LineEnd] = []
    open_marks: list[tuple[str, int]] = []
    depth = num_braces = at = 0

    def end_lines(until: int, state: State) -> None:
        num_lines = text.count("\n", at, until)
        if num_lines:
            innermost, aligned_with = open_marks[-1] if open_marks else ("", -1)
            ends.extend([LineEnd(depth, num_braces, innermost, aligned_with, state)] * num_lines)

    for match in _pattern(language).finditer(text):
        end_lines(match.start(), "code")
        at = match.start()
        if match.lastgroup == "bracket":
            char = match.group()
            step = 1 if char in opening else -1
            depth += step
            num_braces += step * (char in "{}")
            if step > 0:
                newline = text.find("\n", match.end())
                rest = text[match.end() : newline if newline >= 0 else len(text)]
                open_marks.append((char, len(ends) if rest.strip() else -1))
            elif open_marks:
                open_marks.pop()
        else:
            end_lines(match.end(), "comment" if match.lastgroup == "comment" else "string")
        at = match.end()
    end_lines(len(text), "code")
    innermost, aligned_with = open_marks[-1] if open_marks else ("", -1)
    return [*ends, LineEnd(depth, num_braces, innermost, aligned_with, "code")]
