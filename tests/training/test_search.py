"""The search: every run differs in one thing, does the same work, and is made once."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.infill.tokenizer import Tokenizer
from lacuna_ls.training import search
from lacuna_ls.training.batches import BatchShape, LossWeights
from lacuna_ls.training.search import PROXY, Trial, active_parameters, run_trial, table, trials
from lacuna_ls.training.train import Plan, Size

SHAPE = BatchShape(num_examples=2, num_encoder=128, num_canvases=2, num_canvas_rows=16, max_middle=24)
PLAN = Plan(size="tiny", num_steps=3, shape=SHAPE, encoder_only_share=0.4, warmup_steps=2, ema_share=0.0)


def test_every_trial_differs_from_the_proxy_in_one_thing() -> None:
    base = Plan(size=PROXY)
    found = trials(base)
    assert len({trial.name for trial in found}) == len(found)
    for trial in found[1:]:
        before, after = asdict(base), asdict(trial.plan)
        changed = [name for name in before if before[name] != after[name]] + ["vocabulary"] * (trial.vocab_size > 0)
        assert len(changed) == 1, trial.name


def test_what_is_compared_at_one_budget_has_one_budget() -> None:
    def model(size: Size) -> DiffusionGemma:
        return DiffusionGemma(size.config(4096))

    sizes = {t.name: t.plan.size for t in trials(Plan(size=PROXY)) if isinstance(t.plan.size, Size)}
    total = {name: sum(p.numel() for p in model(size).parameters()) for name, size in sizes.items()}
    for name in ("deep", "wide", "mostly dense", "mostly experts"):
        assert total[name] == pytest.approx(total["proxy"], rel=0.03), name
    assert total["larger"] > 1.5 * total["proxy"]
    # two of four experts of 64 in four layers stay idle
    assert active_parameters(model(PROXY)) == total["proxy"] - 4 * 2 * 3 * 128 * 64
    everything = model(replace(PROXY, top_k=4))
    assert active_parameters(everything) == sum(p.numel() for p in everything.parameters())


def test_runs_see_the_same_tokens_and_are_made_once(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = LossWeights(middle=1.0)
    usual = run_trial(Trial("usual", "", PLAN), small_corpus, tmp_path, num_workers=0)
    other = run_trial(Trial("other", "", replace(PLAN, weights=weights)), small_corpus, tmp_path, num_workers=0)
    assert (usual["steps"], usual["tokens"]) == (3, other["tokens"])
    assert usual["parameters"] == other["parameters"]
    assert (usual["encoder"], usual["canvas"]) != (other["encoder"], other["canvas"])
    monkeypatch.setattr(search, "train", lambda *_, **__: pytest.fail("a kept result is not made again"))
    assert run_trial(Trial("usual", "", PLAN), small_corpus, tmp_path) == json.loads(json.dumps(usual))
    lines = table([usual, other]).splitlines()
    assert len(lines) == 4
    assert f"| {usual['encoder']:.3f} | {usual['canvas']:.3f} |" in lines[2]


def test_another_vocabulary_reads_the_same_texts(small_corpus: Path, tmp_path: Path) -> None:
    result = run_trial(Trial("small words", "", PLAN, 300), small_corpus, tmp_path, num_workers=0)
    own = (tmp_path / "corpus-300" / "tokenizer.json").read_text("utf-8")
    assert Tokenizer.from_json(own).vocab_size == 300
    assert (tmp_path / "corpus-300" / "train.bin").read_bytes() == (small_corpus / "train.bin").read_bytes()
    usual = search._bytes_per_token(small_corpus, (small_corpus / "tokenizer.json").read_text("utf-8"))
    assert 1.0 < result["bytes_per_token"] < usual
