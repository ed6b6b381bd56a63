"""`lacuna adapt REPO`: fine-tunes low-rank adapters of a model on the user's own repository.

Reads what the server would read (ignore files and the deny-list hold, likely secrets are redacted), holds a part of the
files out, trains until the loss on that part stops falling, shows what it was worth, and keeps the adapter where the
server finds it (engine/adapter.py). Examples and loss are the trainer's own (batches.py, objective.py).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

from ..engine.adapter import Adapter, save_adapter
from ..engine.adapter_file import adapter_file, fingerprint, forget_adapter
from ..engine.checkpoint import load_checkpoint
from ..engine.errors import LacunaError
from ..engine.find import find_model
from ..engine.formats import source_format
from ..engine.frozen import load_frozen
from ..engine.model import DiffusionGemma
from ..engine.modelfile import EMBEDDED
from ..engine.packed import is_packed
from ..engine.packed_engine import load_engine
from ..engine.plan import check_host
from ..engine.threads import leave_a_core
from ..infill.chat import ChatTokenizer
from ..infill.index import LineIndex, WorkspaceIndexer
from ..infill.infiller import LocalInfiller
from ..infill.languages import language_for_path
from ..infill.load import load_calibration, load_tokenizer, policy_for
from ..infill.privacy import PathRules, redact
from .batches import Batch, Batches, BatchShape
from .corpus import HOLDOUT_THRESHOLD
from .dedupe import find_resembling, signature
from .evaluate import Case, Outcome, cases, run
from .holes import HoleKind, sample_hole
from .lora import Target, attach, factors
from .objective import losses, soft_of

HELD_OUT_SHARE = 0.2
MAX_HELD_OUT = 0.35
"""A file that would take the share beyond this is learnt from."""
MIN_CHARS = 8_000
"""Less source text than this teaches nothing that lasts."""

MIN_GAIN = 0.005
"""Nats by which the held-out loss has to fall for an adapter to be kept."""

NUM_STEPS = 300
"""Few small steps: they make more answers exact where fifty large ones lowered the loss as far and made fewer exact."""

CHANCE = 2.0
"""Points of exact matches that may be lost by chance: of 180 holes some ten change either way."""

CHAT_SHAPE = BatchShape(num_examples=1, num_encoder=896)

KINDS: tuple[HoleKind, ...] = ("rest-of-line", "line", "node")

Told = Callable[[float, int, float], None]
"""(share of the time that is used up, steps, held-out loss)"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How an adapter is trained. lr: 0 for one that suits the model's width.

    It ends with the minutes or the steps, whichever are used up first. num_probes: how often the held-out loss is
    looked at until then; after `patience` looks without a new best the training ends.
    """

    minutes: float = 10.0
    max_steps: int = NUM_STEPS
    rank: int = 16
    lr: float = 0.0
    seed: int = 0
    targets: tuple[Target, ...] = ("attention", "dense")
    encoder_weight: float = 5.0
    """Of the next-token loss beside the canvas loss: the encoder decides what is proposed."""
    shape: BatchShape = field(default_factory=lambda: BatchShape(num_examples=4, num_canvases=1))
    warmup_steps: int = 10
    num_probes: int = 12
    num_probe_batches: int = 12
    patience: int = 3


def of_chat(plan: Plan) -> Plan:
    """The plan for a published model, which is asked in turns and answers by denoising.

    One example a step: its logits over 262,144 tokens take a gigabyte. The rows stay below the sliding window of 1024.
    Weights and rate are those of the published recipes for this model (TRL, NeMo). Not tried at its size.
    """
    return replace(plan, shape=CHAT_SHAPE, encoder_weight=1.0, lr=plan.lr or 2e-4)


class Files:
    """Texts of a repository, as Batches and cases want them; a text is drawn by its length."""

    def __init__(self, texts: Sequence[tuple[str, str]]) -> None:
        """texts: path inside the repository, and contents."""
        self._texts = list(texts)
        lengths = np.array([len(text) for _, text in texts], np.float64)
        self.sample_weights: npt.NDArray[np.float64] = lengths / max(1.0, float(lengths.sum()))

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, i: int) -> str:
        return self._texts[i][1]

    def files(self) -> list[dict[str, str]]:
        return [{"package": path, "language": language_for_path(path).ids[0]} for path, _ in self._texts]

    @property
    def num_chars(self) -> int:
        return sum(len(text) for _, text in self._texts)


class _Collector(LineIndex):
    """Keeps whole files where the server's index keeps their lines."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}

    def update(
        self, path: str, text: str, generation: int | None = None, cancelled: Callable[[], bool] | None = None
    ) -> bool:
        self.texts[path] = redact(text.replace("\r\n", "\n"))
        return True


def read_repository(repo: Path, deny: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(path, text) of every file that the server would read in this folder, by path, likely secrets redacted.

    deny: more patterns in gitignore's syntax. Raises: LacunaError where there is no folder.
    """
    root = repo.expanduser().resolve()
    if not root.is_dir():
        raise LacunaError(f"{repo} is not a folder; name the folder of a repository")
    found, rules = _Collector(), PathRules([root], deny)
    indexer = WorkspaceIndexer(found, [root], rules.is_excluded)
    while indexer.step(1000.0):
        pass
    return sorted((Path(path).relative_to(root).as_posix(), text) for path, text in found.texts.items())


def split(texts: Sequence[tuple[str, str]], seed: int = 0) -> tuple[Files, Files]:
    """(to train on, held out): whole files at a seed, about HELD_OUT_SHARE of the text; near-copies of those are in
    neither. Raises: LacunaError where there is too little.
    """
    shuffled = sorted(texts)
    random.Random(seed).shuffle(shuffled)
    total, num_chars = sum(len(text) for _, text in shuffled), 0
    held: list[tuple[str, str]] = []
    for each in shuffled:
        # a file that is most of the repository is what there is to learn from
        if num_chars < HELD_OUT_SHARE * total and num_chars + len(each[1]) <= MAX_HELD_OUT * total:
            held.append(each)
            num_chars += len(each[1])
    if shuffled and not held:
        held = [min(shuffled, key=lambda each: len(each[1]))]
    rest = [each for each in shuffled if each not in held]
    if rest and held:
        mine, theirs = (
            np.stack([signature(text.encode("utf-8", "replace")) for _, text in part]) for part in (rest, held)
        )
        near = find_resembling(mine, theirs, HOLDOUT_THRESHOLD)
        rest = [each for i, each in enumerate(rest) if i not in near]
    own = Files(rest)
    if total < MIN_CHARS or own.num_chars < MIN_CHARS // 2:
        what = f"{len(shuffled)} files with {total:,} characters of source text"
        if total >= MIN_CHARS:
            what += f", of which {own.num_chars:,} are no near-copies of what is held out,"
        raise LacunaError(f"{what} are too little to learn from; name the folder of a larger repository")
    return own, Files(held)


@dataclass(frozen=True, slots=True)
class Trained:
    """factors: of the best look. Losses in nats, encoder and canvas, before and at the best look."""

    factors: dict[str, tuple[Tensor, Tensor]]
    before: tuple[float, float]
    after: tuple[float, float]
    steps: int
    seconds: float
    encoder_weight: float

    @property
    def gain(self) -> float:
        """By how much the losses fell, in nats: their mean by weight."""
        falls = (self.before[0] - self.after[0], self.before[1] - self.after[1])
        return (self.encoder_weight * falls[0] + falls[1]) / (self.encoder_weight + 1)


def train(
    model: DiffusionGemma, tokenizer_json: str, own: Files, held_out: Files, plan: Plan, told: Told | None = None
) -> Trained:
    """Train factors beside the model, which is frozen and changed in place by the modules that hold them."""
    window = min((spec.window for spec in model.config.layers if spec.window is not None), default=plan.shape.num_rows)
    if plan.shape.num_rows > window:
        raise ValueError(f"batches of {plan.shape.num_rows} rows do not fit a sliding window of {window}")
    attached = attach(model, plan.targets, plan.rank, plan.seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    peak = plan.lr or 0.384 / model.config.hidden_size
    optimiser = torch.optim.AdamW(trained, lr=peak, betas=(0.9, 0.95), weight_decay=0.0)
    batches = Batches(own, tokenizer_json, plan.shape, sample_hole, plan.seed)
    probe = Batches(held_out, tokenizer_json, plan.shape, sample_hole, seed=10_007)
    probes = [probe[i].to(model.device) for i in range(plan.num_probe_batches)]
    before = best = held_out_loss(model, probes)
    kept = factors(attached)
    begun, step, num_looks, num_waiting = time.monotonic(), 0, 1, 0

    def progress() -> float:
        return max((time.monotonic() - begun) / (60 * plan.minutes), step / plan.max_steps)

    while (used := progress()) < 1 and num_waiting < plan.patience:
        # not to zero before the end: the last look is one of many
        scale = min(1.0, (step + 1) / plan.warmup_steps) * max(0.05, 1 - used)
        for group in optimiser.param_groups:
            group["lr"] = peak * scale
        one_step(model, batches[step].to(model.device), optimiser, trained, plan.encoder_weight)
        step += 1
        used = progress()
        if used * plan.num_probes >= num_looks:
            num_looks = int(used * plan.num_probes) + 1
            loss = held_out_loss(model, probes)
            num_waiting += 1
            if _weighted(loss, plan) < _weighted(best, plan):
                best, kept, num_waiting = loss, factors(attached), 0
        if told is not None:
            told(min(1.0, used), step, best[0])
    return Trained(kept, before, best, step, time.monotonic() - begun, plan.encoder_weight)


def _weighted(loss: tuple[float, float], plan: Plan) -> float:
    return plan.encoder_weight * loss[0] + loss[1]


def one_step(
    model: DiffusionGemma,
    batch: Batch,
    optimiser: torch.optim.Optimizer,
    trained: Sequence[nn.Parameter],
    encoder_weight: float,
) -> None:
    """Forward, backward, update."""
    with _precision(model):
        total = losses(model, batch, soft_of(model, batch, None), encoder_weight).total
    cast(Any, total).backward()
    nn.utils.clip_grad_norm_(trained, 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


@torch.no_grad()
def held_out_loss(model: DiffusionGemma, probes: Sequence[Batch]) -> tuple[float, float]:
    """(encoder, canvas) in nats, the mean over batches."""
    with _precision(model):
        found = [losses(model, batch, soft_of(model, batch, None), 1.0) for batch in probes]
    means = torch.tensor([[float(each.encoder), float(each.canvas)] for each in found]).mean(0)
    return float(means[0]), float(means[1])


def _precision(model: DiffusionGemma) -> torch.autocast:
    # a CPU without bf16 products emulates them at a hundredth of the speed
    is_quick = model.device.type == "cuda" or has_bf16_products()
    return torch.autocast(model.device.type, torch.bfloat16, enabled=is_quick)


def has_bf16_products() -> bool:
    """Whether this CPU multiplies bf16 by itself."""
    # as torch's own compiler asks
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def load_base(source: Path, device: str) -> DiffusionGemma:
    """The model that factors are trained beside: quantised where it is served so (engine/packed_engine.py), else float.

    Raises: ModelError and its kinds, DeviceError.
    """
    if source.is_dir() and not device.startswith("cuda"):
        check_host(source)
    if source.is_dir() and (device.startswith("cuda") or is_packed(source) or source_format(source) != "float"):
        return load_frozen(source, device)
    return load_checkpoint(source, device, "fp32")


@dataclass(frozen=True, slots=True)
class Score:
    """How good a model is on held-out files: exact matches in percent by kind of hole, alone and as served.

    As served: with what similar lines of the same file suggest.
    """

    num_holes: int
    alone: dict[str, float]
    served: dict[str, float]


def score(source: Path, device: str, adapter: Adapter | None, todo: Sequence[Case], told: Callable[[], None]) -> Score:
    """Ask for every hole through the engine that the server would use. Raises: ModelError and its kinds."""
    engine = load_engine(None if source == EMBEDDED else source, device, adapter=adapter)
    tokenizer, calibration = load_tokenizer(source), load_calibration(source)
    rates: list[dict[str, float]] = []
    for has_drafts in (False, True):
        policy = replace(policy_for(tokenizer), use_drafts=has_drafts)
        infiller = LocalInfiller(engine, tokenizer, calibration=calibration, policy=policy)
        outcomes: list[Outcome] = []
        for case in todo:
            outcomes.append(run(infiller, case))
            told()
        by_kind = {kind: [o.is_exact for o in outcomes if kind in (o.kind, "all")] for kind in (*KINDS, "all")}
        rates.append({kind: 100 * sum(hits) / len(hits) for kind, hits in by_kind.items() if hits})
    engine.close()
    return Score(len(todo), *rates)


def adapt(
    repo: Path, source: Path, device: str, plan: Plan, num_holes: int, deny: Sequence[str], console: Console
) -> tuple[Trained, Score | None, Score | None, Path | None]:
    """The whole command. num_holes: for the exact matches, 0 for none. Returns what was learned, the scores before and
    after, and the file that was written: None where nothing was gained, or clearly fewer holes were filled exactly than
    before. Raises: LacunaError.
    """
    own, held_out = split(read_repository(repo, deny), plan.seed)
    sizes = [f"{len(part)} files ({part.num_chars:,} characters)" for part in (own, held_out)]
    console.print(f"{sizes[0]} to learn from, {sizes[1]} held out")
    tokenizer = load_tokenizer(source)
    if isinstance(tokenizer, ChatTokenizer):
        plan = of_chat(plan)
    model = load_base(source, device)
    with _bars(console) as bars:
        task = bars.add_task("adapting", total=1.0, figures="")

        def told(share: float, steps: int, loss: float) -> None:
            bars.update(task, completed=share, figures=f"step {steps}, held-out loss {loss:.3f}")

        result = train(model, tokenizer.to_json(), own, held_out, plan, told)
        bars.update(task, completed=1.0)
    del model
    adapter = Adapter(fingerprint(source), result.factors, 1.0, _about(repo, result, own, held_out))
    # what is measured is what a file would hold
    before = after = None
    if num_holes and result.gain >= MIN_GAIN:
        todo = cases(held_out, -(-num_holes // len(KINDS)), plan.seed, KINDS)
        with _bars(console) as bars:
            task = bars.add_task("filling held-out holes", total=4 * len(todo), figures="")
            before = score(source, device, None, todo, lambda: bars.advance(task))
            after = score(source, device, adapter, todo, lambda: bars.advance(task))
    if result.gain < MIN_GAIN or is_worse(before, after):
        return result, before, after, None
    path = adapter_file(repo)
    save_adapter(adapter, path)
    return result, before, after, path


def is_worse(before: Score | None, after: Score | None) -> bool:
    """Whether clearly fewer holes were filled exactly, as served: a lower loss alone is nothing that a user sees."""
    return before is not None and after is not None and after.served["all"] < before.served["all"] - CHANCE


def _bars(console: Console) -> Progress:
    figures = TextColumn("{task.fields[figures]}")
    return Progress(TextColumn("{task.description}"), BarColumn(), figures, TimeRemainingColumn(), console=console)


def _about(repo: Path, result: Trained, own: Files, held_out: Files) -> dict[str, str]:
    return {
        "workspace": str(repo.expanduser().resolve()),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": str(len(own)),
        "held_out_files": str(len(held_out)),
        "steps": str(result.steps),
        "loss_before": f"{result.before[0]:.4f}",
        "loss_after": f"{result.after[0]:.4f}",
    }


def table(result: Trained, before: Score | None, after: Score | None) -> Table:
    """Before and after on the held-out files."""
    grid = Table("on the held-out files", title="before and after")
    for name in ("before", "after"):
        grid.add_column(name, justify="right")
    for label, i in (("loss, next token (nats)", 0), ("loss, canvas (nats)", 1)):
        grid.add_row(label, f"{result.before[i]:.3f}", f"{result.after[i]:.3f}")
    if before is not None and after is not None:
        for title, old, new in (("model alone", before.alone, after.alone), ("as served", before.served, after.served)):
            for kind, rate in old.items():
                grid.add_row(f"exact %, {title}, {kind}", f"{rate:.1f}", f"{new[kind]:.1f}")
    return grid


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="lacuna adapt",
        description="Fine-tune a small adapter of the model on a repository. Nothing leaves this machine, and the "
        "model's own file stays as it is.",
    )
    parser.add_argument("repo", type=Path, nargs="?", default=Path(), help="folder of the repository (default: here)")
    parser.add_argument("--remove", action="store_true", help="remove the repository's adapter")
    parser.add_argument("--minutes", type=float, default=10.0, help="longest time to train; default: 10")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help=f"most steps; default: {NUM_STEPS}")
    parser.add_argument("--model", default="", help="default: the model that comes with Lacuna")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rank", type=int, default=16, help="default: 16")
    parser.add_argument("--holes", type=int, default=180, help="held-out holes to fill before and after; 0: none")
    parser.add_argument("--deny", action="append", default=[], metavar="PATTERN", help="more files not to read")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: one core less than there are")
    parser.add_argument("--seed", type=int, default=0, help="of the files that are held out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    args = parser.parse_args(argv)
    out = Console(highlight=False, soft_wrap=True)
    if args.remove:
        gone = forget_adapter(args.repo)
        what = f"removed {gone}" if gone else f"{args.repo} has no adapter"
        out.print(f"{what}; servers use the model as it is from their next start on", markup=False)
        return 0
    if not 1 <= args.rank <= 256 or args.minutes <= 0 or args.steps < 1:
        parser.error("--rank is from 1 to 256, --minutes and --steps are above 0")
    leave_a_core()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    source = find_model(args.model) if args.model else EMBEDDED
    plan = Plan(minutes=args.minutes, max_steps=args.steps, rank=args.rank, seed=args.seed)
    result, before, after, path = adapt(
        args.repo, source, device, plan, args.holes, args.deny, Console(stderr=True, highlight=False)
    )
    out.print(table(result, before, after))
    said = f"{result.steps} steps in {result.seconds / 60:.1f} minutes"
    if args.json:
        figures = {"losses": [result.before, result.after], "steps": result.steps, "seconds": result.seconds}
        scores = {"before": before and asdict(before), "after": after and asdict(after)}
        size = path.stat().st_size if path else 0
        args.json.write_text(json.dumps({**figures, **scores, "bytes": size}, indent=1), encoding="utf-8")
    if path is None:
        why = "the held-out loss did not fall"
        if is_worse(before, after):
            why = "fewer of the held-out holes were filled exactly than before"
        stays = "; the adapter of an earlier run stays" if adapter_file(args.repo).exists() else ""
        out.print(f"{said}: {why}, so nothing is kept{stays}")
        return 1
    out.print(f"{said}; {path.stat().st_size / 1e6:.1f} MB stored in {path}", markup=False)
    out.print("Servers use it from their next start on. To undo this: lacuna adapt --remove", args.repo, markup=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
