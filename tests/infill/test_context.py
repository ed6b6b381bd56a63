"""What else the model reads: useful, within its budget, the same while a line is typed, and no secrets."""

from __future__ import annotations

import pytest
from infill_cases import CURSOR, asked
from lacuna_ls.infill.context import ContextGatherer, names_in
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.request import InfillRequest, Neighbour
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.span import Gap
from lacuna_ls.infill.syntax import SyntaxTree

B = CURSOR

LIBRARY = """\
class Reader:
    def __init__(self, path: str) -> None:
        self.path = path

    def read_all(self, limit: int = 0) -> list[str]:
        return []


def unrelated(a):
    return a


def open_reader(path: str,
                mode: str) -> Reader:
    return Reader(path)
"""


def gathered(gatherer: ContextGatherer, request: InfillRequest) -> str:
    language = language_for(request.language)
    tree = SyntaxTree.around(language, request.text, request.start, request.end)
    return gatherer(request, Snapshot(request.text), tree, Gap(request.start, request.end, "rest"))


def test_signatures_of_names_in_use_come_and_others_do_not():
    request = asked(f"r = open_reader({B})\nr.read_all()\n", neighbours=(Neighbour("lib.py", LIBRARY),))
    text = gathered(ContextGatherer(200), request)
    assert "def open_reader(path: str, mode: str) -> Reader:\n" in text
    assert "def read_all(self, limit: int = 0) -> list[str]:\n" in text
    assert "unrelated" not in text


def test_definitions_of_the_same_file_count_where_the_window_does_not_show_them():
    far = "def compute_area(width, height):\n    return width * height\n" + "# filler\n" * 200
    request = asked(f"{far}area = compute_area({B})\n")
    assert gathered(ContextGatherer(200), request) == "def compute_area(width, height):\n"
    near = asked(f"def compute_area(width, height):\n    return 1\narea = compute_area({B})\n")
    assert gathered(ContextGatherer(200), near) == ""


@pytest.mark.parametrize("budget", [0, 10, 60, 200, 1000])
def test_the_budget_is_kept(budget):
    request = asked(f"r = open_reader({B})\nr.read_all()\nReader\n", neighbours=(Neighbour("lib.py", LIBRARY),))
    assert len(gathered(ContextGatherer(budget), request)) <= budget


def test_the_choice_stays_while_a_line_is_typed_and_useful_pieces_keep_their_place():
    gatherer = ContextGatherer(400)
    neighbours = (Neighbour("lib.py", LIBRARY),)
    first = gathered(gatherer, asked(f"x = 1\nr = open_reader({B}\n", neighbours=neighbours))
    assert first
    for typed in ("p", "path", "path, unrelated", "path, unrelated(read_all"):
        assert gathered(gatherer, asked(f"x = 1\nr = open_reader({typed}{B}\n", neighbours=neighbours)) == first
    below = gathered(
        gatherer, asked(f"x = 1\nr = open_reader(path)\nunrelated(r.read_all({B}\n", neighbours=neighbours)
    )
    assert below.startswith(first)
    assert "read_all" in below[len(first) :]


def test_similar_regions_come_where_there_is_room():
    other = "import os\n\nfor name in sorted(os.listdir(folder)):\n    paths.append(os.path.join(folder, name))\n"
    request = asked(f"for name in os.listdir(folder):\n    {B}\n", neighbours=(Neighbour("b.py", other),))
    assert "paths.append" in gathered(ContextGatherer(400), request)


def test_secrets_and_excluded_files_stay_out():
    secret = Neighbour(
        "conf.py", 'def connect(user):\n    password = "hunter2hunter2"\n    return login(user, password)\n'
    )
    request = asked(f"connect(user{B})\nlogin(user, password)\n", neighbours=(secret,))
    text = gathered(ContextGatherer(1000), request)
    assert "connect" in text
    assert "hunter2" not in text
    assert gathered(ContextGatherer(1000, is_excluded=lambda path: path == "conf.py"), request) == ""


def test_names_leave_out_what_is_everywhere():
    assert set(names_in("def self return None value_1 é𝒳yz x if")) == {"value_1", "é𝒳yz"}


def test_other_languages_have_signatures_too():
    go = Neighbour("a.go", "package a\n\nfunc OpenReader(path string) *Reader {\n\treturn nil\n}\n")
    request = asked(f"package b\n\nfunc f() {{\n\tr := OpenReader({B})\n}}\n", "go", neighbours=(go,))
    assert "func OpenReader(path string) *Reader" in gathered(ContextGatherer(300), request)
    rust = Neighbour("a.rs", "impl A { pub fn open_reader(&self, path: &str) -> u8 { 1 } }\n")
    request = asked(f"fn f() {{ a.open_reader({B}) }}\n", "rust", neighbours=(rust,))
    assert "fn open_reader(&self, path: &str) -> u8" in gathered(ContextGatherer(300), request)


def edited(*texts: str, path: str = "lib.py") -> tuple[Neighbour, ...]:
    return tuple(Neighbour(path, text) for text in texts)


def test_what_was_edited_lately_stands_last_and_the_newest_very_last():
    neighbours = (Neighbour("lib.py", LIBRARY),)
    request = asked(f"r = open_reader({B})\n", neighbours=neighbours, edited=edited("first = 1\n", "second = 2\n"))
    text = gathered(ContextGatherer(400), request)
    assert text.startswith("def open_reader(path: str, mode: str) -> Reader:\n")
    assert text.endswith("\nfirst = 1\nsecond = 2\n")


def test_of_what_was_edited_the_newest_is_taken_as_far_as_its_share_goes():
    spans = edited(*(f"value_{i} = {i}\n" for i in range(8)))
    # two of twelve characters each, in half of it
    assert gathered(ContextGatherer(50), asked(f"x = {B}\n", edited=spans)) == "value_6 = 6\nvalue_7 = 7\n"
    assert gathered(ContextGatherer(0), asked(f"x = {B}\n", edited=spans)) == ""
    # of one that is too long its middle
    long = edited("value = 1\n", "above = 1\nabove = 2\nhere = 3\nbelow = 4\nbelow = 5\n")
    assert gathered(ContextGatherer(60), asked(f"x = {B}\n", edited=long)) == "above = 2\nhere = 3\nbelow = 4\n"
    assert gathered(ContextGatherer(10), asked(f"x = {B}\n", edited=long)) == ""
    for budget in range(0, 300, 7):
        request = asked(f"open_reader({B})\n", edited=spans, neighbours=(Neighbour("lib.py", LIBRARY),))
        assert len(gathered(ContextGatherer(budget), request)) <= budget


def test_what_was_edited_is_shown_once_and_not_where_the_window_shows_it():
    here = f"near = 1\nx = {B}\n"
    spans = edited("near = 1\nx = \n", "far = 2\n", path="here.py") + edited("far = 2\n", "  \n")
    assert gathered(ContextGatherer(400), asked(here, path="here.py", edited=spans)) == "far = 2\n"
    # nor as a piece that is like it
    region = "for name in sorted(os.listdir(folder)):\n    paths.append(os.path.join(folder, name))\n"
    request = asked(
        f"for name in os.listdir(folder):\n    {B}\n", neighbours=(Neighbour("b.py", region),), edited=edited(region)
    )
    assert gathered(ContextGatherer(800), request) == region


def test_what_was_edited_in_private_stays_private():
    spans = edited("key = 1\n", path="conf.py") + edited('password = "hunter2hunter2"\n')
    request = asked(f"x = {B}\n", edited=spans)
    text = gathered(ContextGatherer(400, is_excluded=lambda path: path == "conf.py"), request)
    assert text == 'password = "<redacted>"\n'


def test_what_was_edited_stays_the_same_while_a_line_is_typed():
    gatherer = ContextGatherer(400)
    first = gathered(gatherer, asked(f"a = 1\nx = {B}\n", edited=edited("one = 1\n")))
    assert first == "one = 1\n"
    spans = edited("one = 1\n", "two = 2\n")
    assert gathered(gatherer, asked(f"a = 1\nx = t{B}\n", edited=spans)) == first
    assert gathered(gatherer, asked(f"a = 1\nx = t\n{B}\n", edited=spans)) == first + "two = 2\n"
