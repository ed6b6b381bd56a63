"""How fast the engine is on this machine: random weights at an exact config, our step beside transformers' own.

    python -m lacuna_ls.engine.measure --config FILE --out FILE.json [--device cuda] [--seconds 500] [--no-reference |
                                      --reference-only]

Writes numbers only; bench/engine_gpu.py runs this in a process of its own and makes the report. Random weights are
enough, but for one thing: time depends on how many experts a step touches, and under random weights a canvas's rows
look alike and choose the same few (43 of 128 at 256 rows), which would flatter us. So the router runs and is timed,
but every row goes to experts drawn uniformly at random, once for each layer: T rows touch E (1 - (1 - K / E)^T) of E
experts, as the roofline assumes; what a trained model touches is between the two. What does not fit in the time allowed
is left out and named. Knows no text.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..kernels.packing import PackedMatrix
from .config import ModelConfig
from .cuda_graph import StepGraph
from .errors import first_line
from .formats import Part, Scheme, parts
from .packed_engine import FULL_SIZE_POLICY
from .packed_model import PackedLayer, PackedModel
from .pipeline import Lead, Pipeline, StepOptions, Sweep
from .plan import plan, total_parameters
from .problem import Canvas
from .slots import Slot, SlotPool

CANVASES = (8, 16, 32, 64, 128, 256)
CONTEXTS = (0, 2048, 8192)
DELTAS = (1, 8, 32, 128)
MAX_ROWS = 512
"""Rows of the largest forward that is measured: a prefill chunk, or prompt rows with a canvas."""
PUBLISHED_TOKENS_PER_FORWARD = 19.7

ALLOWED_S = {
    "machine": 5.0, "weights": 20.0, "step": 4.0, "prefill": 10.0, "delta": 5.0, "forked": 2.0, "transformers": 60.0,
    "eager": 15.0, "compiled": 90.0,
}  # fmt: skip
"""Seconds that each thing may take on a GPU; what is not begun with so much time left is left out."""

REFERENCE_ONLY = ("machine", "transformers", "eager", "compiled")
"""The things of --reference-only."""

REFERENCE = ((64, False), (64, True), (256, False), (256, True), (32, True), (32, False), (8, False))
"""(rows, whether compiled) of transformers, what matters most first."""

REFERENCE_REPEATS = 2
REFERENCE_STEPS = (2, 6)
"""Steps of the two runs whose difference is measured: an eager forward walks over 128 experts in Python."""


def allowed_s(num_contexts: int = len(CONTEXTS), only: tuple[str, ...] = tuple(ALLOWED_S)) -> float:
    """Seconds for everything (or for some things only), when each thing takes what it may."""
    counts = {
        "step": num_contexts * len(CANVASES),
        "delta": len(DELTAS),
        "forked": len(CANVASES),
        "eager": sum(not is_compiled for _, is_compiled in REFERENCE),
        "compiled": sum(is_compiled for _, is_compiled in REFERENCE),
    }
    return sum(seconds * counts.get(what, 1) for what, seconds in ALLOWED_S.items() if what in only)


COMPILED = (
    "_compiled_encoder",
    "_compiled_decoder_forward",
    "_compiled_accept_canvas",
    "_compiled_renoise_canvas",
    "_compiled_diffusion_stopping_criteria",
    "_cache",
)
"""What transformers' generate keeps on the model between calls."""


class CountingModel(PackedModel):
    """Sends rows to experts drawn uniformly at random, and notes in eager forwards how many each layer touches.

    The draws are static tensors, so that a graph captures them. Shares are the router's own.
    """

    counts: list[int] | None = None

    def __init__(self, config: ModelConfig, weights: dict[str, PackedMatrix | Tensor]) -> None:
        super().__init__(config, weights)
        generator = torch.Generator(self.device).manual_seed(1)
        size = (len(self.layers), MAX_ROWS, config.num_experts)
        order = torch.rand(size, device=self.device, generator=generator).topk(config.top_k, dim=-1).indices
        self._ids = {id(layer): ids for layer, ids in zip(self.layers, order.to(torch.int32), strict=True)}

    def _route(self, x: Tensor, layer: PackedLayer) -> tuple[Tensor, Tensor]:
        weights, _ = super()._route(x, layer)
        ids = self._ids[id(layer)][: len(x)]
        if self.counts is not None:
            self.counts.append(int(torch.bincount(ids.flatten(), minlength=self.config.num_experts).count_nonzero()))
        return weights, ids


def random_parts(config: ModelConfig, scheme: Scheme, device: torch.device) -> dict[str, PackedMatrix | Tensor]:
    """Every part with random contents, made on the device in its packed form: no checkpoint and no quantising."""
    generator = torch.Generator(device).manual_seed(0)
    return {part.name: _random_part(part, scheme, device, generator) for part in parts(config, scheme)}


def _random_part(part: Part, scheme: Scheme, device: torch.device, generator: torch.Generator) -> PackedMatrix | Tensor:
    if part.kind == "plain":
        shape = part.shapes[0]
        if part.name.endswith("layer_scalar"):
            return torch.full(shape, 0.5, device=device, dtype=scheme.dtype)
        if len(shape) == 1:
            return torch.ones(shape, device=device, dtype=scheme.dtype)
        return torch.empty(shape, device=device, dtype=scheme.dtype).normal_(0, 0.02, generator=generator)
    data_shape, scale_shape = part.packed_shapes
    size = (part.num_rows, part.num_cols, part.group_size, part.block_k)
    if part.format == "bf16":
        data = torch.empty(data_shape, device=device, dtype=scheme.dtype).normal_(0, 0.02, generator=generator)
        return PackedMatrix(data, None, part.format, *size)
    data = torch.empty(data_shape, device=device, dtype=torch.int32 if part.format == "int4" else torch.int8)
    if part.format == "int4":
        data.random_(-(2**31), 2**31 - 1, generator=generator)
    else:
        data.random_(-100, 100, generator=generator)
    # codes have a standard deviation near 4.6 or 58: scales that make weights of 0.02
    value = 0.02 / (4.6 if part.format == "int4" else 58.0)
    scale = torch.full(scale_shape, value, device=device)
    if part.group_size:
        half = int(torch.tensor(value, dtype=torch.bfloat16).view(torch.int16)) & 0xFFFF
        scale = torch.full(scale_shape, half | (half << 16), device=device, dtype=torch.int32)
    return PackedMatrix(data.to(torch.float8_e4m3fn) if part.format == "fp8" else data, scale, part.format, *size)


class Measurement:
    """One run: numbers go to `found`, in the order they are made; `left` says what time remains."""

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        seconds: float,
        repeats: int,
        contexts: Sequence[int],
        keep: Callable[[dict[str, Any]], None],
    ) -> None:
        """keep: given `found` whenever there is more of it, so that nothing is lost with a run that is stopped."""
        self.config, self.device, self.repeats, self.contexts, self.keep = config, device, repeats, contexts, keep
        self._end = time.monotonic() + seconds
        self.found: dict[str, Any] = {"steps": [], "left_out": []}

    def left(self, kind: str, what: str) -> bool:
        """Whether there is time for something of a kind (ALLOWED_S); notes it where there is not."""
        self.keep(self.found)
        if self._end - time.monotonic() >= ALLOWED_S[kind] * (1 if self.device.type == "cuda" else 0.1):
            return True
        self.found["left_out"].append(what)
        return False

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def ms(self, work: Callable[[], object], repeats: int = 0) -> float:
        """Median of repeats, each waited for."""
        work()
        times: list[float] = []
        for _ in range(repeats or self.repeats):
            self.sync()
            began = time.perf_counter()
            work()
            self.sync()
            times.append((time.perf_counter() - began) * 1e3)
        return statistics.median(times)

    # -- the machine ---------------------------------------------------------------------------------------------------

    def machine(self) -> None:
        """Name, and the bandwidth of a large copy (bytes read and written)."""
        is_cuda = self.device.type == "cuda"
        size = 4 << 30 if is_cuda else 64 << 20
        source = torch.empty(size, dtype=torch.uint8, device=self.device).fill_(1)
        target = torch.empty_like(source)
        ms = self.ms(lambda: target.copy_(source))
        self.found["machine"] = {
            "device": torch.cuda.get_device_name() if is_cuda else "CPU",
            "torch": torch.__version__,
            "copy_gb_s": 2 * size / ms / 1e6,
        }

    # -- ours ----------------------------------------------------------------------------------------------------------

    def _taken(self) -> int:
        """Bytes of the device that are in use, by whomever."""
        free, total = torch.cuda.mem_get_info()
        return total - free

    def ours(self, scheme: Scheme) -> None:
        before = 0
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = self._taken()
        model = CountingModel(self.config, random_parts(self.config, scheme, self.device))
        slots = SlotPool(self.config, self.device, model.dtype, max(self.contexts) + 512)
        for i in range(self.config.num_layers):
            for storage in slots.storage(i):
                storage.normal_(0, 0.3)
        by_label: dict[str, int] = {}
        for part in parts(self.config, scheme):
            by_label[part.label] = by_label.get(part.label, 0) + part.num_bytes(scheme.dtype)
        self.found["weights_bytes"] = by_label
        self.found["kv_bytes_token"] = sum(
            2 * s.num_kv_heads * s.head_dim * model.dtype.itemsize for s in self.config.layers
        )
        with torch.inference_mode():
            for context in self.contexts:
                for rows in CANVASES:
                    if self.left("step", f"ours, {rows} rows after {context} tokens"):
                        slots.clear()
                        self._step(model, self._slot(slots, context), rows, context, by_label)
            self._prompt(model, slots)
            self._forked(model, slots)
        if self.device.type == "cuda":
            # what the allocator held at most, and what it and the captured graphs have of the device now
            self.found["peak_bytes"] = torch.cuda.max_memory_reserved()
            self.found["taken_bytes"] = self._taken() - before
        del model, slots
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            # modules and captured graphs' pools are in this, not only tensors
            self.found["bytes_after_unload"] = self._taken() - before

    def _slot(self, slots: SlotPool, context: int) -> Slot:
        """A slot that claims to hold `context` tokens: what is in it does not matter for time."""
        tokens = tuple(i % self.config.vocab_size for i in range(max(1, context)))
        slot = slots.take(tokens, 256)
        slot.advance(context)
        slot.hold(tokens[:context])
        return slot

    def _step(self, model: CountingModel, slot: Slot, rows: int, context: int, weights: dict[str, int]) -> None:
        sweep, graph = self._prepared(model, slot, rows, StepOptions())
        model.counts = []
        sweep.step()
        experts, model.counts = model.counts, None
        eager_ms = self._run(sweep, sweep.step)
        graph_ms = self._run(sweep, graph.replay) if graph.is_captured else None
        touched = statistics.mean(experts) / self.config.num_experts
        moved = sum(size * (touched if label == "experts" else 1) for label, size in weights.items()) + self._kv_read(
            context, rows
        )
        best = graph_ms or eager_ms
        self.found["steps"].append({
            "rows": rows, "context": context, "eager_ms": eager_ms, "graph_ms": graph_ms, "forked_ms": None,
            "experts": touched * self.config.num_experts,
            "bytes": moved, "fraction": moved / best / 1e6 / self.found["machine"]["copy_gb_s"],
        })  # fmt: skip

    def _prepared(self, model: CountingModel, slot: Slot, rows: int, options: StepOptions) -> tuple[Sweep, StepGraph]:
        sweep, graph = Pipeline(model, FULL_SIZE_POLICY, options).prepare(slot, 1, rows)
        sweep.load([Canvas.free(rows)], slot, 48, 1, None)
        return sweep, graph

    def _run(self, sweep: Sweep, step: Callable[[], None]) -> float:
        def once() -> None:
            sweep.step_index.zero_()
            step()

        return self.ms(once)

    def _forked(self, model: CountingModel, slots: SlotPool) -> None:
        """The captured steps once more, the dense MLP beside the experts. Last, because it is off by default: after a
        capture that fails torch may take no other.
        """
        context = self.contexts[0]
        for step in self.found["steps"]:
            name = f"dense beside experts, {step['rows']} rows"
            if step["graph_ms"] is None or step["context"] != context or not self.left("forked", name):
                continue
            slots.clear()
            slot = self._slot(slots, context)
            try:
                sweep, graph = self._prepared(model, slot, step["rows"], StepOptions(is_forked=True))
                step["forked_ms"] = self._run(sweep, graph.replay)
            except RuntimeError as error:
                self.found["left_out"].append(f"{name}: {first_line(error)[:200]}")

    def _kv_read(self, context: int, rows: int) -> int:
        """Bytes of the cache that a step must read: a sliding layer sees its window only."""
        total = 0
        for spec in self.config.layers:
            seen = context if spec.window is None else min(context, spec.window - 1)
            total += 2 * spec.num_kv_heads * spec.head_dim * 2 * (seen + rows)
        return total

    def _prompt(self, model: PackedModel, slots: SlotPool) -> None:
        """Prefill in chunks; and the first step of a fill, with prompt rows riding along, as a request pays for it: the
        problem is copied in, the rows' plan is made, and the step is replayed.
        """
        chunk = 256
        slots.clear()
        slot = self._slot(slots, 0)
        tokens = tuple(i % self.config.vocab_size for i in range(chunk))
        pipeline = Pipeline(model, FULL_SIZE_POLICY, StepOptions())

        def encode() -> None:
            pipeline.encode(tokens, slot, only_last=True)
            slot.truncate(0)

        if self.left("prefill", "prefill"):
            ms = self.ms(encode)
            self.found["prefill"] = {"chunk": chunk, "ms": ms, "tokens_s": chunk / ms * 1e3}
        self.found["delta"] = []
        context = min(2048, max(self.contexts))
        for num_new in DELTAS:
            if not self.left("delta", f"delta prefill of {num_new} rows"):
                continue
            slots.clear()
            slot = self._slot(slots, context)
            sweep, _ = pipeline.prepare(slot, 1, 64)
            lead, graph = pipeline.prepare_lead(sweep, num_new, slot)
            ride = partial(self._ride, sweep, lead, graph, (1,) * num_new, slot)
            self.found["delta"].append({"rows": num_new, "ms": self.ms(ride)})

    @staticmethod
    def _ride(sweep: Sweep, lead: Lead, graph: StepGraph, rest: tuple[int, ...], slot: Slot) -> None:
        """What Pipeline.denoise does up to the end of its first step."""
        sweep.load([Canvas.free(64)], slot, 48, 1, None, rest, lead)
        graph.replay()

    # -- transformers' own ---------------------------------------------------------------------------------------------

    def reference(self, raw: dict[str, Any], dtype: torch.dtype) -> None:
        """`generate` of the same config in bf16, eager and compiled: time of a step by the difference of two runs."""
        self.found["reference"] = []
        if not self.left("transformers", "transformers"):
            return
        began = time.monotonic()
        try:
            model = self._reference_model(raw, dtype)
        except RuntimeError as error:
            self.found["left_out"].append(f"transformers: {first_line(error)}")
            return
        self.found["reference_build_s"] = time.monotonic() - began
        is_cuda = self.device.type == "cuda"
        context = min(2048, max(self.contexts))
        for rows, is_compiled in REFERENCE:
            if is_compiled and not is_cuda:
                continue
            name = f"transformers {'compiled' if is_compiled else 'eager'}, {rows} rows"
            if not self.left("compiled" if is_compiled else "eager", name):
                continue
            try:
                ms = self._reference_step(model, rows, context, is_compiled)
            except Exception as error:
                # somebody else's program at sizes it was not tried at: what it says is a result too
                self.found["left_out"].append(f"{name}: {type(error).__name__}: {first_line(error)[:200]}")
                continue
            self.found["reference"].append({"rows": rows, "context": context, "is_compiled": is_compiled, "ms": ms})

    def _reference_model(self, raw: dict[str, Any], dtype: torch.dtype) -> Any:
        from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

        config: Any = DiffusionGemmaConfig(
            **{k: v for k, v in raw.items() if not k.startswith("_") and k not in ("model_type", "architectures")}
        )
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(self.device):
                model: Any = DiffusionGemmaForBlockDiffusion(config)
        finally:
            torch.set_default_dtype(before)
        return model.to(self.device).eval()

    def _reference_step(self, model: Any, rows: int, context: int, is_compiled: bool) -> float:
        model.config.canvas_length = rows
        for name in COMPILED:
            # compiled for another canvas, or tried before
            if hasattr(model, name):
                delattr(model, name)
        prompt = torch.ones((1, max(1, context)), dtype=torch.long, device=self.device) + 3
        options: dict[str, Any] = {"cache_implementation": "static"} if is_compiled else {}

        def run(num_steps: int) -> None:
            # never sure enough to stop
            model.generate(
                prompt, max_new_tokens=rows, max_denoising_steps=num_steps, stability_threshold=num_steps + 1,
                confidence_threshold=1e-30, eos_token_id=None, **options,
            )  # fmt: skip

        few, many = REFERENCE_STEPS
        repeats = min(self.repeats, REFERENCE_REPEATS)
        times = [self.ms(partial(run, num_steps), repeats) for num_steps in (many, few)]
        return (times[0] - times[1]) / (many - few)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m lacuna_ls.engine.measure")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no-reference", action="store_true", help="without transformers")
    which.add_argument("--reference-only", action="store_true", help="transformers alone, and the machine")
    options = parser.parse_args(argv)
    raw = json.loads(options.config.read_text(encoding="utf-8"))
    config = ModelConfig.from_dict(raw, source=str(options.config))
    device = torch.device(options.device)

    def keep(found: dict[str, Any]) -> None:
        options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")

    run = Measurement(config, device, options.seconds, options.repeats, options.contexts, keep)
    only = REFERENCE_ONLY if options.reference_only else tuple(ALLOWED_S)
    sys.stderr.write(f"at most {min(options.seconds, allowed_s(len(options.contexts), only)):.0f} s\n")
    everything = parts(config, Scheme())
    sparse = total_parameters([part for part in everything if part.label == "experts"])
    run.found |= {
        "published_tokens_per_forward": PUBLISHED_TOKENS_PER_FORWARD,
        "num_experts": config.num_experts,
        "active_parameters": total_parameters(everything) - sparse + sparse * config.top_k // config.num_experts,
        "planned_bytes": plan(config, Scheme()).total,
    }
    phases: list[tuple[str, Callable[[], None]]] = [("machine", run.machine)]
    if not options.reference_only:
        phases.append(("ours", lambda: run.ours(Scheme())))
    if not options.no_reference:
        phases.append(("reference", lambda: run.reference(raw, torch.bfloat16)))
    for name, phase in phases:
        sys.stderr.write(f"measuring: {name}\n")
        phase()
        keep(run.found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
