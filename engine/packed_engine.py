"""PackedEngine: the full-size model in this process. LocalEngine's contract over packed weights, slots and the fast
step.

What is different from LocalEngine: the KV cache is one of several slots under a token budget; diffusion runs as
pipeline.py's static sweeps, with the rest of a prompt in the first forward; and a canvas longer than the model's is
filled block by block. The causal decodings are LocalEngine's own. Knows no text. Calls come from one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .adapter import Adapter
from .blocks import BlockResult, denoise_blocks
from .checkpoint import check_device
from .denoise import Denoised
from .errors import EngineError
from .formats import Progress, source_format
from .kv_cache import KVCache
from .local import PREFILL_CHUNK, LocalEngine, Task, num_answered
from .packed import is_packed, load_packed
from .packed_model import PackedModel
from .pipeline import Pipeline, StepOptions
from .plan import CONTEXT_BYTES, KV_TOKENS, check_host, plan_folder
from .policies import RegionEntropySum, SamplingPolicy, answer_region
from .problem import Cancelled, Canvas, CanvasProblem, CanvasResult, EngineStatus, Timings
from .slots import Slot, SlotPool
from .tuned import apply as use_tuned_tiles

FUSED_ROWS = 256
"""At most so many rows of the prompt ride along in the first forward; what is before them is encoded alone."""

FULL_SIZE_POLICY = SamplingPolicy(stop=RegionEntropySum(limit=1.28))
"""The reference's sampler; but it stops by the entropy of the answer alone: what 256 rows at a mean of 0.005 nats add
up to.
"""

WARM_UP_ROWS = (32, 128)
"""Canvases captured before the first request: a line and a block, see infill/chat.py for how long they are."""


def choose_device(source: Path | None, device: str) -> str:
    """"auto" is the GPU for a folder where torch finds one, else the CPU. The embedded model is quickest on the CPU."""
    if device != "auto":
        return device
    return "cuda" if source is not None and source.is_dir() and torch.cuda.is_available() else "cpu"


def cap_memory(cap_bytes: int | None, device: str) -> None:
    """Hold torch to the user's limit on this device, so that going over it is an exhausted device and not a thief.

    cap_bytes: with the CUDA context, which torch does not count; None: no limit.
    """
    total = torch.cuda.mem_get_info(device)[1]
    share = 1.0 if cap_bytes is None else min(1.0, max(0, cap_bytes - CONTEXT_BYTES) / total)
    torch.cuda.set_per_process_memory_fraction(share, torch.device(device).index)


def load_engine(
    source: Path | None,
    device: str = "cpu",
    kv_tokens: int = KV_TOKENS,
    cap_bytes: int | None = None,
    progress: Progress | None = None,
    adapter: Adapter | None = None,
) -> LocalEngine:
    """The engine that suits a model: packed and quantised folders, and any folder on a GPU, run as PackedEngine; the
    embedded model and small float folders on the CPU as LocalEngine.

    source: a folder or file (find.find_model gives it), or None for the embedded model. adapter: merged into what is
    loaded. Raises: LacunaError's kinds.
    """
    device = choose_device(source, device)
    if source is None or not source.is_dir():
        return LocalEngine.load(source, device, adapter=adapter)
    if not device.startswith("cuda"):
        # a language server that takes all of somebody's memory is worse than none
        check_host(source)
    if device.startswith("cuda") or is_packed(source) or source_format(source) != "float":
        return PackedEngine.load_folder(source, device, kv_tokens, cap_bytes, progress, adapter)
    return LocalEngine.load(source, device, adapter=adapter)


class PackedEngine(LocalEngine):
    """Engine over one PackedModel."""

    # on a GPU a forward of 64 rows takes about as long as one of 256
    ahead_chunk = PREFILL_CHUNK

    def __init__(
        self,
        model: PackedModel,
        policy: SamplingPolicy = FULL_SIZE_POLICY,
        name: str = "",
        kv_tokens: int = KV_TOKENS,
        options: StepOptions | None = None,
        fused_rows: int = FUSED_ROWS,
    ) -> None:
        """kv_tokens: positions of all slots together. fused_rows: 0 encodes the whole prompt before the first step."""
        super().__init__(model, policy, name)
        self._cache.release()
        self._packed: PackedModel | None = model
        self._slots: SlotPool | None = SlotPool(model.config, model.device, model.dtype, kv_tokens)
        self._pipeline: Pipeline | None = Pipeline(model, policy, options)
        self._fused_rows = fused_rows
        self._slot: Slot | None = None

    @classmethod
    def load_folder(
        cls,
        source: Path,
        device: str = "cuda",
        kv_tokens: int = KV_TOKENS,
        cap_bytes: int | None = None,
        progress: Progress | None = None,
        adapter: Adapter | None = None,
    ) -> PackedEngine:
        """Plan first, then load: nothing is allocated for a model that does not fit.

        cap_bytes: the user's limit on device memory. Raises: ModelError and its kinds; DeviceError with advice.
        """
        free = None
        if device.startswith("cuda"):
            check_device(device)
            # others' use of the device is in this number, and our own context, which the plan counts by itself
            free = torch.cuda.mem_get_info(device)[0] + CONTEXT_BYTES
            use_tuned_tiles(device)
        plan_folder(source, free, cap_bytes, kv_tokens).check()
        if device.startswith("cuda"):
            cap_memory(cap_bytes, device)
        model = load_packed(source, None, device, progress, adapter)
        return cls(model, name=f"{source.name}, adapted" if adapter else source.name, kv_tokens=kv_tokens)

    def status(self) -> EngineStatus:
        status, slots = super().status(), self._slots
        return status if slots is None else replace(status, kv_bytes=slots.num_bytes)

    def close(self) -> None:
        # graphs first: they hold buffers that point into the rest
        if self._pipeline is not None:
            self._pipeline.clear()
        if self._packed is not None:
            self._drop_slots(self._packed)
        self._pipeline = self._packed = None
        super().close()

    def warm_up(self, num_rows: Sequence[int] = WARM_UP_ROWS) -> None:
        """Compile and capture what the first requests will need: their steps, and prompts of every size."""
        self.prefill((self.model.config.bos_id,))
        steps, slot = self._steps, self._slot
        assert slot is not None
        for prompt_rows in steps.options.prompt_buckets:
            steps.prepare_prefill(prompt_rows, slot)
        for rows in num_rows:
            sweep, _ = steps.prepare(slot, 1, rows)
            for prompt_rows in steps.options.prompt_buckets:
                steps.prepare_lead(sweep, prompt_rows, slot)

    @property
    def kv_tokens(self) -> int:
        """The token budget of all slots."""
        return 0 if self._slots is None else self._slots.budget

    def shrink(self, kv_tokens: int) -> None:
        """Give memory back: every graph and slot is dropped, and the new storage is for kv_tokens only."""
        model = self._packed
        if model is None:
            return
        self._steps.clear()
        # the old storage goes before the new one comes
        self._drop_slots(model)
        self._slots = SlotPool(model.config, model.device, model.dtype, kv_tokens)

    @torch.inference_mode()
    def prefill(self, prompt: tuple[int, ...], cancelled: Cancelled | None = None) -> Timings:
        self._take(prompt)
        return super().prefill(prompt, cancelled)

    @torch.inference_mode()
    def fill(self, problem: CanvasProblem, cancelled: Cancelled | None = None) -> list[CanvasResult]:
        self._take(problem.prompt, max(len(canvas.tokens) for canvas in problem.canvases))
        if problem.decoding == "denoise":
            return self._fill_by_diffusion(self._task(problem, cancelled))
        return super().fill(problem, cancelled)

    # -- diffusion: all canvases together, or one after the other in blocks when they are long ------------------------

    def _fill_by_diffusion(self, task: Task) -> list[CanvasResult]:
        canvases, prompt = task.problem.canvases, task.problem.prompt
        self._check_tokens(prompt, lowest=0)
        timings, rest = self._prefill_most(prompt, task.cancelled)
        if self._cache.length + len(rest) < len(prompt):
            return [CanvasResult.untouched(canvas, True, timings) for canvas in canvases]
        started = time.perf_counter()
        if max(len(canvas.tokens) for canvas in canvases) > self.model.config.canvas_length:
            found = self._one_by_one(task, rest)
            num_forwards = sum(each.num_forwards for each in found)
        else:
            out = self._run_steps(task, canvases, rest, task.problem.seed)
            found = [self._block(task, out, b, len(canvas.tokens)) for b, canvas in enumerate(canvases)]
            num_forwards = out.num_forwards
        timings = replace(timings, denoise_ms=(time.perf_counter() - started) * 1e3, num_forwards=num_forwards)
        results = [self._result(each, timings) for each in found]
        not_begun = canvases[len(found) :]
        return results + [CanvasResult.untouched(canvas, task.is_cancelled(), timings) for canvas in not_begun]

    def _one_by_one(self, task: Task, rest: tuple[int, ...]) -> list[BlockResult]:
        """Of as many canvases as there is time for: at least of the first."""
        found: list[BlockResult] = []
        for canvas in task.problem.canvases:
            if found and (task.is_cancelled() or task.is_late()):
                break
            found.append(self._long(task, canvas, () if found else rest))
        return found

    def _long(self, task: Task, canvas: Canvas, rest: tuple[int, ...]) -> BlockResult:
        prompt, seed = task.problem.prompt, task.problem.seed
        num_blocks = 0

        def denoise_block(block: Canvas) -> BlockResult:
            nonlocal rest, num_blocks
            # each block draws from a stream of its own
            out = self._run_steps(task, [block], rest, seed + num_blocks)
            rest, num_blocks = (), num_blocks + 1
            return self._block(task, out, 0, len(block.tokens))

        def commit(tokens: tuple[int, ...]) -> None:
            # they ride along in the next block's first step
            nonlocal rest
            rest = tokens

        config = self.model.config
        try:
            return denoise_blocks(canvas, config.canvas_length, denoise_block, commit, config.pad_id)
        finally:
            # what was committed is not the prompt
            self._cache.truncate(min(self._cache.length, len(prompt)))

    def _run_steps(self, task: Task, canvases: Sequence[Canvas], rest: tuple[int, ...], seed: int) -> Denoised:
        """Denoise over the cache and rest; the cache holds rest afterwards, without the state of its last token, which
        the causal decodings encode again.
        """
        held, slot = self._cache.tokens, self._slot
        assert slot is not None
        out = self._steps.denoise(
            slot, canvases, task.problem.max_steps, seed, task.ends, rest, task.banned, task.deadline, task.cancelled
        )
        if bool(out.entropy.isnan().any()):
            self._cache.truncate(len(held))
            raise EngineError(
                "the model's answer is not a number: set LACUNA_KERNELS=reference to see whether a kernel is at fault, "
                "and check the model's files with `lacuna verify`"
            )
        self._cache.hold((*held, *rest))
        return out

    def _block(self, task: Task, out: Denoised, b: int, num_rows: int) -> BlockResult:
        tokens = out.tokens[b : b + 1, :num_rows]
        num_region = int(answer_region(tokens, task.ends).sum())
        values = cast(list[int], tokens[0].tolist())
        return BlockResult(
            tokens=tuple(values),
            entropy=tuple(cast(list[float], out.entropy[b, :num_rows].tolist())),
            logprob=tuple(cast(list[float], out.logprob[b, :num_rows].tolist())),
            num_region=num_region,
            has_end=values[num_region - 1] in task.ends,
            steps=int(out.steps[b]),
            num_forwards=out.num_forwards,
            is_finished=bool(out.finished[b]),
            is_cancelled=out.is_cancelled,
            is_stopped=out.is_cancelled or task.is_late(),
        )

    def _result(self, found: BlockResult, timings: Timings) -> CanvasResult:
        return CanvasResult(
            tokens=found.tokens,
            entropy=found.entropy,
            logprob=found.logprob,
            end=num_answered(found.tokens, found.num_region, self.model.config.eos_ids),
            steps=found.steps,
            is_finished=found.is_finished,
            is_cancelled=found.is_cancelled,
            timings=timings,
        )

    def _encode(self, tokens: Sequence[int], only_last: bool) -> Tensor:
        assert self._slot is not None
        return self._steps.encode(tokens, self._slot, only_last)

    # -- slots --------------------------------------------------------------------------------------------------------

    @property
    def _steps(self) -> Pipeline:
        _ = self.model
        assert self._pipeline is not None
        return self._pipeline

    def _drop_slots(self, model: PackedModel) -> None:
        """Let go of the storage, at once."""
        if self._slots is not None:
            # pool and slots hold each other
            self._slots.clear()
        self._slots = self._slot = None
        # the slot that was worked in holds the pool, and whoever still has this engine would hold both
        self._cache = KVCache(model.config, model.device, model.dtype, 0)

    def _take(self, prompt: tuple[int, ...], num_extra: int = 0) -> None:
        """Work in the slot that suits the prompt."""
        _ = self.model
        assert self._slots is not None
        self._slot = self._slots.take(prompt, num_extra)
        self._cache = self._slot

    def _turn_to(self, prompt: tuple[int, ...]) -> None:
        """The slots are this engine's sequences, and `_take` has chosen one."""

    def _prefill_most(self, prompt: tuple[int, ...], cancelled: Cancelled | None) -> tuple[Timings, tuple[int, ...]]:
        """Encode all of the prompt but its last rows, which ride along in the first step; returns those."""
        started = time.perf_counter()
        kept = self._cache.common_prefix(prompt)
        self._cache.truncate(kept)
        last = max(kept, len(prompt) - self._fused_rows)
        for first in range(kept, last, PREFILL_CHUNK):
            self._append(prompt[first : min(last, first + PREFILL_CHUNK)])
            if cancelled is not None and cancelled():
                break
        ms = (time.perf_counter() - started) * 1e3
        done = self._cache.length == last
        num_new = len(prompt) - kept if done else self._cache.length - kept
        return Timings(prefill_ms=ms, num_prefilled=num_new, num_cached=kept), prompt[last:] if done else ()
