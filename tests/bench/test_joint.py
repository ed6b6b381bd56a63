"""Several holes jointly against one by one: what is asked, and what counts."""

from __future__ import annotations

import pytest
from lacuna_ls.bench.holes import Hole, cut_holes
from lacuna_ls.bench.joint import compare_joint, is_sound
from lacuna_ls.bench.snapshot import SourceFile, read_snapshot
from lacuna_ls.infill.request import GapFill, GapsResult, Proposal

TEXT = "def f(a):\n    b = a + 1\n    c = b * 2\n    print(b)\n    print(c)\n    d = c - 3\n    return d\n"
LINES = ("b = a + 1", "d = c - 3")
HOLE = Hole(SourceFile("f.py", "python", TEXT), "gaps", tuple((TEXT.index(x), TEXT.index(x) + len(x)) for x in LINES))


class Canned:
    """Answers texts in order; None declines."""

    def __init__(self, alone, jointly):
        self.texts = {False: alone, True: jointly}
        self.asked = []

    def fill_gaps(self, request, cancelled=None):
        self.asked.append(request)
        pairs = zip(request.gaps, self.texts[request.jointly], strict=True)
        return GapsResult(
            tuple(GapFill(gap, Proposal(x, gap.start, gap.end, 1.0) if x is not None else None) for gap, x in pairs)
        )


def rows(alone, jointly):
    infiller = Canned(alone, jointly)
    return infiller, compare_joint(infiller, [HOLE], lambda done: None)


def test_both_ways_see_the_same_document_without_its_gaps():
    infiller, _ = rows(LINES, LINES)
    alone, jointly = infiller.asked
    assert (alone.jointly, jointly.jointly) == (False, True)
    assert alone.text == jointly.text == TEXT.replace(LINES[0], "").replace(LINES[1], "")
    for gap in alone.gaps:
        assert alone.text[:gap.start].endswith("\n    ")
        assert alone.text[gap.end] == "\n"


@pytest.mark.parametrize(
    ("texts", "filled", "exact", "all_exact", "valid"),
    [
        (LINES, 1.0, 1.0, 1.0, 1.0),
        ((LINES[0], None), 0.5, 0.5, 0.0, 1.0),
        ((LINES[0] + "  ", "x = (1"), 1.0, 0.5, 0.0, 0.0),
        ((None, None), 0.0, 0.0, 0.0, 1.0),
        (("if a:", LINES[1]), 1.0, 0.5, 0.0, 0.0),
    ],
    ids=["all right", "one open", "one broken", "none", "a header without its body"],
)
def test_rates(texts, filled, exact, all_exact, valid):
    _, (alone, jointly) = rows(LINES, texts)
    rates = [jointly[key] for key in ("filled", "exact", "all_exact", "valid")]
    assert rates == [filled, exact, all_exact, valid]
    assert alone["exact"] == 1.0
    assert jointly["different"] == sum(a != b for a, b in zip(LINES, texts, strict=True)) / 2
    assert (jointly["num_documents"], jointly["num_gaps"]) == (1, 2)


def test_the_original_is_as_sound_as_itself(tmp_path):
    for number in range(6):
        (tmp_path / f"m{number}.py").write_text((TEXT + "\n\n").replace("f(", f"f{number}(") * 6)
    holes = cut_holes(read_snapshot(tmp_path), ["gaps"], 12, 3)
    assert {len(hole.spans) for hole in holes} <= {2, 3, 4}
    assert max(len(hole.spans) for hole in holes) > 2
    for hole in holes:
        assert is_sound(hole, hole.references)
