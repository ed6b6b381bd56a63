"""What the scripts share that fit how likely a draft is exactly right: the packages, the regression and the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Protocol

import torch
from lacuna_ls.bench.snapshot import SourceFile, read_snapshot
from lacuna_ls.infill.index import LineIndex
from lacuna_ls.infill.languages import language_for_path
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.span import Gap, Scene
from lacuna_ls.infill.syntax import SyntaxTree

MAX_FILE_CHARS = 150_000


class Draft(Protocol):
    """What is fitted."""

    @property
    def text(self) -> str: ...

    @property
    def features(self) -> tuple[float, ...]: ...

    def probability(self) -> float: ...


@dataclass(frozen=True)
class Cut:
    """A hole: what stands in [start, end) of a file is taken out."""

    file: SourceFile
    start: int
    end: int

    @property
    def reference(self) -> str:
        return self.file.text[self.start : self.end]

    def scene(self) -> Scene:
        text = self.file.text[: self.start] + self.file.text[self.end :]
        here = Snapshot(text)
        tree = SyntaxTree.around(language_for_path(self.file.path), text, self.start, self.start)
        return Scene(here, tree, here.indent(self.start))

    def gap(self) -> Gap:
        return Gap(self.start, self.start, "rest")


@dataclass(frozen=True)
class Row:
    """One draft."""

    draft: Draft
    is_exact: bool


Cutter = Callable[[SourceFile, Random], Cut | None]
Drafter = Callable[[Cut, LineIndex], Sequence[Draft]]


def collect(root: Path, languages: tuple[str, ...], count: int, cut: Cutter, draft: Drafter) -> Iterator[list[Row]]:
    """The rows of each hole, with every other file of the package in the index."""
    files = [file for file in read_snapshot(root, languages).files if len(file.text) < MAX_FILE_CHARS]
    files.sort(key=lambda file: file.path)
    index = LineIndex(max_text_bytes=200_000_000)
    for file in files:
        index.update(file.path, file.text)
    rng = Random(0)
    for _ in range(count if files else 0):
        hole = cut(rng.choice(files), rng)
        if hole is not None and hole.reference.strip():
            yield [Row(each, each.text == hole.reference) for each in draft(hole, index)]


def weights_for(features: Sequence[Sequence[float]], is_exact: Sequence[bool]) -> tuple[float, ...]:
    """Those of the logistic regression that fits which drafts are exact."""
    inputs = torch.tensor(features, dtype=torch.float64)
    hits = torch.tensor(is_exact, dtype=torch.float64)
    weights = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=300)

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ weights, hits)
        value = value + 1e-3 * weights[1:].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return tuple(round(float(weight), 3) for weight in weights.detach())


def report(name: str, holes: Sequence[list[Row]]) -> None:
    """How many holes get drafts, and how often the likeliest is exact, by how likely it is said to be."""
    best = [max(rows, key=lambda row: row.draft.probability()) for rows in holes if rows]
    print(f"{name}: {len(holes)} holes, {len(best)} with drafts, {sum(row.is_exact for row in best)} exact")
    for low in (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0):
        high = 1.1 if low == 0.8 else low + 0.1
        part = [row for row in best if low <= row.draft.probability() < high]
        if part:
            print(f"  {low:.1f}: {len(part)} drafts, {sum(row.is_exact for row in part) / len(part):.2f} exact")


def main(doc: str, cut: Cutter, draft: Drafter, where: Callable[[Draft], tuple[ModuleType, str]]) -> None:
    """The command. where: the module and the name of the weights of a draft."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--test", type=Path, nargs="*", default=[])
    parser.add_argument("--languages", nargs="+", default=["python"])
    parser.add_argument("--holes", type=int, default=400, help="tried in each package")
    options = parser.parse_args()
    languages = tuple(options.languages)
    holes: list[list[Row]] = []
    for root in options.packages:
        found = list(collect(root, languages, options.holes, cut, draft))
        print(root.name, len(found), sum(map(len, found)), file=sys.stderr)
        holes += found
    rows = [row for each in holes for row in each]
    module, name = where(rows[0].draft)
    setattr(module, name, weights_for([row.draft.features for row in rows], [row.is_exact for row in rows]))
    print(f"{name} = {getattr(module, name)}")
    features = zip(*(row.draft.features for row in rows), strict=True)
    print("support per feature", [int(sum(values)) for values in features])
    report("fitted", holes)
    for root in options.test:
        report(root.name, list(collect(root, languages, options.holes, cut, draft)))
