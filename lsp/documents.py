"""Open documents: incremental synchronisation, snapshots, and what was edited lately.

pygls' own workspace is not used for text: it splits lines at characters that LSP does not know (form feed, U+2028),
takes a position past the end of a line for one before its last character, and walks the whole text at every change.
Knows positions; knows nothing of proposals.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, islice

from lsprotocol import types
from pygls.uris import to_fs_path

from .positions import Encoding, column_at, content_length, is_inside_character, num_units, splice, split_lines

Change = types.TextDocumentContentChangeEvent

WINDOW_CHARS = 200_000
"""A longer document is shown to infill/ through a window of this many code points on each side of the cursor, and up to
WINDOW_GRID more before it."""

WINDOW_GRID = 65_536

HEAD_CHARS = 4_000
"""How much of the top goes along with a window that does not reach it."""

EDIT_CHARS = 20_000
"""A longer edit (a paste, a minified line) is not remembered."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change, as it was: old became new at line; line counts from 0. when: time.monotonic seconds."""

    line: int
    old: str
    new: str
    when: float


_revisions = count()

MAX_EDITED = 8
"""So many places are remembered of each document, and told of all together."""

EDITED_MARGIN = 2
"""Lines on each side that are shown of what was edited."""

KEY_LINES = 100
"""No block of a private key is longer: so near to one nothing is shown, as a part of it would not be recognised."""


@dataclass(frozen=True, slots=True)
class EditedLines:
    """Lines [low, high) were edited lately, line at last of all. when: time.monotonic seconds."""

    low: int
    high: int
    at: int
    when: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of one document, safe to hand to another thread.

    text is a window of the document that starts at code point base; offset is the cursor inside text.
    """

    uri: str
    path: str
    language: str
    version: int | None
    revision: int
    text: str
    offset: int
    base: int


class Document:
    """The text of one open document, as a list of lines with their terminators."""

    def __init__(self, uri: str, language: str, version: int | None, text: str, encoding: Encoding) -> None:
        self.uri = uri
        self.path = path_of(uri)
        self.language = language
        self.version = version
        self.encoding: Encoding = encoding
        self.revision = next(_revisions)
        """Rises with every change and belongs to no other text, also when the document is closed and opened again;
        unlike version, never absent and never reset by a client."""
        self.edits: deque[Edit] = deque(maxlen=64)
        self.edited: tuple[EditedLines, ...] = ()
        """Where it was edited lately, the newest last; what touches is one."""
        self.notebook = ""
        """Uri of the notebook that this is a cell of, or empty."""
        self._lines = split_lines(text)
        self._text: str | None = text
        self._starts: list[int] | None = None
        self._last_change: types.TextDocumentContentChangePartial | None = None

    @property
    def lines(self) -> Sequence[str]:
        """Lines with their terminators; never empty."""
        return self._lines

    @property
    def text(self) -> str:
        """The whole text."""
        if self._text is None:
            self._text = "".join(self._lines)
        return self._text

    @property
    def starts(self) -> list[int]:
        """Offset of the start of every line."""
        if self._starts is None:
            self._starts = list(accumulate(map(len, self._lines[:-1]), initial=0))
        return self._starts

    def apply(self, changes: Sequence[Change], version: int | None) -> None:
        """Apply the changes in order. A position outside the text means its nearest end."""
        for change in changes:
            if isinstance(change, types.TextDocumentContentChangePartial):
                self._apply_partial(change)
                self._last_change = change
            else:
                self._last_change = None
                self._lines = split_lines(change.text)
                self.edits.clear()
                self.edited = ()
            self._text = self._starts = None
            self.revision = next(_revisions)
        self.version = version

    def _apply_partial(self, change: types.TextDocumentContentChangePartial) -> None:
        lines = self._lines
        last = len(lines) - 1
        start, end = change.range.start, change.range.end
        if (end.line, end.character) < (start.line, start.character):
            start, end = end, start
        first_line, first_char = (start.line, start.character) if start.line <= last else (last, 1 << 30)
        last_line, last_char = (end.line, end.character) if end.line <= last else (last, 1 << 30)
        old = "".join(lines[first_line : last_line + 1])
        new = splice(lines[first_line], first_char, lines[last_line], last_char, change.text, self.encoding)
        # a line that ends with CR and gets a LF after it becomes one line ending with CR LF
        if first_line and lines[first_line - 1].endswith("\r") and new.startswith("\n"):
            first_line -= 1
            new, old = lines[first_line] + new, lines[first_line] + old
        fresh = split_lines(new)
        if last_line < last and not fresh[-1]:
            # the replaced lines ended with a terminator: what comes after them starts a line already
            fresh.pop()
        lines[first_line : last_line + 1] = fresh
        is_short = len(old) + len(new) <= EDIT_CHARS
        if is_short:
            self.edits.append(Edit(first_line, old, new, time.monotonic()))
        self._note(first_line, last_line + 1 - first_line, len(fresh), is_short)

    def _note(self, first: int, num_old: int, num_new: int, is_short: bool) -> None:
        """num_new lines stand from first on where num_old stood: move what was edited below them, and add them."""
        low, high, grown = first, first + max(1, num_new), num_new - num_old
        apart: list[EditedLines] = []
        for each in self.edited:
            if each.high < first:
                apart.append(each)
            elif each.low > first + num_old:
                apart.append(EditedLines(each.low + grown, each.high + grown, each.at + grown, each.when))
            else:
                low, high = min(low, each.low), max(high, each.high + grown)
        if is_short:
            apart.append(EditedLines(low, high, first + max(1, num_new) - 1, time.monotonic()))
        self.edited = tuple(apart[-MAX_EDITED:])

    def edited_text(self, edited: EditedLines, max_chars: int) -> str:
        """The lines that were edited with EDITED_MARGIN around them, or what of them is nearest to the last edit; "\\n"
        ends each. Empty where one line is too long, or near to a private key.
        """
        lines = self._lines
        low, high = max(0, edited.low - EDITED_MARGIN), min(len(lines), edited.high + EDITED_MARGIN)
        at = min(edited.at, len(lines) - 1)
        if any("PRIVATE KEY-----" in line for line in lines[max(0, at - KEY_LINES) : at + KEY_LINES]):
            return ""
        first, last, room = at, at + 1, max_chars - len(lines[at]) - 1
        while room >= 0:
            above = len(lines[first - 1]) + 1 if first > low else max_chars
            below = len(lines[last]) + 1 if last < high else max_chars
            if min(above, below) > room:
                return clean("".join(line.rstrip("\r\n") + "\n" for line in lines[first:last]))
            # evenly, as long as both fit
            if above <= room and (at - first <= last - at - 1 or below > room):
                first, room = first - 1, room - above
            else:
                last, room = last + 1, room - below
        return ""

    def last_cursor(self) -> types.Position | None:
        """Where the cursor most likely is after the last change: at its end; None when nobody can know."""
        change = self._last_change
        if change is None or len(change.text) > EDIT_CHARS:
            return None
        start = change.range.start
        lines = split_lines(change.text)
        units = num_units(lines[-1], self.encoding)
        if len(lines) == 1:
            return types.Position(start.line, start.character + units)
        return types.Position(start.line + len(lines) - 1, units)

    def is_valid(self, position: types.Position) -> bool:
        """Whether a cursor can be at position: inside the text and not inside a character."""
        if not 0 <= position.line < len(self._lines):
            return False
        line = self._lines[position.line]
        if position.character > num_units(line[: content_length(line)], self.encoding):
            return False
        return not is_inside_character(line, position.character, self.encoding)

    def offset_at(self, position: types.Position) -> int:
        """Code-point offset of a position; outside the text, of its nearest end."""
        if position.line < 0:
            return 0
        if position.line >= len(self._lines):
            return len(self.text)
        # counting to the line is cheaper than all starts, and typing needs just one
        before = self._starts[position.line] if self._starts else sum(map(len, islice(self._lines, position.line)))
        return before + column_at(self._lines[position.line], position.character, self.encoding)

    def position_at(self, offset: int) -> types.Position:
        """Position of a code-point offset."""
        starts = self.starts
        line = max(0, bisect_right(starts, offset) - 1)
        column = min(offset - starts[line], content_length(self._lines[line]))
        return types.Position(line, num_units(self._lines[line][:column], self.encoding))

    def range_of(self, start: int, end: int) -> types.Range:
        """Range of the span [start, end)."""
        return types.Range(self.position_at(start), self.position_at(end))

    def head(self, snapshot: Snapshot) -> str:
        """The top of the document, where the snapshot begins below it: imports stand there."""
        return clean(self.text[: min(HEAD_CHARS, snapshot.base)])

    def snapshot(self, position: types.Position) -> Snapshot:
        """This state, with the cursor at position."""
        return self.snapshot_at(self.offset_at(position))

    def snapshot_at(self, offset: int) -> Snapshot:
        """This state, with the cursor at a code-point offset."""
        text = self.text
        low = 0
        if len(text) > 2 * WINDOW_CHARS:
            # on a grid: a window that slid with every key would move the prompt and its line numbers along
            low = max(0, offset - WINDOW_CHARS) // WINDOW_GRID * WINDOW_GRID
            high = min(len(text), offset + WINDOW_CHARS)
            # start with a whole line where lines are not absurdly long
            newline = text.find("\n", low, min(offset, low + 2000))
            low = newline + 1 if low and newline >= 0 else low
            text = text[low:high]
        return Snapshot(self.uri, self.path, self.language, self.version, self.revision, clean(text), offset - low, low)


def path_of(uri: str) -> str:
    """The path of a file's URI; empty where it is no file's, or no URI at all."""
    try:
        return to_fs_path(uri) or ""
    except ValueError:
        return ""


def clean(text: str) -> str:
    """text without lone surrogates, which no tokenizer can encode; every other offset stays as it was."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


class Documents:
    """All open documents and notebooks of one client."""

    def __init__(self) -> None:
        self.encoding: Encoding = "utf-16"
        self._documents: dict[str, Document] = {}
        self._cells: dict[str, list[str]] = {}
        """Notebook uri -> uris of its cells, in order."""
        self._code_cells: set[str] = set()

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents.values())

    def get(self, uri: str) -> Document | None:
        """The open document, or None."""
        return self._documents.get(uri)

    def open(self, item: types.TextDocumentItem) -> Document:
        """Add a document, or replace it when a client opens it twice."""
        document = Document(item.uri, str(item.language_id), item.version, item.text, self.encoding)
        self._documents[item.uri] = document
        return document

    def change(self, uri: str, version: int | None, changes: Sequence[Change]) -> Document | None:
        """Apply changes; None when the document is not open."""
        document = self._documents.get(uri)
        if document is not None:
            document.apply(changes, version)
            # the last used document stands last: neighbours are taken from that end
            self._documents[uri] = self._documents.pop(uri)
        return document

    def close(self, uri: str) -> None:
        """Forget a document. Closing one that is not open does nothing."""
        self._documents.pop(uri, None)

    def open_notebook(self, params: types.DidOpenNotebookDocumentParams) -> None:
        """Add a notebook and its cells."""
        uri = params.notebook_document.uri
        self._cells[uri] = []
        self._set_cells(uri, 0, 0, params.notebook_document.cells)
        for item in params.cell_text_documents:
            self._open_cell(item, uri)

    def _open_cell(self, item: types.TextDocumentItem, notebook: str) -> None:
        document = self.open(item)
        document.notebook = notebook
        document.path = path_of(notebook)

    def change_notebook(self, params: types.DidChangeNotebookDocumentParams) -> list[Document]:
        """Apply changes to a notebook's structure and cells; the cells whose text changed."""
        uri = params.notebook_document.uri
        cells = params.change.cells
        if cells is None or uri not in self._cells:
            return []
        if cells.structure is not None:
            array = cells.structure.array
            for item in cells.structure.did_close or ():
                self.close(item.uri)
            self._set_cells(uri, array.start, array.delete_count, array.cells or ())
            for opened in cells.structure.did_open or ():
                self._open_cell(opened, uri)
        # a cell that was made a text cell, or code again
        self._set_kinds(cells.data or ())
        changed = [
            self.change(each.document.uri, each.document.version, each.changes) for each in cells.text_content or ()
        ]
        return [document for document in changed if document is not None]

    def close_notebook(self, params: types.DidCloseNotebookDocumentParams) -> None:
        """Forget a notebook and its cells."""
        for uri in self._cells.pop(params.notebook_document.uri, []):
            self.close(uri)
            self._code_cells.discard(uri)

    def _set_cells(self, uri: str, start: int, num_deleted: int, cells: Sequence[types.NotebookCell]) -> None:
        old = self._cells[uri][start : start + num_deleted]
        self._code_cells.difference_update(old)
        self._cells[uri][start : start + num_deleted] = [cell.document for cell in cells]
        self._set_kinds(cells)

    def _set_kinds(self, cells: Iterable[types.NotebookCell]) -> None:
        for cell in cells:
            is_code = cell.kind == types.NotebookCellKind.Code
            (self._code_cells.add if is_code else self._code_cells.discard)(cell.document)

    def around(self, document: Document) -> tuple[str, str]:
        """Text of the code cells before and after a cell, in its language; empty for a plain document."""
        cells = self._cells.get(document.notebook, [])
        if document.uri not in cells:
            return "", ""
        here = cells.index(document.uri)

        def join(uris: list[str]) -> list[str]:
            found = [self._documents[uri] for uri in uris if uri in self._code_cells and uri in self._documents]
            return [each.text for each in found if each.language == document.language]

        before, after = join(cells[:here]), join(cells[here + 1 :])
        ends = [text if text.endswith("\n") else text + "\n" for text in before]
        return clean("".join(ends)), clean("".join("\n" + text for text in after))
