"""How good a model is on held-out code, as served: the same infiller, the same prompts, the same trimming.

Also fits the calibration that turns a score into a probability. Half of the held-out packages fit it, the other half
judge it, so a threshold's precision is measured on code that neither training nor calibration saw. Knows no editor.
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..engine.local import LocalEngine
from ..engine.modelfile import EMBEDDED
from ..engine.problem import Decoding
from ..infill.calibration import Calibration, Features, fit_curve
from ..infill.infiller import LocalInfiller
from ..infill.load import load_calibration, load_tokenizer
from ..infill.pose import Policy
from ..infill.request import InfillRequest, Kind
from .corpus import Corpus
from .holes import Hole, HoleKind, sample_holes

KINDS: tuple[HoleKind, ...] = ("rest-of-line", "line", "node", "block", "span")
_REQUEST_KIND: dict[HoleKind, Kind] = {
    "rest-of-line": "line", "line": "line", "node": "line", "block": "block", "span": "span",
}  # fmt: skip
_DECODINGS: tuple[Decoding, ...] = ("autoregressive", "verify", "denoise")

Half = Literal["fit", "judge"]

FITTING = frozenset({"attrs", "luigi", "mkdocs", "networkx"})
"""Held-out packages that the calibration is fitted on; no project stands on both sides, and the six others judge."""


@dataclass(frozen=True, slots=True)
class Case:
    """One hole of one held-out text."""

    package: str
    text: str
    hole: Hole

    @property
    def middle(self) -> str:
        return self.text[self.hole.start : self.hole.end]

    @property
    def half(self) -> Half:
        return "fit" if self.package in FITTING else "judge"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case. score: the features that calibration reads, when the model answered."""

    kind: HoleKind
    half: Half
    is_exact: bool
    similarity: float
    declined: str
    confidence: float
    features: Features | None
    ms: float
    steps: int
    num_forwards: int
    num_tokens: int


class _Recorder(Calibration):
    """A calibration that remembers what it was asked last."""

    last: Features | None = None

    def probability(self, features: Features) -> float:
        object.__setattr__(self, "last", features)
        return Calibration.probability(self, features)


def cases(corpus: Corpus, num_per_kind: int, seed: int, kinds: Sequence[HoleKind] = KINDS) -> list[Case]:
    """Holes of held-out texts at a seed, the same number of every kind; the kinds take turns."""
    rng = random.Random(seed)
    files = corpus.files()
    found: list[Case] = []
    counts = dict.fromkeys(kinds, 0)
    while min(counts.values()) < num_per_kind:
        i = rng.randrange(len(corpus))
        text = corpus.text(i)
        for hole in sample_holes(text, rng, kinds, 1):
            if counts[hole.kind] < num_per_kind and len(text) < 60_000:
                counts[hole.kind] += 1
                found.append(Case(files[i]["package"], text, hole))
    return found


def run(infiller: LocalInfiller, case: Case, recorder: _Recorder | None = None) -> Outcome:
    """Ask for one hole as an editor would that has just lost this piece of text."""
    text = case.text[: case.hole.start] + case.text[case.hole.end :]
    start = case.hole.start
    request = InfillRequest(text, start, start, "python", kind=_REQUEST_KIND[case.hole.kind], is_explicit=True)
    infiller.recent.forget()
    if recorder is not None:
        object.__setattr__(recorder, "last", None)
    began = time.perf_counter()
    result = infiller.fill(request)
    ms = (time.perf_counter() - began) * 1e3
    best = result.proposals[0] if result.proposals else None
    answer = best.text if best else ""
    return Outcome(
        kind=case.hole.kind,
        half=case.half,
        is_exact=answer == case.middle,
        similarity=difflib.SequenceMatcher(None, answer, case.middle, autojunk=False).ratio() if answer else 0.0,
        declined=result.declined,
        confidence=best.confidence if best else 0.0,
        features=recorder.last if recorder is not None else None,
        ms=ms,
        steps=result.timings.steps,
        num_forwards=result.timings.num_forwards,
        num_tokens=len(infiller.tokenizer.encode(case.middle)),
    )


def precision_at(outcomes: Sequence[Outcome], coverage: float) -> tuple[float, float]:
    """(precision, threshold) over the most confident `coverage` share of all cases."""
    ranked = sorted(outcomes, key=lambda o: -o.confidence)
    top = ranked[: max(1, round(coverage * len(ranked)))]
    return sum(o.is_exact for o in top) / len(top), top[-1].confidence


def fit(outcomes: dict[Decoding, list[Outcome]], length_exponent: float = 0.0) -> Calibration:
    """One curve per decoding and extent with at least 50 answers, one per decoding for the rest."""
    groups: dict[str, list[Outcome]] = {}
    for decoding, rows in outcomes.items():
        for o in rows:
            if o.features is not None and not o.declined:
                groups.setdefault(decoding, []).append(o)
                groups.setdefault(f"{decoding}/{o.features.extent}", []).append(o)
    curves = {
        key: fit_curve([o.features.score(length_exponent) for o in rows if o.features], [o.is_exact for o in rows])
        for key, rows in groups.items()
        if len(rows) >= 50
    }
    return Calibration(curves, length_exponent)


def summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The figures of one row of the table: rates in percent, times in milliseconds."""
    times = sorted(o.ms for o in outcomes)
    answered = [o for o in outcomes if not o.declined]
    return {
        "holes": len(outcomes),
        "exact": 100 * statistics.fmean(o.is_exact for o in outcomes),
        "similarity": 100 * statistics.fmean(o.similarity for o in outcomes),
        "declined": 100 * (1 - len(answered) / len(outcomes)),
        "precision_10": 100 * precision_at(outcomes, 0.10)[0],
        "precision_25": 100 * precision_at(outcomes, 0.25)[0],
        "precision_50": 100 * precision_at(outcomes, 0.50)[0],
        "forwards": statistics.fmean(o.num_forwards for o in outcomes),
        "tokens": statistics.fmean(o.num_tokens for o in outcomes),
        "p50_ms": times[len(times) // 2],
        "p95_ms": times[int(len(times) * 0.95)],
    }


def evaluate(
    model: Path | None,
    corpus: Corpus,
    num_per_kind: int,
    seed: int,
    decodings: Sequence[Decoding],
    calibration: Calibration | None = None,
    use_drafts: bool = False,
    half: Half | None = None,
) -> dict[Decoding, list[Outcome]]:
    """Every case once per way of decoding. calibration None: the model's own.

    use_drafts: let what similar lines of the same file have compete with the model, as the server does. half: only the
    holes of one half of the packages.
    """
    source = model or EMBEDDED
    engine = LocalEngine.load(model)
    tokenizer = load_tokenizer(source)
    base = calibration or load_calibration(source)
    todo = [case for case in cases(corpus, num_per_kind, seed) if half in (None, case.half)]
    found: dict[Decoding, list[Outcome]] = {}
    for decoding in decodings:
        recorder = _Recorder(base.curves, base.length_exponent)
        policy = Policy(decoding=decoding, use_drafts=use_drafts)
        infiller = LocalInfiller(engine, tokenizer, calibration=recorder, policy=policy)
        console = Console(stderr=True)
        found[decoding] = [run(infiller, case, recorder) for case in track(todo, decoding, console=console)]
    engine.close()
    return found


def table(outcomes: dict[Decoding, list[Outcome]]) -> Table:
    grid = Table(title="held-out packages, as served")
    columns = (
        "decoding",
        "kind",
        "holes",
        "exact %",
        "similarity %",
        "declined %",
        "p@10 %",
        "p@25 %",
        "p@50 %",
        "forwards",
        "tokens",
        "p50 ms",
        "p95 ms",
    )
    for name in columns:
        grid.add_column(name, justify="left" if name in ("decoding", "kind") else "right")
    for decoding, rows in outcomes.items():
        for kind in (*KINDS, "all"):
            chosen = [o for o in rows if kind in (o.kind, "all")]
            if chosen:
                grid.add_row(
                    decoding, kind, *(f"{v:.1f}" if k != "holes" else f"{v:.0f}" for k, v in summary(chosen).items())
                )
    return grid


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="lacuna evaluate", description="Measure a model on the held-out packages of a corpus."
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="packed file or folder (default: the embedded model)")
    parser.add_argument("--holes", type=int, default=100, help="holes per kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoding", action="append", choices=_DECODINGS, help="default: all three")
    parser.add_argument(
        "--half", choices=("fit", "judge", "both"), default="both", help="which held-out packages count"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--calibrate", type=Path, help="fit a calibration on the fitting half and write it here")
    parser.add_argument("--drafts", action="store_true", help="with drafts from similar lines, as the server fills")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args(argv)
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.calibrate and args.drafts:
        parser.error("a calibration is fitted on the model's own answers: leave --drafts out")
    raw = Calibration() if args.calibrate else None
    corpus = Corpus(args.corpus, "holdout")
    decodings: Sequence[Decoding] = args.decoding or _DECODINGS
    half: Half | None = "fit" if args.calibrate else None if args.half == "both" else args.half
    outcomes = evaluate(args.model, corpus, args.holes, args.seed, decodings, raw, args.drafts, half)
    if args.calibrate:
        args.calibrate.write_text(json.dumps(fit(outcomes).to_json()), encoding="utf-8")
    Console().print(table(outcomes))
    if args.json:
        rows = {
            d: {k: summary([o for o in r if k in (o.kind, "all")]) for k in (*KINDS, "all")}
            for d, r in outcomes.items()
        }
        args.json.write_text(
            json.dumps({"figures": rows, "outcomes": {d: [asdict(o) for o in r] for d, r in outcomes.items()}}),
            encoding="utf-8",
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
