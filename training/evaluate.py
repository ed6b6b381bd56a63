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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..engine.local import MAX_SEQUENCES, LocalEngine
from ..engine.modelfile import EMBEDDED
from ..engine.problem import Decoding
from ..engine.threads import leave_a_core
from ..infill.baselines import BASELINES, Baseline, Context
from ..infill.calibration import Calibration, Features, fit_curve
from ..infill.infiller import LocalInfiller
from ..infill.languages import language_for
from ..infill.load import load_calibration, load_tokenizer
from ..infill.pose import Policy
from ..infill.request import InfillRequest, Kind
from ..infill.syntax import SyntaxTree
from ..infill.tokenizer import NUM_RESERVED
from .command import check_writable, guarded, show
from .corpus import Corpus
from .holes import Hole, HoleKind, sample_holes

KINDS: tuple[HoleKind, ...] = ("rest-of-line", "line", "node", "block", "span")
_REQUEST_KIND: dict[HoleKind, Kind] = {
    "rest-of-line": "line", "line": "line", "node": "line", "block": "block", "span": "span",
}  # fmt: skip
_DECODINGS: tuple[Decoding, ...] = ("beam", "autoregressive", "verify", "denoise")

Half = Literal["fit", "judge"]

MAX_DRAWS = 400
"""Texts that are looked at for one hole of every kind."""

FITTING = frozenset({"attrs", "luigi", "mkdocs", "networkx"})
"""Held-out packages that the calibration is fitted on; no project stands on both sides, and the six others judge."""


@dataclass(frozen=True, slots=True)
class Case:
    """One hole of one held-out text."""

    package: str
    text: str
    hole: Hole
    language: str = "python"

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
    is_valid: bool
    """The text is as sound with the answer as with what stood there; False where there is no answer."""
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


class Texts(Protocol):
    """Held-out texts: a Corpus, or the files of a repository."""

    def __len__(self) -> int: ...

    def text(self, i: int) -> str: ...

    def files(self) -> list[dict[str, str]]: ...


def cases(corpus: Texts, num_per_kind: int, seed: int, kinds: Sequence[HoleKind] = KINDS) -> list[Case]:
    """Holes of held-out texts at a seed, the same number of every kind; the kinds take turns.

    Fewer where the texts have no more of a kind.
    """
    rng = random.Random(seed)
    files = corpus.files()
    found: list[Case] = []
    counts = dict.fromkeys(kinds, 0)
    for _ in range(MAX_DRAWS * num_per_kind):
        if min(counts.values()) >= num_per_kind:
            break
        i = rng.randrange(len(corpus))
        text = corpus.text(i)
        for hole in sample_holes(text, rng, kinds, 1):
            if counts[hole.kind] < num_per_kind and len(text) < 60_000:
                counts[hole.kind] += 1
                found.append(Case(files[i]["package"], text, hole, files[i]["language"]))
    return found


def run(infiller: LocalInfiller, case: Case, recorder: _Recorder | None = None) -> Outcome:
    """Ask for one hole as an editor would that has just lost this piece of text."""
    text = case.text[: case.hole.start] + case.text[case.hole.end :]
    start = case.hole.start
    request = InfillRequest(text, start, start, case.language, kind=_REQUEST_KIND[case.hole.kind], is_explicit=True)
    infiller.recent.forget()
    if recorder is not None:
        object.__setattr__(recorder, "last", None)
    began = time.perf_counter()
    result = infiller.fill(request)
    ms = (time.perf_counter() - began) * 1e3
    best = result.proposals[0] if result.proposals else None
    judged = judge(case, best.text if best else "", best.confidence if best else 0.0, ms)
    return replace(
        judged,
        declined=result.declined,
        features=recorder.last if recorder is not None else None,
        steps=result.timings.steps,
        num_forwards=result.timings.num_forwards,
        num_tokens=len(infiller.tokenizer.encode(case.middle)),
    )


def forget(engine: LocalEngine) -> None:
    """Leave nothing in the KV cache that a prompt could go on from.

    The same hole is asked several times over one engine. Whoever asks second would find the prompt encoded, and look
    quicker than whoever asks first by a prefill.
    """
    # as many prompts as are kept, none of them the beginning of another
    for token in range(NUM_RESERVED, NUM_RESERVED + MAX_SEQUENCES):
        engine.prefill((token,))


def judge(case: Case, answer: str, confidence: float, ms: float) -> Outcome:
    """An answer beside what stood there; "" is none."""
    return Outcome(
        kind=case.hole.kind,
        half=case.half,
        is_exact=answer == case.middle,
        similarity=difflib.SequenceMatcher(None, answer, case.middle, autojunk=False).ratio() if answer else 0.0,
        declined="" if answer else "empty",
        confidence=confidence,
        is_valid=bool(answer) and _is_sound(case, answer),
        features=None,
        ms=ms,
        steps=0,
        num_forwards=0,
        num_tokens=0,
    )


def _is_sound(case: Case, answer: str) -> bool:
    """Whether the window around the hole has no more syntax errors and stray brackets than the original."""
    start, end = case.hole.start, case.hole.end
    original = SyntaxTree.around(language_for(case.language), case.text, start, end)
    return not original.replaced(start, end, answer).damage().exceeds(original.damage())


def run_baseline(baseline: Baseline, case: Case) -> Outcome:
    """Ask a baseline, which sees this text alone. What it answers it is sure of, so coverage ranks answers first."""
    text = case.text[: case.hole.start] + case.text[case.hole.end :]
    began = time.perf_counter()
    answer = baseline(Context(text, case.hole.start))
    return judge(case, answer, float(bool(answer)), (time.perf_counter() - began) * 1e3)


def precision_at(outcomes: Sequence[Outcome], coverage: float) -> tuple[float, float]:
    """(precision, threshold) over the most confident `coverage` share of all cases."""
    ranked = sorted(outcomes, key=lambda o: -o.confidence)
    top = ranked[: max(1, round(coverage * len(ranked)))]
    return sum(o.is_exact for o in top) / len(top), top[-1].confidence


class Answer(Protocol):
    """What the curves read of an Outcome."""

    @property
    def is_exact(self) -> bool: ...

    @property
    def declined(self) -> str: ...

    @property
    def confidence(self) -> float: ...


def reliability(outcomes: Sequence[Answer], num_bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean confidence, share that is exact, how many) of the answers, by equal bins of confidence; empty bins are
    left out.
    """
    bins: dict[int, list[Answer]] = {}
    for each in outcomes:
        if not each.declined:
            bins.setdefault(min(num_bins - 1, int(each.confidence * num_bins)), []).append(each)
    return [
        (statistics.fmean(o.confidence for o in part), statistics.fmean(o.is_exact for o in part), len(part))
        for _, part in sorted(bins.items())
    ]


def coverage_curve(outcomes: Sequence[Answer]) -> list[tuple[float, float]]:
    """(coverage, precision) of showing the most confident answers only, from the most confident one on.

    Answers of equal confidence are shown together or not at all.
    """
    ranked = sorted((o for o in outcomes if not o.declined), key=lambda o: -o.confidence)
    points: list[tuple[float, float]] = []
    num_exact = 0
    for number, each in enumerate(ranked, 1):
        num_exact += each.is_exact
        if number == len(ranked) or ranked[number].confidence < each.confidence:
            points.append((number / len(outcomes), num_exact / number))
    return points


def fit(outcomes: Mapping[str, Sequence[Outcome]], length_exponent: float = 0.0) -> Calibration:
    """One curve per decoding and extent with at least 50 answers, one per decoding for the rest.

    outcomes: by the decoding that was asked for; an answer counts for the one that gave it (Policy.decoding_for).
    """
    groups: dict[str, list[Outcome]] = {}
    for asked, rows in outcomes.items():
        for o in rows:
            if o.features is None or o.declined:
                continue
            decoding = o.features.decoding
            if decoding != asked and decoding in outcomes:
                # the same answers, which are counted there
                continue
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
        "valid": 100 * statistics.fmean(o.is_valid for o in answered) if answered else 0.0,
        "precision_10": 100 * precision_at(outcomes, 0.10)[0],
        "precision_25": 100 * precision_at(outcomes, 0.25)[0],
        "precision_50": 100 * precision_at(outcomes, 0.50)[0],
        "steps": statistics.fmean(o.steps for o in outcomes),
        "forwards": statistics.fmean(o.num_forwards for o in outcomes),
        "tokens": statistics.fmean(o.num_tokens for o in outcomes),
        "p50_ms": times[len(times) // 2],
        "p95_ms": times[int(len(times) * 0.95)],
    }


def evaluate(
    model: Path | None,
    todo: Sequence[Case],
    decodings: Sequence[Decoding],
    calibration: Calibration | None = None,
    use_drafts: bool = False,
    baselines: Sequence[str] = (),
    weights: str = "auto",
) -> dict[str, list[Outcome]]:
    """Every case once per way of decoding, and once per baseline, in one order. calibration None: the model's own.

    use_drafts: let what similar lines of the same file have compete with the model, as the server does. baselines:
    names of infill/baselines.py. weights: see LocalEngine.load.
    """
    source = model or EMBEDDED
    engine = LocalEngine.load(model, weights=weights)
    tokenizer = load_tokenizer(source)
    base = calibration or load_calibration(source)
    console = Console(stderr=True)
    found: dict[str, list[Outcome]] = {
        name: [run_baseline(BASELINES[name], case) for case in track(todo, name, console=console)] for name in baselines
    }
    infillers: dict[Decoding, tuple[LocalInfiller, _Recorder]] = {}
    for decoding in decodings:
        recorder = _Recorder(base.curves, base.length_exponent)
        policy = Policy(decoding=decoding, use_drafts=use_drafts, use_needs=use_drafts, use_definitions=use_drafts)
        infillers[decoding] = LocalInfiller(engine, tokenizer, calibration=recorder, policy=policy), recorder
        found[decoding] = []
    # hole by hole, all decodings of each: when the machine's load changes, it changes for all of them
    for number, case in enumerate(track(todo, "holes", console=console)):
        first = number % max(1, len(decodings))
        # in turns, because whoever is first reads the text into the processor's caches
        for decoding in (*decodings[first:], *decodings[:first]):
            infiller, recorder = infillers[decoding]
            forget(engine)
            found[decoding].append(run(infiller, case, recorder))
    engine.close()
    return found


def table(outcomes: Mapping[str, Sequence[Outcome]]) -> Table:
    grid = Table(title="held-out packages, as served")
    columns = (
        "decoding",
        "kind",
        "holes",
        "exact %",
        "similarity %",
        "declined %",
        "valid %",
        "p@10 %",
        "p@25 %",
        "p@50 %",
        "steps",
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
    parser.add_argument("--decoding", action="append", choices=_DECODINGS, help="default: all")
    parser.add_argument(
        "--half", choices=("fit", "judge", "both"), default="both", help="which held-out packages count"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--calibrate", type=Path, help="fit a calibration on the fitting half and write it here")
    parser.add_argument("--baselines", action="store_true", help="ask the baselines, too")
    parser.add_argument("--gaps", type=int, default=0, metavar="N", help="also fill N places of two and of three gaps")
    parser.add_argument("--drafts", action="store_true", help="with drafts from similar lines, as the server fills")
    parser.add_argument(
        "--weights", choices=("auto", "int8", "fp32"), default="auto", help="how they are multiplied; default: served"
    )
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args(argv)
    if args.threads < 0 or args.holes < 1 or args.gaps < 0:
        parser.error("--holes is above 0, --threads and --gaps are not below it")
    for path in (args.json, args.calibrate):
        check_writable(path)
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    else:
        leave_a_core()
    if args.calibrate and args.drafts:
        parser.error("a calibration is fitted on the model's own answers: leave --drafts out")
    raw = Calibration() if args.calibrate else None
    corpus = Corpus(args.corpus, "holdout")
    decodings: Sequence[Decoding] = args.decoding or _DECODINGS
    half: Half | None = "fit" if args.calibrate else None if args.half == "both" else args.half
    baselines = tuple(BASELINES) if args.baselines else ()
    todo = [case for case in cases(corpus, args.holes, args.seed) if half in (None, case.half)]
    outcomes = evaluate(args.model, todo, decodings, raw, args.drafts, baselines, args.weights)
    if args.calibrate:
        args.calibrate.write_text(json.dumps(fit(outcomes).to_json()), encoding="utf-8")
    show(table(outcomes))
    # here, because it stands on this module
    from . import several

    gaps = several.measure(args.model, corpus, args.gaps, args.seed, half) if args.gaps else []
    if gaps:
        show(several.table(gaps))
    if args.json:
        # as in the table: a kind that these texts have no hole of has no figures
        kinds = {d: {k: [o for o in r if k in (o.kind, "all")] for k in (*KINDS, "all")} for d, r in outcomes.items()}
        rows = {d: {k: summary(chosen) for k, chosen in each.items() if chosen} for d, each in kinds.items()}
        listed = {d: [asdict(o) for o in r] for d, r in outcomes.items()}
        figures = {"figures": rows, "gaps": gaps, "outcomes": listed}
        args.json.write_text(json.dumps(figures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
