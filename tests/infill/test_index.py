"""The workspace's lines: found by what is around them, bounded, incremental, never a lie."""

from __future__ import annotations

import gc
import os
import random
import string
import threading
import time
import tracemalloc
import weakref
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infill_cases import CURSOR, asked
from lacuna_ls.infill.index import RESERVE_BYTES, LineIndex, WorkspaceIndexer
from lacuna_ls.infill.places import MAX_BLOCK_LINES, Place, alike, rest_of
from lacuna_ls.infill.privacy import PathRules
from lacuna_ls.infill.seeds import Draft, drafts_for
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.span import Gap

B = CURSOR
SOURCE = "import os\n\n\ndef f(a):\n    b = load(a)\n    c = clean(b)\n    return c\n"
HERE = Place("c = ", ("    b = load(a)", "def f(a):"), ("    return c", ""))


def test_a_line_is_found_by_its_neighbours_and_its_beginning():
    index = LineIndex()
    index.update("a.py", SOURCE)
    (match,) = index.similar(HERE)
    assert (match.path, match.rest) == ("a.py", "clean(b)")
    assert match.likeness == pytest.approx(1.0)
    (match,) = index.similar(Place("c = cl", HERE.above, ("other()", "")))
    assert match.rest == "ean(b)"
    assert index.similar(Place("d = ", HERE.above, HERE.below)) == []


def test_numbers_and_strings_do_not_hide_a_likeness():
    index = LineIndex()
    index.update("a.py", 'check("one", 1)\nassert done\n')
    assert index.similar(Place("", ('check("two", 22)', ""), ("", "")))[0].rest == "assert done"


def test_an_update_replaces_and_a_removal_removes():
    index = LineIndex()
    index.update("a.py", SOURCE)
    index.update("a.py", SOURCE.replace("clean", "wash"))
    assert [match.rest for match in index.similar(HERE)] == ["wash(b)"]
    index.remove("a.py")
    assert index.similar(HERE) == []
    assert len(index) == 0


def test_memory_is_bounded_and_the_latest_files_stay():
    index = LineIndex(max_text_bytes=100_000)
    rng = random.Random(0)
    for i in range(300):
        lines = ["".join(rng.choices(string.ascii_letters, k=30)) for _ in range(40)]
        index.update(f"{i}.py", "\n".join(lines))
    assert len(index) < 90
    assert index.num_bytes < 100_000 + 4 * 40 * 90 + 5_500_000
    index.update("last.py", SOURCE)
    assert index.similar(HERE)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.lists(st.sampled_from("abcdef"), max_size=12)), max_size=12))
def test_what_it_says_is_really_there(updates):
    index = LineIndex(max_text_bytes=600)
    texts: dict[str, str] = {}
    for number, lines in updates:
        texts[f"{number}.py"] = "\n".join(lines)
        index.update(f"{number}.py", texts[f"{number}.py"])
    for above in "abcdef":
        for match in index.similar(Place("", (above, ""), ("", ""))):
            lines = [line for line in texts[match.path].split("\n") if line.strip()]
            assert lines[match.number] == match.rest


def test_secrets_are_redacted_and_carriage_returns_gone():
    index = LineIndex()
    index.update("a.py", 'connect()\r\npassword = "hunter2hunter2"\r\ndone()\r\n')
    (match,) = index.similar(Place("", ("connect()", ""), ("done()", "")))
    assert match.rest == 'password = "<redacted>"'


def test_asking_while_it_is_being_filled():
    index = LineIndex(max_text_bytes=200_000)
    stop = threading.Event()

    def fill() -> None:
        i = 0
        while not stop.is_set():
            index.update(f"{i % 50}.py", SOURCE * (1 + i % 30))
            i += 1

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            assert all(match.rest == "clean(b)" for match in index.similar(HERE))
    finally:
        stop.set()
        thread.join()


def test_the_workspace_is_read_in_slices_and_private_files_are_not(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "node_modules").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    for name in ("a.py", "sub/b.go", "node_modules/c.js", ".hidden/d.py", "ignored.py", "e.bin", "secrets.py"):
        (tmp_path / name).write_text(SOURCE)
    (tmp_path / "f.py").write_bytes(b"\xff\xfe")
    (tmp_path / "huge.py").write_text("x = 1\n" * 100_000)
    (tmp_path / "loop").symlink_to(tmp_path)
    index = LineIndex()
    indexer = WorkspaceIndexer(index, [tmp_path], PathRules([tmp_path]).is_excluded)
    num_steps = 0
    while indexer.step(0.0):
        num_steps += 1
    assert num_steps > 5
    assert {match.path for match in index.similar(HERE)} == {str(tmp_path / "a.py"), str(tmp_path / "sub/b.go")}
    assert indexer.num_read == 2


def bytes_of(num_files: int, path: str = "x" * 100) -> int:
    """What so many files with SOURCE in them take of an index."""
    index = LineIndex()
    empty = index.num_bytes
    index.update(path, SOURCE)
    return num_files * (index.num_bytes - empty)


def read_all(indexer: WorkspaceIndexer) -> None:
    while indexer.step(5.0):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.py")
    (tmp_path / "b.py").write_text(SOURCE)
    index = LineIndex()
    indexer = WorkspaceIndexer(index, [tmp_path], lambda _: False)
    thread = threading.Thread(target=lambda: indexer.step(10_000), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert len(index) == 1


def test_reading_in_the_background_ends_where_there_is_no_room(tmp_path, caplog):
    caplog.set_level("INFO")
    for folder, num in (("", 3), ("a/", 20), ("a/b/", 5), ("c/", 5)):
        (tmp_path / folder).mkdir(exist_ok=True)
        for i in range(num):
            (tmp_path / f"{folder}{i}.py").write_text(SOURCE)
    path = str(tmp_path / "a/0.py")
    index = LineIndex(max_text_bytes=bytes_of(10, path) + RESERVE_BYTES)
    asked_about: list[str] = []
    indexer = WorkspaceIndexer(index, [tmp_path, tmp_path / "gone"], lambda path: bool(asked_about.append(path)))
    read_all(indexer)
    assert indexer.num_read == len(index)
    assert 9 <= len(index) <= 10
    # nothing was read only to be forgotten, and what lies outermost is there
    assert all(str(tmp_path / f"{i}.py") in index for i in range(3))
    assert len(asked_about) == indexer.num_read + 1
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert f"After {indexer.num_read} files" in told
    # c lies beside the folder that was not finished; b in a, which had not been seen, or had
    rest = int(told.split(" folders ")[0].split()[-1])
    assert rest in (1, 2)
    # files that are saved come in all the same, for what was of use longest ago
    first = next(each for each in asked_about if each in index)
    saved = [str(tmp_path / f"a/b/{i}.py") for i in range(5)]
    indexer.refresh(saved)
    read_all(indexer)
    assert all(each in index for each in saved)
    assert first not in index
    assert len([record for record in caplog.records if record.levelname == "INFO"]) == 1


def test_many_files_are_read_as_far_as_memory_goes(tmp_path):
    for i in range(120):
        folder = tmp_path / f"{i:03}"
        folder.mkdir()
        for j in range(200):
            (folder / f"{j}.py").touch()
        (folder / "last.py").write_text("x = 1\n")
    index = LineIndex()
    indexer = WorkspaceIndexer(index, [tmp_path], lambda path: False)
    read_all(indexer)
    assert indexer.num_read == 120 * 201
    assert len(index) == 120


def test_only_what_can_be_wanted_is_looked_at(tmp_path):
    """The rules look at the disk; a name costs nothing."""
    for name in ("a.py", "b.bin", "c.lock", "d.json", "node_modules", "README"):
        (tmp_path / name).touch()
    asked_about: list[str] = []
    read_all(WorkspaceIndexer(LineIndex(), [tmp_path], lambda path: bool(asked_about.append(path))))
    assert asked_about == [str(tmp_path / "a.py")]


def test_open_documents_are_forgotten_last():
    index = LineIndex(max_text_bytes=bytes_of(4))
    paths = [f"{i}{'x' * 99}" for i in range(8)]
    index.keep(paths[:2])
    for path in paths[:4]:
        index.update(path, SOURCE)
    index.update(paths[4], SOURCE)
    assert known(index, paths) == {paths[0], paths[1], paths[3], paths[4]}
    # who was of use stays longer than who came later
    index.update(paths[3], SOURCE.replace("clean", "wash"))
    index.update(paths[4], SOURCE)
    assert index.similar(Place("c = w", HERE.above, HERE.below))[0].path == paths[3]
    index.update(paths[5], SOURCE)
    assert known(index, paths) == {paths[0], paths[1], paths[3], paths[5]}
    # where all others are open, a file that is not goes at once, and of open ones the oldest
    index.keep([paths[0], paths[1], paths[3], paths[5]])
    index.update(paths[6], SOURCE)
    assert known(index, paths) == {paths[0], paths[1], paths[3], paths[5]}
    index.keep([*known(index, paths), paths[7]])
    index.update(paths[7], SOURCE)
    assert known(index, paths) == {paths[1], paths[3], paths[5], paths[7]}


def known(index: LineIndex, paths: list[str]) -> set[str]:
    return {path for path in paths if path in index}


def test_reading_in_the_background_leaves_what_is_known(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(SOURCE)
    index = LineIndex()
    index.update(str(path), SOURCE.replace("clean", "wash"))
    indexer = WorkspaceIndexer(index, [tmp_path], lambda path: False)
    read_all(indexer)
    assert [match.rest for match in index.similar(HERE)] == ["wash(b)"], "an open document is newer than its file"
    indexer.refresh([str(path)])
    read_all(indexer)
    assert [match.rest for match in index.similar(HERE)] == ["clean(b)"]


def test_folders_of_open_documents_are_read_first(tmp_path):
    names = ("0.py", "a/1.py", "b/2.py", "b/c/3.py", "b/c/d/4.py", "build/5.py", "e/6.py")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SOURCE)
    (tmp_path / "link").symlink_to(tmp_path / "e")
    order: list[str] = []

    def is_excluded(path: str) -> bool:
        order.append(str(Path(path).relative_to(tmp_path)))
        return False

    indexer = WorkspaceIndexer(LineIndex(), [tmp_path], is_excluded)
    # what the walk would not come to is not read for being preferred
    others = ["build/5.py", "link/6.py", "../outside.py", "gone/x.py"]
    indexer.prefer([str(tmp_path / "b/c/open.py"), *(str(tmp_path / other) for other in others), "", "untitled:x"])
    read_all(indexer)
    assert order[:2] == ["b/c/3.py", "0.py"]
    assert sorted(order) == ["0.py", "a/1.py", "b/2.py", "b/c/3.py", "b/c/d/4.py", "e/6.py"], "each once"
    # and one that is saved while the walk is under way
    order.clear()
    indexer = WorkspaceIndexer(LineIndex(), [tmp_path], is_excluded)
    while not order:
        indexer.step(0.0)
    indexer.refresh([str(tmp_path / "b/c/d/gone.py")])
    read_all(indexer)
    assert order[order.index("0.py") + 1] == "b/c/d/4.py"
    assert len(order) == len(set(order)) == 6


def test_the_whole_index_stays_within_its_promise():
    tracemalloc.start()
    try:
        index = LineIndex(max_text_bytes=2_000_000)
        rng = random.Random(1)
        for i in range(120):
            lines = [" ".join(rng.choices(("alpha", "beta", "gamma", f"name_{i}"), k=6)) for _ in range(600)]
            index.update(f"{i}.py", "\n".join(lines))
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # what Python's own objects add must stay small beside what is counted
    assert current < 1.5 * index.num_bytes + 8_000_000


def test_what_a_character_takes_is_counted():
    """An emoji makes every character of its file take four bytes."""
    lines = [f"name_{i} = value_{i}(first, second)\n" for i in range(20_000)]
    tracemalloc.start()
    try:
        index = LineIndex(max_text_bytes=4_000_000)
        before, _ = tracemalloc.get_traced_memory()
        empty = index.num_bytes
        for i in range(4):
            index.update(f"{i}.py", f"# {i} \U0001f600\n" + "".join(lines[5_000 * i : 5_000 * (i + 1)]))
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == 4
    # what is known of words is kept beside the index, and is bounded by itself
    assert index.num_bytes - empty > 4 * sum(map(len, lines))
    index.update("all.py", "# \U0001f600\n" + "".join(lines) * 2)
    assert "all.py" not in {match.path for match in index.similar(Place("name_7 = ", (lines[6], ""), (lines[8], "")))}
    assert index.num_bytes - empty <= 4_000_000
    assert before < current


def test_a_file_is_given_up_when_nobody_wants_it_any_more():
    index = LineIndex()
    index.update("a.py", SOURCE)
    calls = []

    def cancelled() -> bool:
        calls.append(1)
        return len(calls) > 2

    assert not index.update("a.py", SOURCE.replace("clean", "wash") * 500, cancelled=cancelled)
    assert len(calls) == 3
    assert [match.rest for match in index.similar(HERE)] == ["clean(b)"], "what was known stays"


def test_who_began_before_it_was_cleared_writes_nothing(tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)
    index = LineIndex()
    indexer = WorkspaceIndexer(index, [tmp_path], lambda path: False)
    index.clear()
    while indexer.step(5.0):
        pass
    assert (indexer.num_read, len(index)) == (1, 0)
    # nor does it take away what was written since
    index.update(str(tmp_path / "a.py"), SOURCE)
    indexer.refresh([str(tmp_path / "a.py")])
    while indexer.step(5.0):
        pass
    assert len(index) == 1


@pytest.mark.parametrize(
    ("error", "num_lines"),
    [
        pytest.param(PermissionError("not yours"), 0, id="what may not be read is no news"),
        pytest.param(ValueError("a bug"), 1, id="a bug is told once"),
    ],
)
def test_one_bad_entry_stops_nothing(tmp_path, monkeypatch, caplog, error, num_lines):
    for name in ("a", "b", "bad_1", "bad_2", "c", "d"):
        (tmp_path / f"{name}.py").write_text(SOURCE)

    def is_excluded(path: str) -> bool:
        if "bad" in Path(path).name:
            raise error
        return False

    is_file = Path.is_file

    def checked(path: Path) -> bool:
        if "bad" in path.name:
            raise error
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", checked)
    index = LineIndex()
    indexer = WorkspaceIndexer(index, [tmp_path], is_excluded)
    stop = indexer.start(pause_ms=1.0)
    try:
        wait_until(lambda: len(index) == 4)
        (tmp_path / "e.py").write_text(SOURCE)
        indexer.refresh([str(tmp_path / "bad_1.py"), str(tmp_path / "e.py")])
        wait_until(lambda: len(index) == 5)
    finally:
        stop()
    assert len([record for record in caplog.records if record.exc_info]) == num_lines


def test_a_busy_flag_that_fails_stops_nothing(tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)
    index = LineIndex()
    calls = []

    def is_busy() -> bool:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("not yet")
        return False

    stop = WorkspaceIndexer(index, [tmp_path], lambda path: False).start(pause_ms=1.0, is_busy=is_busy)
    try:
        wait_until(lambda: len(index) == 1)
    finally:
        stop()


def test_who_stops_in_the_middle_leaves_nothing_open(tmp_path):
    for number in range(50):
        (tmp_path / f"{number}.py").write_text(SOURCE)

    def read_some() -> weakref.ref[LineIndex]:
        index = LineIndex()
        stop = WorkspaceIndexer(index, [tmp_path], lambda path: False).start(slice_ms=0.0, pause_ms=1.0)
        wait_until(lambda: len(index))
        stop()
        assert len(index) < 50
        return weakref.ref(index)

    gc.disable()
    try:
        # at once: whoever loads an infiller freezes all there is, and garbage that waits to be found stays for good
        left = read_some()
        wait_until(lambda: left() is None)
    finally:
        gc.enable()


def wait_until(is_so) -> None:
    until = time.monotonic() + 10
    while not is_so() and time.monotonic() < until:
        time.sleep(0.005)
    assert is_so()


def drafted(marked: str, index: LineIndex | None = None, extent="rest") -> list[Draft]:
    request = asked(marked)
    return drafts_for(Snapshot(request.text), Gap(request.start, request.end, extent), index, "a.py")


def test_drafts_come_from_the_document_itself():
    drafts = drafted(f"if a:\n    go(1)\n    end()\nif b:\n    go(1)\n    {B}\n")
    assert drafts[0].text == "end()"
    assert drafts[0].is_own
    assert 0 < drafts[0].probability() < 1


def test_drafts_begin_with_what_is_written_and_never_come_from_their_own_line():
    assert [draft.text for draft in drafted(f"x = 1\ny = two\nz = 3\n\nx = 1\ny = {B}\nz = 3\n")] == ["two"]
    assert drafted(f"x = 1\ny = two{B}\nz = 3\n") == []
    assert drafted(f"{B}\n") == []


def test_the_more_places_say_it_the_likelier_it_is():
    one = "x = 1\ny = two\nz = 3\n\nx = 1\ny = 2\nz = 3\n\n"
    split = drafted(one + f"x = 1\ny = {B}\nz = 3\n")
    united = drafted(one.replace("two", "2") + f"x = 1\ny = {B}\nz = 3\n")
    assert united[0].probability() > split[0].probability()


def test_drafts_of_other_documents_join_in():
    index = LineIndex()
    index.update("b.py", "x = 1\ny = two\nz = 3\n")
    index.update("a.py", "x = 1\ny = old\nz = 3\n")
    drafts = drafted(f"x = 1\ny = {B}\nz = 3\n", index)
    assert [(draft.text, draft.is_own) for draft in drafts] == [("two", False)], "its own older state is no witness"


def test_a_secret_that_was_taken_out_is_no_draft():
    index = LineIndex()
    index.update("b.py", 'connect()\npassword = "hunter2hunter2"\ndone()\n')
    assert drafted(f"connect()\npassword = {B}\ndone()\n", index) == []
    index.update("c.py", "connect()\npassword = ask()\ndone()\n")
    assert [draft.text for draft in drafted(f"connect()\npassword = {B}\ndone()\n", index)] == ["ask()"]


TWINS = """\
class A:
    def load(self, path):
        \"\"\"Read it.\"\"\"
        with open(path) as file:

            self.text = file.read(
                100,
            )
        return self

    def save(self):
        pass

class B:
"""
BODY = "with open(path) as file:\n\n{0}    self.text = file.read(\n{0}        100,\n{0}    )\n{0}return self"


@pytest.mark.parametrize(
    ("marked", "indent", "lead"),
    [
        pytest.param(f"    def load(self, path):\n        {B}\n\n    def save(self):\n", 8, "", id="under a header"),
        pytest.param(f'    def load(self, path):\n        """A\n        B."""\n        {B}\n', 8, "", id="a docstring"),
        pytest.param(f"        def load(self, path):\n            {B}\n", 12, "", id="deeper"),
        pytest.param(f"    def load(self, path):{B}\n", 8, "\n        ", id="right behind a header"),
        pytest.param(f"    def load(self, path):\n        wi{B}\n", 8, "", id="something is written"),
    ],
)
def test_a_block_is_drafted_from_its_twin(marked, indent, lead):
    request = asked(TWINS + marked)
    gap = Gap(request.start, request.end, "block", " " * indent, lead)
    drafts = drafts_for(Snapshot(request.text), gap, None, "a.py")
    body = BODY.format(" " * indent).removeprefix("wi" if "wi" in marked else "")
    assert drafts[0].text == body
    assert drafts[0].is_own
    # what stands in another document is as good, whatever its line ends
    index = LineIndex()
    index.update("b.py", TWINS.replace("\n", "\r\n"))
    alone = asked("class B:\n" + marked)
    gap = Gap(alone.start, alone.end, "block", " " * indent, lead)
    drafts = drafts_for(Snapshot(alone.text), gap, index, "a.py")
    assert (drafts[0].text, drafts[0].is_own) == (body, False)
    assert not drafts_for(Snapshot(alone.text), gap, index, "b.py"), "its own older state is no witness"


def test_a_block_is_the_likelier_the_more_is_alike_around_it():
    def best(marked: str) -> float:
        request = asked(marked)
        drafts = drafts_for(Snapshot(request.text), Gap(request.start, request.end, "block", "    "), None, "a.py")
        assert drafts[0].text == "a = 1\n    return a"
        return drafts[0].probability()

    twin = "def f():\n    a = 1\n    return a\n\ndef g():\n"
    assert 0 < best(f"{twin}\ndef f():\n    {B}\n") < 0.2
    assert 0.2 < best(f"{twin}\ndef f():\n    {B}\n\ndef g():\n") < 1


def block_drafts(marked: str, indent: str = "    ") -> list[str]:
    request = asked(marked)
    gap = Gap(request.start, request.end, "block", indent)
    return [draft.text for draft in drafts_for(Snapshot(request.text), gap, None, "a.py")]


def test_a_block_ends_where_it_ends_and_one_that_the_gap_cuts_is_none():
    loop = "for a in b:\n    go(a)\n"
    assert block_drafts(f"{loop}    stop()\n{loop}    {B}\nx = 1\n") == ["stop()"]
    # what stands below the gap already ends it
    assert block_drafts(f"{loop}    stop()\n    end()\nfor a in b:\n    {B}\n    stop()\n") == ["go(a)"]
    # the lines above the gap go on in it
    assert block_drafts(f"for a in b:\n    go(a)\n    go(b)\n    {B}\nx = 1\n") == []
    # and longer ones are not looked at
    lines = "".join(f"    go_{i}()\n" for i in range(MAX_BLOCK_LINES))
    assert len(block_drafts(f"for a in b:\n{lines}x = 1\nfor a in b:\n    {B}\n")) == 1
    assert block_drafts(f"for a in b:\n{lines}    go()\nx = 1\nfor a in b:\n    {B}\n") == []
    assert drafted(f"x = 1\ny = two\nx = 1\n{B}\n", extent="span") == []


def test_drafting_blocks_is_quick_in_a_long_document_over_a_full_index():
    index = LineIndex()
    for i in range(200):
        index.update(f"{i}.py", TWINS * 50)
    text = TWINS * 3000
    at = text.index("with", len(text) // 2)
    gap = Gap(at, at, "block", " " * 8)
    best = min(_seconds(text, gap, index) for _ in range(8))
    assert best < 0.03


@pytest.mark.parametrize(
    ("line", "head", "rest"),
    [
        pytest.param("    return a", "    ret", "urn a", id="in the middle of a word"),
        pytest.param("  a = 1  ", "a = ", "1", id="white space at the edges"),
        pytest.param("a = 1", "b", "", id="another beginning"),
        pytest.param("a = 1", "a = 1", "", id="nothing follows"),
    ],
)
def test_rest_of(line, head, rest):
    assert rest_of(line, head) == rest


def test_alike():
    assert alike("  a = f(b)", "a = f(b)") == 1.0
    assert alike("", "") == 1.0
    assert alike("a b", "c d") == 0.0
    assert 0 < alike("a = f(b)", "a = f(c)") < 1


def test_drafting_is_quick_in_a_long_document_over_a_full_index():
    index = LineIndex()
    for i in range(200):
        index.update(f"{i}.py", SOURCE * 50)
    text = SOURCE * 3000
    gap = Gap(text.index("clean", len(text) // 2), text.index("clean", len(text) // 2), "rest")
    best = min(_seconds(text, gap, index) for _ in range(8))
    assert best < 0.03


def _seconds(text: str, gap: Gap, index: LineIndex) -> float:
    started = time.process_time()
    assert drafts_for(Snapshot(text), gap, index) is not None
    return time.process_time() - started


def test_files_that_are_refreshed_are_as_if_read_for_the_first_time(tmp_path):
    rng = random.Random()
    root = tmp_path / "root"
    for folder in ("root/sub/deep", "root/build", "root/.hidden", "outside"):
        (tmp_path / folder).mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "outside")
    (root / ".gitignore").write_text("ignored.py\n")
    inside = ("", "sub/", "sub/deep/", "build/", ".hidden/")
    names = [f"{folder}{name}" for folder in inside for name in ("a.py", "b.go")]
    names += ["ignored.py", "sub/ignored.py", "c.bin", "secrets.py", "link/d.py"]
    is_excluded = PathRules([root]).is_excluded

    # by letters: numbers make no difference to the index
    letters = string.ascii_lowercase[: len(names)]

    def known(index: LineIndex) -> dict[str, str]:
        found = {}
        for x in letters:
            place = Place("c = ", (f"    b = load_{x}(a)", f"def f_{x}(a):"), (f"    return c + {x}", ""))
            found |= {match.path: match.rest for match in index.similar(place) if match.likeness > 0.99}
        return found

    index = LineIndex()
    indexer = WorkspaceIndexer(index, [root], is_excluded)
    for number in range(80):
        i = rng.randrange(len(names))
        chosen = root / names[i]
        if rng.random() < 0.3:
            chosen.unlink(missing_ok=True)
        else:
            x = letters[i]
            above = f"def f_{x}(a):\n    b = load_{x}(a)\n"
            chosen.write_text(f"{above}    c = clean_{number}(b)\n    return c + {x}\n")
        indexer.refresh([str(chosen)])
        while indexer.step(1.0):
            pass
        truth = LineIndex()
        walk = WorkspaceIndexer(truth, [root], is_excluded)
        while walk.step(5.0):
            pass
        assert known(index) == known(truth), number
        assert len(index) == len(truth)


def test_nothing_is_read_while_somebody_waits(tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)
    index = LineIndex()
    indexer = WorkspaceIndexer(index, [tmp_path], lambda path: False)
    is_busy, asked = [True], threading.Event()

    def busy():
        asked.set()
        return is_busy[0]

    stop = indexer.start(pause_ms=1.0, is_busy=busy)
    try:
        for _ in range(5):
            asked.clear()
            assert asked.wait(10)
            assert not len(index)
        is_busy[0] = False
        until = time.monotonic() + 10
        while not len(index) and time.monotonic() < until:
            time.sleep(0.005)
        assert len(index) == 1
    finally:
        stop()


def test_a_folder_is_forgotten_with_all_that_is_in_it():
    index = LineIndex()
    for path in ("/w/a/x.py", "/w/a/b/y.py", "/w/ab.py"):
        index.update(path, SOURCE)
    index.remove("/w/a")
    assert {match.path for match in index.similar(HERE)} == {"/w/ab.py"}
    index.clear()
    assert not len(index)
    assert not index.similar(HERE)
