"""LocalEngine: the model in this process. Keeps the KV cache in step with the prompt and runs a problem's canvases.

Ways to decode, chosen by the problem: diffusion; draft (lookup.py) and verify with the causal encoder of the same
weights; the encoder alone, one token at a time, which is the slow truth of that; or a beam search with it.
Knows no text. Calls come from one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .adapter import Adapter
from .beam import Beam, Search, beam_search, branches_of
from .checkpoint import EMBEDDED, load_checkpoint
from .denoise import denoise
from .errors import EngineError
from .kv_cache import KVCache
from .lookup import NGrams, propose, read_ngrams
from .policies import EMBEDDED_POLICY, SamplingPolicy, answer_region
from .problem import (
    NOISE,
    Cancelled,
    Canvas,
    CanvasProblem,
    CanvasResult,
    EngineStatus,
    Opening,
    Timings,
    opening_after,
)
from .text_model import Cache, TextModel
from .threads import parts_of_a_prompt

PREFILL_CHUNK = 256
"""Prompt tokens encoded between two polls of the cancel flag, when somebody waits for the answer."""

AHEAD_CHUNK = 64
"""The same when nobody waits yet: whoever comes may have to wait for one chunk. Smaller ones take longer in all."""

MAX_SEQUENCES = 4
"""Prompts whose keys and values are kept: of several documents, of what may be accepted next."""

SEQUENCE_BYTES = 1 << 26
"""What all of them together may take. A model with larger ones keeps a single prompt."""

MIN_COPIED = 8
"""Tokens at the beginning of another prompt that are worth copying."""

Choice = tuple[int, float, float]
"""(token, entropy, log-probability) of a row."""


class LocalEngine:
    """Engine over one DiffusionGemma. See engine/problem.py for the contract of its methods."""

    ahead_chunk = AHEAD_CHUNK

    def __init__(
        self,
        model: TextModel,
        policy: SamplingPolicy = EMBEDDED_POLICY,
        name: str = "",
        ngrams: NGrams | None = None,
    ) -> None:
        """ngrams: drafts for "verify" what cannot be looked up."""
        self._model: TextModel | None = model
        self._policy, self._name = policy, name
        self._ngrams = ngrams or NGrams()
        self._cache: Cache = KVCache(model.config, model.device, model.dtype)
        # of other prompts, the latest used last
        self._others: list[Cache] = []

    @classmethod
    def load(
        cls,
        path: Path | str | None = None,
        device: str = "cpu",
        weights: str = "auto",
        adapter: Adapter | None = None,
    ) -> LocalEngine:
        """path: a model folder, a single .safetensors with its config inside, or None for the embedded model.

        weights: "auto", "fp32", "bf16" or "int8" (CPU). adapter: merged into the weights before they are rounded.
        Raises: ModelError and its kinds, DeviceError.
        """
        source = EMBEDDED if path is None else Path(path)
        model = load_checkpoint(source, device, weights, adapter.merged if adapter else None)
        if device == "cpu":
            model.num_parts = parts_of_a_prompt()
        name = "embedded" if path is None else source.name
        ngrams = read_ngrams(source, model.config.vocab_size) if source.is_file() else None
        return cls(model, name=f"{name}, adapted" if adapter else name, ngrams=ngrams)

    @property
    def model(self) -> TextModel:
        if self._model is None:
            raise EngineError("the engine was closed; start the server again or load a model")
        return self._model

    def status(self) -> EngineStatus:
        if self._model is None:
            return EngineStatus("closed", self._name)
        device, num_bytes = str(self._model.device), self._model.num_bytes
        kv_bytes = sum(cache.num_bytes for cache in (self._cache, *self._others))
        return EngineStatus("ready", self._name, device, "", num_bytes, kv_bytes)

    def close(self) -> None:
        self._model = None
        self._cache.release()
        self._others.clear()

    # inference mode, not only no_grad: at these sizes the bookkeeping of views and versions is a sixth of a forward
    @torch.inference_mode()
    def prefill(self, prompt: tuple[int, ...], cancelled: Cancelled | None = None) -> Timings:
        return self._prefill(prompt, cancelled, self.ahead_chunk)

    def _prefill(self, prompt: tuple[int, ...], cancelled: Cancelled | None, chunk: int) -> Timings:
        started = time.perf_counter()
        self._check_tokens(prompt, lowest=0)
        self._turn_to(prompt)
        kept = self._cache.common_prefix(prompt)
        if kept == len(prompt) and self._cache.state_after(kept) is None:
            # the state of the last token is needed; keys and values alone cannot give it back
            kept -= 1
        self._cache.truncate(kept)
        for first in range(kept, len(prompt), chunk):
            self._cache.keep_state(self._append(prompt[first : first + chunk], only_last=True)[-1])
            if cancelled is not None and cancelled():
                break
        num_done = self._cache.length - kept
        return Timings(prefill_ms=_ms_since(started), num_prefilled=num_done, num_cached=kept)

    @torch.inference_mode()
    def fill(self, problem: CanvasProblem, cancelled: Cancelled | None = None) -> list[CanvasResult]:
        task = self._task(problem, cancelled)
        timings = self._prefill(problem.prompt, cancelled, PREFILL_CHUNK)
        if self._cache.length < len(problem.prompt):
            return [CanvasResult.untouched(canvas, True, timings) for canvas in problem.canvases]
        try:
            if problem.decoding == "denoise":
                return self._denoise(task, timings)
            if problem.decoding == "score":
                return self._score(task, timings)
            if problem.decoding == "beam":
                return self._search(task, timings)
            return [self._decode_causally(task, canvas, timings) for canvas in problem.canvases]
        finally:
            # what was decoded is not the prompt
            self._cache.truncate(min(self._cache.length, len(problem.prompt)))

    def _task(self, problem: CanvasProblem, cancelled: Cancelled | None) -> Task:
        deadline = None if problem.deadline_ms is None else time.monotonic() + problem.deadline_ms / 1e3
        for canvas in problem.canvases:
            self._check_tokens(canvas.tokens)
        ends = frozenset((*self.model.config.eos_ids, *problem.stop))
        return Task(problem, ends, self._banned(problem), deadline, cancelled)

    # -- diffusion ---------------------------------------------------------------------------------------------------

    def _denoise(self, task: Task, timings: Timings) -> list[CanvasResult]:
        started = time.perf_counter()
        problem = task.problem
        generator = torch.Generator(self.model.device).manual_seed(problem.seed)
        out = denoise(
            _Bound(self.model, self._cache), problem.canvases, self._policy, problem.max_steps, generator,
            task.ends, self._banned_rows(task), task.deadline, task.cancelled,
        )  # fmt: skip
        timings = replace(timings, denoise_ms=_ms_since(started), num_forwards=out.num_forwards)
        region_ends = answer_region(out.tokens, task.ends).sum(-1)
        results: list[CanvasResult] = []
        for b, canvas in enumerate(problem.canvases):
            rows = len(canvas.tokens)
            tokens = tuple(cast(list[int], out.tokens[b, :rows].tolist()))
            # rows beyond a shorter canvas's own are filler of the sweep
            num_region = min(int(region_ends[b]), rows)
            results.append(
                CanvasResult(
                    tokens=tokens,
                    entropy=tuple(cast(list[float], out.entropy[b, :rows].tolist())),
                    logprob=tuple(cast(list[float], out.logprob[b, :rows].tolist())),
                    end=num_answered(tokens, num_region, self.model.config.eos_ids),
                    steps=int(out.steps[b]),
                    is_finished=bool(out.finished[b]),
                    is_cancelled=out.is_cancelled,
                    timings=timings,
                )
            )
        return results

    # -- the causal encoder decides, with or without a draft ---------------------------------------------------------

    def _decode_causally(self, task: Task, canvas: Canvas, timings: Timings) -> CanvasResult:
        """The encoder's greedy continuation, pinned rows imposed. "verify" reads several tokens at once.

        Both give the same tokens: a drafted token is kept only if it is the encoder's own choice at its place.
        Source: greedy speculative decoding, Leviathan et al., arXiv 2211.17192, the draft looked up.
        """
        began = time.perf_counter()
        prompt, num_rows, floor = task.problem.prompt, len(canvas.tokens), task.problem.floor
        answer: list[int] = []
        rows: list[Choice] = []

        def take(choice: Choice) -> None:
            rows.append(choice)
            answer.append(choice[0])

        def is_over() -> bool:
            return answer[-1] in task.ends or len(answer) == num_rows

        self._cache.truncate(len(prompt))
        # of the row after the answer: the state before it, and what the encoder would choose there
        last = self._last(prompt)
        ahead = self._choices(last[None], task)[0]
        num_forwards = 0
        is_given_up = is_cancelled = False
        while True:
            take(self._choose(last, ahead, canvas, answer, task))
            if is_over():
                break
            guess: list[int] = []
            if task.problem.decoding == "verify":
                # a prompt's last token marks the gap, and stands between the text and the answer
                found = propose((*prompt[:-1], *answer), self._ngrams)[: num_rows - len(answer)]
                guess = _until_end(found, task.ends)
            states = self._append((answer[-1], *guess))
            choices = self._choices(states, task)
            num_forwards += 1
            kept = 0
            for drafted in guess:
                choice = self._choose(states[kept], choices[kept], canvas, answer, task)
                if choice[0] != drafted:
                    break
                take(choice)
                kept += 1
            last, ahead = states[kept], choices[kept]
            self._cache.truncate(len(prompt) + len(answer))
            if is_over():
                break
            if floor is not None and sum(logprob for *_, logprob in rows) < floor:
                is_given_up = True
                break
            if task.is_cancelled():
                is_cancelled = True
                break
            if task.is_late():
                break
        timings = replace(timings, verify_ms=_ms_since(began), num_forwards=num_forwards)
        _, entropies, logprobs = zip(*rows, strict=True)
        filled = self._filled(num_rows, answer, entropies, logprobs, timings)
        return replace(filled, is_finished=is_over(), is_cancelled=is_cancelled, is_given_up=is_given_up)

    def _filled(
        self,
        num_rows: int,
        answer: Sequence[int],
        entropies: Sequence[float],
        logprobs: Sequence[float],
        timings: Timings,
    ) -> CanvasResult:
        """A canvas of num_rows whose first rows are a causal answer, and the others filler."""
        eos_ids, filler = self.model.config.eos_ids, num_rows - len(answer)
        return CanvasResult(
            tokens=(*answer, *[eos_ids[0]] * filler),
            entropy=(*entropies, *[0.0] * filler),
            logprob=(*logprobs, *[0.0] * filler),
            end=num_answered(tuple(answer), len(answer), eos_ids),
            steps=0,
            is_finished=False,
            timings=timings,
        )

    def _search(self, task: Task, timings: Timings) -> list[CanvasResult]:
        """The likeliest answers, one for each canvas; one for which there is none is unfinished and has no rows."""
        began = time.perf_counter()
        problem, canvas = task.problem, task.problem.canvases[0]
        search = Search(
            num_rows=len(canvas.tokens),
            ends=task.ends,
            num_answers=min(problem.num_certain, len(problem.canvases)),
            pinned=tuple((row, canvas.tokens[row]) for row, pinned in enumerate(canvas.pinned) if pinned),
            banned=task.banned,
            opening=problem.opening,
            floor=problem.floor,
        )
        found = beam_search(
            search,
            branches_of(self.model, self._cache),
            self._last(problem.prompt),
            self.model.logits,
            task.is_cancelled,
            task.is_late,
        )
        timings = replace(timings, verify_ms=_ms_since(began), num_forwards=found.num_forwards)
        # what is only begun is of use where nothing is whole
        beams = [(beam, True) for beam in found.whole] or [(beam, False) for beam in found.begun]
        beams += [(Beam(), False)] * (len(problem.canvases) - len(beams))
        return [
            replace(
                self._filled(len(canvas.tokens), beam.tokens, beam.entropies, beam.logprobs, timings),
                is_finished=is_whole,
                is_cancelled=found.outcome == "cancelled",
                is_given_up=found.outcome == "given-up",
            )
            for beam, is_whole in beams[: len(problem.canvases)]
        ]

    def _score(self, task: Task, timings: Timings) -> list[CanvasResult]:
        """How likely the encoder finds each given canvas: all of them in one forward, the cache untouched."""
        began = time.perf_counter()
        canvases = task.problem.canvases
        L = max(len(canvas.tokens) for canvas in canvases)
        rows = [[*canvas.tokens, *[0] * (L - len(canvas.tokens))] for canvas in canvases]
        tokens = torch.tensor(rows, device=self.model.device)
        first = self._last(task.problem.prompt).expand(len(canvases), 1, -1)
        states = torch.cat([first, self.model.branch(tokens[:, :-1], self._cache)], dim=1) if L > 1 else first
        logprobs = torch.log_softmax(self.model.logits(states), dim=-1)
        entropies = -(logprobs.exp() * logprobs).sum(-1)
        chosen = logprobs.gather(-1, tokens[..., None])[..., 0]
        timings = replace(timings, verify_ms=_ms_since(began), num_forwards=1)
        num_region = answer_region(tokens, task.ends).sum(-1)
        results: list[CanvasResult] = []
        for b, canvas in enumerate(canvases):
            num_rows = len(canvas.tokens)
            is_free = [0.0 if pinned else 1.0 for pinned in canvas.pinned]
            entropy = cast(list[float], entropies[b, :num_rows].tolist())
            logprob = cast(list[float], chosen[b, :num_rows].tolist())
            results.append(
                CanvasResult(
                    tokens=canvas.tokens,
                    entropy=tuple(e * free for e, free in zip(entropy, is_free, strict=True)),
                    logprob=tuple(p * free for p, free in zip(logprob, is_free, strict=True)),
                    end=num_answered(canvas.tokens, min(num_rows, int(num_region[b])), self.model.config.eos_ids),
                    steps=0,
                    is_finished=True,
                    timings=timings,
                )
            )
        return results

    def _choices(self, states: Tensor, task: Task) -> list[Choice]:
        """What the encoder would choose after each of the states [T, H], among all that is not banned."""
        logits = self.model.logits(states)
        if task.banned is not None:
            logits = logits.masked_fill(task.banned, -torch.inf)
        return _best(logits)

    def _choose(self, hidden: Tensor, ahead: Choice, canvas: Canvas, taken: Sequence[int], task: Task) -> Choice:
        """The row after taken, from the state [H] of the token before it and what `_choices` made of that."""
        row = len(taken)
        if canvas.pinned[row]:
            return canvas.tokens[row], 0.0, 0.0
        allowed = _allowed(task.problem.opening, taken)
        if not allowed:
            return ahead
        return _best(self.model.logits(hidden)[None].masked_fill(self._all_but(allowed), -torch.inf))[0]

    # -- the cache --------------------------------------------------------------------------------------------------

    def _turn_to(self, prompt: tuple[int, ...]) -> None:
        """Make the sequence current that holds half of the prompt or more; else an empty one, or the one used longest
        ago, with what the prompt has in common with any other.
        """
        caches = [*self._others, self._cache]
        shared = [cache.common_prefix(prompt) for cache in caches]
        num_shared = max(shared)
        best = shared.index(num_shared)
        if 2 * num_shared < len(prompt) and self._cache.length:
            num_bytes = (len(caches) + 1) * self._cache.num_bytes
            if len(caches) < MAX_SEQUENCES and num_bytes <= SEQUENCE_BYTES:
                caches.insert(0, KVCache(self.model.config, self.model.device, self.model.dtype))
                best += 1
            cache, source = caches[0], caches[best]
            if best and num_shared >= MIN_COPIED and isinstance(cache, KVCache) and isinstance(source, KVCache):
                cache.copy(source, num_shared)
            best = 0
        self._cache = caches.pop(best)
        self._others = caches

    @torch.no_grad()
    def _append(self, tokens: Sequence[int], only_last: bool = False) -> Tensor:
        """Encode tokens after the cached ones. Returns their normed states [T, H], or the last one's [1, H]."""
        held = self._cache.tokens
        states = self._encode(tokens, only_last)
        self._cache.hold((*held, *tokens))
        return states

    def _encode(self, tokens: Sequence[int], only_last: bool) -> Tensor:
        return self.model.encode(torch.tensor(tokens, device=self.model.device), self._cache, only_last)

    def _last(self, prompt: tuple[int, ...]) -> Tensor:
        """The state of the prompt's last token, which a prefill to the end has left."""
        state = self._cache.state_after(len(prompt))
        assert state is not None
        return state

    def _banned(self, problem: CanvasProblem) -> Tensor | None:
        if not problem.banned:
            return None
        self._check_tokens(problem.banned, lowest=0)
        mask = torch.zeros(self.model.config.vocab_size, dtype=torch.bool)
        mask[list(problem.banned)] = True
        if bool(mask.all()):
            raise ValueError(f"all {len(mask)} tokens are banned: a free row could become nothing")
        return mask.to(self.model.device)

    def _banned_rows(self, task: Task) -> Tensor | None:
        """What no row may become, [V]; with an opening, [L, V], and row 0 is one of its tokens."""
        problem = task.problem
        if not problem.opening:
            return task.banned
        whole = [token for token, state in problem.opening[0] if state == len(problem.opening)]
        if not whole:
            raise ValueError("no token is an opening by itself, which diffusion needs")
        first = self._all_but(whole)
        others = torch.zeros_like(first) if task.banned is None else task.banned
        L = max(len(canvas.tokens) for canvas in problem.canvases)
        return torch.cat([first[None], others.expand(L - 1, -1)])

    def _all_but(self, tokens: Sequence[int]) -> Tensor:
        self._check_tokens(tokens, lowest=0)
        mask = torch.ones(self.model.config.vocab_size, dtype=torch.bool)
        mask[list(tokens)] = False
        return mask.to(self.model.device)

    def _check_tokens(self, tokens: Sequence[int], lowest: int = NOISE) -> None:
        V = self.model.config.vocab_size
        if not tokens:
            raise ValueError("a prompt needs at least one token")
        if max(tokens) >= V or min(tokens) < lowest:
            raise ValueError(f"token ids must be in [0, {V}), got {min(tokens)}..{max(tokens)}")


@dataclass(frozen=True, slots=True)
class Task:
    """A problem with what every step of it asks again."""

    problem: CanvasProblem
    ends: frozenset[int]
    banned: Tensor | None
    deadline: float | None
    """Of time.monotonic()."""
    cancelled: Cancelled | None

    def is_cancelled(self) -> bool:
        return self.cancelled is not None and self.cancelled()

    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


@dataclass(frozen=True, slots=True)
class _Bound:
    """The Denoiser of denoise.py: this model over this cache."""

    model: TextModel
    cache: Cache

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    @property
    def first_noise_id(self) -> int:
        return self.model.config.first_noise_id

    @property
    def device(self) -> torch.device:
        return self.model.device

    def logits(self, tokens: Tensor, soft: Tensor | None, num_rows: Tensor | None) -> Tensor:
        return self.model.logits(self.model.decode(tokens, self.cache, soft, num_rows))

    def soft_embedding(self, logits: Tensor, tokens: Tensor, is_pinned: Tensor) -> Tensor:
        soft = self.model.soft_embedding(logits)
        return torch.where(is_pinned[..., None], self.model.embed(tokens), soft)

    def first_soft_embedding(self, tokens: Tensor, is_pinned: Tensor) -> Tensor | None:
        # the embedding of the known token marks a pinned row as clean; uniform noise alone cannot say so
        if not bool(is_pinned.any()):
            return None
        known = self.model.embed(tokens)
        return torch.where(is_pinned[..., None], known, torch.zeros_like(known))


def _best(logits: Tensor) -> list[Choice]:
    """logits: [T, V] -> the most likely token of each row."""
    logprobs = torch.log_softmax(logits, dim=-1)
    entropies = -(logprobs.exp() * logprobs.clamp_min(-1e9)).sum(-1)
    best = logprobs.max(-1)
    tokens, chances = cast(list[int], best.indices.tolist()), cast(list[float], best.values.tolist())
    return list(zip(tokens, cast(list[float], entropies.tolist()), chances, strict=True))


def _allowed(opening: Opening, taken: Sequence[int]) -> list[int]:
    """The tokens that may follow the rows taken; empty once the opening is over."""
    state = 0
    for token in taken:
        if state == len(opening):
            break
        state = opening_after(opening, state, token)
    return [token for token, _ in opening[state]] if state < len(opening) else []


def _until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """tokens up to and including the first end."""
    return tokens[: next((i for i, token in enumerate(tokens, 1) if token in ends), len(tokens))]


def num_answered(tokens: tuple[int, ...], num_region: int, eos_ids: tuple[int, ...]) -> int:
    """Rows of the answer: an end token does not count, any other stop token does."""
    return num_region - 1 if num_region and tokens[num_region - 1] in eos_ids else num_region


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
