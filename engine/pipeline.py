"""The denoise step as the GPU wants it: static shapes, everything on the device, no logits in memory.

The same rules as denoise.py, which is its truth: with the same `Draws` both give the same canvases (tests/engine/
test_pipeline.py). What differs is how. Rows are padded to a bucket, and padding sees nothing; the vocabulary is summed
up in one pass (kernels/vocab.py) instead of writing [L, V] logits; self-conditioning takes the k likeliest tokens of a
row; all random numbers come from Philox; a canvas that has stopped is frozen, so that steps queued beyond the end
change nothing; and the rest of the prompt may ride along in the first forward, its rows causal, the canvas's
bidirectional.

Shapes: B canvases of L rows (the bucket), R = B * L, k tokens of self-conditioning, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from .cuda_graph import DoneFlag, GraphCache, StepGraph
from .denoise import Denoised, stack
from .draws import row_ids as all_row_ids
from .draws import uniform_tokens
from .packed_model import PackedModel, RowPlan
from .policies import SamplingPolicy
from .problem import Cancelled, Canvas
from .text_model import Cache, Place

BUCKETS = (8, 16, 32, 64, 128, 256)
HISTORY = 5
"""Argmax canvases that a stop rule may look back on, as in denoise.py."""
MAX_STEPS = 64
"""Size of the tables of temperatures and noise; more steps run in eager sweeps of their own size."""
MAX_GRAPHS = 12
NUM_ENDS = 8
"""End tokens that a sweep has room for; more take a sweep with more room."""
NO_END = -2
"""Neither a token nor the -1 of an empty history."""


@dataclass(frozen=True, slots=True)
class StepOptions:
    """Each can be turned off, which is how a doubt is settled.

    buckets: rows that canvases are padded to; empty: none. num_top: tokens of self-conditioning (1..16); 0: all of
    them, through full logits, the truth. graph: "auto" captures on a GPU, "eager" never does. lag: steps queued before
    the done flag is looked at. is_forked: a layer's dense MLP runs beside its experts, on a stream of its own; off
    until a card has shown what it is worth (docs/ENGINE_H200.md).
    """

    buckets: tuple[int, ...] = BUCKETS
    num_top: int = 8
    graph: Literal["auto", "eager"] = "auto"
    lag: int = 1
    is_forked: bool = False


class Sweep:
    """Static buffers for B canvases of L rows, and the body of one step over them."""

    def __init__(
        self,
        model: PackedModel,
        cache: Cache,
        policy: SamplingPolicy,
        num_ends: int,
        B: int,
        L: int,
        max_steps: int,
        num_top: int,
        is_forked: bool = False,
    ) -> None:
        """cache: any cache whose storage is the one that will be used; it is read through the plan. is_forked: of
        `step`; the first step of a fill is bound by its launches, and two streams take more of them.
        """
        device, R, V = model.device, B * L, model.config.vocab_size
        if getattr(policy.stop, "stability", 0) >= HISTORY:
            raise ValueError(
                f"a stop rule may look back on {HISTORY - 1} canvases, got stability "
                f"{getattr(policy.stop, 'stability', 0)}"
            )
        self.model, self.cache, self.policy = model, cache, policy
        self.B, self.L, self.max_steps = B, L, max_steps
        self.num_top = min(num_top, 16, V)

        def long(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.long, device=device)

        def flag(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.bool, device=device)

        self.plan = replace(model.plan_rows(cache, 0, None, L, B), is_forked=is_forked)
        self.rows = all_row_ids(B, L, device)
        self.given, self.is_pinned, self.is_free = long(B, L), flag(B, L), flag(B, L)
        self.is_banned = flag(V)
        # tokens that end an answer, filled up with one that is no token: views of a buffer, so that a graph reads it
        # anew
        self.end_ids = torch.full((num_ends,), NO_END, dtype=torch.long, device=device)
        self.ends = cast(frozenset[int], tuple(self.end_ids.unbind(0)))
        # row i of these is step i, counted from 1; row 0 of the noise is the first canvas
        self.temperatures = torch.ones(max_steps + 1, device=device)
        self.noise = long(max_steps + 1, B, L)
        self.words = long(2)
        self.step_index = long(1)
        self.current, self.tokens = long(B, L), long(B, L)
        self.history = long(HISTORY, B, L)
        self.entropy, self.logprob = torch.zeros(B, L, device=device), torch.zeros(B, L, device=device)
        self.steps, self.finished, self.is_done = long(B), flag(B), flag(1)
        self.soft_ids = long(R, max(1, self.num_top))
        self.soft_weights = torch.zeros(R, max(1, self.num_top), device=device)
        self.soft = torch.zeros(R, model.config.hidden_size, dtype=model.dtype, device=device)

    def load(
        self,
        canvases: Sequence[Canvas],
        cache: Cache,
        max_steps: int,
        seed: int,
        banned: Tensor | None,
        num_causal: int,
        ends: frozenset[int] = frozenset(),
    ) -> RowPlan | None:
        """Copy a problem in. num_causal: prompt rows that ride along in the first forward; returns that forward's
        plan.
        """
        model, device = self.model, self.model.device
        given, is_pinned, in_use, _ = stack(canvases, device)
        self.given.fill_(-1)
        self.given[:, : given.shape[1]] = given
        self.is_pinned.zero_()
        self.is_pinned[:, : given.shape[1]] = is_pinned
        self.is_free.zero_()
        self.is_free[:, : given.shape[1]] = in_use & ~is_pinned
        self.is_banned.zero_()
        if banned is not None:
            self.is_banned.copy_(banned)
        self.end_ids.fill_(NO_END)
        self.end_ids[: len(ends)] = torch.tensor(sorted(ends), dtype=torch.long, device=device)
        table = [self.policy.temperature.at(remaining, max_steps) for remaining in range(max_steps, 0, -1)]
        self.temperatures[1 : max_steps + 1] = torch.tensor(table, device=device)
        steps = torch.arange(max_steps + 1, device=device)
        low, high = model.config.first_noise_id, model.config.vocab_size
        self.noise[: max_steps + 1] = uniform_tokens(seed, steps, self.rows, low, high)
        self.words[0] = seed
        self.step_index.zero_()
        self.current.copy_(torch.where(self.given >= 0, self.given, self.noise[0]))
        self.tokens.copy_(self.current)
        # no token is -1: a step never looks stable beside a step that was not
        self.history.fill_(-1)
        for buffer in (
            self.entropy,
            self.logprob,
            self.steps,
            self.finished,
            self.is_done,
            self.soft_ids,
            self.soft_weights,
            self.soft,
        ):
            buffer.zero_()
        # self-conditioning of the first step: the embedding of the known token marks a pinned row as clean
        self._set_soft(self.soft_ids, self.soft_weights, self.soft)
        num_rows = torch.tensor([len(canvas.tokens) for canvas in canvases], device=device)
        # the canvases' place once everything is cached
        self._copy_plan(model.plan_rows(_Ahead(cache, num_causal), 0, num_rows, self.L, self.B))
        self.cache = cache
        return model.plan_rows(cache, num_causal, num_rows, self.L, self.B) if num_causal else None

    def step(self) -> None:
        """One step, on the buffers alone."""
        hidden = self.model.rows(self.current.flatten(), self.plan, self.cache, self._soft())
        self._finish(hidden)

    def first_step(self, prompt: Tensor, plan: RowPlan, cache: Cache) -> None:
        """One step with the prompt's last rows in the same forward: prompt int64 [C]. The cache gets them."""
        hidden = self.model.rows(torch.cat((prompt, self.current.flatten())), plan, cache, self._soft())
        cache.advance(len(prompt))
        self._finish(hidden[len(prompt) :])

    def result(self, num_forwards: int, is_cancelled: bool) -> Denoised:
        return Denoised(
            self.tokens.clone(),
            self.entropy.clone(),
            self.logprob.clone(),
            self.steps.clone(),
            self.finished.clone(),
            is_cancelled,
            num_forwards,
        )

    # -- parts of a step ---------------------------------------------------------------------------------------------

    def _soft(self) -> Tensor:
        return self.model.top_soft_embedding(self.soft_ids, self.soft_weights) if self.num_top else self.soft

    def _finish(self, hidden: Tensor) -> None:
        """hidden: [R, H] -> everything that a step decides."""
        B, L, model, policy = self.B, self.L, self.model, self.policy
        self.step_index += 1
        temperature = self.temperatures[self.step_index]
        self.words[1:] = self.step_index
        each_row = temperature.expand(B * L).contiguous()
        row_ids = self.rows.flatten()
        stats = model.vocab_stats(hidden, each_row, self.words, row_ids, max(1, self.num_top), self.is_banned)
        entropy = stats.entropy.float().view(B, L) * self.is_free
        best = torch.where(self.is_pinned, self.given, stats.argmax.view(B, L))
        drawn = best if policy.choose == "argmax" else stats.sample.view(B, L)
        accepted = policy.accept.accept(entropy, self.is_free)
        if policy.order == "prefix":
            accepted &= (accepted | ~self.is_free).int().cumprod(-1).bool()
        following = torch.where(accepted, drawn, self.noise[self.step_index][0])
        self.current.copy_(torch.where(self.is_pinned, self.given, following))

        running = ~self.finished
        self.tokens.copy_(torch.where(running[:, None], best, self.tokens))
        self.history.copy_(torch.cat((self.history[1:], self.tokens[None])))
        self.entropy.copy_(torch.where(running[:, None], entropy, self.entropy))
        logprob = (stats.logit - stats.lse_1).float().view(B, L) * self.is_free
        self.logprob.copy_(torch.where(running[:, None], logprob, self.logprob))
        self.steps += running
        self.finished |= policy.stop.done(list(self.history.unbind(0)), self.entropy, self.is_free, self.ends)
        self.is_done.copy_(self.finished.all()[None])

        if self.num_top:
            weights = torch.exp(stats.top_logits / temperature - stats.lse[:, None]).float()
            self._set_soft(stats.top_ids, weights, self.soft)
        else:
            logits = model.logits(hidden).masked_fill(self.is_banned, -torch.inf)
            self._set_soft(self.soft_ids, self.soft_weights, model.soft_embedding(logits / temperature))

    def _set_soft(self, ids: Tensor, weights: Tensor, soft: Tensor) -> None:
        pinned = self.is_pinned.flatten()[:, None]
        known = self.given.clamp_min(0).flatten()[:, None]
        if not self.num_top:
            self.soft.copy_(torch.where(pinned, self.model.embed(known[:, 0]), soft))
            return
        only_first = torch.zeros_like(self.soft_weights)
        only_first[:, 0] = 1
        self.soft_ids.copy_(torch.where(pinned, known, ids))
        self.soft_weights.copy_(torch.where(pinned, only_first, weights))

    def _copy_plan(self, plan: RowPlan) -> None:
        self.plan.positions.copy_(plan.positions)
        for window, ranges in plan.ranges.items():
            self.plan.ranges[window].copy_(ranges)
        # layers of one kind share a table, which is copied once
        seen: set[int] = set()
        for ours, theirs in zip(self.plan.ropes, plan.ropes, strict=True):
            if id(ours[0]) not in seen:
                seen.add(id(ours[0]))
                ours[0].copy_(theirs[0])
                ours[1].copy_(theirs[1])


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A cache as it will be once num_causal more positions are in it: for plans only."""

    cache: Place
    num_causal: int

    @property
    def length(self) -> int:
        return self.cache.length + self.num_causal

    @property
    def origin(self) -> int:
        return self.cache.origin


class Pipeline:
    """Sweeps by shape, captured once, over one model and the caches of one storage."""

    def __init__(self, model: PackedModel, policy: SamplingPolicy, options: StepOptions | None = None) -> None:
        self.model, self.policy, self.options = model, policy, options or StepOptions()
        self._is_captured = self.options.graph == "auto" and model.device.type == "cuda"
        self._sweeps: GraphCache[tuple[Sweep, StepGraph]] = GraphCache(MAX_GRAPHS)
        self._memory: Any = torch.cuda.graph_pool_handle() if self._is_captured else None

    @property
    def num_graphs(self) -> int:
        return len(self._sweeps)

    def bucket(self, num_rows: int) -> int:
        """The rows that a canvas of num_rows is padded to."""
        return next((size for size in self.options.buckets if size >= num_rows), num_rows)

    # inference mode everywhere: buffers that were made in it cannot be written outside of it
    @torch.inference_mode()
    def prepare(
        self, cache: Cache, B: int, num_rows: int, max_steps: int = MAX_STEPS, num_ends: int = 1
    ) -> tuple[Sweep, StepGraph]:
        """The sweep for a shape, captured where graphs are used: part of the warm-up, so that no request pays for
        it.
        """
        L, steps = self.bucket(num_rows), max(MAX_STEPS, max_steps)
        room = -(-max(1, num_ends) // NUM_ENDS) * NUM_ENDS
        # the storage is baked into a captured graph; slots of one pool share it
        storage = cache.storage(0)[0].data_ptr() if self._is_captured else 0

        def build() -> tuple[Sweep, StepGraph]:
            options = self.options
            sweep = Sweep(self.model, cache, self.policy, room, B, L, steps, options.num_top, options.is_forked)
            graph = StepGraph(sweep.step, self.model.device, self._memory, is_eager=not self._is_captured)
            # any input will do, as long as it is one
            sweep.load([Canvas.free(L)] * B, cache, 1, 0, None, 0)
            graph.prepare()
            return sweep, graph

        return self._sweeps.get((B, L, steps, room, storage), build)

    def clear(self) -> None:
        """Drop every graph and buffer."""
        self._sweeps.clear()

    @torch.inference_mode()
    def denoise(
        self,
        cache: Cache,
        canvases: Sequence[Canvas],
        max_steps: int,
        seed: int,
        ends: frozenset[int],
        rest: tuple[int, ...] = (),
        banned: Tensor | None = None,
        deadline: float | None = None,
        cancelled: Cancelled | None = None,
    ) -> Denoised:
        """Denoise several canvases over what the cache holds and `rest`, prompt tokens that it does not hold yet; they
        are in the cache afterwards. Arguments and result are denoise.py's; seed instead of a generator.
        """
        sweep, graph = self.prepare(cache, len(canvases), max(len(c.tokens) for c in canvases), max_steps, len(ends))
        first = sweep.load(canvases, cache, max_steps, seed, banned, len(rest), ends)
        done = DoneFlag(self.model.device, self.options.lag)
        num_forwards, is_cancelled = 0, False
        for _ in range(max_steps):
            if first is not None:
                sweep.first_step(torch.tensor(rest, device=self.model.device), first, cache)
                first = None
            else:
                graph.replay()
            num_forwards += 1
            done.push(sweep.is_done)
            if done.is_set():
                break
            if cancelled is not None and cancelled():
                is_cancelled = True
                break
            if deadline is not None and time.monotonic() >= deadline:
                break
        out = sweep.result(num_forwards, is_cancelled)
        rows = max(len(canvas.tokens) for canvas in canvases)
        return replace(out, tokens=out.tokens[:, :rows], entropy=out.entropy[:, :rows], logprob=out.logprob[:, :rows])
