"""What an adapter is worth: holes as the server fills them, and two models compared hole by hole."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from lacuna_ls.training.adapt import Files
from lacuna_ls.training.adapt_score import Score, change, held_out_cases, index_of, score
from lacuna_ls.training.evaluate import Case
from lacuna_ls.training.holes import Hole

ABOVE, LINE, BELOW = "def settings_path(folder, name):", "    return folder / 'config' / name", "def next_thing():"


def test_as_served_is_with_the_lines_of_other_files(model_file: Path) -> None:
    text = f"import os\n\n\n{ABOVE}\n{LINE}\n\n\n{BELOW}\n    pass\n"
    start = text.index("folder /")
    case = Case("held.py", text, Hole(start, text.index("\n", start), "rest-of-line"))
    other = f"import sys\n\n\n{ABOVE}\n{LINE}\n\n\n{BELOW}\n    ...\n"
    filled: list[int] = []
    without = score(model_file, "cpu", None, [case], index_of([], []), filled.append)
    served = score(model_file, "cpu", None, [case], index_of(["other.py"], [other]))
    assert filled == [1]
    # a model of random weights knows nothing: what is exact is the other file's line
    assert (without.alone, without.served) == ((False,), (False,))
    assert (served.alone, served.served) == ((False,), (True,))
    assert change(without, served).wins == 1


def test_figures_are_of_pairs() -> None:
    kinds = ("line", "line", "node", "node")
    old = Score(kinds, (False,) * 4, (True, True, False, False))
    new = Score(kinds, (True, False, False, False), (True, False, True, True))
    assert (old.percent(), new.percent(), new.percent("node"), new.percent(is_alone=True)) == (50.0, 75.0, 100.0, 25.0)
    assert math.isnan(new.percent("block"))
    found = change(old, new)
    assert (found.num_holes, found.wins, found.losses, found.points) == (4, 2, 1, 25.0)
    # differences are +1, +1, -1, 0: their standard deviation over the root of four
    assert found.error == pytest.approx(100 * math.sqrt((3 - 0.25) / 4) / 2)
    assert found.deviation == pytest.approx(1 / math.sqrt(3))
    assert str(found) == "2 more exact, 1 no longer, +25.0 ± 41.5 points (within chance)"
    none, all_of_them = (Score(kinds * 2, (hit,) * 8, (hit,) * 8) for hit in (False, True))
    assert "chance" not in str(change(none, all_of_them))
    assert change(all_of_them, none).deviation == pytest.approx(-math.sqrt(8))
    assert change(old, old).deviation == 0.0
    assert new.to_json() == {
        "num_holes": 4,
        "alone": {"line": 50.0, "node": 0.0, "all": 25.0},
        "served": {"line": 50.0, "node": 100.0, "all": 75.0},
    }
    with pytest.raises(ValueError, match="different holes"):
        change(old, Score(kinds[:1], (True,), (True,)))


def test_no_hole_is_asked_twice() -> None:
    small = Files([("a.py", "def first(value):\n    return value + 1\n\n\ndef second(value):\n    return value * 2\n")])
    found = held_out_cases(small, 300, 0)
    assert 3 <= len(found) < 100
    assert len({(case.hole.start, case.hole.end, case.hole.kind) for case in found}) == len(found)


def test_the_index_takes_what_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from lacuna_ls.training import adapt_score

    real = adapt_score.LineIndex
    monkeypatch.setattr(adapt_score, "LineIndex", lambda: real(max_text_bytes=8_000))
    texts = [f"value_{i} = {i}\n" * 200 for i in range(5)]
    index = index_of([f"{i}.py" for i in range(5)], texts)
    assert 0 < len(index) < 5
    assert "0.py" in index
