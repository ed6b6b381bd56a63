"""Confidence: monotone, bounded, and the same after a round trip through a model's metadata."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.infill.calibration import Calibration, Curve, Features, fit_curve


def test_without_a_table_the_joint_probability_stands_for_itself():
    assert Calibration().probability(Features(-1.0, 5)) == pytest.approx(math.exp(-1))
    assert Calibration().probability(Features(0.1, 5)) == 1.0


@given(st.lists(st.tuples(st.floats(-20, 0), st.booleans()), min_size=1, max_size=300))
def test_a_fitted_curve_rises_and_stays_a_probability(pairs):
    curve = fit_curve([score for score, _ in pairs], [hit for _, hit in pairs])
    values = [curve(score / 2) for score in range(-50, 3)]
    assert values == sorted(values)
    assert all(0 < value < 1 for value in values)


def test_equal_scores_make_a_curve_too():
    score = -5.391162647925659
    curve = fit_curve([score] * 4, [False, False, False, True])
    assert curve.scores[0] <= curve.scores[-1]


def test_a_fitted_curve_finds_the_rate():
    rng = random.Random(0)
    scores = [rng.uniform(-4, 0) for _ in range(20_000)]
    curve = fit_curve(scores, [rng.random() < math.exp(score) for score in scores])
    for score in (-3.0, -1.5, -0.5):
        assert curve(score) == pytest.approx(math.exp(score), abs=0.05)


def test_the_most_particular_curve_decides_and_a_round_trip_keeps_it():
    low, high = Curve((-1.0,), (0.1,)), Curve((-2.0, 0.0), (0.2, 0.9))
    table = Calibration({"verify/line": low, "verify": high}, length_exponent=1.0)
    again = Calibration.from_json(json.loads(json.dumps(table.to_json())))
    for calibration in (table, again):
        assert calibration.probability(Features(-4.0, 4, "line")) == 0.1
        assert calibration.probability(Features(-4.0, 4, "rest")) == pytest.approx(0.55)
        assert calibration.probability(Features(-4.0, 4, "rest", "denoise")) == pytest.approx(math.exp(-4))


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="no curves"),
        pytest.param({"curves": {"": {"scores": [1, 0], "probabilities": [0, 1]}}}, id="scores fall"),
        pytest.param({"curves": {"": {"scores": [0, 1], "probabilities": [1, 0]}}}, id="probabilities fall"),
        pytest.param({"curves": {"": {"scores": [0], "probabilities": []}}}, id="lengths differ"),
        pytest.param({"curves": []}, id="not a mapping"),
    ],
)
def test_a_broken_table_is_a_value_error(values):
    with pytest.raises(ValueError):
        Calibration.from_json(values)


def test_nothing_to_fit_is_a_value_error():
    with pytest.raises(ValueError):
        fit_curve([], [])


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(-9, 0), st.floats(0, 1)), min_size=1, max_size=5, unique_by=lambda p: p[0]),
    wanted=st.floats(0.01, 0.99), exponent=st.sampled_from([0.0, 0.4, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_what_is_below_the_least_logprob_never_becomes_worth_it(
    points: list[tuple[float, float]], wanted: float, exponent: float, seed: int
) -> None:
    """However the answer goes on: log-probabilities are never positive."""
    scores, probabilities = sorted(p[0] for p in points), sorted(p[1] for p in points)
    calibration = Calibration({"verify": Curve(tuple(scores), tuple(probabilities))}, exponent)
    least = calibration.least_logprob(wanted, "rest", "verify", 32)
    rng = random.Random(seed)
    for _ in range(50):
        total, num_rows = -rng.random() * 60, rng.randint(1, 32)
        if least is not None and total < least:
            assert calibration.probability(Features(total, num_rows)) < wanted + 1e-9
    if least is None:
        assert calibration.probability(Features(-1e6, 32)) >= wanted


def test_the_least_logprob_of_a_known_curve() -> None:
    calibration = Calibration({"": Curve((-4.0, -2.0), (0.1, 0.5))})
    assert calibration.least_logprob(0.3, "rest", "verify", 32) == pytest.approx(-3.0)
    assert calibration.least_logprob(0.05, "rest", "verify", 32) is None
    # never reached, but an answer of certain tokens sums up to 0
    assert calibration.least_logprob(0.9, "rest", "verify", 32) == 0.0
    assert Calibration().least_logprob(0.5, "rest", "verify", 32) == pytest.approx(math.log(0.5))
    assert calibration.least_logprob(0.0, "rest", "verify", 32) is None
