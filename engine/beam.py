"""Beam search with the causal encoder: the likeliest whole answers, not one likeliest next token after the other.

What a hole should hold is the likeliest text between two others, and its first token need not be the likeliest first
token. The search keeps a few beginnings, lets each go on, and ends once nothing that is unfinished can become likelier
than what is finished: a sum of log-probabilities only falls.

How the encoder reads a beginning is a policy: `Recomputed` runs its rows anew at every step, with any model, and is the
truth; `Grown` keeps the rows of all beginnings in the KV cache, as a tree, and runs the new ones alone.
Source: beam search as in Graves, arXiv 1211.3711; rows of a tree in one cache as in SpecInfer, arXiv 2305.09781.
Shapes: N beginnings, H hidden, V vocabulary, S cached positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from .kv_cache import KVCache
from .model import DiffusionGemma
from .problem import Opening, opening_after
from .text_model import Cache, TextModel

NUM_BEAMS = 3
"""Beginnings that are kept. Of 377 held-out holes two found 77 exactly, three to eight 78, greedy decoding 70."""

Outcome = Literal["finished", "given-up", "cancelled", "deadline"]


@dataclass(frozen=True, slots=True)
class Beam:
    """A beginning of an answer, or a whole one. entropies, logprobs: of its rows, in nats; 0 for pinned rows."""

    tokens: tuple[int, ...] = ()
    entropies: tuple[float, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0
    """Sum of the log-probabilities."""
    state: int = 0
    """Of the opening."""

    def longer(self, token: int, entropy: float, logprob: float, state: int) -> Beam:
        return Beam(
            (*self.tokens, token),
            (*self.entropies, entropy),
            (*self.logprobs, logprob),
            self.total + logprob,
            state,
        )

    def given(self, opening: Opening, logprob: float) -> Beam:
        """The same where what opens it is known, and that had this log-probability."""
        if not opening:
            return self
        state = num_rows = 0
        while state < len(opening) and num_rows < len(self.tokens):
            state = opening_after(opening, state, self.tokens[num_rows])
            num_rows += 1
        spent = sum(self.logprobs[:num_rows]) - logprob
        logprobs = (*[0.0] * (num_rows - 1), spent, *self.logprobs[num_rows:])
        return replace(self, logprobs=logprobs, total=self.total - logprob)


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched for.

    num_rows: rows of an answer at most. num_answers: how many different ones. pinned: (row, token) that must stand
    there. ends: tokens that end an answer. banned: bool [V], what no row may become, or None. opening: what the first
    rows may be (problem.py). floor: an answer whose sum is below is of no use to anybody.
    """

    num_rows: int
    ends: frozenset[int]
    num_answers: int = 1
    num_beams: int = NUM_BEAMS
    pinned: tuple[tuple[int, int], ...] = ()
    banned: Tensor | None = None
    opening: Opening = ()
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """whole: answers, the likeliest first, each text of tokens once whatever ends it. begun: what was left unfinished,
    the likeliest first.
    """

    whole: tuple[Beam, ...]
    begun: tuple[Beam, ...]
    outcome: Outcome
    num_forwards: int


class Branches(Protocol):
    """The encoder behind a prompt that several beginnings share."""

    def extend(self, beams: Sequence[Beam], parents: Sequence[int]) -> Tensor:
        """The normed states [N, H] of the last tokens of beams. parents: which of the beams of the call before each
        goes on; at the first call, when all have one token, they mean nothing.
        """
        ...


class Recomputed:
    """Every beginning is read anew, rows and all."""

    def __init__(self, model: TextModel, cache: Cache) -> None:
        self._model, self._cache = model, cache

    def extend(self, beams: Sequence[Beam], parents: Sequence[int]) -> Tensor:
        tokens = torch.tensor([beam.tokens for beam in beams], device=self._model.device)
        return self._model.branch(tokens, self._cache)[:, -1]


class Grown:
    """The rows of all beginnings lie in the cache behind the prompt; each sees the prompt and those it goes on.

    Whoever made the cache cuts it back afterwards.
    """

    def __init__(self, model: DiffusionGemma, cache: KVCache) -> None:
        self._model, self._cache, self._num_prompt = model, cache, cache.length
        # by row behind the prompt: at which position of its sequence it stands
        self._positions: list[int] = []
        # of the rows of the call before: which rows behind the prompt each stands on, itself included
        self._lines: list[list[int]] = []

    def extend(self, beams: Sequence[Beam], parents: Sequence[int]) -> Tensor:
        tokens = [beam.tokens[-1] for beam in beams]
        num_held = len(self._positions)
        position = self._num_prompt + len(beams[0].tokens) - 1
        before: list[list[int]] = [self._lines[parent] for parent in parents] if self._lines else [[]] * len(beams)
        self._lines = [[*line, num_held + i] for i, line in enumerate(before)]
        self._positions += [position] * len(tokens)
        is_seen = torch.zeros(len(tokens), self._num_prompt + len(self._positions), dtype=torch.bool)
        is_seen[:, : self._num_prompt] = True
        for i, line in enumerate(self._lines):
            is_seen[i, [self._num_prompt + row for row in line]] = True
        places = torch.tensor([*range(self._num_prompt), *self._positions])
        states = self._model.grow(torch.tensor(tokens), self._cache, position, places, is_seen)
        self._cache.hold((*self._cache.tokens, *tokens))
        return states


def branches_of(model: TextModel, cache: Cache) -> Branches:
    """The quick way where the model has it."""
    if isinstance(model, DiffusionGemma) and isinstance(cache, KVCache) and model.device.type == "cpu":
        return Grown(model, cache)
    return Recomputed(model, cache)


def beam_search(
    search: Search,
    branches: Branches,
    first: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    is_cancelled: Callable[[], bool] = lambda: False,
    is_late: Callable[[], bool] = lambda: False,
) -> Found:
    """first: normed state [H] of the prompt's last token. logits_of: states [N, H] -> logits [N, V], fp32.

    is_cancelled, is_late: asked after every forward.
    """
    pinned = dict(search.pinned)
    num_beams = max(search.num_beams, search.num_answers)
    free = len(search.opening)
    alive, states = [Beam()], first[None]
    whole: dict[tuple[int, ...], Beam] = {}
    # how likely it was that an answer begins as it has to, as far as the search has seen
    chance_of_opening = 0.0 if free else 1.0
    num_forwards = 0

    def found(outcome: Outcome) -> Found:
        logprob = math.log(chance_of_opening) if chance_of_opening > 0 else 0.0
        best = sorted(whole.values(), key=lambda beam: -beam.total)
        given = [[beam.given(search.opening, logprob) for beam in beams] for beams in (best, alive)]
        return Found(tuple(given[0]), tuple(given[1]), outcome, num_forwards)

    while True:
        row = len(alive[0].tokens)
        nexts = _nexts(search, alive, pinned.get(row), logits_of(states), num_beams)
        chance_of_opening += sum(
            math.exp(beam.total) for beam, parent in nexts if beam.state == free and alive[parent].state < free
        )
        begun: list[tuple[Beam, int]] = []
        for beam, parent in nexts:
            token = beam.tokens[-1]
            if token in search.ends or row + 1 == search.num_rows:
                # what ends it is no part of what it says
                text = beam.tokens[:-1] if token in search.ends else beam.tokens
                if text not in whole or whole[text].total < beam.total:
                    whole[text] = beam
            elif len(begun) < num_beams:
                begun.append((beam, parent))
            if len(begun) == num_beams:
                break
        totals = sorted((beam.total for beam in whole.values()), reverse=True)
        alive = [beam for beam, _ in begun]
        bound = totals[search.num_answers - 1] if len(totals) >= search.num_answers else -math.inf
        if not alive or alive[0].total <= bound:
            return found("finished")
        if search.floor is not None and all(beam.state == free for beam in alive):
            top = max([alive[0].total, *totals[:1]])
            if chance_of_opening > 0 and top - math.log(chance_of_opening) < search.floor:
                return found("given-up")
        states = branches.extend(alive, [parent for _, parent in begun])
        num_forwards += 1
        if is_cancelled():
            return found("cancelled")
        if is_late():
            return found("deadline")


def _nexts(
    search: Search, alive: Sequence[Beam], pinned: int | None, logits: Tensor, num_beams: int
) -> list[tuple[Beam, int]]:
    """How the beginnings may go on, the likeliest first, and which each goes on from. logits: [N, V]."""
    free = len(search.opening)
    if pinned is not None:
        return [(beam.longer(pinned, 0.0, 0.0, free), i) for i, beam in enumerate(alive)]
    allowed_logits = logits if search.banned is None else logits.masked_fill(search.banned, -torch.inf)
    logprobs = torch.log_softmax(allowed_logits, dim=-1)
    entropies = cast(list[float], (-(logprobs.exp() * logprobs.clamp_min(-1e9)).sum(-1)).tolist())
    # so many that, should half of them end, enough go on
    best = logprobs.topk(min(2 * num_beams, logprobs.shape[-1]), dim=-1)
    tokens, chances = cast(list[list[int]], best.indices.tolist()), cast(list[list[float]], best.values.tolist())
    found: list[tuple[Beam, int]] = []
    for i, beam in enumerate(alive):
        if beam.state < free:
            # what is banned elsewhere may open an answer
            steps = search.opening[beam.state]
            opening = torch.log_softmax(logits[i], dim=-1)[[token for token, _ in steps]]
            pairs = zip(steps, cast(list[float], opening.tolist()), strict=True)
            triples = [(token, chance, state) for (token, state), chance in pairs]
        else:
            triples = [(token, chance, free) for token, chance in zip(tokens[i], chances[i], strict=True)]
        found += [
            (beam.longer(token, entropies[i], chance, state), i)
            for token, chance, state in triples
            if chance > -math.inf
        ]
    return sorted(found, key=lambda pair: -pair[0].total)
