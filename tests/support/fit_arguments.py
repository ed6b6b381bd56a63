"""Fit the weights of infill/arguments.py: python fit_arguments.py SNAPSHOT... [--test SNAPSHOT...] [--languages NAME]

Cuts lines off within the arguments of a call, and arguments out of finished calls, drafts them from the rest of the
package, and fits a logistic regression to which drafts are exactly right. With --test it prints how often drafts of
each likelihood are, on snapshots that were not fitted. Never fit on what the benchmark uses, nor on a package of
training/holdout.json.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from lacuna_ls.bench.snapshot import read_snapshot
from lacuna_ls.infill import arguments
from lacuna_ls.infill.index import LineIndex
from lacuna_ls.infill.languages import language_for_path
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.span import Gap, Scene
from lacuna_ls.infill.syntax import SyntaxTree

MAX_FILE_CHARS = 150_000
_OPENED = re.compile(r"[\w$]\(|, ")


@dataclass(frozen=True)
class Row:
    """One draft. number: of its hole."""

    number: int
    draft: arguments.Arguments
    is_exact: bool
    ms: float


def collect(root: Path, languages: tuple[str, ...], num_holes: int) -> tuple[list[Row], int]:
    """A row of every draft, and how many holes there were."""
    snapshot = read_snapshot(root, languages)
    files = [file for file in snapshot.files if len(file.text) < MAX_FILE_CHARS]
    index = LineIndex(max_text_bytes=200_000_000)
    for file in files:
        index.update(file.path, file.text)
    rng = random.Random(0)
    files = sorted((file for file in files if "test" not in file.path), key=lambda file: file.path)
    rows: list[Row] = []
    number = 0
    for _ in range(num_holes if files else 0):
        file = rng.choice(files)
        places = [match.end() for match in _OPENED.finditer(file.text)]
        if not places:
            continue
        start = rng.choice(places)
        language = language_for_path(file.path)
        text = file.text
        line_end = Snapshot(text).line_end(start)
        end, kind = line_end, "rest"
        if rng.random() < 0.3:
            # in a call that is there
            depth, at = 1, start
            while depth and at < line_end:
                depth += (text[at] in "([{") - (text[at] in ")]}")
                at += 1
            if depth:
                continue
            end, kind = at - 1, "node"
        if not text[start:end].strip() and (kind == "rest" or rng.random() < 0.7):
            continue
        if kind == "rest" and rng.random() < 0.2:
            word = re.match(r"\w+", text[start:end])
            start += rng.randrange(1, len(word[0])) if word and len(word[0]) > 1 else 0
        cut = text[:start] + text[end:]
        here = Snapshot(cut)
        scene = Scene(here, SyntaxTree.around(language, cut, start, start), here.indent(start))
        begun = time.perf_counter()
        drafts = arguments.arguments_for(scene, Gap(start, start, kind), file.path, index)
        ms = (time.perf_counter() - begun) * 1e3
        if not scene.tree.is_code_at(start):
            continue
        number += 1
        rows += [Row(number, each, each.text == text[start:end], ms) for each in drafts]
    return rows, number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--test", type=Path, nargs="*", default=[])
    parser.add_argument("--languages", nargs="+", default=["python"])
    parser.add_argument("--holes", type=int, default=400)
    options = parser.parse_args()
    languages = tuple(options.languages)
    num = 0
    rows: list[Row] = []
    for root in options.packages:
        found, count = collect(root, languages, options.holes)
        print(root.name, count, len(found), sum(row.is_exact for row in found), file=sys.stderr)
        num += count
        rows += found
    inputs = torch.tensor([row.draft.features for row in rows], dtype=torch.float64)
    hits = torch.tensor([float(row.is_exact) for row in rows], dtype=torch.float64)
    weights = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=300)

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ weights, hits)
        value = value + 1e-3 * weights[1:].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    fitted = tuple(round(float(weight), 3) for weight in weights.detach())
    name = "WEIGHTS_BY_NAME" if rows[0].draft.may_name else "WEIGHTS_IN_ORDER"
    print(f"{name} = {fitted}")
    print(f"{len(rows)} drafts of {num} holes, {int(hits.sum())} exact")
    setattr(arguments, name, fitted)
    print("support per feature", [int(each) for each in inputs.sum(0)])
    for name, judged, count in (("fitted", rows, num), *_tests(options, languages)):
        best: dict[int, Row] = {}
        for row in judged:
            if row.number not in best or row.draft.probability() > best[row.number].draft.probability():
                best[row.number] = row
        print(f"{name}: {count} holes, {len(best)} with drafts, {sum(row.is_exact for row in best.values())} exact")
        for low in (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0):
            high = low + (0.2 if low == 0.8 else 0.1)
            part = [row for row in best.values() if low <= row.draft.probability() < high]
            if part:
                print(f"  {low:.1f}: {len(part)} drafts, {sum(row.is_exact for row in part) / len(part):.2f} exact")
        times = sorted(row.ms for row in judged)
        if times:
            p50, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
            print(f"  ms p50 {p50:.2f}  p95 {p95:.2f}  max {times[-1]:.1f}")


def _tests(options: argparse.Namespace, languages: tuple[str, ...]) -> list[tuple[str, list[Row], int]]:
    found = []
    for root in options.test:
        rows, count = collect(root, languages, options.holes)
        found.append((root.name, rows, count))
    return found


if __name__ == "__main__":
    main()
