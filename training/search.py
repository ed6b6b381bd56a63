"""The search for the embedded model's shape and losses: small runs that differ from one small run in one thing each.

    python -m lacuna_ls.training.search --corpus DIR --out DIR --report docs/SEARCH.md

Every run does the same number of steps on the same batches, so that losses can be compared whatever else the machine
does meanwhile; the time is reported beside them. A run's result is kept in --out and not made again. Proxies are a
tenth of what is shipped: they rank choices, they predict no loss.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..engine.model import DiffusionGemma
from .batches import BatchShape, LossWeights
from .command import guarded
from .corpus import Corpus
from .gpu_session import held_out_losses
from .tokenizer import bytes_per_token, sample_texts, train_tokenizer
from .train import Plan, Size, train

PROXY = Size(num_layers=4, hidden_size=128, num_heads=2, num_kv_heads=1, dense_width=256, num_experts=4, top_k=2,
             expert_width=64)  # fmt: skip
"""The `cpu` size with half the width and two layers less."""

TOKENIZER_BYTES = 20_000_000
"""Of training text, for a vocabulary of another size."""

PROBES = 32
"""Held-out batches of 16 that judge a run: with 8, which batches they are weighs as much as what is compared."""

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run. asks: what it is compared for. vocab_size: 0 for the corpus's own tokenizer."""

    name: str
    asks: str
    plan: Plan
    vocab_size: int = 0


def trials(plan: Plan) -> list[Trial]:
    """The grid around `plan`. Deep and wide, dense and experts have the parameters of the proxy, give or take 3 %."""

    def size(name: str, asks: str, **changes: int) -> Trial:
        return Trial(name, asks, replace(plan, size=replace(PROXY, **changes)))

    return [
        Trial("proxy", "what the others are compared with", plan),
        Trial("proxy, another seed", "how much is chance", replace(plan, seed=plan.seed + 1)),
        size("larger", "size", hidden_size=192, num_heads=3, dense_width=384, expert_width=96),
        size("deep", "width against depth", num_layers=8, hidden_size=96, dense_width=192, expert_width=48),
        size("wide", "width against depth", num_layers=2, hidden_size=160, dense_width=320, expert_width=80),
        size("mostly dense", "MoE against dense", dense_width=416, expert_width=16),
        size("mostly experts", "MoE against dense", dense_width=144, num_experts=8, expert_width=48),
        Trial("context weighs as the middle", "loss weights", replace(plan, weights=LossWeights(middle=1.0))),
        Trial("encoder stays at 1", "loss weights", replace(plan, encoder_weight_end=1.0)),
        Trial("joint from the start", "loss weights", replace(plan, encoder_only_share=0.0)),
        Trial("vocabulary 2048", "vocabulary", plan, 2048),
        Trial("vocabulary 8192", "vocabulary", plan, 8192),
    ]


def corpus_of(corpus: Path, vocab_size: int, out: Path) -> Path:
    """A folder with the texts of `corpus` and a tokenizer of vocab_size tokens, learnt from a part of them."""
    folder = out / f"corpus-{vocab_size}"
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file in (*corpus.glob("train.*"), *corpus.glob("holdout.*")):
            link = folder / file.name
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
        train_tokenizer(sample_texts(corpus, TOKENIZER_BYTES), vocab_size).save(str(folder / "tokenizer.json"))
    return folder


def run_trial(trial: Trial, corpus: Path, out: Path, num_workers: int = 1, is_compiled: bool = False) -> Result:
    """Train, judge on held-out packages, keep the result. A run that was cut off is resumed by train()."""
    folder = out / trial.name.replace(" ", "-").replace(",", "")
    kept = folder / "result.json"
    if kept.exists():
        result: Result = json.loads(kept.read_text(encoding="utf-8"))
        if result["plan"] == asdict(trial.plan):
            return result
    own = corpus_of(corpus, trial.vocab_size, out) if trial.vocab_size else corpus
    # every trial has shapes of its own, and past eight of them the compiler would give a function up
    torch.compiler.reset()
    run = train(own, folder, trial.plan, torch.device("cpu"), num_workers=num_workers, is_compiled=is_compiled)
    tokenizer_json = (own / "tokenizer.json").read_text(encoding="utf-8")
    losses = held_out_losses(run, own, PROBES)
    result = {
        "name": trial.name, "asks": trial.asks, "plan": asdict(trial.plan), "steps": run.step,
        "tokens": run.num_tokens, "seconds": run.used_s, "bytes_per_token": _bytes_per_token(own, tokenizer_json),
        "parameters": sum(p.numel() for p in run.model.parameters()), "active": active_parameters(run.model),
        "encoder": losses["probe_encoder"], "canvas": losses["probe_canvas"],
    }  # fmt: skip
    kept.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def active_parameters(model: DiffusionGemma) -> int:
    """Parameters that a token is multiplied with: of a layer's experts only as many as are chosen."""
    config = model.config
    idle = (config.num_experts - config.top_k) * 3 * config.hidden_size * config.expert_size * len(config.layers)
    return sum(p.numel() for p in model.parameters()) - idle


def _bytes_per_token(corpus: Path, tokenizer_json: str) -> float:
    from tokenizers import Tokenizer

    held = Corpus(corpus, "holdout")
    texts = (held.text(i) for i in range(0, len(held), max(1, len(held) // 200)))
    return bytes_per_token(Tokenizer.from_str(tokenizer_json), texts)


def table(results: Sequence[Result]) -> str:
    """Markdown, a line a run. Bits per byte are the encoder's loss per byte of text: the one number that different
    vocabularies share.
    """
    heads = ("run", "asks", "million parameters", "active", "steps", "million tokens", "seconds", "tokens/s",
             "encoder, nats", "canvas, nats", "encoder, bits a byte")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for each in results:
        bits = each["encoder"] / math.log(2) / each["bytes_per_token"]
        cells = (
            each["name"], each["asks"], f"{each['parameters'] / 1e6:.2f}", f"{each['active'] / 1e6:.2f}",
            str(each["steps"]), f"{each['tokens'] / 1e6:.2f}", f"{each['seconds']:.0f}",
            f"{each['tokens'] / each['seconds']:,.0f}", f"{each['encoder']:.3f}", f"{each['canvas']:.3f}",
            f"{bits:.3f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lacuna_ls.training.search", description="Compare small runs.")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; finished ones are kept")
    parser.add_argument("--report", type=Path, help="write the table here, too")
    parser.add_argument("--notes", type=Path, help="Markdown to stand before the table: machine, conditions, choice")
    parser.add_argument("--steps", type=int, default=200, help="of every run")
    parser.add_argument("--batch", type=int, default=8, help="examples per step")
    parser.add_argument("--only", default="", help="runs whose name or question contains this")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that build batches")
    parser.add_argument("--no-compile", action="store_true", help="run eagerly: half the speed, no C++ compiler")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    # averaging and rounding say little after so few steps; the losses are of the last weights
    plan = Plan(
        size=PROXY, num_steps=args.steps, shape=BatchShape(num_examples=args.batch), warmup_steps=args.steps // 10,
        ema_share=0.0, quantised_share=0.0,
    )  # fmt: skip
    chosen = [trial for trial in trials(plan) if args.only in trial.name or args.only in trial.asks]
    results: list[Result] = []
    for trial in chosen:
        results.append(run_trial(trial, args.corpus, args.out, args.workers, not args.no_compile))
        if args.report:
            notes = args.notes.read_text(encoding="utf-8").strip() + "\n\n" if args.notes else ""
            args.report.write_text(f"{notes}{table(results)}\n", encoding="utf-8")
    from rich.console import Console

    Console(width=200).print(table(results), markup=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
