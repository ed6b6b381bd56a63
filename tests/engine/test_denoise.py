"""The denoise loop: what may change in a canvas, when it ends, and each policy beside its plain form."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine.denoise import stack
from lacuna_ls.engine.policies import (
    EMBEDDED_POLICY,
    EntropyBound,
    RegionEntropySum,
    SamplingPolicy,
    StableAndConfident,
    TemperatureSchedule,
    answer_region,
)
from lacuna_ls.engine.problem import NOISE, Canvas
from random_models import CONFIG, changed, random_model, run_denoise

V = CONFIG.vocab_size
MODEL = random_model(seed=1)
PROMPT = tuple(range(3, 23))

# never stops of itself, so that every step is seen
ENDLESS = SamplingPolicy(stop=RegionEntropySum(-1.0))
POLICIES = {
    # the reference: sampled, entropy order
    "reference": ENDLESS,
    # what the embedded model is served with
    "argmax": SamplingPolicy(TemperatureSchedule(1.0, 1.0), EntropyBound(0.05), RegionEntropySum(-1.0), "argmax"),
    # everything is accepted at once
    "all": SamplingPolicy(accept=EntropyBound(1e9), stop=RegionEntropySum(-1.0)),
}


@st.composite
def canvases(draw: st.DrawFn, max_rows: int = 9) -> Canvas:
    rows = draw(st.integers(1, max_rows))
    pinned = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    ids = st.integers(0, V - 1)
    return Canvas(tuple(draw(ids if pin else st.one_of(st.just(NOISE), ids)) for pin in pinned), tuple(pinned))


@settings(max_examples=25, deadline=None)
@given(
    given=st.lists(canvases(), min_size=1, max_size=3),
    policy=st.sampled_from(sorted(POLICIES)),
    seed=st.integers(0, 2**31),
    banned=st.sets(st.integers(0, V - 1), max_size=V - 2),
)
def test_pinned_rows_never_change_and_banned_tokens_never_come(
    given: list[Canvas], policy: str, seed: int, banned: set[int]
):
    mask = torch.zeros(V, dtype=torch.bool)
    mask[list(banned)] = True
    out, recorder = run_denoise(MODEL, PROMPT, given, POLICIES[policy], seed=seed, max_steps=4, banned=mask)
    assert out.num_forwards == 4
    for b, canvas in enumerate(given):
        for row, (token, pinned) in enumerate(zip(canvas.tokens, canvas.pinned, strict=True)):
            steps = [int(shown[b, row]) for shown in recorder.canvases]
            if pinned:
                assert steps == [token] * 4
                assert int(out.tokens[b, row]) == token
                assert float(out.entropy[b, row]) == float(out.logprob[b, row]) == 0.0
                # a pinned row tells the model what it is from the first step on
                for soft in recorder.softs:
                    assert soft is not None
                    assert torch.equal(soft[b, row], MODEL.embed(torch.tensor(token)))
            else:
                assert int(out.tokens[b, row]) not in banned
                assert token == NOISE or steps[0] == token
        assert bool(out.entropy[b].isfinite().all())
        assert bool(out.logprob[b].isfinite().all())


def test_without_pins_the_first_step_has_no_belief():
    _, recorder = run_denoise(MODEL, PROMPT, [Canvas.free(4)], ENDLESS, max_steps=2)
    assert recorder.softs[0] is None
    assert recorder.softs[1] is not None


def test_noise_stays_above_the_special_tokens():
    model = random_model(changed(first_noise_id=50), seed=1)
    policy = SamplingPolicy(accept=EntropyBound(-1.0), stop=RegionEntropySum(-1.0))
    _, recorder = run_denoise(model, PROMPT, [Canvas.free(64)], policy, max_steps=4)
    shown = torch.stack(recorder.canvases)
    assert int(shown.min()) >= 50
    # uniform over what is left: all eleven come up
    assert len(shown.unique()) == V - 50


def test_a_seed_repeats_and_another_differs():
    def tokens(seed: int) -> Any:
        return run_denoise(MODEL, PROMPT, [Canvas.free(8)], ENDLESS, seed=seed, max_steps=5)[1].canvases

    assert all(torch.equal(a, b) for a, b in zip(tokens(4), tokens(4), strict=True))
    assert not torch.equal(tokens(4)[0], tokens(5)[0])


@pytest.mark.parametrize("step", [1, 3])
def test_a_cancel_ends_within_one_step(step: int):
    is_cancelled = False

    def after(num_forwards: int) -> None:
        nonlocal is_cancelled
        is_cancelled = num_forwards >= step

    out, _ = run_denoise(
        MODEL, PROMPT, [Canvas.free(4)], ENDLESS, max_steps=20, after=after, cancelled=lambda: is_cancelled
    )
    assert out.num_forwards == step
    assert out.is_cancelled
    assert not bool(out.finished.any())


def test_no_step_starts_after_the_deadline():
    over = time.monotonic() - 1
    out, _ = run_denoise(MODEL, PROMPT, [Canvas.free(4)], ENDLESS, max_steps=20, deadline=over)
    # one step always runs, so that there is something to hand back
    assert out.num_forwards == 1
    assert not out.is_cancelled
    later = time.monotonic() + 0.05
    out, _ = run_denoise(
        MODEL, PROMPT, [Canvas.free(4)], ENDLESS, max_steps=500, deadline=later, after=lambda _: time.sleep(0.02)
    )
    assert 1 <= out.num_forwards <= 4


def test_canvases_of_different_length_in_one_sweep_equal_each_alone():
    # all rows warm-started and all accepted: no noise remains whose order a sweep could change
    policy = SamplingPolicy(TemperatureSchedule(1.0, 1.0), EntropyBound(1e9), RegionEntropySum(-1.0), "argmax")
    given = [
        Canvas((7, 8, 9), (False, True, False)),
        Canvas(tuple(range(20, 31)), (False,) * 11),
        Canvas((5,), (False,)),
    ]
    together, _ = run_denoise(MODEL, PROMPT, given, policy, max_steps=3)
    for b, canvas in enumerate(given):
        alone, _ = run_denoise(MODEL, PROMPT, [canvas], policy, max_steps=3)
        rows = len(canvas.tokens)
        assert torch.equal(together.tokens[b, :rows], alone.tokens[0])
        assert torch.allclose(together.entropy[b, :rows], alone.entropy[0], atol=1e-4)
        assert torch.allclose(together.logprob[b, :rows], alone.logprob[0], atol=1e-4)


def test_a_canvas_that_stopped_keeps_its_answer_while_others_go_on():
    certain = Canvas((4, 5), (True, True))
    policy = SamplingPolicy(choose="argmax", stop=RegionEntropySum(0.3), accept=EntropyBound(0.05))
    out, _ = run_denoise(MODEL, PROMPT, [certain, Canvas.free(12)], policy, max_steps=5)
    assert out.steps.tolist() == [1, 5]
    assert out.finished.tolist() == [True, False]
    assert out.tokens[0, :2].tolist() == [4, 5]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=12), bound=st.floats(0, 4)
)
def test_the_entropy_bound_beside_its_plain_form(rows: list[tuple[float, bool]], bound: float):
    entropy = torch.tensor([[e for e, _ in rows]], dtype=torch.float64)
    free = torch.tensor([[f for _, f in rows]])
    wanted = [False] * len(rows)
    total = 0.0
    for value, i in sorted((e, i) for i, (e, f) in enumerate(rows) if f):
        wanted[i] = total <= bound
        total += value
    got = EntropyBound(bound).accept(entropy, free)[0].tolist()
    # rows of equal entropy may stand in for one another at the edge
    assert sum(got) == sum(wanted)
    assert sorted(e for (e, _), taken in zip(rows, got, strict=True) if taken) == sorted(
        e for (e, _), taken in zip(rows, wanted, strict=True) if taken
    )


def test_the_temperature_runs_from_the_first_step_to_nearly_the_last():
    schedule = TemperatureSchedule(0.8, 0.4)
    assert schedule.at(48, 48) == pytest.approx(0.8)
    assert schedule.at(24, 48) == pytest.approx(0.6)
    assert schedule.at(1, 48) == pytest.approx(0.4 + 0.4 / 48)


def test_the_answer_ends_with_its_first_end_token():
    tokens = torch.tensor([[5, 1, 6, 1], [1, 5, 5, 5], [5, 5, 5, 5]])
    assert answer_region(tokens, frozenset({1})).tolist() == [
        [True, True, False, False],
        [True, False, False, False],
        [True, True, True, True],
    ]
    assert answer_region(tokens, frozenset()).all()


def test_rows_behind_the_end_do_not_count_for_the_region_rule():
    free = torch.ones(1, 3, dtype=torch.bool)
    canvas = torch.tensor([[5, 1, 9]])
    rule = RegionEntropySum(0.5)
    unsure_behind = torch.tensor([[0.1, 0.1, 4.0]])
    assert bool(rule.done([canvas], unsure_behind, free, frozenset({1})))
    assert not bool(rule.done([canvas], unsure_behind, free, frozenset()))
    assert not bool(rule.done([canvas], torch.tensor([[0.1, 0.5, 0.0]]), free, frozenset({1})))


@pytest.mark.parametrize("stability", [1, 2, 6])
def test_stability_asks_for_as_many_equal_canvases(stability: int):
    free = torch.tensor([[True, True, False]])
    calm = torch.zeros(1, 3)
    same = [torch.tensor([[5, 6, filler]]) for filler in range(stability + 1)]
    other = torch.tensor([[5, 7, 0]])
    rule = StableAndConfident(stability, 0.1)
    # rows that are not free may be anything
    assert bool(rule.done(same, calm, free, frozenset()))
    assert not bool(rule.done(same[:-1], calm, free, frozenset()))
    assert not bool(rule.done([other, *same[1:]], calm, free, frozenset()))
    assert bool(rule.done([other, *same], calm, free, frozenset()))
    assert not bool(rule.done(same, calm + 9, free, frozenset()))


def test_stacked_canvases_know_which_rows_are_theirs():
    given = [Canvas((NOISE, 5), (False, True)), Canvas((7,), (False,))]
    tokens, pinned, in_use, num_rows = stack(given, torch.device("cpu"))
    assert tokens.tolist() == [[-1, 5], [7, -1]]
    assert pinned.tolist() == [[False, True], [False, False]]
    assert in_use.tolist() == [[True, True], [True, False]]
    assert num_rows is not None
    assert num_rows.tolist() == [2, 1]
    # one length needs no mask at all
    assert stack(given[:1], torch.device("cpu"))[3] is None


def test_the_embedded_policy_stops_early_when_it_is_sure():
    model = random_model(seed=2, sharpness=3.0, reach=0.01)
    out, _ = run_denoise(model, PROMPT, [Canvas.free(6)], EMBEDDED_POLICY, max_steps=48)
    assert bool(out.finished.all())
    assert out.num_forwards < 48
