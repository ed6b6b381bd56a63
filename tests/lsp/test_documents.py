"""Incremental synchronisation: after any sequence of edits the server's text equals the client's, in every encoding."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings
from lacuna_ls.lsp.documents import HEAD_CHARS, MAX_EDITED, WINDOW_CHARS, WINDOW_GRID, Document, clean
from lacuna_ls.lsp.options import Options
from lacuna_ls.lsp.positions import column_at, content_length, is_inside_character, num_units, split_lines
from lacuna_ls.lsp.server import create_server
from lsprotocol import types

ENCODINGS = ("utf-8", "utf-16", "utf-32")
# every way to end a line, what only Python calls one, tabs, and 1 to 4 bytes a character
ALPHABET = ["a", "b", " ", "\t", "\n", "\r\n", "\r", "é", "\u20ac", "\U0001f600", "\u2028", "\x0c", "\x85", "e\u0301"]
TEXTS = st.lists(st.sampled_from(ALPHABET), max_size=30).map("".join)


class Model:
    """A text as a client has it: a plain string, edited by offsets, counted in units of the encoding."""

    def __init__(self, text: str, encoding: str) -> None:
        self.text, self.encoding = text, encoding

    def units(self, text: str) -> int:
        if self.encoding == "utf-32":
            return len(text)
        width = {"utf-8": 1, "utf-16": 2}[self.encoding]
        return len(text.encode({"utf-8": "utf-8", "utf-16": "utf-16-le"}[self.encoding])) // width

    def position(self, offset: int) -> types.Position:
        before = self.text[:offset]
        # a cursor between CR and LF is at the end of the line
        if before.endswith("\r") and self.text[offset : offset + 1] == "\n":
            before = before[:-1]
        lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return types.Position(len(lines) - 1, self.units(lines[-1]))

    def normal(self, offset: int) -> int:
        """Offsets between CR and LF cannot be said in LSP; the end of the line is meant."""
        between = offset and self.text[offset - 1] == "\r" and self.text[offset : offset + 1] == "\n"
        return offset - 1 if between else offset


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(data=st.data(), text=TEXTS)
@settings(max_examples=150, deadline=None)
def test_text_equals_the_clients_after_any_edits(encoding, data, text):
    client = Model(text, encoding)
    document = Document("file:///a.py", "python", 1, text, encoding)
    for version in range(2, data.draw(st.integers(2, 7))):
        changes = []
        for _ in range(data.draw(st.integers(1, 3))):
            low, high = sorted(data.draw(st.tuples(*[st.integers(0, len(client.text))] * 2)))
            low, high = client.normal(low), client.normal(high)
            new = data.draw(TEXTS)
            span = types.Range(client.position(low), client.position(high))
            changes.append(types.TextDocumentContentChangePartial(range=span, text=new))
            client.text = client.text[:low] + new + client.text[high:]
        document.apply(changes, version)
        assert document.text == client.text
        assert list(document.lines) == split_lines(client.text)
        assert document.version == version


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(text=TEXTS, data=st.data())
@settings(max_examples=150, deadline=None)
def test_positions_and_offsets_are_inverse(encoding, text, data):
    client = Model(text, encoding)
    document = Document("file:///a.py", "python", 1, text, encoding)
    offset = client.normal(data.draw(st.integers(0, len(text))))
    assert document.position_at(offset) == client.position(offset)
    assert document.offset_at(client.position(offset)) == offset
    assert document.is_valid(client.position(offset))


@given(text=TEXTS)
@example("a\rb\nc\r\nd\u2028e\x0cf")
def test_lines_end_as_lsp_says(text):
    lines = split_lines(text)
    assert "".join(lines) == text
    assert all(line.endswith(("\n", "\r")) for line in lines[:-1])
    assert not lines[-1].endswith(("\n", "\r"))
    assert not any("\r" in line[: content_length(line)] or "\n" in line[: content_length(line)] for line in lines)


def test_an_edit_may_cut_a_surrogate_pair():
    # what a utf-16 editor holds after deleting half of a character, and after putting the half back
    document = Document("file:///a.py", "python", 1, "a\U0001f600b", "utf-16")
    span = types.Range(types.Position(0, 2), types.Position(0, 3))
    document.apply([types.TextDocumentContentChangePartial(range=span, text="")], 2)
    assert document.text == "a\ud83db"
    assert clean(document.text) == "a\ufffdb"
    assert document.snapshot(types.Position(0, 3)).offset == 3
    back = types.Range(types.Position(0, 2), types.Position(0, 2))
    document.apply([types.TextDocumentContentChangePartial(range=back, text="\ude00")], 3)
    assert document.text == "a\U0001f600b"


@pytest.mark.parametrize(
    ("encoding", "character", "column", "inside"),
    [
        ("utf-16", 1, 1, False),
        ("utf-16", 2, 1, True),
        ("utf-16", 3, 2, False),
        ("utf-8", 2, 1, True),
        ("utf-8", 4, 1, True),
        ("utf-8", 5, 2, False),
        ("utf-32", 2, 2, False),
        ("utf-16", 99, 3, False),
    ],
    ids=[
        "before",
        "in the pair",
        "after",
        "second byte",
        "last byte",
        "after the bytes",
        "code points",
        "past the end",
    ],
)
def test_columns_inside_characters(encoding, character, column, inside):
    line = "a\U0001f600b\r\n"
    assert column_at(line, character, encoding) == column
    assert is_inside_character(line, character, encoding) is inside


def test_positions_outside_mean_the_nearest_end():
    document = Document("file:///a.py", "python", 1, "ab\ncd", "utf-16")
    assert document.offset_at(types.Position(9, 9)) == 5
    assert document.offset_at(types.Position(0, 9)) == 2
    backwards = types.Range(types.Position(1, 1), types.Position(0, 1))
    document.apply([types.TextDocumentContentChangePartial(range=backwards, text="-")], 2)
    assert document.text == "a-d"


def test_a_long_document_is_shown_through_a_window():
    line = "value = 1  # \U0001f600\n"
    document = Document("file:///a.py", "python", 1, line * 200_000, "utf-16")
    snapshot = document.snapshot(types.Position(100_000, 5))
    assert len(snapshot.text) <= 2 * WINDOW_CHARS + WINDOW_GRID
    assert snapshot.text[snapshot.offset - 5 :].startswith("value = 1")
    assert snapshot.base + snapshot.offset == document.offset_at(types.Position(100_000, 5))
    assert document.text[snapshot.base - 1] == "\n"


def test_the_window_stays_put_while_the_user_types():
    """Else every key would move what the prompt begins with, and the tree would be parsed anew."""
    text = "import os\n" + "".join(f"value_{i} = {i}\n" for i in range(60_000))
    document = Document("file:///a.py", "python", 1, text, "utf-16")
    bases = set()
    for number, key in enumerate("count = os.cpu_count()" * 20, 2):
        at = types.Position(40_000, number - 2)
        document.apply([types.TextDocumentContentChangePartial(range=types.Range(at, at), text=key)], number)
        snapshot = document.snapshot(types.Position(40_000, number - 1))
        bases.add(snapshot.base)
        assert snapshot.base % WINDOW_GRID < 40
        assert document.text[snapshot.base - 1] == "\n"
    assert len(bases) == 1
    # and the imports go along
    assert document.head(snapshot) == document.text[:HEAD_CHARS]
    assert document.head(document.snapshot(types.Position(3, 0))) == ""


def test_a_line_of_a_megabyte():
    document = Document("file:///a.py", "python", 1, "x = '" + "\U0001f600" * 1_000_000 + "'\n", "utf-16")
    snapshot = document.snapshot(types.Position(0, 1_000_005))
    assert snapshot.base + snapshot.offset == 500_005
    end = types.Position(0, 2_000_006)
    document.apply([types.TextDocumentContentChangePartial(range=types.Range(end, end), text=" ")], 2)
    assert document.text.endswith("' \n")
    # remembering it would keep megabytes alive
    assert not document.edits


def test_the_cursor_after_a_change():
    document = Document("file:///a.py", "python", 1, "ab\n", "utf-16")
    at = types.Position(0, 1)
    document.apply([types.TextDocumentContentChangePartial(range=types.Range(at, at), text="\U0001f600\nx")], 2)
    assert document.last_cursor() == types.Position(1, 1)
    document.apply([types.TextDocumentContentChangePartial(range=types.Range(at, at), text="\U0001f600")], 3)
    assert document.last_cursor() == types.Position(0, 3)
    document.apply([types.TextDocumentContentChangeWholeDocument(text="")], 4)
    assert document.last_cursor() is None


def put(document: Document, line: int, text: str, end_line: int | None = None) -> None:
    """Insert text at the beginning of a line, or replace what is above end_line."""
    span = types.Range(types.Position(line, 0), types.Position(line if end_line is None else end_line, 0))
    document.apply([types.TextDocumentContentChangePartial(range=span, text=text)], None)


def numbered(num_lines: int = 40, uri: str = "file:///a.py") -> Document:
    return Document(uri, "python", 1, "".join(f"line {i}\n" for i in range(num_lines)), "utf-16")


def places(document: Document) -> list[tuple[int, int, int]]:
    return [(each.low, each.high, each.at) for each in document.edited]


def test_where_it_was_edited_is_remembered_and_what_touches_is_one():
    document = numbered()
    put(document, 20, "a")
    put(document, 5, "b")
    assert places(document) == [(20, 21, 20), (5, 6, 5)], "the newest last"
    put(document, 6, "c")
    assert places(document) == [(20, 21, 20), (5, 7, 6)]
    # two lines more above, and one less
    put(document, 0, "x\ny\n")
    assert places(document) == [(22, 23, 22), (7, 9, 8), (0, 3, 2)]
    put(document, 12, "", 13)
    assert places(document) == [(21, 22, 21), (7, 9, 8), (0, 3, 2), (12, 13, 12)]
    # what covers them takes their place
    put(document, 4, "z\n", 25)
    assert places(document) == [(0, 3, 2), (4, 6, 5)]
    document.apply([types.TextDocumentContentChangeWholeDocument(text="other\n")], 9)
    assert places(document) == []


def test_only_the_last_places_are_kept_and_a_long_paste_is_none():
    document = numbered(200)
    for line in range(0, 150, 10):
        put(document, line, "a")
    assert places(document) == [(line, line + 1, line) for line in range(70, 150, 10)]
    assert len(document.edited) == MAX_EDITED
    put(document, 100, "long line\n" * 3_000, 105)
    assert places(document)[2:4] == [(90, 91, 90), (110 + 2_995, 111 + 2_995, 110 + 2_995)]


@given(data=st.data())
def test_places_move_with_their_lines(data):
    """A line that was edited is in a span, whatever happens elsewhere; checked by marks that are in the lines."""
    document = numbered(30)
    for number in range(data.draw(st.integers(1, 12))):
        num_lines = len(document.lines)
        low = data.draw(st.integers(0, num_lines - 1))
        high = data.draw(st.integers(low, min(num_lines - 1, low + 3)))
        put(document, low, f"new {number}\n" * data.draw(st.integers(0, 3)), high)
        assert all(0 <= each.low <= each.at < each.high <= len(document.lines) for each in document.edited)
        ends = [(each.low, each.high) for each in document.edited]
        assert all(a[1] < b[0] or b[1] < a[0] for i, a in enumerate(ends) for b in ends[i + 1 :])
        if len(ends) < MAX_EDITED:
            inside = {line for low, high in ends for line in range(low, high)}
            assert all(i in inside for i, line in enumerate(document.lines) if line.startswith("new"))


def test_the_text_of_what_was_edited():
    document = numbered()
    put(document, 20, "new ")
    (edited,) = document.edited
    assert document.edited_text(edited, 400) == "line 18\nline 19\nnew line 20\nline 21\nline 22\n"
    # where there is room for less, what is nearest
    assert document.edited_text(edited, 31) == "line 19\nnew line 20\nline 21\n"
    assert document.edited_text(edited, 30) == "line 19\nnew line 20\n"
    assert document.edited_text(edited, 13) == "new line 20\n"
    assert document.edited_text(edited, 11) == ""
    put(document, 0, "a")
    assert document.edited_text(document.edited[-1], 400) == "aline 0\nline 1\nline 2\n"
    put(document, 40, "end")
    assert document.edited_text(document.edited[-1], 400) == "line 38\nline 39\nend\n"
    # half a key would not be recognised as one
    put(document, 10, "-----BEGIN RSA PRIVATE KEY-----\nabcd\n")
    assert document.edited_text(edited, 400) == ""
    windows = Document("file:///a.py", "python", 1, "a\r\nb\ud800\r\n", "utf-16")
    put(windows, 1, "c")
    assert windows.edited_text(windows.edited[0], 400) == "a\ncb\ufffd\n\n"


def test_edits_of_several_documents_come_in_their_order_and_private_ones_do_not():
    server = create_server(lambda options, roots, progress: NotImplemented)
    for name in ("a.py", "b.py", ".env", "c.go"):
        text = "".join(f"line {i}\n" for i in range(40))
        server.documents.open(types.TextDocumentItem(f"file:///w/{name}", "python", 1, text))
    edits = (("b.py", 3, "1 "), ("a.py", 20, "2 "), (".env", 0, "3 "), ("c.go", 9, "4 "), ("b.py", 30, "5 "))
    for name, line, new in edits:
        put(server.documents.get(f"file:///w/{name}"), line, new)
    here = server.documents.get("file:///w/a.py")
    found = server.completions.edited(here, Options())
    assert [(each.path, each.text.split("\n")[2]) for each in found] == [
        ("/w/b.py", "1 line 3"),
        ("/w/a.py", "2 line 20"),
        ("/w/c.go", "4 line 9"),
        ("/w/b.py", "5 line 30"),
    ]
    alone = replace(Options(), context=replace(Options().context, open_documents=False))
    assert [each.path for each in server.completions.edited(here, alone)] == ["/w/a.py"]
    put(here, 35, 'password = "hunter2hunter2"\n')
    assert "hunter2" not in server.completions.edited(here, Options())[-1].text
    assert "<redacted>" in server.completions.edited(here, Options())[-1].text
    for line in range(0, 40, 4):
        put(here, line, "x")
    assert len(server.completions.edited(here, Options())) == MAX_EDITED


@given(text=TEXTS)
def test_units_are_what_encoders_write(text):
    assert num_units(text, "utf-8") == len(text.encode())
    assert num_units(text, "utf-16") == len(text.encode("utf-16-le")) // 2
    assert num_units(text, "utf-32") == len(text)
