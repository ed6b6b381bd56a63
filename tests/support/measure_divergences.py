"""What each divergence of the embedded model's denoising from the reference is worth (ARCHITECTURE.md, D3 to D6).

    python tests/support/measure_divergences.py REPO [--holes 60] [--seed 0]

Takes lines and rests of lines out of a repository that the model has not seen, denoises them as served (without
drafts), and again with one divergence undone at a time. Prints a Markdown line each: how alike the answer is to what
stood there, exact matches, steps, milliseconds. D1 is in the model card, D2 and D7 change no token.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from lacuna_ls.engine import local
from lacuna_ls.engine.checkpoint import load_checkpoint
from lacuna_ls.engine.modelfile import EMBEDDED
from lacuna_ls.engine.policies import EMBEDDED_POLICY, StableAndConfident, TemperatureSchedule
from lacuna_ls.infill import pose
from lacuna_ls.infill.infiller import LocalInfiller
from lacuna_ls.infill.load import load_calibration, load_tokenizer
from lacuna_ls.infill.pose import Policy
from lacuna_ls.training.adapt import Files, read_repository
from lacuna_ls.training.evaluate import cases, run


@contextmanager
def unmarked() -> Iterator[None]:
    """Pinned rows told nothing at the first step, and what was believed of them later, as in the reference."""
    believe = local._Bound.soft_embedding
    changed = mock.patch.multiple(
        local._Bound,
        first_soft_embedding=lambda *_: None,
        soft_embedding=lambda self, logits, tokens, pinned: believe(self, logits, tokens, torch.zeros_like(pinned)),
    )
    with with_lengths(), changed:
        yield


@contextmanager
def with_lengths() -> Iterator[None]:
    """Every candidate length for one answer: rows that are pinned."""
    usual = pose.canvases_for
    with mock.patch.object(pose, "canvases_for", lambda tokenizer, gap, policy, *_: usual(tokenizer, gap, policy, 4)):
        yield


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("repo", type=Path)
    parser.add_argument("--holes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_checkpoint(EMBEDDED, "cpu"), load_tokenizer(EMBEDDED)
    config = model.config
    todo = cases(Files(read_repository(options.repo)), options.holes // 2, options.seed, ("rest-of-line", "line"))
    usual = Policy(decoding="denoise", use_healing=False)
    sampled = replace(EMBEDDED_POLICY, choose="sample", temperature=TemperatureSchedule())
    mean_stop = replace(EMBEDDED_POLICY, stop=StableAndConfident())
    rows = [
        ("as served", EMBEDDED_POLICY, usual, config, nullcontext()),
        ("without D3: sampled, temperature 0.8 to 0.4", sampled, usual, config, nullcontext()),
        ("without D4: stable, mean entropy under 0.005", mean_stop, usual, config, nullcontext()),
        ("without D5: noise of all tokens", EMBEDDED_POLICY, usual, replace(config, first_noise_id=0), nullcontext()),
        ("with candidate lengths", EMBEDDED_POLICY, usual, config, with_lengths()),
        ("the same without D6: pinned rows unmarked", EMBEDDED_POLICY, usual, config, unmarked()),
    ]
    print(f"| {len(todo)} holes | similarity % | exact % | steps | ms |\n|---|---:|---:|---:|---:|", flush=True)
    for name, sampling, policy, changed, patched in rows:
        model.config = changed
        engine = local.LocalEngine(model, sampling)
        infiller = LocalInfiller(engine, tokenizer, calibration=load_calibration(EMBEDDED), policy=policy)
        with patched:
            found = [run(infiller, case) for case in todo]
        means = [statistics.fmean(values) for values in (
            [100 * each.similarity for each in found], [100 * each.is_exact for each in found],
            [each.steps for each in found],
        )]  # fmt: skip
        ms = statistics.median(each.ms for each in found)
        print(f"| {name} | {means[0]:.1f} | {means[1]:.1f} | {means[2]:.1f} | {ms:.0f} |", flush=True)


if __name__ == "__main__":
    main()
