"""The denoise step as the GPU wants it: static shapes, everything on the device, no logits in memory.

The same rules as denoise.py, which is its truth: with the same `Draws` both give the same canvases (tests/engine/
test_pipeline.py). What differs is how. Rows are padded to a bucket, and padding sees nothing; the vocabulary is summed
up in one pass (kernels/vocab.py) instead of writing [L, V] logits; self-conditioning takes the k likeliest tokens of a
row; all random numbers come from Philox; a canvas that has stopped is frozen, so that steps queued beyond the end
change nothing; and the rest of the prompt may ride along in the first forward, its rows causal, the canvas's
bidirectional. Prompts are encoded by the same captured forwards, without a canvas.

Shapes: B canvases of L rows (the bucket), R = B * L, k tokens of self-conditioning, V vocabulary, C rows of a prompt.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..kernels import dispatch as ops
from .cuda_graph import GraphCache, Reports, StepGraph
from .denoise import Denoised, stack
from .draws import row_ids as all_row_ids
from .draws import uniform_tokens
from .packed_model import PackedModel, RowPlan
from .policies import SamplingPolicy, temperatures
from .problem import Cancelled, Canvas
from .slots import Slot
from .text_model import Place

BUCKETS = (8, 16, 32, 64, 128, 256)
PROMPT_BUCKETS = (16, 64, 256)
"""Rows of a prompt in one forward: what a key typed, a line, and a chunk of a place that was not read yet."""
HISTORY = 5
"""Argmax canvases that a stop rule may see, the latest included."""
MAX_STEPS = 64
"""Size of the tables of temperatures and noise; more steps run in eager sweeps of their own size."""
MAX_GRAPHS = 12
NUM_ENDS = 64
"""End tokens that a sweep has room for: a line ends with any token that has a newline. More take more room."""
NO_END = -2
"""Neither a token nor the -1 of an empty history."""
MAX_SEED = 2**63


@dataclass(frozen=True, slots=True)
class StepOptions:
    """Each can be turned off, which is how a doubt is settled.

    buckets: rows that canvases are padded to; empty: none. prompt_buckets: the same of prompt rows in a forward; empty:
    such forwards are not captured. num_top: tokens of self-conditioning (1..16); 0: all of
    them, through full logits, the truth. graph: "auto" captures on a GPU, "eager" never does. lag: steps queued before
    the done flag is looked at. is_forked: a layer's dense MLP runs beside its experts, on a stream of its own; off
    until a card has shown what it is worth (docs/ENGINE_H200.md).
    """

    buckets: tuple[int, ...] = BUCKETS
    prompt_buckets: tuple[int, ...] = PROMPT_BUCKETS
    num_top: int = 8
    graph: Literal["auto", "eager"] = "auto"
    lag: int = 1
    is_forked: bool = False


class Lead:
    """Static buffers for at most C prompt rows that are first in a forward: what is captured with them serves any
    number of rows up to C and any slot. Padding is one token's, sees nothing and writes where nobody looks.
    """

    def __init__(self, model: PackedModel, cache: Slot, C: int, B: int, L: int, is_forked: bool = False) -> None:
        """B canvases of L rows follow in the same forward. is_forked: see StepOptions."""
        self.model, self.C, self.B, self.L = model, C, B, L
        self.tokens = torch.full((C,), model.config.pad_id, dtype=torch.long, device=model.device)
        # until something is loaded all rows are padding
        self.plan = replace(self._planned(cache, 0, None), is_forked=is_forked)

    def load(self, tokens: Sequence[int], cache: Slot, num_rows: Tensor | None) -> None:
        """tokens: to be encoded behind what the cache holds, which has room for them. num_rows: [B] of the canvases."""
        padded = [*tokens, *[self.model.config.pad_id] * (self.C - len(tokens))]
        self.tokens.copy_(torch.tensor(padded))
        copy_plan(self._planned(cache, len(tokens), num_rows), self.plan)

    def _planned(self, cache: Slot, num_tokens: int, num_rows: Tensor | None) -> RowPlan:
        return self.model.plan_rows(cache, num_tokens, num_rows, self.L, self.B, self.C, cache.spare)


class Prefill:
    """A forward of at most C prompt rows and no canvas, on static buffers."""

    def __init__(self, model: PackedModel, cache: Slot, C: int, is_forked: bool = False) -> None:
        self.model, self.cache = model, cache
        self.lead = Lead(model, cache, C, 0, 0, is_forked)
        self.states = torch.zeros(C, model.config.hidden_size, dtype=model.dtype, device=model.device)
        """Of the rows, normed [C, H]."""

    def body(self) -> None:
        self.states.copy_(self.model.rows(self.lead.tokens, self.lead.plan, self.cache))


class Sweep:
    """Static buffers for B canvases of L rows, and the body of one step over them."""

    def __init__(
        self,
        model: PackedModel,
        cache: Slot,
        policy: SamplingPolicy,
        num_ends: int,
        B: int,
        L: int,
        max_steps: int,
        num_top: int,
        is_forked: bool = False,
    ) -> None:
        """cache: any cache whose storage is the one that will be used; it is read through the plan. is_forked: see
        StepOptions.
        """
        device, R, V = model.device, B * L, model.config.vocab_size
        stability = getattr(policy.stop, "stability", 0)
        if stability >= HISTORY:
            raise ValueError(f"a stop rule may look back on {HISTORY - 1} canvases, got stability {stability}")
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
        # tokens that end an answer, filled up with one that is no token
        self.ends = torch.full((num_ends,), NO_END, dtype=torch.long, device=device)
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
        # all that the host wants to know of a step, in one tensor: one copy brings it over
        self.report = torch.zeros(1 + B * (2 + 3 * L), device=device)
        self.leads: dict[int, tuple[Lead, StepGraph]] = {}
        """First steps over these buffers, by the prompt rows that they have room for; see Pipeline.prepare_lead."""

    def load(
        self,
        canvases: Sequence[Canvas],
        cache: Slot,
        max_steps: int,
        seed: int,
        banned: Tensor | None,
        rest: Sequence[int] = (),
        lead: Lead | None = None,
        ends: frozenset[int] = frozenset(),
    ) -> None:
        """Copy a problem in. rest: prompt tokens that ride along in the first forward, which is then the lead's."""
        model, device = self.model, self.model.device
        given, is_pinned, in_use, _ = stack(canvases, device)
        # rows of the bucket that no canvas has are one token's, pinned: they all go to the same few experts, whose
        # weights are then read for them; rows of noise would each ask for others
        self.given.fill_(model.config.pad_id)
        self.given[:, : given.shape[1]] = torch.where(in_use, given, model.config.pad_id)
        self.is_pinned.fill_(True)
        self.is_pinned[:, : given.shape[1]] = is_pinned | ~in_use
        self.is_free.zero_()
        self.is_free[:, : given.shape[1]] = in_use & ~is_pinned
        self.is_banned.zero_()
        if banned is not None:
            self.is_banned.copy_(banned)
        self.ends.fill_(NO_END)
        self.ends[: len(ends)] = torch.tensor(sorted(ends), dtype=torch.long, device=device)
        self.temperatures[1 : max_steps + 1] = torch.tensor(temperatures(self.policy.temperature, max_steps))
        low, high = model.config.first_noise_id, model.config.vocab_size
        # on the host, like the plan: all steps' noise is a few thousand numbers in a hundred operations
        rows = all_row_ids(self.B, self.L, torch.device("cpu"))
        self.noise[: max_steps + 1] = uniform_tokens(seed % MAX_SEED, torch.arange(max_steps + 1), rows, low, high)
        # the counter's word is signed
        self.words[0] = seed % MAX_SEED
        self.step_index.zero_()
        self.current.copy_(torch.where(self.given >= 0, self.given, self.noise[0]))
        self.tokens.copy_(self.current)
        # no token is -1: a step never looks stable beside a step that was not
        self.history.fill_(-1)
        for results in (self.entropy, self.logprob, self.steps, self.finished, self.is_done):
            results.zero_()
        for belief in (self.soft_ids, self.soft_weights, self.soft):
            belief.zero_()
        # self-conditioning of the first step: the embedding of the known token marks a pinned row as clean
        self._set_soft(self.soft_ids, self.soft_weights, self.soft)
        num_rows = torch.tensor([len(canvas.tokens) for canvas in canvases])
        # the canvases' place once everything is cached
        copy_plan(model.plan_rows(_Ahead(cache, len(rest)), 0, num_rows, self.L, self.B), self.plan)
        self.cache = cache
        if lead is not None:
            lead.load(rest, cache, num_rows)

    def step(self) -> None:
        """One step, on the buffers alone."""
        hidden = self.model.rows(self.current.flatten(), self.plan, self.cache, self._soft())
        self._finish(hidden)

    def first_step(self, lead: Lead) -> None:
        """One step with the prompt's last rows in the same forward. Their keys and values are in the cache's storage
        afterwards; its length is the caller's business.
        """
        tokens = torch.cat((lead.tokens, self.current.flatten()))
        self._finish(self.model.rows(tokens, lead.plan, self.cache, self._soft())[lead.C :])

    def read(self, report: Tensor, num_forwards: int, is_cancelled: bool) -> Denoised:
        """What a report says that was brought to the host."""
        B, L = self.B, self.L
        flags = report[1 : 1 + 2 * B].view(2, B)
        tokens, entropy, logprob = report[1 + 2 * B :].view(3, B, L)
        return Denoised(tokens.long(), entropy, logprob, flags[0].long(), flags[1] > 0, is_cancelled, num_forwards)

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
        # fp32 holds every integer up to 2^24, and no vocabulary is larger
        parts = (self.is_done, self.steps, self.finished, self.tokens, self.entropy, self.logprob)
        self.report.copy_(torch.cat([part.flatten().float() for part in parts]))

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


def copy_plan(source: RowPlan, target: RowPlan) -> None:
    """Into the buffers of a plan for as many rows."""
    target.positions.copy_(source.positions)
    if source.places is not None and target.places is not None:
        target.places.copy_(source.places)
    for window, ranges in source.ranges.items():
        target.ranges[window].copy_(ranges)
    # layers of one kind share a table, which is copied once
    seen: set[int] = set()
    for ours, theirs in zip(target.ropes, source.ropes, strict=True):
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
    """Sweeps and prefills by shape, captured once, over one model and the slots of one pool."""

    def __init__(self, model: PackedModel, policy: SamplingPolicy, options: StepOptions | None = None) -> None:
        self.model, self.policy, self.options = model, policy, options or StepOptions()
        # the truths wait for the device, which ends a capture
        is_triton = ops.choose(model.table, None) == "triton"
        self._is_captured = self.options.graph == "auto" and model.device.type == "cuda" and is_triton
        self._sweeps: GraphCache[tuple[Sweep, StepGraph]] = GraphCache(MAX_GRAPHS)
        self._prefills: GraphCache[tuple[Prefill, StepGraph]] = GraphCache(MAX_GRAPHS)
        self._memory = self._new_memory()

    @property
    def num_graphs(self) -> int:
        return len(self._prefills) + sum(1 + len(sweep.leads) for sweep, _ in self._sweeps.values())

    def bucket(self, num_rows: int) -> int:
        """The rows that a canvas of num_rows is padded to."""
        return next((size for size in self.options.buckets if size >= num_rows), num_rows)

    def prompt_bucket(self, num_rows: int) -> int | None:
        """The same of prompt rows; None where they are more than any bucket holds."""
        return next((size for size in self.options.prompt_buckets if size >= num_rows), None)

    # inference mode everywhere: buffers that were made in it cannot be written outside of it
    @torch.inference_mode()
    def prepare(
        self, cache: Slot, B: int, num_rows: int, max_steps: int = MAX_STEPS, num_ends: int = 1
    ) -> tuple[Sweep, StepGraph]:
        """The sweep for a shape, captured where graphs are used: part of the warm-up, so that no request pays for
        it.
        """
        L, steps = self.bucket(num_rows), max(MAX_STEPS, max_steps)
        room = -(-max(1, num_ends) // NUM_ENDS) * NUM_ENDS

        def build() -> tuple[Sweep, StepGraph]:
            options = self.options
            sweep = Sweep(self.model, cache, self.policy, room, B, L, steps, options.num_top, options.is_forked)
            # any input will do, as long as it is one
            sweep.load([Canvas.free(L)] * B, cache, 1, 0, None)
            return sweep, self._graph(sweep.step)

        return self._sweeps.get((B, L, steps, room, self._storage(cache)), build)

    @torch.inference_mode()
    def prepare_lead(self, sweep: Sweep, num_rows: int, cache: Slot) -> tuple[Lead, StepGraph]:
        """The first step of a sweep with num_rows prompt rows in it. Whatever the sweep was loaded with is lost."""
        C = self.prompt_bucket(num_rows)
        if C is None:
            # of a size of its own, which is not worth a capture
            lead = Lead(self.model, cache, num_rows, sweep.B, sweep.L)
            return lead, StepGraph(lambda: sweep.first_step(lead), self.model.device, is_eager=True)
        if C not in sweep.leads:
            lead = Lead(self.model, cache, C, sweep.B, sweep.L, self.options.is_forked)
            sweep.load([Canvas.free(sweep.L)] * sweep.B, cache, 1, 0, None)
            # the sweep holds this graph: held by it in turn, neither would give its memory back when it is dropped
            owner = weakref.proxy(sweep)
            sweep.leads[C] = lead, self._graph(lambda: owner.first_step(lead))
        return sweep.leads[C]

    @torch.inference_mode()
    def prepare_prefill(self, C: int, cache: Slot) -> tuple[Prefill, StepGraph]:
        """The forward of C prompt rows."""

        def build() -> tuple[Prefill, StepGraph]:
            prefill = Prefill(self.model, cache, C, self.options.is_forked)
            return prefill, self._graph(prefill.body)

        return self._prefills.get((C, self._storage(cache)), build)

    def clear(self) -> None:
        """Drop every graph and buffer."""
        self._prefills.clear()
        self._sweeps.clear()
        # torch takes no graph into a pool whose graphs are all gone
        self._memory = self._new_memory()

    @torch.inference_mode()
    def encode(self, tokens: Sequence[int], cache: Slot, only_last: bool = False) -> Tensor:
        """Encode prompt tokens behind what the cache holds. -> normed states [T, H], or of the last [1, H]."""
        C = self.prompt_bucket(len(tokens))
        if C is None:
            return self.model.encode(torch.tensor(tokens, device=self.model.device), cache, only_last)
        prefill, graph = self.prepare_prefill(C, cache)
        cache.reserve(cache.length + len(tokens))
        prefill.cache = cache
        prefill.lead.load(tokens, cache, None)
        graph.replay()
        cache.advance(len(tokens))
        return prefill.states[len(tokens) - 1 if only_last else 0 : len(tokens)].clone()

    @torch.inference_mode()
    def denoise(
        self,
        cache: Slot,
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
        are in the cache afterwards. Arguments and result are denoise.py's, on the host; seed instead of a generator.
        """
        sweep, graph = self.prepare(cache, len(canvases), max(len(c.tokens) for c in canvases), max_steps, len(ends))
        lead, first_graph = self.prepare_lead(sweep, len(rest), cache) if rest else (None, graph)
        # before the plan is made: the slot may move
        cache.reserve(cache.length + len(rest))
        sweep.load(canvases, cache, max_steps, seed, banned, rest, lead, ends)
        reports = Reports(self.model.device, self.options.lag)
        num_forwards, is_cancelled = 0, False
        for _ in range(max_steps):
            if num_forwards:
                graph.replay()
            else:
                first_graph.replay()
                cache.advance(len(rest))
            num_forwards += 1
            reports.push(sweep.report)
            if reports.is_done():
                break
            if cancelled is not None and cancelled():
                is_cancelled = True
                break
            if deadline is not None and time.monotonic() >= deadline:
                break
        out = sweep.read(reports.latest(), num_forwards, is_cancelled)
        rows = max(len(canvas.tokens) for canvas in canvases)
        return replace(out, tokens=out.tokens[:, :rows], entropy=out.entropy[:, :rows], logprob=out.logprob[:, :rows])

    def _graph(self, body: Callable[[], None]) -> StepGraph:
        graph = StepGraph(body, self.model.device, self._memory, is_eager=not self._is_captured)
        graph.prepare()
        return graph

    def _new_memory(self) -> Any:
        return torch.cuda.graph_pool_handle() if self._is_captured else None

    def _storage(self, cache: Slot) -> int:
        """Baked into a captured graph; slots of one pool share it."""
        return cache.storage(0)[0].data_ptr() if self._is_captured else 0
