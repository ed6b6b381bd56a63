"""Candidates for one gap: what the model answered and what similar places suggest, compared by their confidence.

Knows results and proposals, not how either came about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..engine.problem import CanvasProblem, CanvasResult
from .calibration import Features
from .request import Proposal
from .span import Gap
from .trim import Trimmed

DOUBT = math.e
"""By so much the odds fall of what definitions ask for where the model was asked and says something else: of 288 such
drafts in eight packages of the training corpus 26 % were exact, of 326 that it agreed with 81 %."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trimmed result with what it is worth. logprob: of the rows up to and with its end."""

    trimmed: Trimmed
    confidence: float
    logprob: float
    source: str = "model"


def features_of(result: CanvasResult, gap: Gap, problem: CanvasProblem) -> Features:
    """What calibration looks at: the rows of the middle and the row that ends it."""
    num_rows = min(result.end + 1, len(result.tokens))
    if result.end and result.tokens[result.end - 1] in problem.stop:
        # a stop token is the last row of the middle itself
        num_rows = result.end
    return Features(sum(result.logprob[:num_rows]), num_rows, gap.extent, problem.decoding)


def is_raw(result: CanvasResult, problem: CanvasProblem) -> bool:
    """Whether the deadline left noise: a causal answer is whole up to where it stopped, a denoised one is not."""
    return problem.decoding == "denoise" and not result.is_finished and result.steps < problem.max_steps


def agreed(candidates: list[Candidate], drafts: list[Candidate]) -> list[Candidate]:
    """Both kinds together. Where model and workspace say the same, each makes the other likelier."""
    merged: list[Candidate] = []
    by_text = {draft.trimmed.text: draft for draft in drafts}
    for candidate in candidates:
        draft = by_text.pop(candidate.trimmed.text, None)
        if draft is not None:
            either = 1 - (1 - candidate.confidence) * (1 - draft.confidence)
            candidate = replace(candidate, confidence=either)
        merged.append(candidate)
    return [*merged, *by_text.values()]


def doubted(candidate: Candidate) -> Candidate:
    """What only definitions speak for, where the model has been asked. Its rank is what it was: what the model says
    instead is right less often still."""
    if candidate.source not in ("call", "head"):
        return candidate
    odds = candidate.confidence / (1 - candidate.confidence) / DOUBT
    return replace(candidate, confidence=odds / (1 + odds))


def proposal_of(candidate: Candidate, gap: Gap) -> Proposal:
    """A candidate as it is shown. What the editor has closed already stays where the text ends with it."""
    text, end, closed = candidate.trimmed.text, gap.end, gap.closed.rstrip()
    if closed and text.endswith(closed):
        text, end = text.removesuffix(closed), end - len(gap.closed)
    return Proposal(text, gap.start, end, candidate.confidence, candidate.source, candidate.trimmed.due)


def ranked_by_confidence(candidates: list[Candidate]) -> list[Candidate]:
    """The likeliest first, each text once."""
    best: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: (-c.confidence, -c.logprob)):
        best.setdefault(candidate.trimmed.text, candidate)
    return list(best.values())
