"""Beam search beside a list of every answer there is, and the two ways of reading beginnings beside each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine import local
from lacuna_ls.engine.beam import Beam, Found, Grown, Recomputed, Search, beam_search, branches_of
from lacuna_ls.engine.int8 import convert
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.local import LocalEngine
from lacuna_ls.engine.problem import NOISE, Canvas, CanvasProblem, Opening
from random_models import CONFIG, random_model
from torch import Tensor

V = CONFIG.vocab_size
MODELS = [random_model(seed=seed, sharpness=0.5) for seed in range(3)]
QUICK = convert(random_model(seed=4, sharpness=0.5), "float")
ids = st.integers(0, V - 1)

NUM_TOKENS, END = 4, 3


class Table:
    """A model that sees one token. logits: [NUM_TOKENS + 1, NUM_TOKENS], the last row for the first token."""

    def __init__(self, seed: int) -> None:
        self.logits = torch.randn(NUM_TOKENS + 1, NUM_TOKENS, generator=torch.Generator().manual_seed(seed)) * 2
        self.first = torch.tensor([float(NUM_TOKENS)])

    def extend(self, beams: Sequence[Beam], parents: Sequence[int]) -> Tensor:
        return torch.tensor([[float(beam.tokens[-1])] for beam in beams])

    def logits_of(self, states: Tensor) -> Tensor:
        return self.logits[states[:, 0].long()]

    def search(self, search: Search) -> Found:
        return beam_search(search, self, self.first, self.logits_of)

    def logprob(self, tokens: Sequence[int], banned: Tensor | None, free_from: int = 0) -> float:
        """The slow truth; rows before free_from know no ban."""
        total, last = 0.0, NUM_TOKENS
        for row, token in enumerate(tokens):
            logits = self.logits[last]
            if banned is not None and row >= free_from:
                logits = logits.masked_fill(banned, -torch.inf)
            total += float(torch.log_softmax(logits, -1)[token])
            last = token
        return total


def answers(num_rows: int) -> list[tuple[int, ...]]:
    """Every answer: up to END, or as long as there is room."""
    found: list[tuple[int, ...]] = []
    for size in range(1, num_rows + 1):
        for tokens in itertools.product(range(NUM_TOKENS), repeat=size):
            if END not in tokens[:-1] and (tokens[-1] == END or size == num_rows):
                found.append(tokens)
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), num_rows=st.integers(1, 5), num_answers=st.integers(1, 4),
    ban=st.sets(st.integers(0, 2)),
)  # fmt: skip
def test_a_wide_search_finds_the_likeliest_of_all_answers(seed: int, num_rows: int, num_answers: int, ban: set[int]):
    table = Table(seed)
    banned = torch.tensor([token in ban for token in range(NUM_TOKENS)])
    found = table.search(
        Search(num_rows, frozenset({END}), num_answers, num_beams=NUM_TOKENS**num_rows, banned=banned)
    )
    truth = sorted(((table.logprob(tokens, banned), tokens) for tokens in answers(num_rows)), reverse=True)
    possible = [each for each in truth if each[0] > -math.inf][:num_answers]
    assert found.outcome == "finished"
    assert len(found.whole) >= len(possible)
    assert len({beam.tokens for beam in found.whole}) == len(found.whole)
    for beam, (logprob, _) in zip(found.whole, possible, strict=False):
        # not the same tokens: the same steps in another order are as likely
        assert table.logprob(beam.tokens, banned) == pytest.approx(logprob, abs=1e-4)
        assert beam.total == pytest.approx(logprob, abs=1e-4)
        assert sum(beam.logprobs) == pytest.approx(logprob, abs=1e-4)
    assert found.num_forwards <= num_rows - 1


OPENINGS: list[Opening] = [
    (((0, 1), (1, 1)),),
    (((0, 2), (1, 1)), ((2, 2),)),
    (((2, 3), (0, 1), (1, 2)), ((0, 2), (2, 3)), ((1, 3),)),
]


def opened(tokens: Sequence[int], opening: Opening) -> int | None:
    """How many rows the opening takes; None for an answer that does not begin with it."""
    state = 0
    for row, token in enumerate(tokens):
        if state == len(opening):
            return row
        following = dict(opening[state])
        if token not in following:
            return None
        state = following[token]
    return len(tokens) if state == len(opening) else None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), opening=st.sampled_from(OPENINGS))
def test_what_is_typed_is_given(seed: int, opening: Opening):
    """An answer is as likely as it is among those that begin with the opening, in whatever tokens."""
    table, num_rows = Table(seed), 5
    # banned in free rows, and yet part of every opening
    banned = torch.tensor([False, True, False, False])
    found = table.search(
        Search(num_rows, frozenset({END}), num_beams=NUM_TOKENS**num_rows, banned=banned, opening=opening)
    )
    fitting = [(tokens, size) for tokens in answers(num_rows) if (size := opened(tokens, opening)) is not None]
    openings = {tokens[:size] for tokens, size in fitting}
    chances = [math.exp(table.logprob(tokens, None)) for tokens in openings]
    logprob, tokens, size = max((table.logprob(tokens, banned, size), tokens, size) for tokens, size in fitting)
    best = found.whole[0]
    # another one may be as likely: the same steps in another order
    taken = opened(best.tokens, opening)
    assert taken is not None
    assert table.logprob(best.tokens, banned, taken) == pytest.approx(logprob, abs=1e-4)
    size = size if best.tokens == tokens else taken
    # the search ends before it has seen openings that are less likely than the answer
    seen = sum(chance for chance in chances if chance >= math.exp(logprob))
    assert logprob - math.log(sum(chances)) - 1e-4 <= best.total <= logprob - math.log(seen) + 1e-4
    assert sum(best.logprobs) == pytest.approx(best.total, abs=1e-4)
    assert best.total <= 1e-4
    assert not any(best.logprobs[: size - 1]), "what is known before the opening is over costs nothing"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), floor=st.floats(-8, -0.1), num_beams=st.sampled_from([1, 3, 50]))
def test_it_is_given_up_where_nothing_reaches_the_floor_and_nowhere_else(seed: int, floor: float, num_beams: int):
    table, search = Table(seed), Search(5, frozenset({END}), num_beams=num_beams)
    # an end may be what nothing begins with
    table.logits[NUM_TOKENS, END] -= 10
    best = table.search(search).whole[0].total
    found = table.search(replace(search, floor=floor))
    if found.outcome == "given-up":
        assert best < floor
    else:
        assert found.whole[0].total == best


def test_answers_differ_in_more_than_their_end():
    table = Table(0)
    table.logits[:] = torch.tensor([1.0, 0.0, 0.9, 0.95])
    found = table.search(Search(3, frozenset({2, END}), num_answers=4))
    texts = [tuple(token for token in beam.tokens if token < 2) for beam in found.whole]
    assert len(texts) == len(set(texts)) >= 4


@st.composite
def problems(draw: st.DrawFn) -> CanvasProblem:
    rows = draw(st.integers(1, 9))
    share = draw(st.sampled_from([[False], [False, True]]))
    pinned = tuple(draw(st.lists(st.sampled_from(share), min_size=rows, max_size=rows)))
    canvas = Canvas(tuple(draw(ids) if pin else NOISE for pin in pinned), pinned)
    step = st.sets(ids, min_size=1, max_size=4)
    opening: Opening = ()
    if draw(st.booleans()):
        first = tuple((token, draw(st.sampled_from([1, 2]))) for token in sorted(draw(step)))
        opening = (first, tuple((token, 2) for token in sorted(draw(step))))
    return CanvasProblem(
        prompt=tuple(draw(st.lists(ids, min_size=1, max_size=20))),
        canvases=(canvas,) * draw(st.integers(1, 5)),
        num_certain=draw(st.integers(1, 5)),
        banned=tuple(draw(st.sets(ids, max_size=V - 8))),
        stop=tuple(draw(st.sets(ids, max_size=3))),
        opening=opening,
        decoding="beam",
    )


@settings(max_examples=60, deadline=None)
@given(problem=problems(), model=st.sampled_from([*MODELS, QUICK]))
def test_rows_in_the_cache_are_read_as_those_that_are_read_anew(problem: CanvasProblem, model):
    engine = LocalEngine(model)
    quick = engine.fill(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "branches_of", Recomputed)
        truth = LocalEngine(model).fill(problem)
    for mine, theirs in zip(quick, truth, strict=True):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)
        assert mine.entropy == pytest.approx(theirs.entropy, abs=1e-3)
        assert (mine.tokens, mine.end, mine.is_finished) == (theirs.tokens, theirs.end, theirs.is_finished)
    # and nothing of it stays
    assert engine._cache.tokens == problem.prompt
    plain = replace(problem, decoding="autoregressive", canvases=problem.canvases[:1])
    assert engine.fill(plain)[0].tokens == LocalEngine(model).fill(plain)[0].tokens


@settings(max_examples=30, deadline=None)
@given(problem=problems(), model=st.integers(0, 2))
def test_an_answer_is_as_likely_as_scoring_it_says(problem: CanvasProblem, model: int):
    problem = replace(problem, banned=(), opening=(), canvases=(Canvas.free(7),) * 3, num_certain=3)
    results = LocalEngine(MODELS[model]).fill(problem)
    totals = [sum(result.logprob) for result in results]
    assert totals == sorted(totals, reverse=True)
    assert len({result.tokens[: result.end] for result in results}) == 3
    for result, total in zip(results, totals, strict=True):
        num_rows = min(7, result.end + (result.tokens[max(0, result.end - 1)] not in problem.stop))
        given = Canvas(result.tokens[:num_rows], (False,) * num_rows)
        scored = LocalEngine(MODELS[model]).fill(replace(problem, decoding="score", canvases=(given,)))[0]
        assert sum(scored.logprob) == pytest.approx(total, abs=1e-3)


def test_what_is_found_on_the_way_fills_the_other_canvases():
    """They cost nothing: the search ends as early as it would for one."""
    problem = CanvasProblem((5, 6, 7), (Canvas.free(9),), decoding="beam")
    alone = LocalEngine(MODELS[0]).fill(problem)
    more = LocalEngine(MODELS[0]).fill(replace(problem, canvases=problem.canvases * 3))
    assert more[0].tokens == alone[0].tokens
    assert more[0].timings.num_forwards == alone[0].timings.num_forwards
    for result in more[1:]:
        assert result.is_finished or not result.end, "what is begun is no answer beside one that is whole"
    certain = LocalEngine(MODELS[0]).fill(replace(problem, canvases=problem.canvases * 3, num_certain=3))
    assert all(result.is_finished for result in certain)


def test_the_quick_way_is_taken_where_there_is_one():
    cache = KVCache(CONFIG, torch.device("cpu"), torch.float32)
    assert isinstance(branches_of(MODELS[0], cache), Grown)


def test_canvases_that_differ_are_misuse():
    with pytest.raises(ValueError, match="one canvas"):
        CanvasProblem((1,), (Canvas.free(3), Canvas.free(4)), decoding="beam")


def test_a_cancel_and_a_deadline_end_it_at_the_next_forward():
    problem = CanvasProblem((5, 6, 7), (Canvas.free(12),) * 2, decoding="beam")
    engine = LocalEngine(MODELS[1])
    polls = iter([False, False])
    results = engine.fill(problem, lambda: next(polls, True))
    assert all(result.is_cancelled for result in results)
    assert 1 <= results[0].timings.num_forwards <= 2
    engine.prefill(problem.prompt)
    for result in engine.fill(replace(problem, deadline_ms=0.001)):
        assert not result.is_cancelled
        assert result.timings.num_forwards <= 1
        # an answer that has its end already is one; the filler behind what is begun costs nothing, an end does
        assert result.is_finished == (result.logprob[result.end] < 0)
