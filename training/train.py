"""The trainer: one command, the same on a CPU and on a GPU, resumable to the step.

The schedule follows the share of the run that is over: of its time budget, so that `--minutes` says when it ends
whatever the machine, or of its steps. State is one safetensors file with JSON in its header, never pickle. Holes and
noise are batches.py's, losses objective.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import signal
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..engine.checkpoint import check_device, is_packed, load_checkpoint, pack
from ..engine.config import LayerSpec, ModelConfig
from ..engine.errors import ConfigError, ModelNotFoundError
from ..engine.int8 import dequantise
from ..engine.model import DiffusionGemma
from ..engine.modelfile import read_metadata
from ..infill.tokenizer import NUM_RESERVED, Tokenizer
from .batches import Batch, Batches, BatchShape, LossWeights
from .command import first_interrupt, guarded
from .corpus import Corpus
from .flops import step_flops
from .holes import sample_hole
from .muon import Muon
from .objective import Compiled, believe, compiled, encoder_only, losses, soft_of


@dataclass(frozen=True, slots=True)
class Size:
    """Shape of a model trained here. The sliding window is beyond any prompt we use, so every layer sees all of it."""

    num_layers: int = 6
    hidden_size: int = 256
    num_heads: int = 4
    num_kv_heads: int = 2
    dense_width: int = 512
    num_experts: int = 4
    top_k: int = 2
    expert_width: int = 128

    def config(self, vocab_size: int) -> ModelConfig:
        head_dim = self.hidden_size // self.num_heads
        sliding = LayerSpec("sliding_attention", head_dim, self.num_kv_heads, 1024, 1e4, head_dim // 2, True)
        full = LayerSpec("full_attention", head_dim, self.num_kv_heads, None, 1e6, head_dim // 8, False)
        return ModelConfig(
            vocab_size=vocab_size, hidden_size=self.hidden_size, intermediate_size=self.dense_width,
            num_heads=self.num_heads, layers=(*[sliding] * (self.num_layers - 1), full), num_experts=self.num_experts,
            top_k=self.top_k, expert_size=self.expert_width, rms_norm_eps=1e-6, softcap=30.0, max_positions=4096,
            pad_id=Tokenizer.pad, bos_id=Tokenizer.bos, eos_ids=(Tokenizer.eos,), canvas_length=32,
            first_noise_id=NUM_RESERVED,
        )  # fmt: skip


SIZES = {
    "tiny": Size(2, 64, 2, 1, 96, 4, 2, 32),
    "cpu": Size(),
    # the largest whose int8 export stays under the wheel's 16 MiB with its tokenizer of 6,144 tokens
    "gpu": Size(7, 384, 6, 2, 704, 4, 2, 128),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides a run's result besides the corpus. Shares are of the run's length."""

    size: str | Size = "cpu"
    """A name in SIZES, or a shape of one's own."""
    minutes: float = 90.0
    num_steps: int = 0
    """The run's length in steps instead of minutes, where the same work is to be done on any machine; 0: minutes."""
    seed: int = 0
    shape: BatchShape = field(default_factory=BatchShape)
    weights: LossWeights = field(default_factory=LossWeights)
    lr_matrix: float = 0.02
    lr_other: float = 0.002
    encoder_only_share: float = 0.3
    warmup_steps: int = 40
    cooldown_share: float = 0.5
    ema_share: float = 0.3
    ema_decay: float = 0.99
    self_conditioning: float = 0.25
    encoder_weight_end: float = 0.5
    quantised_share: float = 0.1


STATE_KEY = "lacuna.run"
"""In the header of state.safetensors: step, seconds, tokens and plan as JSON. One file, so that a cut between two
writes cannot leave the weights of one step with the number of another."""


def read_state(folder: Path) -> dict[str, Any] | None:
    """Step, used_s, num_tokens and plan of a run's folder; None where there is no run. Raises: CheckpointError.

    Runs from before STATE_KEY, and what gpu_session.py sends home, have them in state.json.
    """
    file, old = folder / "state.safetensors", folder / "state.json"
    text = read_metadata(file).get(STATE_KEY) if file.exists() else None
    if text is None and old.exists():
        text = old.read_text(encoding="utf-8")
    return None if text is None else dict(json.loads(text))


class Run:
    """A run on disk: RUN/state.safetensors, RUN/config.json, RUN/log.jsonl. Picks up where it stopped."""

    def __init__(
        self, out: Path, plan: Plan, tokenizer: Tokenizer, device: torch.device, init_from: Path | None = None
    ) -> None:
        self.out, self.plan, self.device = out, plan, device
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(plan.seed)
        size = SIZES[plan.size] if isinstance(plan.size, str) else plan.size
        self.config = size.config(tokenizer.vocab_size)
        self.model = initialise(DiffusionGemma(self.config)).to(device)
        matrices, others = split_parameters(self.model)
        self.muon = Muon(matrices, lr=plan.lr_matrix, weight_decay=0.01)
        is_fused = device.type == "cuda"
        self.adam = torch.optim.AdamW(others, lr=plan.lr_other, betas=(0.9, 0.95), weight_decay=0.0, fused=is_fused)
        self.ema: dict[str, Tensor] = {}
        self.step, self.used_s, self.num_tokens = 0, 0.0, 0
        state = read_state(out)
        if state is not None:
            self._restore(state)
        elif init_from is not None:
            start = load_checkpoint(init_from, weights="fp32")
            if start.config != self.config:
                raise ConfigError(f"{init_from} is a model of another shape or vocabulary than this run trains")
            self.model.load_state_dict(start.state_dict())

    @property
    def progress(self) -> float:
        if self.plan.num_steps:
            return min(1.0, self.step / self.plan.num_steps)
        return min(1.0, self.used_s / (60 * self.plan.minutes))

    def save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        tensors |= optimiser_tensors(self.model, self.muon, self.adam)
        state = {"step": self.step, "used_s": self.used_s, "num_tokens": self.num_tokens, "plan": asdict(self.plan)}
        (self.out / "config.json").write_text(json.dumps(self.config.to_dict(), indent=1), encoding="utf-8")
        part = self.out / "state.part"
        on_host = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(on_host, part, metadata={STATE_KEY: json.dumps(state)})
        part.replace(self.out / "state.safetensors")
        # of an older version; it would tell of a step that is over
        (self.out / "state.json").unlink(missing_ok=True)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.used_s, self.num_tokens = state["step"], state["used_s"], state["num_tokens"]
        tensors = load_file(self.out / "state.safetensors", device=str(self.device))
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.ema = {k[4:]: v for k, v in tensors.items() if k.startswith("ema.")}
        restore_optimisers(self.model, self.muon, self.adam, tensors)

    @torch.no_grad()
    def update_ema(self) -> None:
        if self.progress < 1 - self.plan.ema_share:
            return
        now = {name: value.detach().float() for name, value in self.model.state_dict().items()}
        if self.ema:
            # names in the order of `now`: a restored average may have another
            torch._foreach_lerp_([self.ema[name] for name in now], list(now.values()), 1 - self.plan.ema_decay)  # pyright: ignore
        else:
            self.ema = {name: value.clone() for name, value in now.items()}

    def best_weights(self) -> dict[str, Tensor]:
        """The averaged weights once averaging has begun, else the current ones."""
        return self.ema or dict(self.model.state_dict())


def initialise(model: DiffusionGemma) -> DiffusionGemma:
    """Normal weights with std 1/sqrt(fan_in); the table's std makes a scaled embedding's entries about 0.6."""
    for name, p in model.named_parameters():
        if p.dim() >= 2:
            std = 0.04 if name.startswith("embed_tokens") else p.shape[-1] ** -0.5
            nn.init.normal_(p, std=0.1 * std if name.endswith("router.proj.weight") else std)
    return model


def split_parameters(model: DiffusionGemma) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(matrices of the body for Muon, everything else for AdamW: table, norms, routers)."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        (others if p.dim() < 2 or "router" in name or name.startswith("embed") else matrices).append(p)
    return matrices, others


def optimiser_tensors(model: nn.Module, *optimisers: torch.optim.Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
    return {
        f"opt.{names[p]}.{key}": value if isinstance(value, Tensor) else torch.tensor(float(value))
        for optimiser in optimisers
        for p, state in optimiser.state.items()
        for key, value in state.items()
    }


def restore_optimisers(model: nn.Module, muon: Muon, adam: torch.optim.AdamW, tensors: dict[str, Tensor]) -> None:
    params = dict(model.named_parameters())
    for key, value in tensors.items():
        if key.startswith("opt."):
            name, slot = key[4:].rsplit(".", 1)
            optimiser = muon if slot == "momentum_buffer" else adam
            optimiser.state[params[name]][slot] = value


def learning_rate_scale(plan: Plan, step: int, progress: float) -> float:
    """Linear warm-up in steps, constant, then linear warm-down to 2 % over the last cooldown_share of the time."""
    warm = min(1.0, (step + 1) / plan.warmup_steps)
    return warm * max(0.02, min(1.0, (1 - progress) / plan.cooldown_share))


def train(
    corpus_dir: Path,
    out: Path,
    plan: Plan,
    device: torch.device,
    stop_after_s: float = math.inf,
    num_workers: int = 1,
    is_compiled: bool = True,
    init_from: Path | None = None,
) -> Run:
    """Train until the plan's minutes are used up, or for stop_after_s seconds of this call (then call again to go on).

    corpus_dir: what training/corpus.py wrote, with tokenizer.json. init_from: a model of the same shape, packed or a
    folder. Ctrl-C ends after the step, saves, and is raised then. Raises: ModelNotFoundError without a corpus,
    ConfigError for a start of another shape.
    """
    tokenizer_path = corpus_dir / "tokenizer.json"
    if not tokenizer_path.exists():
        advice = f"build the corpus first: python -m lacuna_ls.training.corpus --out {corpus_dir}"
        raise ModelNotFoundError(f"{tokenizer_path} does not exist; {advice}")
    tokenizer_json = tokenizer_path.read_text(encoding="utf-8")
    # before the run, whose folder is made
    texts, held_out = Corpus(corpus_dir, "train"), Corpus(corpus_dir, "holdout")
    run = Run(out, plan, Tokenizer.from_json(tokenizer_json), device, init_from)
    cut_log(out / "log.jsonl", run.step)
    batches = Batches(texts, tokenizer_json, plan.shape, sample_hole, plan.seed, plan.weights)
    probes = held_out_batches(held_out, tokenizer_json, plan.shape, 4)
    loader = _loader(batches, run.step, num_workers)
    parts = compiled() if is_compiled else None
    # reading a number makes the host wait for the device
    log_every = 10 if device.type == "cuda" else 1
    started, last_save, last_probe = time.monotonic(), time.monotonic(), -math.inf
    # of the steps since the last row of the log, which waits for the device
    work, told_s = 0, run.used_s
    column = TextColumn("{task.fields[figures]}")
    columns = (TextColumn("{task.description}"), BarColumn(), column, TimeRemainingColumn())
    with (
        # a step that is cut in two is no state to go on from
        first_interrupt(even_if_ignored=True) as is_interrupted,
        Progress(*columns, console=Console(stderr=True)) as bar,
        (out / "log.jsonl").open("a", encoding="utf-8") as log,
    ):
        task = bar.add_task("training", total=1.0, figures="")
        while run.progress < 1 and time.monotonic() - started < stop_after_s and not is_interrupted():
            begun = time.monotonic()
            result, flops = one_step(run, parts, next(loader))
            work += flops
            is_told = run.step % log_every == 0 or run.step == 1
            figures = {name: float(value) for name, value in result.items()} if is_told else {}
            run.used_s += time.monotonic() - begun
            if not is_told:
                continue
            tflops = work / max(1e-9, run.used_s - told_s) / 1e12
            work, told_s = 0, run.used_s
            row: dict[str, Any] = {
                "step": run.step, "progress": run.progress, "used_s": run.used_s, "tokens": run.num_tokens,
                "tflops": tflops, **figures,
            }  # fmt: skip
            if time.monotonic() - last_probe > 300 or run.step == 1:
                row |= evaluate(run, probes)
                last_probe = time.monotonic()
            log.write(json.dumps(row) + "\n")
            log.flush()
            rate = run.num_tokens / max(1e-9, run.used_s)
            told = f"encoder {figures['encoder']:.3f}  canvas {figures['canvas']:.3f}"
            said = f"step {run.step}  {told}  {rate:,.0f} tok/s  {tflops:.3g} TFLOP/s"
            bar.update(task, completed=run.progress, figures=said)
            if time.monotonic() - last_save > 240:
                run.save()
                last_save = time.monotonic()
        run.save()
    if is_interrupted():
        sys.stderr.write(f"stopped; {out} is saved at step {run.step}, and the same command goes on from there\n")
        raise KeyboardInterrupt
    return run


def cut_log(path: Path, last_step: int) -> None:
    """Drop the rows of steps after last_step, which a run that goes on from there does again, and half written ones."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            kept += [f"{line}\n"] if json.loads(line)["step"] <= last_step else []
    part = path.with_name(f"{path.name}.part")
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(path)


def held_out_batches(held_out: Corpus, tokenizer_json: str, shape: BatchShape, num_batches: int) -> list[Batch]:
    """Fixed batches that losses are compared on between runs: with the usual weights, whatever a run's own are."""
    batches = Batches(held_out, tokenizer_json, replace(shape, num_examples=16), sample_hole, seed=10_007)
    return [batches[i] for i in range(num_batches)]


def _loader(batches: Batches, first_step: int, num_workers: int) -> Iterator[Batch]:
    """The batches from first_step on, without end, built by num_workers processes (0: by this one)."""
    return cast("Iterator[Batch]", iter(DataLoader(
        batches, batch_size=None, sampler=range(first_step, 10**7), num_workers=num_workers,
        prefetch_factor=4 if num_workers else None, persistent_workers=num_workers > 0,
        worker_init_fn=_ignore_interrupts,
    )))  # fmt: skip


def _ignore_interrupts(_: int) -> None:
    # a terminal sends Ctrl-C to the loader's processes, too; the last step still needs its batch
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def rounded(model: DiffusionGemma) -> Generator[None]:
    """The weights as the export will hold them, while the gradient is taken: it is then applied to the exact ones.

    Straight-through estimator (Bengio et al., arXiv 1308.3432): rounding counts as the identity going back.
    """
    exact = {name: p.detach().clone() for name, p in model.named_parameters() if is_packed(name, p)}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in exact:
                p.copy_(dequantise(*pack(name, p)))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in exact:
                    p.copy_(exact[name])


def encoder_share(plan: Plan, progress: float) -> float:
    """Weight of the next-token loss beside the canvas loss: 1, falling to encoder_weight_end over the last 40 %."""
    late = max(0.0, (progress - 0.6) / 0.4)
    return 1.0 + (plan.encoder_weight_end - 1.0) * late


def one_step(run: Run, parts: Compiled | None, batch: Batch) -> tuple[dict[str, Tensor | float], int]:
    """Forward, backward and update of the run's next step.

    Returns what the log keeps, not yet read from the device, and the step's FLOPs.
    """
    plan, model, progress = run.plan, run.model, run.progress
    is_joint = progress >= plan.encoder_only_share
    # of the step alone, like the batch: a run that was cut anywhere draws what the whole one would
    is_conditioned = is_joint and random.Random(plan.seed * 7919 + run.step).random() < plan.self_conditioning
    batch = batch if is_joint else encoder_only(batch)
    run.num_tokens += int((batch.weights > 0).sum())
    num_examples, num_rows = batch.tokens.shape
    flops = step_flops(run.config, num_examples, batch.num_encoder, num_rows - batch.num_encoder, is_conditioned)
    batch = batch.to(run.device)
    is_last_part = progress >= 1 - plan.quantised_share
    with rounded(model) if is_last_part else contextlib.nullcontext():
        with torch.autocast(run.device.type, torch.bfloat16):
            if is_joint:
                soft = soft_of(model, batch, believe(model, batch, parts) if is_conditioned else None)
                share = torch.tensor(encoder_share(plan, progress), device=run.device)
                result = losses(model, batch, soft, share, parts)
            else:
                result = losses(model, batch, None, 1.0, parts)
        cast(Any, result.total).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scale = learning_rate_scale(plan, run.step, progress)
    for optimiser, rate in ((run.muon, plan.lr_matrix), (run.adam, plan.lr_other)):
        for group in optimiser.param_groups:
            group["lr"] = rate * scale
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    run.update_ema()
    run.step += 1
    return {"encoder": result.encoder.detach(), "canvas": result.canvas.detach(), "norm": norm, "lr": scale}, flops


@torch.no_grad()
def evaluate(run: Run, probes: list[Batch]) -> dict[str, float]:
    """Losses on fixed batches of the held-out packages."""
    total: dict[str, float] = {"probe_encoder": 0.0, "probe_canvas": 0.0}
    with torch.autocast(run.device.type, torch.bfloat16):
        for batch in probes:
            on_device = batch.to(run.device)
            result = losses(run.model, on_device, soft_of(run.model, on_device, None), 1.0)
            total["probe_encoder"] += float(result.encoder) / len(probes)
            total["probe_canvas"] += float(result.canvas) / len(probes)
    return total


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lacuna train", description="Train the embedded model on a corpus.")
    parser.add_argument("--corpus", type=Path, required=True, help="folder that the corpus builder wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an existing one is resumed")
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--minutes", type=float, default=90.0, help="time budget of the whole run, over all calls")
    parser.add_argument("--steps", type=int, default=0, help="length of the whole run in steps, instead of --minutes")
    parser.add_argument("--stop-after", type=float, default=math.inf, metavar="SECONDS", help="end this call early")
    parser.add_argument("--batch", type=int, default=32, help="examples per step")
    parser.add_argument("--canvases", type=int, default=2, help="noise replicas per example")
    parser.add_argument("--encoder-only", type=float, default=0.3, metavar="SHARE", help="of the time, at first")
    parser.add_argument("--lr", type=float, default=1.0, help="factor on both learning rates")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's own choice)")
    parser.add_argument("--workers", type=int, default=1, help="processes that build batches")
    parser.add_argument("--no-compile", action="store_true", help="run eagerly (slower)")
    parser.add_argument("--init-from", type=Path, help="start from this model: a packed file or a folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if not args.minutes > 0 or min(args.batch, args.canvases) < 1 or min(args.steps, args.threads, args.workers) < 0:
        parser.error("--minutes, --batch and --canvases are above 0; --steps, --threads and --workers are not below it")
    check_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    shape = BatchShape(num_examples=args.batch, num_canvases=args.canvases)
    plan = Plan(args.size, args.minutes, args.steps, args.seed, shape, encoder_only_share=args.encoder_only)
    plan = replace(plan, lr_matrix=args.lr * plan.lr_matrix, lr_other=args.lr * plan.lr_other)
    device = torch.device(args.device)
    train(args.corpus, args.out, plan, device, args.stop_after, args.workers, not args.no_compile, args.init_from)
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
