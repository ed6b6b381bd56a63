"""The model card says what the files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lacuna_ls.engine.errors import ModelNotFoundError
from lacuna_ls.training.card import main, read_log, renew_quality
from lacuna_ls.training.train import SIZES

FIGURES = {
    "holes": 2, "exact": 50.0, "similarity": 75.5, "declined": 0.0, "valid": 90.0, "precision_10": 100.0,
    "precision_25": 100.0, "precision_50": 50.0, "steps": 2.0, "forwards": 3.0, "tokens": 6.5, "p50_ms": 12.0,
    "p95_ms": 30.4,
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    row = {"step": 1, "tokens": 500_000, "encoder": 4.0, "canvas": 0.0, "probe_encoder": 4.5, "probe_canvas": 5.0}
    later = {**row, "step": 2, "tokens": 1_000_000, "encoder": 3.0, "canvas": 4.0, "probe_encoder": 3.25}
    lines = [json.dumps(row), json.dumps(later), '{"step": 3, "tok']
    (folder / "log.jsonl").write_text("\n".join(lines), "utf-8")
    (folder / "state.json").write_text(json.dumps({"step": 2, "num_tokens": 1_000_000, "used_s": 600.0}), "utf-8")
    (folder / "config.json").write_text(json.dumps(SIZES["tiny"].config(800).to_dict()), "utf-8")
    return folder


def test_a_line_cut_short_is_dropped(run: Path) -> None:
    assert [row["step"] for row in read_log(run)] == [1, 2]


def test_without_a_run_or_a_corpus_it_says_what_to_do(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("", "utf-8")
    rest = ["--notes", str(tmp_path / "notes.md"), "--conditions", "", "--out", str(tmp_path / "CARD.md")]
    with pytest.raises(ModelNotFoundError, match=r"gone\.json does not exist.*training\.corpus --out"):
        main([str(run), "--manifest", str(tmp_path / "gone.json"), *rest])
    (tmp_path / "manifest.json").write_text("{}", "utf-8")
    with pytest.raises(ModelNotFoundError, match=r"log\.jsonl does not exist.*lacuna train"):
        main([str(tmp_path / "nowhere"), "--manifest", str(tmp_path / "manifest.json"), *rest])
    (run / "state.json").unlink()
    with pytest.raises(ModelNotFoundError, match="holds no state"):
        main([str(run), "--manifest", str(tmp_path / "manifest.json"), *rest])


def test_the_card(run: Path, tmp_path: Path) -> None:
    package = {"version": "1.2", "licence": "MIT", "files": 3, "bytes": 2_500_000}
    packages = {"small": {**package, "split": "train", "bytes": 100_000}, "big": {**package, "split": "train"}}
    manifest = {"packages": {**packages, "kept": {**package, "split": "holdout"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    answers = [{"confidence": i / 40, "is_exact": i % 3 == 0, "declined": "" if i > 5 else "empty"} for i in range(40)]
    sure = [{**each, "confidence": float(not each["declined"])} for each in answers]
    gap = {"gaps": 2, "way": "jointly", "places": 9, "exact_gaps": 12.5, "exact_places": 3.0, "p50_ms": 90.2}
    gaps = [{**gap, "p95_ms": 140.0}]
    figures = {"figures": {"verify": {"line": FIGURES}}, "outcomes": {"copy": sure, "verify": answers}, "gaps": gaps}
    (tmp_path / "figures.json").write_text(json.dumps(figures), "utf-8")
    (tmp_path / "notes.md").write_text("Two busy cores.", "utf-8")
    out = tmp_path / "docs" / "CARD.md"
    arguments = [str(run), "--manifest", str(tmp_path / "manifest.json"), "--notes", str(tmp_path / "notes.md")]
    arguments += ["--conditions", "On two quiet cores."]
    assert main([*arguments, "--figures", f"As served={tmp_path / 'figures.json'}", "--out", str(out)]) == 0
    text = out.read_text("utf-8")
    for wanted in (
        "2 layers, hidden size 64",
        "2 steps and 1.0 million supervised tokens in 10 minutes",
        "3.250 nats per token",
        "Two busy cores.",
        "On two quiet cores.",
        "### As served",
        "| verify | line | 2 | 50.0 | 75.5 | 0.0 | 90.0 | 100.0 | 100.0 | 50.0 | 2.0 | 3.0 | 6.5 | 12 | 30 |",
        "| 2 | jointly | 9 | 12.5 | 3.0 | 90 | 140 |",
        "](quality-curve.png)",
        "| kept | 1.2 | MIT | 3 | 2.5 |",
    ):
        assert wanted in text
    assert text.index("| big |") < text.index("| small |")
    for name in ("training-curve.png", "quality-curve.png"):
        picture = out.with_name(name).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert 5_000 < len(picture) < 100_000
    # figures are renewed without the run, and nothing else changes
    better = {"figures": {"verify": {"line": {**FIGURES, "exact": 61.5}}}}
    (tmp_path / "better.json").write_text(json.dumps(better), "utf-8")
    again = ["--figures", f"Later={tmp_path / 'better.json'}", "--conditions", "Another machine.", "--out", str(out)]
    assert main(again) == 0
    renewed = out.read_text("utf-8")
    before, _, rest = text.partition("## How good it is")
    after = rest[rest.index("## What it was trained on") :]
    assert renewed.startswith(before)
    assert renewed.endswith(after)
    assert "| verify | line | 2 | 61.5 |" in renewed
    assert "Another machine." in renewed
    assert "As served" not in renewed
    assert main(again) == 0
    assert out.read_text("utf-8") == renewed


def test_what_is_no_card_is_not_renewed() -> None:
    with pytest.raises(ValueError, match="no chapter"):
        renew_quality("# Something else\n", "## How good it is\n")
