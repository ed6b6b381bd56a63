"""The model card: what the shipped checkpoint was trained on, for how long, and how good it is. Written, never typed.

Reads a run's log, the corpus manifest and the evaluation's figures; writes docs/MODEL_CARD.md, the manifest beside it,
and its curves, which need matplotlib, an extra of the package (`lacuna-ls[training]`). Without a run the figures of a
card are renewed, and what it says of the training stays: serving changes more often than the weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..engine.errors import ModelNotFoundError
from ..infill.baselines import BASELINES
from .command import guarded
from .evaluate import coverage_curve, reliability
from .train import read_state

Row = Mapping[str, Any]

MIN_BYTES = 100_000
"""Training packages with less text share one line of the table; the manifest names each."""

MIN_ANSWERS = 5
"""Fewer make no point of a curve."""

QUALITY = "## How good it is"

TRAIN_FIRST = "name the folder of a run, or train first: lacuna train --corpus DIR --out RUN"


def read_log(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's log.jsonl; a last line that a cut session left half written is dropped.

    Raises: ModelNotFoundError.
    """
    rows: list[dict[str, Any]] = []
    log = run / "log.jsonl"
    if not log.exists():
        raise ModelNotFoundError(f"{log} does not exist; {TRAIN_FIRST}")
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def draw_curve(rows: Sequence[Row], out: Path) -> None:
    """Losses over tokens as a PNG: both training losses (running means) and both losses on held-out packages."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=80)
    for key, label in (("encoder", "encoder, next token"), ("canvas", "canvas, noised rows")):
        # the canvas loss is 0 in the first phase, which has no canvases
        points = [(row["tokens"] / 1e6, row[key]) for row in rows if row[key] > 0]
        means = _running_mean([y for _, y in points], 20)
        axes.plot([x for x, _ in points], means, label=label, linewidth=1)
        probes = [(r["tokens"] / 1e6, r[f"probe_{key}"]) for r in rows if f"probe_{key}" in r and r[key] > 0]
        axes.plot([x for x, _ in probes], [y for _, y in probes], "o", markersize=3, label=f"{label} (held out)")
    axes.set_xlabel("million supervised tokens")
    axes.set_ylabel("loss (nats)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, out)


def draw_quality(outcomes: Mapping[str, Sequence[Row]], out: Path) -> None:
    """Two panels as one PNG: how many of the most confident answers are exact, and how often a confidence is right.

    outcomes: by way of decoding or baseline, as evaluate.py writes them. The right panel shows the models only.
    """
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), dpi=80)
    right.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name, rows in outcomes.items():
        curve = coverage_curve([_Answer(row) for row in rows])
        if name in BASELINES:
            # a baseline is sure of all it says: one point
            left.plot([100 * x for x, _ in curve], [100 * y for _, y in curve], "x", label=name)
            continue
        # the first few answers alone are noise
        shown = [point for point in curve if point[0] * len(rows) >= MIN_ANSWERS]
        left.plot([100 * x for x, _ in shown], [100 * y for _, y in shown], label=name, linewidth=1)
        bins = [each for each in reliability([_Answer(row) for row in rows]) if each[2] >= MIN_ANSWERS]
        right.plot([x for x, _, _ in bins], [y for _, y, _ in bins], "o-", markersize=3, label=name, linewidth=1)
    for axes, labels in (
        (left, ("coverage: holes that get an answer (%)", "of these exact (%)")),
        (right, ("confidence", "share that is exact")),
    ):
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, out)


def _pyplot() -> Any:
    import matplotlib

    cast(Any, matplotlib).use("agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def _save(figure: Any, out: Path) -> None:
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    _pyplot().close(figure)


class _Answer:
    """One outcome as the curves read it."""

    def __init__(self, row: Row) -> None:
        self.confidence = float(row["confidence"])
        self.is_exact = bool(row["is_exact"])
        self.declined = str(row["declined"])


def gaps_table(rows: Sequence[Row]) -> str:
    """Several gaps of one text as a Markdown table."""
    lines = ["| gaps | filled | places | exact gaps % | all exact % | p50 ms | p95 ms |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {row['gaps']} | {row['way']} | {row['places']} | {row['exact_gaps']:.1f} | {row['exact_places']:.1f} "
        f"| {row['p50_ms']:.0f} | {row['p95_ms']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    return [sum(values[max(0, i - width + 1) : i + 1]) / min(width, i + 1) for i in range(len(values))]


def figures_table(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The evaluation's figures as a Markdown table, one row per decoding and kind of hole."""
    columns = (
        ("holes", "holes", 0),
        ("exact", "exact %", 1),
        ("similarity", "similarity %", 1),
        ("declined", "declined %", 1),
        ("valid", "valid syntax %", 1),
        ("precision_10", "precision at 10 % coverage", 1),
        ("precision_25", "at 25 %", 1),
        ("precision_50", "at 50 %", 1),
        ("steps", "steps", 1),
        ("forwards", "forwards", 1),
        ("tokens", "tokens", 1),
        ("p50_ms", "p50 ms", 0),
        ("p95_ms", "p95 ms", 0),
    )
    lines = ["| decoding | hole | " + " | ".join(name for _, name, _ in columns) + " |"]
    lines.append("|---|---|" + "---:|" * len(columns))
    for decoding, kinds in figures.items():
        for kind, row in kinds.items():
            cells = " | ".join(f"{row[key]:.{digits}f}" for key, _, digits in columns)
            lines.append(f"| {decoding} | {kind} | {cells} |")
    return "\n".join(lines)


def corpus_table(manifest: Mapping[str, Any], split: str) -> str:
    """Package, version, licence, files and size of a split's packages, the largest first; small ones are summed."""
    packages = cast(dict[str, dict[str, Any]], manifest["packages"])
    chosen = [(name, p) for name, p in packages.items() if p["split"] == split and p["bytes"]]
    lines = ["| package | version | licence | files | MB |", "|---|---|---|---:|---:|"]
    small: list[dict[str, Any]] = []
    for name, p in sorted(chosen, key=lambda pair: -int(pair[1]["bytes"])):
        if split == "train" and p["bytes"] < MIN_BYTES:
            small.append(p)
            continue
        lines.append(f"| {name} | {p['version']} | {p['licence']} | {p['files']} | {p['bytes'] / 1e6:.1f} |")
    if small:
        licences = ", ".join(sorted({str(p["licence"]) for p in small}))
        files, size = sum(p["files"] for p in small), sum(p["bytes"] for p in small)
        lines.append(f"| *{len(small)} smaller ones* | | {licences} | {files} | {size / 1e6:.1f} |")
    return "\n".join(lines)


def quality_section(evaluation: Sequence[tuple[str, Row]], conditions: str, out: Path) -> str:
    """The chapter with the figures, and its picture beside the card `out`. evaluation: (title, figures JSON) pairs; the
    outcomes of the first are drawn.
    """
    parts = [
        QUALITY,
        "",
        "Holes cut at a seed from packages that were never trained on, asked as the server asks. *exact*: the proposal",
        "equals what stood there, to the character. *coverage*: the share of all holes that get a proposal when only",
        "the most confident ones are shown. *valid syntax*: of what is proposed, as sound as the original. *empty*,",
        "*copy* (the most similar line of the file) and *n-gram* are baselines without a model. *beam* is what serves:",
        "a beam search within a line, *verify* across lines. *verify* drafts and lets the encoder choose, greedily;",
        "*autoregressive* is the same one token at a time, without drafts; *denoise* is diffusion alone.",
        "",
        conditions.strip(),
    ]
    drawn = next((figures["outcomes"] for _, figures in evaluation if figures.get("outcomes")), None)
    if drawn is not None:
        quality = out.with_name("quality-curve.png")
        draw_quality(drawn, quality)
        parts += ["", f"![exact matches by coverage, and how far a confidence can be trusted]({quality.name})"]
    for title, figures in evaluation:
        parts += ["", f"### {title}", "", figures_table(figures["figures"])]
        if figures.get("gaps"):
            parts += ["", "Whole lines taken out of one text, 2 to 16 lines apart:", "", gaps_table(figures["gaps"])]
    return "\n".join((*parts, ""))


def renew_quality(card: str, section: str) -> str:
    """A card with its chapter of figures replaced. Raises: ValueError when it has none."""
    before, heading, rest = card.partition(f"{QUALITY}\n")
    if not heading:
        raise ValueError(f"the card has no chapter {QUALITY!r}; write it anew from a run")
    _, following, after = rest.partition("\n## ")
    return before + section + following + after


def write_card(
    run: Path, manifest: Row, evaluation: Sequence[tuple[str, Row]], notes: str, conditions: str, out: Path
) -> None:
    """Write the card `out`, and its pictures and corpus.json beside it.

    notes: what a person has to say of the training's hardware and conditions; conditions: of the evaluation's.
    """
    curve = out.with_name("training-curve.png")
    rows, state = read_log(run), read_state(run)
    if state is None:
        raise ModelNotFoundError(f"{run} holds no state of a run; {TRAIN_FIRST}")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))["text_config"]
    last_probe = next(row for row in reversed(rows) if "probe_encoder" in row)
    parts = [
        "# Model card: the embedded model",
        "",
        "A small checkpoint of the DiffusionGemma architecture, trained from scratch by this project and shipped",
        "in the wheel, so that ghost text works without a GPU, a download or an account. It knows Python, hardly more.",
        "Written by `python -m lacuna_ls.training.card`; every figure below comes from a file that a command wrote.",
        "",
        "## What it is",
        "",
        f"- {config['num_hidden_layers']} layers, hidden size {config['hidden_size']}, "
        f"{config['num_attention_heads']} query and {config['num_key_value_heads']} key heads, "
        f"dense width {config['intermediate_size']} beside {config['num_experts']} experts of width "
        f"{config['moe_intermediate_size']} (top {config['top_k_experts']}), vocabulary {config['vocab_size']}.",
        f"- The last run: {state['step']:,} steps and {state['num_tokens'] / 1e6:.1f} million supervised tokens in "
        f"{state['used_s'] / 60:.0f} minutes.",
        f"- Last losses on held-out packages: {last_probe['probe_encoder']:.3f} nats per token (encoder), "
        f"{last_probe['probe_canvas']:.3f} (canvas, weighted over noised rows).",
        "",
        notes.strip(),
        "",
        f"![loss curves]({curve.name})",
        "",
        quality_section(evaluation, conditions, out),
    ]
    named = "Every package with its version, licence, size and hash is in [corpus.json](corpus.json)."
    parts += ["## What it was trained on", "", named, "", corpus_table(manifest, "train")]
    parts += ["", "Held out, whole, in any version:", "", corpus_table(manifest, "holdout"), ""]
    draw_curve(rows, curve)
    out.with_name("corpus.json").write_text(json.dumps(manifest, indent=0), encoding="utf-8")
    out.write_text("\n".join(parts), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    about = "Write the model card of a training run."
    parser = argparse.ArgumentParser(prog="python -m lacuna_ls.training.card", description=about)
    parser.add_argument("run", type=Path, nargs="?", help="the training's folder; without it figures are renewed")
    parser.add_argument("--manifest", type=Path, help="manifest.json of the corpus; needed with a run")
    parser.add_argument("--figures", action="append", default=[], metavar="TITLE=FILE", help="JSON of lacuna evaluate")
    parser.add_argument("--notes", type=Path, help="Markdown about the training: hardware, limits; needed with a run")
    parser.add_argument("--conditions", required=True, help="a sentence: on what the figures were measured")
    parser.add_argument("--out", type=Path, default=Path("docs/MODEL_CARD.md"))
    args = parser.parse_args(argv)
    pairs = [cast(str, item).partition("=") for item in args.figures]
    evaluation = [(title, json.loads(Path(file).read_text(encoding="utf-8"))) for title, _, file in pairs]
    if args.run is None:
        section = quality_section(evaluation, args.conditions, args.out)
        args.out.write_text(renew_quality(args.out.read_text(encoding="utf-8"), section), encoding="utf-8")
        return 0
    if args.manifest is None or args.notes is None:
        parser.error("a card of a run needs --manifest and --notes")
    if not args.manifest.exists():
        advice = "it lies in the folder of a corpus: python -m lacuna_ls.training.corpus --out DIR"
        raise ModelNotFoundError(f"{args.manifest} does not exist; {advice}")
    manifest = json.loads(args.manifest.read_text(encoding="utf-8"))
    notes = args.notes.read_text(encoding="utf-8")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_card(args.run, manifest, evaluation, notes, args.conditions, args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
