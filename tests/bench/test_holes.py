"""Holes have canonical edges, come back the same at a seed, and are of the kind that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from lacuna_ls.bench.holes import KINDS, WRITTEN_KINDS, Hole, cut_holes, is_canonical
from lacuna_ls.bench.snapshot import SourceFile, read_snapshot


@pytest.fixture
def holes(repository_folder: Path) -> list[Hole]:
    return cut_holes(read_snapshot(repository_folder), KINDS, 160, seed=3)


def of_kind(holes: list[Hole], kind: str) -> list[Hole]:
    found = [hole for hole in holes if hole.kind == kind]
    assert found, f"no {kind}"
    return found


def test_every_hole_is_canonical_and_puts_the_file_together_again(holes: list[Hole]):
    for hole in holes:
        text = hole.text
        for (start, _), reference in zip(hole.spans, hole.references, strict=True):
            text = text[:start] + reference + text[start:]
        assert text == hole.file.text
        assert all(is_canonical(hole.file.text, span) for span in hole.spans)


def test_the_same_seed_cuts_the_same_and_another_seed_others(repository_folder: Path, holes: list[Hole]):
    snapshot = read_snapshot(repository_folder)
    assert [hole.id for hole in cut_holes(snapshot, KINDS, 160, seed=3)] == [hole.id for hole in holes]
    assert [hole.id for hole in cut_holes(snapshot, KINDS, 160, seed=4)] != [hole.id for hole in holes]


def test_another_kind_moves_no_hole(repository_folder: Path):
    snapshot = read_snapshot(repository_folder)
    alone = {hole.id for hole in cut_holes(snapshot, ["line"], 6, seed=1)}
    together = {hole.id for hole in cut_holes(snapshot, ["line", "block"], 12, seed=1)}
    assert alone <= together


def test_holes_do_not_repeat_and_stop_where_there_are_no_more(repository_folder: Path):
    found = cut_holes(read_snapshot(repository_folder), ["function-body"], 500)
    assert len(found) == len({hole.id for hole in found}) < 20


@pytest.mark.parametrize("kind", ["line", "gaps"])
def test_lines_are_whole_lines_of_code(holes: list[Hole], kind: str):
    for hole in of_kind(holes, kind):
        for start, end in hole.spans:
            line = hole.file.text[hole.file.text.rfind("\n", 0, start) + 1 : hole.file.text.find("\n", start)]
            assert line.strip() == hole.file.text[start:end]
            assert not line.strip().startswith(("#", "//", '"""'))


def test_rests_begin_behind_something_and_not_with_space(holes: list[Hole]):
    for hole in of_kind(holes, "rest-of-line"):
        (start, end), text = hole.spans[0], hole.file.text
        assert text[text.rfind("\n", 0, start) + 1 : start].strip()
        assert not text[start].isspace()
        assert text[end] == "\n"


def test_blocks_are_several_lines_of_one_block(holes: list[Hole]):
    references = {hole.references[0] for hole in of_kind(holes, "block")}
    assert references == {
        'kind = "large"\n            size = int(size)',
        'kind = "small"\n            size = float(size)',
        "area = shape.area()\n        result = result + area",
        "result = result + value;\n    console.log(result, value);",
        # the body of a function that has no name is a block like any other
        "this.items.push(item);\n  return this.items.length;",
    }


def test_bodies_leave_the_docstring_and_the_braces(holes: list[Hole]):
    references = {hole.references[0] for hole in of_kind(holes, "function-body")}
    assert 'self.radius = radius\n        self.label = "🟢 circle"' in references
    assert "this.items = [];" in references
    assert not any("Take the radius" in reference for reference in references)


def test_arguments_are_what_stands_between_the_brackets(holes: list[Hole]):
    references = {hole.references[0] for hole in of_kind(holes, "arguments")}
    assert {"self.area(), 2", "kind, size, unit", "result, value"} <= references


def test_gaps_are_apart_and_in_order(holes: list[Hole]):
    for hole in of_kind(holes, "gaps"):
        assert len(hole.spans) >= 2
        assert all(first[1] < second[0] for first, second in zip(hole.spans, hole.spans[1:], strict=False))
        assert len(hole.references) == len(hole.spans)


def test_windows_line_ends_stay_in_the_file(tmp_path: Path):
    (tmp_path / "w.py").write_bytes(b"def f():\r\n    first = 1\r\n    second = 2\r\n    return first + second\r\n")
    for hole in cut_holes(read_snapshot(tmp_path), KINDS, 80):
        assert not hole.references[0].endswith("\r")
        assert all(is_canonical(hole.file.text, span) for span in hole.spans)


@pytest.mark.parametrize(
    ("text", "span", "is_right"),
    [
        pytest.param("a = 1\n", (0, 5), True, id="a-line"),
        pytest.param("  a = 1\n", (0, 7), False, id="begins-before-the-indentation"),
        pytest.param("  a = 1\n", (1, 7), False, id="begins-inside-the-indentation"),
        pytest.param("a = 1\n", (0, 6), False, id="takes-the-newline"),
        pytest.param("a = 1\r\n", (0, 6), False, id="takes-the-carriage-return"),
        pytest.param("a\n  b\n", (0, 3), False, id="ends-inside-an-indentation"),
        pytest.param("a\n  b\n", (0, 5), True, id="two-lines"),
        pytest.param("a\n", (1, 1), False, id="empty"),
    ],
)
def test_is_canonical(text: str, span: tuple[int, int], is_right: bool):
    assert is_canonical(text, span) is is_right


def test_the_form_is_the_one_that_training_uses():
    # two rooms that may not import each other: the tests may
    from lacuna_ls.training.holes import Hole as TrainingHole
    from lacuna_ls.training.holes import is_canonical as is_canonical_in_training

    text = "def f():\n    first = call(\n        1,\n    )\n\n    return first\n"
    spans = [(start, end) for start in range(len(text)) for end in range(start + 1, len(text) + 1)]
    here = {span for span in spans if is_canonical(text, span)}
    there = {span for span in spans if is_canonical_in_training(text, TrainingHole(*span, "span"))}
    assert here <= there


def test_unknown_kinds_are_refused(repository_folder: Path):
    with pytest.raises(ValueError, match="unknown kinds"):
        cut_holes(read_snapshot(repository_folder), ["chapter"], 1)  # type: ignore[list-item]


def test_a_begun_function_has_the_same_holes_by_other_names(repository_folder: Path):
    snapshot = read_snapshot(repository_folder)
    finished = cut_holes(snapshot, WRITTEN_KINDS, 60, seed=3)
    for written in ("open", "closed"):
        holes = cut_holes(snapshot, WRITTEN_KINDS, 60, seed=3, written=written)
        assert {hole.id.removesuffix(f":{written}") for hole in holes} & {hole.id for hole in finished}
        assert not {hole.id for hole in holes} & {hole.id for hole in finished}
        for hole in holes:
            assert hole.begun is not None
            cursor = hole.spans[0][0]
            assert hole.text == hole.begun.text
            assert hole.text[:cursor] == hole.file.text[:cursor]
            assert hole.file.text.endswith(hole.text[hole.begun.reach :])
            # no less is missing than what was taken out
            assert len(hole.file.text) - len(hole.text[hole.begun.reach :]) >= hole.spans[0][1]
    assert [
        hole.id.removesuffix(":open") for hole in cut_holes(snapshot, WRITTEN_KINDS, 60, seed=3, written="open")
    ] == [hole.id for hole in finished]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(WRITTEN_KINDS)))
def test_what_stands_before_something_on_its_line_is_not_written_so(repository_folder: Path, kind: str):
    with pytest.raises(ValueError, match="unknown kinds"):
        cut_holes(read_snapshot(repository_folder), [kind], 1, written="open")  # type: ignore[list-item]


def test_a_hole_names_itself():
    hole = Hole(SourceFile("a/b.py", "python", "x = 1\ny = 2\n"), "gaps", ((0, 5), (6, 11)))
    assert hole.id == "a/b.py:gaps:0-5+6-11"
    assert hole.text == "\n\n"
