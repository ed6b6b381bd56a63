"""What an adapter is worth on files that were held out: which holes a model fills exactly, as the server fills them.

As served is with an index of the other files, whose similar lines compete with the model's answer. Models are compared
hole by hole, so that what they have in common is no noise. Knows no training and no file of an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..engine.adapter import Adapter
from ..engine.modelfile import EMBEDDED
from ..engine.packed_engine import load_engine
from ..engine.problem import Cancelled, CanvasProblem, CanvasResult, Engine, EngineStatus, Timings
from ..infill.index import LineIndex
from ..infill.infiller import LocalInfiller
from ..infill.load import load_calibration, load_tokenizer, policy_for
from .evaluate import Case, Texts, cases, run
from .holes import HoleKind

KINDS: tuple[HoleKind, ...] = ("rest-of-line", "line", "node")

CHANCE = 2.0
"""Standard errors up to which a difference is nothing to speak of."""


@dataclass(frozen=True, slots=True)
class Score:
    """Hole by hole, in the order of the cases: its kind, and whether the model's answer is exactly what stood there.

    served: with what similar lines of the same file and of the other files suggest; alone: without.
    """

    kinds: tuple[HoleKind, ...]
    alone: tuple[bool, ...]
    served: tuple[bool, ...]

    def percent(self, kind: HoleKind | None = None, *, is_alone: bool = False) -> float:
        """Exact matches in percent of the holes of a kind, or of all; NaN where there is none."""
        hits = self.alone if is_alone else self.served
        chosen = [hit for hit, own in zip(hits, self.kinds, strict=True) if kind in (None, own)]
        return 100 * sum(chosen) / len(chosen) if chosen else math.nan

    def to_json(self) -> dict[str, Any]:
        """Figures in percent, by kind of hole."""
        every: list[HoleKind | None] = [*(kind for kind in KINDS if kind in self.kinds), None]
        rates = {
            name: {kind or "all": self.percent(kind, is_alone=is_alone) for kind in every}
            for name, is_alone in (("alone", True), ("served", False))
        }
        return {"num_holes": len(self.kinds), **rates}


@dataclass(frozen=True, slots=True)
class Change:
    """Two models on the same holes, as served. wins: exact with the new one only; losses: with the old one only."""

    num_holes: int
    wins: int
    losses: int

    @property
    def points(self) -> float:
        """By how many percentage points more holes are exact."""
        return 100 * (self.wins - self.losses) / max(1, self.num_holes)

    @property
    def error(self) -> float:
        """Standard error of points."""
        n = max(1, self.num_holes)
        return 100 * math.sqrt(max(0.0, self.wins + self.losses - (self.wins - self.losses) ** 2 / n)) / n

    @property
    def deviation(self) -> float:
        """The difference in its standard errors, were the models equally good and each of these holes a coin's toss."""
        num = self.wins + self.losses
        return (self.wins - self.losses) / math.sqrt(num) if num else 0.0

    def __str__(self) -> str:
        text = f"{self.wins} more exact, {self.losses} no longer, {self.points:+.1f} ± {self.error:.1f} points"
        return f"{text} (within chance)" if abs(self.deviation) <= CHANCE else text


def change(old: Score, new: Score) -> Change:
    """What became of the holes. Raises: ValueError where the two were asked different ones."""
    if old.kinds != new.kinds:
        raise ValueError(f"scores of different holes: {len(old.kinds)} and {len(new.kinds)}")
    pairs = list(zip(old.served, new.served, strict=True))
    return Change(len(pairs), sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs))


def held_out_cases(held_out: Texts, num_holes: int, seed: int) -> list[Case]:
    """About num_holes different holes of held-out files, as many of every kind; fewer where there are not so many."""
    found = cases(held_out, -(-num_holes // len(KINDS)), seed, KINDS)
    # a small file is drawn again and again, and the same hole twice tells nothing new
    return list(dict.fromkeys(found))


def index_of(paths: Sequence[str], texts: Sequence[str]) -> LineIndex:
    """What the server's index holds of these files: all of them, or as many as it has room for."""
    index = LineIndex()
    for path, text in zip(paths, texts, strict=True):
        if not index.has_room(text):
            break
        index.update(path, text)
    return index


class _Remembering:
    """An engine that is asked the same twice and answers once: with drafts the model is asked what it is without."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._last: tuple[CanvasProblem, list[CanvasResult]] | None = None

    def prefill(self, prompt: tuple[int, ...], cancelled: Cancelled | None = None) -> Timings:
        return self._engine.prefill(prompt, cancelled)

    def fill(self, problem: CanvasProblem, cancelled: Cancelled | None = None) -> list[CanvasResult]:
        if self._last is None or self._last[0] != problem:
            self._last = problem, self._engine.fill(problem, cancelled)
        return self._last[1]

    def status(self) -> EngineStatus:
        return self._engine.status()

    def close(self) -> None:
        self._engine.close()


def score(
    source: Path,
    device: str,
    adapter: Adapter | None,
    todo: Sequence[Case],
    index: LineIndex,
    told: Callable[[int], None] = lambda _: None,
) -> Score:
    """Ask for every hole through the engine that the server would use. index: lines of the files that are not held out.

    told: how many holes have been filled. Raises: ModelError and its kinds.
    """
    engine = _Remembering(load_engine(None if source == EMBEDDED else source, device, adapter=adapter))
    tokenizer, calibration = load_tokenizer(source), load_calibration(source)
    served = policy_for(tokenizer)
    policies = [replace(served, use_drafts=False, use_needs=False, use_definitions=False), served]
    askers = [
        LocalInfiller(engine, tokenizer, calibration=calibration, policy=policy, index=index) for policy in policies
    ]
    hits: list[list[bool]] = [[], []]
    try:
        for number, case in enumerate(todo, 1):
            for each, asker in zip(hits, askers, strict=True):
                each.append(run(asker, case).is_exact)
            told(number)
    finally:
        engine.close()
    return Score(tuple(case.hole.kind for case in todo), tuple(hits[0]), tuple(hits[1]))
