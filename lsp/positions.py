"""Lines and columns: between LSP positions in utf-8, utf-16 or utf-32 and code-point columns of a Python str.

A line ends with LF, CR LF or CR, as LSP says, and with nothing else (str.splitlines knows more). Knows no document.
"""

from __future__ import annotations

import re
from typing import Literal

Encoding = Literal["utf-8", "utf-16", "utf-32"]

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)")


def as_encoding(name: str | None) -> Encoding:
    """The negotiated encoding; LSP's default is utf-16."""
    return "utf-8" if name == "utf-8" else "utf-32" if name == "utf-32" else "utf-16"


def split_lines(text: str) -> list[str]:
    """Lines with their terminators; the last one has none and may be empty, so there is always at least one."""
    if "\r" not in text:
        lines = text.split("\n")
        return [line + "\n" for line in lines[:-1]] + lines[-1:]
    lines = _LINE.findall(text)
    return [*lines, text[sum(map(len, lines)) :]]


def content_length(line: str) -> int:
    """Code points of line without its terminator."""
    if line.endswith("\r\n"):
        return len(line) - 2
    return len(line) - 1 if line.endswith(("\n", "\r")) else len(line)


def num_units(text: str, encoding: Encoding) -> int:
    """Code units of text in the encoding. A lone surrogate counts as the client's encoder would write it."""
    if encoding == "utf-32" or text.isascii():
        return len(text)
    if encoding == "utf-16":
        return len(text.encode("utf-16-le", "surrogatepass")) // 2
    return len(text.encode("utf-8", "surrogatepass"))


def column_at(line: str, character: int, encoding: Encoding) -> int:
    """Code-point column of a character count, at most the end of the content; inside a character, its start."""
    limit = content_length(line)
    if encoding == "utf-32" or line.isascii():
        return min(max(character, 0), limit)
    if encoding == "utf-16":
        data = line[:limit].encode("utf-16-le", "surrogatepass")
        cut = min(max(character, 0) * 2, len(data))
        if splits_pair(data, cut):
            cut -= 2
        return len(data[:cut].decode("utf-16-le", "surrogatepass"))
    data = line[:limit].encode("utf-8", "surrogatepass")
    cut = min(max(character, 0), len(data))
    while 0 < cut < len(data) and data[cut] & 0xC0 == 0x80:
        cut -= 1
    return len(data[:cut].decode("utf-8", "surrogatepass"))


def splits_pair(data: bytes, cut: int) -> bool:
    """Whether byte offset cut of utf-16-le data lies between a high and a low surrogate."""
    return 2 <= cut < len(data) and data[cut - 1] & 0xFC == 0xD8 and data[cut + 1] & 0xFC == 0xDC


def is_inside_character(line: str, character: int, encoding: Encoding) -> bool:
    """Whether the position is inside a surrogate pair or a multi-byte sequence, where no cursor can be."""
    if encoding == "utf-32" or line.isascii():
        return False
    column = column_at(line, character, encoding)
    units = num_units(line[:column], encoding)
    return column < content_length(line) and units != max(character, 0)


def splice(line_start: str, start: int, line_end: str, end: int, text: str, encoding: Encoding) -> str:
    """line_start up to character start, text, and line_end from character end on.

    In utf-16 an edit may cut a surrogate pair in two; the halves are kept and joined again when they meet, as a client
    whose strings are utf-16 does.
    """
    if encoding != "utf-16" or (line_start.isascii() and line_end.isascii()):
        return (
            line_start[: column_at(line_start, start, encoding)] + text + line_end[column_at(line_end, end, encoding) :]
        )
    head = line_start.encode("utf-16-le", "surrogatepass")
    tail = line_end.encode("utf-16-le", "surrogatepass")
    start = min(max(start, 0), num_units(line_start[: content_length(line_start)], encoding))
    end = min(max(end, 0), num_units(line_end[: content_length(line_end)], encoding))
    data = head[: start * 2] + text.encode("utf-16-le", "surrogatepass") + tail[end * 2 :]
    return data.decode("utf-16-le", "surrogatepass")
