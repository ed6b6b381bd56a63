"""What the evaluation counts: the same holes for models and baselines, honest curves, several gaps both ways."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from lacuna_ls.engine.checkpoint import save_packed
from lacuna_ls.engine.errors import LacunaError, ModelNotFoundError
from lacuna_ls.engine.local import LocalEngine
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.engine.modelfile import TOKENIZER_KEY
from lacuna_ls.engine.problem import Cancelled, CanvasProblem, CanvasResult
from lacuna_ls.infill.baselines import BASELINES
from lacuna_ls.infill.infiller import LocalInfiller
from lacuna_ls.infill.tokenizer import Tokenizer
from lacuna_ls.training import evaluate as evaluate_module
from lacuna_ls.training.command import guarded, show
from lacuna_ls.training.corpus import Corpus
from lacuna_ls.training.evaluate import (
    Case,
    Outcome,
    cases,
    coverage_curve,
    judge,
    reliability,
    run_baseline,
    summary,
)
from lacuna_ls.training.evaluate import table as outcomes_table
from lacuna_ls.training.holes import Hole, sample_holes
from lacuna_ls.training.several import NEAR_LINES, measure, near, places, table, take_out
from lacuna_ls.training.train import SIZES, initialise

TEXT = "def first(a):\n    total = sum(a)\n    return total\n\n\ndef second(b):\n    total = sum(b)\n    return total\n"


class Texts:
    def __init__(self, *texts: str, language: str = "python") -> None:
        self.texts, self.language = texts, language

    def __len__(self) -> int:
        return len(self.texts)

    def text(self, i: int) -> str:
        return self.texts[i]

    def files(self) -> list[dict[str, str]]:
        return [{"package": f"p{i}", "language": self.language} for i in range(len(self.texts))]


def outcome(confidence: float, is_exact: bool, declined: str = "") -> Outcome:
    case = Case("p", TEXT, Hole(14, 18, "span"))
    answer = case.middle if is_exact else "nonsense"
    judged = judge(case, "" if declined else answer, confidence, 1.0)
    assert judged.is_exact == (is_exact and not declined)
    return judged


def test_a_text_without_a_kind_of_hole_ends_the_search() -> None:
    found = cases(Texts("x = 1\n", language="javascript"), 3, 0, ("rest-of-line", "block"))
    assert {case.hole.kind for case in found} == {"rest-of-line"}
    assert {case.language for case in found} == {"javascript"}


def test_baselines_see_the_text_without_the_hole() -> None:
    start = TEXT.rindex("return total")
    case = Case("p", TEXT, Hole(start, len(TEXT) - 1, "line"))
    assert case.middle == "return total"
    copied = run_baseline(BASELINES["copy"], case)
    assert (copied.is_exact, copied.is_valid, copied.confidence, copied.declined) == (True, True, 1.0, "")
    nothing = run_baseline(BASELINES["empty"], case)
    assert (nothing.is_exact, nothing.is_valid, nothing.confidence, nothing.declined) == (False, False, 0.0, "empty")


@pytest.mark.parametrize(
    ("answer", "is_valid"),
    # wrong but sound; a stray bracket; a statement that goes nowhere; nothing
    [("return total + 1", True), ("return (total", False), ("return = total", False), ("", False)],
)
def test_syntax_is_judged_beside_the_original(answer: str, is_valid: bool) -> None:
    start = TEXT.rindex("return total")
    judged = judge(Case("p", TEXT, Hole(start, len(TEXT) - 1, "line")), answer, 0.5, 1.0)
    assert (judged.is_valid, judged.is_exact) == (is_valid, False)


def test_curves_rank_by_confidence_and_leave_declines_out() -> None:
    told = [(0.9, True, ""), (0.9, False, ""), (0.5, True, ""), (0.15, False, ""), (0.9, True, "comment")]
    rows = [outcome(*each) for each in told]
    # the two of equal confidence are shown together
    assert coverage_curve(rows) == [(2 / 5, 1 / 2), (3 / 5, 2 / 3), (4 / 5, 1 / 2)]
    assert reliability(rows) == [(0.15, 0.0, 1), (0.5, 1.0, 1), (0.9, 0.5, 2)]
    assert summary(rows)["declined"] == pytest.approx(20.0)


def test_curves_end_at_all_answers_whatever_they_are() -> None:
    rng = random.Random(3)
    rows = [outcome(rng.random(), rng.random() < 0.3, rng.choice(("", "", "empty"))) for _ in range(60)]
    answered = [row for row in rows if not row.declined]
    coverage, precision = coverage_curve(rows)[-1]
    assert coverage == pytest.approx(len(answered) / 60)
    assert precision == pytest.approx(sum(row.is_exact for row in answered) / len(answered))
    assert sum(count for _, _, count in reliability(rows)) == len(answered)


@pytest.fixture
def model(small_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A tiny packed model with random weights."""
    path = tmp_path / "model.safetensors"
    tiny = initialise(DiffusionGemma(SIZES["tiny"].config(small_tokenizer.vocab_size)))
    save_packed(tiny, path, {TOKENIZER_KEY: small_tokenizer.to_json()})
    return path


def test_every_decoding_of_a_hole_begins_with_nothing_cached(
    small_corpus: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hole by hole, each decoding first in its turn, and none goes on from the prompt that another has encoded."""
    asked: list[tuple[str, int]] = []
    cached: list[int] = []
    fill, run = LocalEngine.fill, evaluate_module.run

    def filled(self: LocalEngine, problem: CanvasProblem, cancelled: Cancelled | None = None) -> list[CanvasResult]:
        results = fill(self, problem, cancelled)
        cached.append(results[0].timings.num_cached)
        return results

    def remembered(infiller: LocalInfiller, case: Case, recorder: object = None) -> Outcome:
        asked.append((infiller.policy.decoding, case.hole.start))
        return run(infiller, case, recorder)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalEngine, "fill", filled)
    monkeypatch.setattr(evaluate_module, "run", remembered)
    todo = cases(Corpus(small_corpus, "holdout"), 1, 0)
    found = evaluate_module.evaluate(model, todo, ("verify", "autoregressive"))
    ways = [decoding for decoding, _ in asked]
    assert ways == ["verify", "autoregressive", "autoregressive", "verify"] * 2 + ["verify", "autoregressive"]
    starts = [start for _, start in asked]
    assert starts[::2] == starts[1::2]
    assert set(cached) == {0}
    # whoever asks first, the outcomes stand in the order of the cases
    assert [o.kind for o in found["verify"]] == [o.kind for o in found["autoregressive"]]
    # without that, the second would find the first one's prompt
    monkeypatch.setattr(evaluate_module, "forget", lambda _: None)
    cached.clear()
    evaluate_module.evaluate(model, todo, ("verify", "autoregressive"))
    assert max(cached) > 20


def test_without_a_corpus_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"holdout\.idx\.npy does not exist; build the corpus first"):
        evaluate_module.main(["--corpus", str(tmp_path)])
    # under `lacuna`, and by itself: a line, no traceback
    done = subprocess.run(
        [sys.executable, "-m", "lacuna_ls.training.evaluate", "--corpus", str(tmp_path)],
        check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"training.corpus --out {tmp_path}\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--json", "--calibrate"])
def test_a_file_that_cannot_be_written_is_said_first(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LacunaError, match=r"cannot be written"):
        evaluate_module.main(["--corpus", str(tmp_path), option, str(tmp_path / "file" / "figures.json")])


@pytest.mark.parametrize("wrong", [["--threads", "-1"], ["--holes", "0"], ["--gaps", "-1"]])
def test_numbers_that_make_no_sense_are_asked_wrongly(tmp_path: Path, wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate_module.main(["--corpus", str(tmp_path), *wrong])


@pytest.mark.parametrize("columns", [80, 200], ids=["a pipe or a narrow terminal", "a wide one"])
def test_no_column_is_cut(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    show(outcomes_table({"autoregressive": [outcome(0.9, True)] * 3}))
    text = capsys.readouterr().out
    for wanted in ("decoding", "similarity %", "declined %", "p@50 %", "forwards", "p95 ms", "autoregressive", "100.0"):
        assert wanted in text
    assert "\u2026" not in text


def test_commands_of_the_room_end_with_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise ModelNotFoundError("gone; look elsewhere")

    def interrupt() -> None:
        raise KeyboardInterrupt

    assert [guarded(command) for command in (lambda: 0, lambda: None, lambda: 3, fail, interrupt)] == [0, 0, 3, 1, 130]
    assert capsys.readouterr().err == "gone; look elsewhere\n"


@pytest.mark.parametrize("num_gaps", [2, 3])
def test_what_is_taken_out_fits_back_in(small_corpus: Path, num_gaps: int) -> None:
    corpus = Corpus(small_corpus, "holdout")
    texts = {corpus.text(i) for i in range(len(corpus))}
    found = places(corpus, num_gaps, 4, 0)
    assert len(found) == 4
    for place in found:
        assert len(place.gaps) == len(place.middles) == num_gaps
        text = place.text
        for gap, middle in reversed(list(zip(place.gaps, place.middles, strict=True))):
            text = text[: gap.start] + middle + text[gap.end :]
        assert text in texts
        distances = [place.text.count("\n", a.end, b.start) for a, b in zip(place.gaps, place.gaps[1:])]
        assert all(NEAR_LINES[0] <= distance <= NEAR_LINES[1] for distance in distances)


def test_gaps_that_are_too_far_apart_are_no_place() -> None:
    text = "first = 1\n" + "\n" * 40 + "second = 2\n"
    holes = sample_holes(text, random.Random(0), ("line",), 8)
    assert len(holes) == 2
    assert near(text, holes, 2) is None
    assert take_out(text, sorted(holes, key=lambda hole: hole.start), "python").middles == ("first = 1", "second = 2")


def test_both_ways_fill_the_same_places(small_corpus: Path, model: Path) -> None:
    rows = measure(model, Corpus(small_corpus, "holdout"), 2, 0)
    assert [(row["gaps"], row["way"]) for row in rows] == [
        (2, "one by one"), (2, "jointly"), (3, "one by one"), (3, "jointly"),
    ]  # fmt: skip
    assert all(row["places"] == 2 and 0 <= row["exact_places"] <= row["exact_gaps"] <= 100 for row in rows)
    assert table(rows).row_count == 4
