"""LocalEngine: the cache follows the prompt, and each way of decoding keeps its promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine.errors import EngineError
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.local import MAX_SEQUENCES, PREFILL_CHUNK, LocalEngine
from lacuna_ls.engine.policies import EMBEDDED_POLICY, SamplingPolicy
from lacuna_ls.engine.problem import NOISE, Canvas, CanvasProblem, CanvasResult, Decoding
from random_models import CONFIG, changed, random_model

V = CONFIG.vocab_size
MODELS = [random_model(seed=seed, sharpness=0.5) for seed in range(3)]
PROMPT = tuple(range(3, 23))
ids = st.integers(0, V - 1)


@st.composite
def problems(draw: st.DrawFn) -> CanvasProblem:
    rows = draw(st.integers(1, 14))
    pinned = tuple(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    return CanvasProblem(
        prompt=tuple(draw(st.lists(ids, min_size=1, max_size=20))),
        canvases=(Canvas(tuple(draw(ids) if pin else NOISE for pin in pinned), pinned),),
        seed=draw(st.integers(0, 1000)),
        banned=tuple(draw(st.sets(ids, max_size=V - 2))),
        stop=tuple(draw(st.sets(ids, max_size=3))),
        decoding="verify",
    )


def change(problem: CanvasProblem, **values: object) -> CanvasProblem:
    from dataclasses import replace

    return replace(problem, **values)  # type: ignore[arg-type]


def fill(problem: CanvasProblem, model: int = 0) -> CanvasResult:
    return LocalEngine(MODELS[model]).fill(problem)[0]


@settings(max_examples=30, deadline=None)
@given(problem=problems(), model=st.integers(0, 2))
def test_verify_gives_exactly_the_tokens_of_autoregressive(problem: CanvasProblem, model: int):
    drafted = fill(problem, model)
    plain = fill(change(problem, decoding="autoregressive"), model)
    assert drafted.tokens == plain.tokens
    assert drafted.end == plain.end
    assert drafted.logprob == pytest.approx(plain.logprob, abs=1e-4)
    assert drafted.entropy == pytest.approx(plain.entropy, abs=1e-4)
    canvas = problem.canvases[0]
    ends = {*CONFIG.eos_ids, *problem.stop}
    for row in range(plain.end):
        if canvas.pinned[row]:
            assert plain.tokens[row] == canvas.tokens[row]
        else:
            assert plain.tokens[row] not in problem.banned
    assert plain.is_finished
    # a stop token is part of the answer, an end token is not, and nothing comes after either
    assert not ends & set(plain.tokens[: max(0, plain.end - 1)])
    assert plain.end == len(plain.tokens) or ends & {plain.tokens[plain.end], plain.tokens[max(0, plain.end - 1)]}
    # one forward a token at most, and the last token needs none
    assert plain.timings.num_forwards <= max(0, len(canvas.tokens) - 1)


@settings(max_examples=20, deadline=None)
@given(problem=problems(), data=st.data(), model=st.integers(0, 2))
def test_every_decoding_begins_with_an_opening(problem: CanvasProblem, data: st.DataObject, model: int):
    ways = st.sets(st.tuples(ids, st.sampled_from([1, 2])), min_size=1, max_size=4)
    # one state a token: a table that leads two ways is for nobody to write
    first = tuple(dict(data.draw(ways) | {(data.draw(ids), 2)}).items())
    second = tuple(dict.fromkeys(data.draw(st.lists(ids, min_size=1, max_size=3)), 2).items())
    canvas = Canvas.free(data.draw(st.integers(1, 8)))
    problem = change(problem, canvases=(canvas,), opening=(first, second), stop=())
    assert fill(problem, model).tokens == fill(change(problem, decoding="autoregressive"), model).tokens
    for decoding in ("autoregressive", "denoise"):
        if decoding == "denoise" and all(state == 1 for _, state in first):
            continue
        tokens = fill(change(problem, decoding=decoding), model).tokens
        state = dict(first)[tokens[0]]
        assert state == 2 or decoding == "autoregressive"
        if state == 1 and len(tokens) > 1 and tokens[0] not in CONFIG.eos_ids:
            assert tokens[1] in dict(second)


def test_an_opening_leads_on():
    with pytest.raises(ValueError, match="leads nowhere"):
        CanvasProblem(PROMPT, (Canvas.free(2),), opening=(((5, 0),),))
    with pytest.raises(ValueError, match="by itself"):
        fill(CanvasProblem(PROMPT, (Canvas.free(2),), opening=(((5, 1),), ((6, 2),))))


def test_autoregressive_beside_its_plain_form():
    """Greedy decoding with the encoder, without a cache."""
    from random_models import encode

    problem = CanvasProblem(PROMPT, (Canvas.free(6),), decoding="autoregressive", stop=())
    result = fill(problem)
    tokens = list(PROMPT)
    for _ in range(6):
        _, hidden = encode(MODELS[0], tokens)
        tokens.append(int(MODELS[0].logits(hidden[-1]).argmax()))
        if tokens[-1] in CONFIG.eos_ids:
            break
    answer = tokens[len(PROMPT) :]
    assert list(result.tokens[: len(answer)]) == answer


def test_a_right_draft_saves_forwards():
    # layers that say nothing answer with the token seen last: the encoder repeats the prompt's last one
    model = random_model(seed=2, sharpness=3.0, reach=1e-3)
    rows = 12

    def num_forwards(decoding: Decoding) -> int:
        problem = CanvasProblem((5, 6, 9), (Canvas.free(rows),), decoding=decoding)
        result = LocalEngine(model).fill(problem)[0]
        assert result.tokens == (9,) * rows
        return result.timings.num_forwards

    assert num_forwards("autoregressive") == rows - 1
    # what was said before is looked up without a forward
    assert num_forwards("verify") <= rows // 2


@settings(max_examples=15, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12).map(tuple), min_size=2, max_size=5),
    decoding=st.sampled_from(["denoise", "verify", "autoregressive"]),
)
def test_an_engine_that_worked_before_answers_as_a_new_one(prompts: list[tuple[int, ...]], decoding: Decoding):
    engine = LocalEngine(MODELS[1])
    for prompt in prompts:
        problem = CanvasProblem(prompt, (Canvas.free(5), Canvas.free(3)), max_steps=2, decoding=decoding, seed=3)
        for warm, cold in zip(engine.fill(problem), LocalEngine(MODELS[1]).fill(problem), strict=True):
            assert warm.tokens == cold.tokens
            assert warm.logprob == pytest.approx(cold.logprob, abs=1e-4)


def test_only_what_is_new_is_prefilled():
    engine = LocalEngine(MODELS[0])
    assert engine.prefill(PROMPT).num_prefilled == 20
    # the state of the last token is still there
    assert engine.prefill(PROMPT).num_prefilled == 0
    longer = engine.prefill((*PROMPT, 5, 6))
    assert (longer.num_cached, longer.num_prefilled) == (20, 2)
    # shorter: its last token must be seen again, for the state that predicts the next
    assert engine.prefill(PROMPT).num_prefilled == 1
    other = engine.prefill((*PROMPT[:10], 60, *PROMPT[11:]))
    assert (other.num_cached, other.num_prefilled) == (10, 10)
    # what a fill added is gone after it, and the state is still there: letters within a word change no prompt
    decodings: tuple[Decoding, ...] = ("verify", "autoregressive", "beam", "denoise")
    for decoding in decodings:
        engine.fill(CanvasProblem(PROMPT, (Canvas.free(6),), decoding=decoding))
        assert engine.prefill(PROMPT).num_prefilled == 0


@pytest.mark.parametrize("decoding", ["denoise", "verify", "autoregressive"])
def test_a_cancelled_fill_stops_within_one_step(decoding: Decoding):
    engine = LocalEngine(MODELS[0], SamplingPolicy())
    polls = 0

    def cancelled() -> bool:
        nonlocal polls
        polls += 1
        # the first is the prefill's
        return polls >= 3

    result = engine.fill(CanvasProblem(PROMPT, (Canvas.free(12),), decoding=decoding, stop=()), cancelled)[0]
    assert result.is_cancelled
    assert not result.is_finished
    assert polls == 3
    assert result.timings.num_forwards == 2
    assert len(result.tokens) == 12
    # and the engine goes on as if nothing had been
    after = engine.fill(CanvasProblem(PROMPT, (Canvas.free(4),), decoding=decoding))[0]
    new = LocalEngine(MODELS[0], SamplingPolicy()).fill(CanvasProblem(PROMPT, (Canvas.free(4),), decoding=decoding))[0]
    assert after.tokens == new.tokens


def test_a_cancelled_prefill_stops_within_one_chunk_and_keeps_it():
    engine = LocalEngine(random_model(changed(max_positions=4096), seed=1))
    prompt = tuple(i % V for i in range(3 * PREFILL_CHUNK))
    results = engine.fill(CanvasProblem(prompt, (Canvas.free(4), Canvas((5, NOISE), (True, False)))), lambda: True)
    assert [r.is_cancelled for r in results] == [True, True]
    assert [len(r.tokens) for r in results] == [4, 2]
    assert results[1].tokens[0] == 5
    assert all(r.end == r.steps == 0 for r in results)
    assert engine.prefill(prompt).num_cached == PREFILL_CHUNK


@pytest.mark.parametrize("decoding", ["denoise", "verify", "autoregressive"])
def test_a_deadline_hands_back_what_there_is(decoding: Decoding):
    problem = CanvasProblem(PROMPT, (Canvas.free(12),), deadline_ms=0.0, decoding=decoding)
    result = LocalEngine(MODELS[0], SamplingPolicy()).fill(problem)[0]
    assert not result.is_finished
    assert not result.is_cancelled
    assert 1 <= result.timings.num_forwards <= 2
    assert len(result.tokens) == 12


def test_the_end_of_a_short_canvas_lies_inside_it():
    """Filler rows of a sweep may hold an end token, or none: neither counts for a shorter canvas."""
    engine = LocalEngine(MODELS[0], SamplingPolicy())
    for seed in range(10):
        canvases = (Canvas((7,), (True,)), Canvas((7, 1), (True, True)), Canvas.free(9))
        short, ended, _ = engine.fill(CanvasProblem(PROMPT, canvases, max_steps=1, seed=seed))
        assert (short.end, short.tokens) == (1, (7,))
        assert (ended.end, ended.tokens) == (1, (7, 1))


def test_a_stop_token_belongs_to_the_answer_and_the_end_token_does_not():
    canvas = Canvas((5, 8, 6, 1, 7), (True,) * 5)
    for decoding in ("denoise", "autoregressive"):
        with_stop = fill(CanvasProblem(PROMPT, (canvas,), decoding=decoding, stop=(8,)))
        assert with_stop.end == 2
        assert fill(CanvasProblem(PROMPT, (canvas,), decoding=decoding)).end == 3
    whole = Canvas((5, 8), (True, True))
    assert fill(CanvasProblem(PROMPT, (whole,))).end == 2


@settings(max_examples=20, deadline=None)
@given(problem=problems(), model=st.integers(0, 2), share=st.floats(0.05, 1.5))
def test_an_answer_is_given_up_where_it_falls_below_the_floor_and_nowhere_else(
    problem: CanvasProblem, model: int, share: float
):
    whole = fill(change(problem, decoding="autoregressive"), model)
    floor = share * sum(whole.logprob) - 1e-3
    for decoding in ("autoregressive", "verify"):
        cut = fill(change(problem, decoding=decoding, floor=floor), model)
        if cut.is_given_up:
            assert sum(cut.logprob) < floor
            assert not cut.is_finished
            assert share < 1 + 1e-3
        else:
            assert cut.tokens == whole.tokens
            assert cut.is_finished
    # one token at a time, no token is read after the one that went below
    plain = fill(change(problem, decoding="autoregressive", floor=floor), model)
    if plain.is_given_up:
        num_rows = next(n for n in range(1, len(plain.logprob) + 1) if sum(plain.logprob[:n]) < floor)
        assert plain.logprob[num_rows:] == (0.0,) * (len(plain.logprob) - num_rows)


def test_scores_are_those_of_the_encoder():
    free = fill(CanvasProblem(PROMPT, (Canvas.free(7),), decoding="autoregressive"))
    length = min(free.end + 1, 7)
    given = Canvas(free.tokens[:length], (False,) * length)
    other = Canvas((9, 10), (False, True))
    scored, pinned = LocalEngine(MODELS[0]).fill(CanvasProblem(PROMPT, (given, other), decoding="score"))
    assert scored.tokens == given.tokens
    assert scored.logprob == pytest.approx(free.logprob[:length], abs=1e-4)
    assert scored.entropy == pytest.approx(free.entropy[:length], abs=1e-4)
    assert scored.timings.num_forwards == 1
    assert pinned.logprob[1] == 0.0 > pinned.logprob[0]


def test_misuse_is_a_value_error():
    engine = LocalEngine(MODELS[0])
    for bad in [
        lambda: engine.prefill(()),
        lambda: engine.prefill((V,)),
        lambda: engine.prefill((NOISE,)),
        lambda: engine.fill(CanvasProblem(PROMPT, (Canvas((V,), (True,)),))),
        lambda: engine.fill(CanvasProblem(PROMPT, (Canvas.free(1),), banned=(V,))),
        lambda: engine.fill(CanvasProblem(PROMPT, (Canvas.free(1),), banned=(-2,))),
        lambda: engine.fill(CanvasProblem(PROMPT, (Canvas.free(1),), banned=tuple(range(V)))),
        lambda: CanvasProblem(PROMPT, (Canvas.free(1),), decoding="score"),
        lambda: CanvasProblem(PROMPT, (Canvas.free(1),), decoding="beam", num_certain=0),
    ]:
        with pytest.raises(ValueError):
            bad()
    # none of it left a trace
    assert engine.fill(CanvasProblem(PROMPT, (Canvas.free(2),)))[0].tokens


def test_prompts_of_other_documents_keep_their_place():
    engine = LocalEngine(MODELS[0])
    prompts = [tuple((start + i) % V for i in range(20)) for start in range(0, 20 * MAX_SEQUENCES, 20)]
    assert [engine.prefill(prompt).num_prefilled for prompt in prompts] == [20] * MAX_SEQUENCES
    one = KVCache(CONFIG, MODELS[0].device, torch.float32).num_bytes
    assert engine.status().kv_bytes == MAX_SEQUENCES * one
    # each goes on where it was left, whichever was current
    for prompt in (*prompts, *reversed(prompts)):
        assert engine.prefill((*prompt, 5)).num_prefilled <= 1
    # one more takes the place of the one that was used longest ago
    assert engine.prefill(tuple(reversed(prompts[0]))).num_prefilled == 20
    assert engine.status().kv_bytes == MAX_SEQUENCES * one
    assert [engine.prefill((*prompt, 5)).num_prefilled for prompt in prompts[:3]] == [0, 0, 0]
    assert engine.prefill((*prompts[3], 5)).num_prefilled == 21
    engine.close()
    assert engine.status().kv_bytes == 0


def test_a_model_with_large_caches_keeps_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lacuna_ls.engine.local.SEQUENCE_BYTES", 1)
    engine = LocalEngine(MODELS[0])
    for prompt in (PROMPT, tuple(reversed(PROMPT)), PROMPT):
        assert engine.prefill(prompt).num_prefilled == 20


@settings(max_examples=15, deadline=None)
@given(
    prompts=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30)), min_size=2, max_size=12),
    decoding=st.sampled_from(["verify", "denoise"]),
)  # fmt: skip
def test_an_engine_that_goes_from_one_document_to_another_answers_as_a_new_one(
    prompts: list[tuple[int, int]], decoding: Decoding
):
    engine = LocalEngine(MODELS[1])
    for document, length in prompts:
        prompt = tuple((document * 11 + i) % V for i in range(length))
        problem = CanvasProblem(prompt, (Canvas.free(4),), max_steps=2, decoding=decoding, seed=3)
        warm, cold = engine.fill(problem)[0], LocalEngine(MODELS[1]).fill(problem)[0]
        assert warm.tokens == cold.tokens
        assert warm.logprob == pytest.approx(cold.logprob, abs=1e-4)


def test_a_failed_forward_leaves_no_state_of_another_prompt(monkeypatch: pytest.MonkeyPatch):
    engine = LocalEngine(MODELS[0])
    engine.prefill(PROMPT)
    with monkeypatch.context() as patch:
        patch.setattr(type(MODELS[0]), "encode", lambda *_: (_ for _ in ()).throw(RuntimeError("device lost")))
        with pytest.raises(RuntimeError, match="device lost"):
            engine.prefill((*PROMPT[:7], 60))
    problem = CanvasProblem(PROMPT[:7], (Canvas.free(4),), decoding="autoregressive")
    assert engine.fill(problem)[0].tokens == LocalEngine(MODELS[0]).fill(problem)[0].tokens


def test_a_closed_engine_says_so():
    engine = LocalEngine(MODELS[0], name="tiny")
    assert engine.status().state == "ready"
    engine.prefill(PROMPT)
    assert engine.status().weights_bytes == sum(t.numel() * 4 for t in MODELS[0].state_dict().values())
    assert engine.status().kv_bytes > 0
    engine.close()
    assert (engine.status().state, engine.status().kv_bytes) == ("closed", 0)
    with pytest.raises(EngineError, match="closed"):
        engine.prefill(PROMPT)


def test_seeds_repeat():
    problem = CanvasProblem(PROMPT, (Canvas.free(10),), max_steps=3)
    engine = LocalEngine(MODELS[0], SamplingPolicy())
    assert engine.fill(problem)[0].tokens == engine.fill(problem)[0].tokens
    assert engine.fill(problem)[0].tokens != engine.fill(change(problem, seed=1))[0].tokens


def test_the_embedded_model_loads_and_answers():
    engine = LocalEngine.load()
    results = engine.fill(CanvasProblem((2, 20, 30, 40), (Canvas.free(8),), max_steps=4, decoding="verify"))
    assert engine.status().model == "embedded"
    assert len(results[0].tokens) == 8
    assert all(torch.isfinite(torch.tensor(results[0].logprob)))
    assert EMBEDDED_POLICY.choose == "argmax"
