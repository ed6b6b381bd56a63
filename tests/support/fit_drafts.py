"""Fit the weights of infill/seeds.py: python fit_drafts.py PACKAGE_DIR... [--test FOLDER...]

Cuts rest-of-line and whole-line holes into the packages' own files, drafts each from the rest of its package, and fits
one logistic regression per kind. With --test it prints precision by coverage on folders that were not fitted.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from lacuna_ls.infill import seeds
from lacuna_ls.infill.index import LineIndex
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.span import Gap
from lacuna_ls.training.holes import sample_holes


def collect(root: Path, num_files: int, num_holes: int) -> list[tuple[seeds.Draft | None, bool, bool]]:
    """(best draft, whether it is exact, whether something of the line is written) of every hole."""
    paths = [path for path in sorted(root.rglob("*.py")) if 500 < path.stat().st_size < 150_000]
    files = [(str(path), path.read_text(errors="replace")) for path in paths]
    rng = random.Random(0)
    rng.shuffle(files)
    index = LineIndex()
    for path, text in files:
        index.update(path, text)
    rows = []
    for path, text in files[:num_files]:
        for hole in sample_holes(text, rng, ("rest-of-line", "line"), num_holes):
            cut = text[: hole.start] + text[hole.end :]
            gap = Gap(hole.start, hole.start, "line" if hole.kind == "line" else "rest")
            drafts = seeds.drafts_for(Snapshot(cut), gap, index, path)
            best = drafts[0] if drafts else None
            rows.append((best, best is not None and best.text == text[hole.start : hole.end], hole.kind != "line"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--test", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    train = [row for root in options.packages for row in collect(root, 120, 4)]
    test = [row for root in options.test for row in collect(root, 250, 6)]
    for name, is_rest in (("WEIGHTS_REST", True), ("WEIGHTS_LINE", False)):
        rows = [(draft.features(), hit) for draft, hit, rest in train if draft is not None and rest is is_rest]
        inputs = torch.tensor([features for features, _ in rows], dtype=torch.float64)
        hits = torch.tensor([float(hit) for _, hit in rows], dtype=torch.float64)
        weights = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=300)

        def loss(inputs=inputs, hits=hits, weights=weights, optimizer=optimizer):
            optimizer.zero_grad()
            value = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ weights, hits)
            value = value + 1e-3 * weights[1:].square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        print(f"{name} = {tuple(round(float(w), 3) for w in weights.detach())}  # {len(rows)} holes")
        judged = [(draft, hit) for draft, hit, rest in test if rest is is_rest]
        ranked = sorted(judged, key=lambda row: -(row[0].probability() if row[0] else 0.0))
        for coverage in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
            top = ranked[: int(coverage * len(ranked))]
            if top and top[-1][0] is not None:
                rate = sum(hit for _, hit in top) / len(top)
                print(f"  coverage {coverage:.2f}  precision {rate:.3f}  threshold {top[-1][0].probability():.3f}")
        if judged:
            print(f"  exact {sum(hit for _, hit in judged) / len(judged):.3f} of {len(judged)}")


if __name__ == "__main__":
    main()
