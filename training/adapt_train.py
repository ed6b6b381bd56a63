"""Trains low-rank factors beside a frozen model on files of one repository, until the loss of what is asked for stops
falling on files that are held out.

Loss and examples are the trainer's own (batches.py, objective.py). Knows no file, no adapter's place and no hole that a
user sees filled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.adapter import Adapter
from ..engine.checkpoint import load_checkpoint
from ..engine.formats import source_format
from ..engine.frozen import load_frozen
from ..engine.model import DiffusionGemma, capped_logits
from ..engine.packed import is_packed
from ..engine.plan import check_host
from .batches import Batch, Batches, BatchShape, LossWeights, Texts
from .holes import sample_hole
from .lora import attach, factors, put
from .objective import losses, soft_of

NUM_STEPS = 300
"""Fifty larger ones lower the loss as far, and make fewer answers exact."""

RATE = 1.152
"""Times the inverse of the model's width: 0.003 for the embedded one. A third of it left what is served as it was."""

CHAT_SHAPE = BatchShape(num_examples=1, num_encoder=896)

PROBE_WEIGHTS = LossWeights(context=1.0, middle=2.0)
"""Tell the rows that are asked for from those around them. They are weighed alike, each among its own."""

Told = Callable[[str, float, str], None]
"""(what is going on, share of it that is done, figures to show)"""


def untold(what: str, share: float, figures: str) -> None:
    """Nobody is told."""


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
    encoder_weight: float = 5.0
    """Of the encoder's loss beside the canvas loss, in training and at the looks: it decides what is proposed."""
    shape: BatchShape = field(default_factory=lambda: BatchShape(num_examples=4, num_canvases=1))
    warmup_steps: int = 10
    num_probes: int = 8
    num_probe_batches: int = 24
    """Middles are short: so many hold a thousand tokens that are asked for."""
    patience: int = 3


def of_chat(plan: Plan) -> Plan:
    """The plan for a published model, which is asked in turns and answers by denoising.

    One example a step: its logits over 262,144 tokens take a gigabyte. The rows stay below the sliding window of 1024.
    Weights and rate are those of the published recipes for this model (TRL, NeMo). Not tried at its size.
    """
    return replace(plan, shape=CHAT_SHAPE, encoder_weight=1.0, lr=plan.lr or 2e-4)


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Mean cross-entropy of held-out rows in nats. middle: of the encoder, on the tokens that are asked for; canvas: on
    the same tokens from noise; context: of the encoder, on what stands around them, which nobody asks for.
    """

    middle: float
    canvas: float
    context: float

    def asked_for(self, encoder_weight: float) -> float:
        """What training is to lower: middle and canvas, their mean by weight."""
        return (encoder_weight * self.middle + self.canvas) / (encoder_weight + 1)


@dataclass(frozen=True, slots=True)
class Trained:
    """factors: of the best look. before, after: without them and with them. there: with the adapter there now."""

    factors: dict[str, tuple[Tensor, Tensor]]
    before: HeldOutLoss
    there: HeldOutLoss | None
    after: HeldOutLoss
    steps: int
    seconds: float
    encoder_weight: float
    is_stopped: bool = False
    """By the user."""

    @property
    def gain(self) -> float:
        """By how much the loss of what is asked for fell, in nats."""
        return self.before.asked_for(self.encoder_weight) - self.after.asked_for(self.encoder_weight)


def train(
    model: DiffusionGemma,
    tokenizer_json: str,
    own: Texts,
    held_out: Texts,
    plan: Plan,
    told: Told = untold,
    there: Adapter | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train factors beside the model, which is frozen and changed in place by the modules that hold them.

    there: an adapter to look at beside, if it changes the same weights. stopped: asked before each step; what was
    learnt until then counts. Raises: ValueError.
    """
    window = min((spec.window for spec in model.config.layers if spec.window is not None), default=plan.shape.num_rows)
    if plan.shape.num_rows > window:
        raise ValueError(f"batches of {plan.shape.num_rows} rows do not fit a sliding window of {window}")
    attached = attach(model, plan.rank, plan.seed)
    probe = Batches(held_out, tokenizer_json, plan.shape, sample_hole, 10_007, PROBE_WEIGHTS)
    probes: list[Batch] = []
    for i in range(plan.num_probe_batches):
        told("loss before", i / (2 * plan.num_probe_batches), "cutting holes")
        probes.append(probe[i].to(model.device))
    before = best = held_out_loss(model, probes, lambda done: told("loss before", 0.5 + done / 4, ""))
    kept = factors(attached)
    loss_there = None
    if there is not None and there.factors.keys() == attached.keys():
        put(attached, {name: (there.scale * up, down) for name, (up, down) in there.factors.items()})
        loss_there = held_out_loss(model, probes, lambda done: told("loss before", 0.75 + done / 4, ""))
        put(attached, kept)
    told("loss before", 1.0, "")
    trained = [p for p in model.parameters() if p.requires_grad]
    peak = plan.lr or RATE / model.config.hidden_size
    optimiser = torch.optim.AdamW(trained, lr=peak, betas=(0.9, 0.95), weight_decay=0.0)
    batches = Batches(own, tokenizer_json, plan.shape, sample_hole, plan.seed)
    told("training", 0.0, f"step 0, loss {before.middle:.2f}")
    begun, step, num_looks, num_waiting, is_stopped = time.monotonic(), 0, 1, 0, stopped()

    def progress() -> float:
        return min(1.0, max((time.monotonic() - begun) / (60 * plan.minutes), step / plan.max_steps))

    def looking(done: float) -> None:
        told("training", progress(), f"step {step}, measuring {done:.0%}")

    while (used := progress()) < 1 and num_waiting < plan.patience and not is_stopped:
        # not to zero before the end: the last look is one of many
        scale = min(1.0, (step + 1) / plan.warmup_steps) * max(0.05, 1 - used)
        for group in optimiser.param_groups:
            group["lr"] = peak * scale
        one_step(model, batches[step].to(model.device), optimiser, trained, plan.encoder_weight)
        step, is_stopped = step + 1, stopped()
        used = progress()
        if used * plan.num_probes >= num_looks or is_stopped:
            num_looks = int(used * plan.num_probes) + 1
            loss = held_out_loss(model, probes, looking)
            num_waiting += 1
            if loss.asked_for(plan.encoder_weight) < best.asked_for(plan.encoder_weight):
                best, kept, num_waiting = loss, factors(attached), 0
        told("training", used, f"step {step}, loss {best.middle:.2f} (was {before.middle:.2f})")
    seconds = time.monotonic() - begun
    return Trained(kept, before, loss_there, best, step, seconds, plan.encoder_weight, is_stopped)


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
def held_out_loss(
    model: DiffusionGemma, probes: Sequence[Batch], told: Callable[[float], None] = lambda _: None
) -> HeldOutLoss:
    """The mean over all rows of their kind. probes: weighed by PROBE_WEIGHTS. told: the share that is done."""
    sums = torch.zeros(3, 2, dtype=torch.float64)
    for number, batch in enumerate(probes):
        told(number / len(probes))
        is_canvas = batch.is_canvas
        with _precision(model):
            hidden, _ = model.joint(batch.tokens, batch.positions, is_canvas, batch.mask, soft_of(model, batch, None))
            logits = capped_logits(hidden.flatten(0, 1), model.embed_tokens.weight, model.config.softcap)
            nll = F.cross_entropy(logits, batch.targets.flatten(), reduction="none").view(batch.weights.shape)
        is_middle = (batch.weights == PROBE_WEIGHTS.middle) & ~is_canvas
        for i, rows in enumerate((is_middle, is_canvas, ~is_canvas & ~is_middle)):
            weights = torch.where(rows, batch.weights, 0.0)
            sums[i] += torch.stack([(nll * weights).sum(), weights.sum()]).double().cpu()
    middle, canvas, context = (float(total / share) if share else 0.0 for total, share in sums)
    return HeldOutLoss(middle, canvas, context)


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
