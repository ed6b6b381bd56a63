"""From what the model said about its own tokens to the probability that the proposal is exactly right.

A monotone table, fitted on held-out code and shipped with the model; without one, the joint probability of the tokens
stands for itself. Knows no model and no text.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Features:
    """What is known of one result. logprob_sum: over the middle's rows and its end row, natural logarithm.

    num_rows: how many rows that is. extent: what kind of gap it was (infill/span.Extent). decoding: whose
    log-probabilities these are; the denoiser's and the encoder's do not compare.
    """

    logprob_sum: float
    num_rows: int
    extent: str = "rest"
    decoding: str = "verify"

    def score(self, length_exponent: float) -> float:
        """The sum divided by num_rows ** length_exponent: 0 is the joint, 1 the mean."""
        return self.logprob_sum / float(max(1, self.num_rows) ** length_exponent)


@dataclass(frozen=True, slots=True)
class Curve:
    """A rising piecewise-linear map from a score to a probability; flat beyond its ends."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.probabilities) or not self.scores:
            raise ValueError(f"a curve has {len(self.scores)} scores but {len(self.probabilities)} probabilities")
        if list(self.scores) != sorted(self.scores) or list(self.probabilities) != sorted(self.probabilities):
            raise ValueError("the scores and the probabilities of a curve must not fall")

    def least_score(self, probability: float) -> float:
        """The lowest score that is worth at least probability; -inf where every one is, inf where none is."""
        if probability <= self.probabilities[0]:
            return -math.inf
        at = next((i for i, p in enumerate(self.probabilities) if p >= probability), None)
        if at is None:
            return math.inf
        share = (probability - self.probabilities[at - 1]) / (self.probabilities[at] - self.probabilities[at - 1])
        return self.scores[at - 1] + share * (self.scores[at] - self.scores[at - 1])

    def __call__(self, score: float) -> float:
        at = bisect_right(self.scores, score)
        if at == 0:
            return self.probabilities[0]
        if at == len(self.scores):
            return self.probabilities[-1]
        low, high = self.scores[at - 1], self.scores[at]
        share = (score - low) / (high - low)
        return self.probabilities[at - 1] + share * (self.probabilities[at] - self.probabilities[at - 1])


@dataclass(frozen=True, slots=True)
class Calibration:
    """curves: by "decoding/extent", by "decoding", or "" for all others. Without any: exp of the joint."""

    curves: Mapping[str, Curve] = field(default_factory=dict[str, Curve])
    length_exponent: float = 0.0

    def probability(self, features: Features) -> float:
        """The probability in [0, 1] that the proposal is exactly what the user would have written."""
        curve = self._curve(features.decoding, features.extent)
        if curve is None:
            return math.exp(min(0.0, features.logprob_sum))
        return curve(features.score(self.length_exponent))

    def least_logprob(self, probability: float, extent: str, decoding: str, num_rows: int) -> float | None:
        """A sum of log-probabilities below which no result of at most num_rows rows reaches probability; None: any may.

        A sum only falls while an answer grows, so an answer that is below can be given up.
        """
        if probability <= 0:
            return None
        curve = self._curve(decoding, extent)
        score = math.log(probability) if curve is None else curve.least_score(probability)
        # a rising probability of a sum above 0 does not exist, and neither does one of -inf
        return min(0.0, score) * float(num_rows**self.length_exponent) if score > -math.inf else None

    def _curve(self, decoding: str, extent: str) -> Curve | None:
        keys = (f"{decoding}/{extent}", decoding, "")
        return next((self.curves[key] for key in keys if key in self.curves), None)

    def to_json(self) -> dict[str, Any]:
        """As plain values for a model's metadata."""
        curves = {key: {"scores": [*c.scores], "probabilities": [*c.probabilities]} for key, c in self.curves.items()}
        return {"length_exponent": self.length_exponent, "curves": curves}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """The inverse of to_json. Raises: ValueError for values that are no calibration."""
        try:
            curves = {
                str(key): Curve(tuple(map(float, c["scores"])), tuple(map(float, c["probabilities"])))
                for key, c in values["curves"].items()
            }
            return cls(curves, float(values.get("length_exponent", 0.0)))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no calibration table: {error!r}") from error


def logistic(weights: Sequence[float], features: Sequence[float]) -> float:
    """The probability that a logistic regression gives: of a draft, that it is exactly right.

    Raises: ValueError where there are not as many weights as features.
    """
    total = sum(weight * value for weight, value in zip(weights, features, strict=True))
    return 1 / (1 + math.exp(-total))


def fit_curve(scores: Sequence[float], is_hit: Sequence[bool], max_points: int = 24) -> Curve:
    """The monotone curve that fits which scores were hits best (isotonic regression by pooling adjacent violators).

    One pseudo-observation of each outcome is added to every pool, so that no finite sample claims certainty.
    Raises: ValueError where there is nothing to fit.
    """
    if len(scores) != len(is_hit) or not scores:
        raise ValueError(f"{len(scores)} scores and {len(is_hit)} outcomes cannot be fitted")
    pairs = sorted(zip(scores, is_hit, strict=True))
    size = max(1, len(pairs) // max_points)
    pools: list[list[float]] = []
    for i in range(0, len(pairs), size):
        chunk = pairs[i : i + size]
        pools.append([sum(score for score, _ in chunk), float(sum(hit for _, hit in chunk)), float(len(chunk))])
        while len(pools) > 1 and pools[-2][1] / pools[-2][2] >= pools[-1][1] / pools[-1][2]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    centres = [pool[0] / pool[2] for pool in pools]
    rates = [(pool[1] + 1) / (pool[2] + 2) for pool in pools]
    for i in range(1, len(rates)):
        # the means of equal scores differ in their last digit
        centres[i] = max(centres[i], centres[i - 1])
        # the pseudo-observations can turn the order of two small pools round
        rates[i] = max(rates[i], rates[i - 1])
    return Curve(tuple(centres), tuple(rates))
