"""Fit the weights of infill/seeds.py: python fit_drafts.py PACKAGE_DIR... [--test SNAPSHOT...] [--only NAME...]

Cuts rest-of-line, whole-line and block holes into the packages' own files, drafts each from the rest of its package,
and fits one logistic regression per kind. With --test it prints precision by coverage, and times, on snapshots that
were not fitted. Never fit on what the benchmark uses, nor on a package of training/holdout.json.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fitting import weights_for
from lacuna_ls.bench.holes import cut_holes
from lacuna_ls.bench.snapshot import Snapshot as Package
from lacuna_ls.bench.snapshot import SourceFile, read_snapshot
from lacuna_ls.infill import seeds
from lacuna_ls.infill.index import LineIndex
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.request import InfillRequest
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.span import Gap, Scene
from lacuna_ls.infill.syntax import SyntaxTree
from lacuna_ls.infill.trigger import Decline, decide
from lacuna_ls.training.holes import sample_holes

MAX_FILE_CHARS = 150_000
MIN_FILE_CHARS = 500


@dataclass(frozen=True)
class Row:
    """One hole. best: its first draft, and whether that is exact. ms: what drafting took."""

    name: str
    best: seeds.Draft | None
    is_exact: bool
    ms: float


def collect(root: Path, num_files: int, num_holes: int, names: list[str]) -> list[Row]:
    """A row of every hole that is cut into the Python files of a package."""
    snapshot = read_snapshot(root, ("python",))
    files = [file for file in snapshot.files if MIN_FILE_CHARS < len(file.text) < MAX_FILE_CHARS]
    files.sort(key=lambda file: file.path)
    rng = random.Random(0)
    rng.shuffle(files)
    index = LineIndex(max_text_bytes=100_000_000)
    for file in files:
        index.update(file.path, file.text)
    rows = []
    for name, file, start, end, gap in _gaps(snapshot, files[:num_files], num_holes, rng):
        if name not in names:
            continue
        cut = Snapshot(file.text[:start] + file.text[end:])
        begun = time.perf_counter()
        drafts = seeds.drafts_for(cut, gap, index, file.path)
        ms = (time.perf_counter() - begun) * 1e3
        best = drafts[0] if drafts else None
        rows.append(Row(name, best, best is not None and best.text == file.text[start:end], ms))
    return rows


def _gaps(
    package: Package, files: list[SourceFile], num_holes: int, rng: random.Random
) -> Iterator[tuple[str, SourceFile, int, int, Gap]]:
    """(name of the weights, file, start, end, gap) of every hole."""
    for file in files:
        for hole in sample_holes(file.text, rng, ("rest-of-line", "line"), num_holes):
            gap = Gap(hole.start, hole.start, "line" if hole.kind == "line" else "rest")
            yield ("WEIGHTS_LINE" if hole.kind == "line" else "WEIGHTS_REST"), file, hole.start, hole.end, gap
    # where the server would fill a block, too
    for block in cut_holes(package, ("block", "function-body"), num_holes * len(files)):
        ((start, end),) = block.spans
        text = block.file.text[:start] + block.file.text[end:]
        request = InfillRequest(text, start, start, "python")
        language, cut = language_for("python"), Snapshot(text)
        found = decide(request, Scene(cut, SyntaxTree.around(language, text, start, start), cut.indent(start)))
        if not isinstance(found, Decline) and found.extent == "block" and not found.lead:
            yield "WEIGHTS_BLOCK", block.file, start, end, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--test", type=Path, nargs="*", default=[])
    names = ["WEIGHTS_REST", "WEIGHTS_LINE", "WEIGHTS_BLOCK"]
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    options = parser.parse_args()
    train = [row for root in options.packages for row in collect(root, 120, 4, options.only)]
    test = [row for root in options.test for row in collect(root, 250, 6, options.only)]
    for name in options.only:
        rows = [(row.best.features(), row.is_exact) for row in train if row.best is not None and row.name == name]
        fitted = weights_for([features for features, _ in rows], [hit for _, hit in rows])
        print(f"{name} = {fitted}  # {len(rows)} holes, {sum(hit for _, hit in rows)} exact")
        setattr(seeds, name, fitted)
        judged = [(row.best, row.is_exact) for row in test if row.name == name]
        ranked = sorted(judged, key=lambda row: -(row[0].probability() if row[0] else 0.0))
        for coverage in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
            top = ranked[: int(coverage * len(ranked))]
            if top and top[-1][0] is not None:
                rate = sum(hit for _, hit in top) / len(top)
                print(f"  coverage {coverage:.2f}  precision {rate:.3f}  threshold {top[-1][0].probability():.3f}")
        if judged:
            print(f"  exact {sum(hit for _, hit in judged) / len(judged):.3f} of {len(judged)}")
            times = sorted(row.ms for row in test if row.name == name)
            print(f"  ms p50 {times[len(times) // 2]:.2f}  p95 {times[int(len(times) * 0.95)]:.2f}")


if __name__ == "__main__":
    main()
