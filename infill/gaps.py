"""Several gaps of one document: one after the other from top to bottom, or jointly in one canvas.

Jointly: the text between the gaps is pinned, so that every gap is denoised in sight of all the others, which only a
diffusion engine can do. The length of each gap has to be known for that; it is taken from filling it alone. Results
pass the same gates either way, and what does not pass leaves its gap as it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

from ..engine.problem import NOISE, Canvas, CanvasResult
from .calibration import Features
from .layout import Prompt
from .pose import prompt_for
from .request import (
    NO_OTHER,
    Cancelled,
    GapFill,
    GapSpan,
    GapsRequest,
    GapsResult,
    InfillRequest,
    InfillTimings,
    Proposal,
)
from .span import Extent, Gap, Scene, surroundings
from .trim import Refusal

if TYPE_CHECKING:
    from .infiller import LocalInfiller

MAX_JOINT_ROWS = 192
"""A joint canvas of more rows than this is not worth its time; the gaps are filled one by one instead."""

JOINT_STEPS = 24

_PLACEHOLDERS = frozenset(("pass", "...", "todo!()", "unimplemented!()", "raise NotImplementedError"))


@dataclass(frozen=True, slots=True)
class _Filled:
    """The document so far. text: with the gaps above filled. shift: how much longer it is than the request's text."""

    text: str
    shift: int


def fill_gaps(infiller: LocalInfiller, request: GapsRequest, cancelled: Cancelled | None = None) -> GapsResult:
    """See LocalInfiller.fill_gaps."""
    started = time.perf_counter()
    if request.choices:
        return _chosen(infiller, request, started, cancelled)
    alone = _one_by_one(infiller, request, started, cancelled)
    if not request.jointly or alone.is_cancelled or sum(fill.proposal is not None for fill in alone.fills) < 2:
        return alone
    joint = _jointly(infiller, request, alone, started, cancelled)
    if joint is None or joint.is_cancelled:
        return joint or alone
    # where the encoder decides a single gap it decides here, too: it reads both documents to the end
    return _likelier(infiller, request, alone, joint, started) if infiller.policy.can_score else joint


def _one_by_one(
    infiller: LocalInfiller, request: GapsRequest, started: float, cancelled: Cancelled | None
) -> GapsResult:
    done = _Filled(request.text, 0)
    fills: list[GapFill] = []
    timings = InfillTimings()
    for span in request.gaps:
        one = _request_for(request, span, done, started)
        if one is None:
            fills.append(GapFill(span, None, "deadline"))
            continue
        scene = infiller.read(one)
        gap = _gap(scene, one, span)
        # diffusion finds another answer from other noise; the encoder has to be asked for its next likely one
        number = 0 if infiller.policy.decoding_for(gap) == "denoise" else request.seed
        result = infiller.fill_gap(replace(one, num_alternatives=number + 1), scene, gap, cancelled)
        timings = _added(timings, result.timings)
        if result.is_cancelled:
            return GapsResult(tuple(fills), is_cancelled=True, timings=_ended(timings, started))
        best = result.proposals[number] if number < len(result.proposals) else None
        if number and best is None:
            result = replace(result, declined=NO_OTHER)
        if best is not None and best.text.strip() in _PLACEHOLDERS:
            best, result = None, replace(result, declined="unchanged")
        fills.append(_fill_of(span, best, result.declined))
        done = _with(done, best)
    return GapsResult(tuple(fills), timings=_ended(timings, started))


def _chosen(
    infiller: LocalInfiller, request: GapsRequest, started: float, cancelled: Cancelled | None
) -> GapsResult:
    """The likeliest of the request's choices between what stands around its gap."""
    (span,), texts = request.gaps, request.choices
    scores = [0.0] * len(texts)
    one = _request_for(request, span, _Filled(request.text, 0), started)
    if one is not None and len(texts) > 1 and infiller.policy.can_score:
        scene = infiller.read(one)
        gap = _gap(scene, one, span)
        prompt = prompt_for(infiller.tokenizer, scene.snapshot, gap, replace(infiller.policy, use_healing=False))
        found = infiller.scores(infiller.problem(prompt, gap, one, started), gap, texts, cancelled)
        if found is None:
            return GapsResult((), is_cancelled=True, timings=_ended(InfillTimings(), started))
        scores = [score.logprob_sum for score in found]
    best = max(scores)
    confidence = 1 / sum(math.exp(score - best) for score in scores)
    proposal = Proposal(texts[scores.index(best)], span.start, span.end, confidence)
    return GapsResult((GapFill(span, proposal),), timings=_ended(InfillTimings(), started))


def _jointly(
    infiller: LocalInfiller, request: GapsRequest, alone: GapsResult, started: float, cancelled: Cancelled | None
) -> GapsResult | None:
    """The gaps that could be filled alone, denoised together at the lengths they had; None where that is too much."""
    tokenizer = infiller.tokenizer
    fills = [fill for fill in alone.fills if fill.proposal is not None]
    rows: list[int] = []
    free: list[range] = []
    at = fills[0].gap.start
    for fill in fills:
        assert fill.proposal is not None
        # the text since the gap above stands between them, with what belongs to both edges
        before = request.text[at : fill.gap.start] + fill.gap.lead
        rows += tokenizer.encode(before.replace("\r\n", "\n")) if fill is not fills[0] else []
        middle = fill.proposal.text.removeprefix(fill.gap.lead).removesuffix(fill.gap.tail)
        length = len(tokenizer.encode(middle.replace("\r\n", "\n")))
        free.append(range(len(rows), len(rows) + length))
        rows += [NOISE] * length + tokenizer.encode(fill.gap.tail.replace("\r\n", "\n"))
        at = fill.gap.end
    if len(rows) > MAX_JOINT_ROWS:
        return None
    posed = _whole(infiller, request, fills, started)
    if posed is None:
        return None
    one, whole, prompt = posed
    is_free = {row for span in free for row in span}
    canvas = Canvas((*rows, tokenizer.eos), tuple(i not in is_free for i in range(len(rows) + 1)))
    # the newlines between the gaps end nothing, even where the first gap ends with its line
    problem = replace(
        infiller.problem(prompt, whole, one, started),
        canvases=(canvas,), decoding="denoise", max_steps=JOINT_STEPS, stop=(),
    )  # fmt: skip
    (result,) = infiller.engine.fill(problem, cancelled)
    if result.is_cancelled:
        return GapsResult((), is_cancelled=True, timings=_ended(alone.timings, started))
    return _judged(infiller, request, alone, free, result, started)


def _whole(
    infiller: LocalInfiller, request: GapsRequest, fills: Sequence[GapFill], started: float
) -> tuple[InfillRequest, Gap, Prompt] | None:
    """All from the first of the gaps to the last as one gap, and its prompt; None when the time is over."""
    one = _request_for(request, fills[0].gap, _Filled(request.text, 0), started)
    if one is None:
        return None
    scene = infiller.read(one)
    whole = replace(_gap(scene, one, fills[0].gap), end=fills[-1].gap.end, tail="")
    # its first row has a place of its own; it is not to begin with what the user typed
    prompt = prompt_for(infiller.tokenizer, scene.snapshot, whole, replace(infiller.policy, use_healing=False))
    return one, whole, prompt


def _likelier(
    infiller: LocalInfiller, request: GapsRequest, alone: GapsResult, joint: GapsResult, started: float
) -> GapsResult:
    """The one whose text, from the first gap to the end of the last, the encoder finds likelier."""
    fills = [fill for fill in alone.fills if fill.proposal is not None]
    posed = _whole(infiller, request, fills, started)
    texts = [_between(request.text, result.fills, fills[0].gap, fills[-1].gap) for result in (alone, joint)]
    if posed is None or texts[0] == texts[1]:
        return joint
    one, whole, prompt = posed
    scores = infiller.scores(infiller.problem(prompt, whole, one, started), whole, texts)
    is_alone = scores is not None and scores[0].logprob_sum > scores[1].logprob_sum
    return replace(alone if is_alone else joint, timings=_ended(joint.timings, started))


def _between(text: str, fills: Sequence[GapFill], first: GapSpan, last: GapSpan) -> str:
    """The document with the fills in place, from the middle of the first gap to the end of the last."""
    end = last.end
    for fill in reversed(fills):
        if fill.proposal is not None and fill.gap.start >= first.start:
            text = text[: fill.proposal.start] + fill.proposal.text + text[fill.proposal.end :]
            end += len(fill.proposal.text) - (fill.proposal.end - fill.proposal.start)
    return text[first.start : end].removeprefix(first.lead)


def _judged(
    infiller: LocalInfiller,
    request: GapsRequest,
    alone: GapsResult,
    free: list[range],
    result: CanvasResult,
    started: float,
) -> GapsResult:
    """Each gap of a joint canvas through the gates, top to bottom; one that fails them keeps what it had alone."""
    spans = iter(free)
    done = _Filled(request.text, 0)
    fills: list[GapFill] = []
    for fill in alone.fills:
        if fill.proposal is None:
            fills.append(fill)
            continue
        span = next(spans)
        one = _request_for(replace(request, deadline_ms=None), fill.gap, done, started)
        assert one is not None
        scene = infiller.read(one)
        gap = _gap(scene, one, fill.gap)
        raw = infiller.tokenizer.answer(result.tokens[span.start : span.stop])
        outcome = infiller.trim(raw, True, scene, gap)
        best: Proposal | None = None
        if isinstance(outcome, Refusal) or outcome.text.strip() in _PLACEHOLDERS:
            infiller.refusals[outcome.reason if isinstance(outcome, Refusal) else "unchanged"] += 1
        else:
            features = Features(sum(result.logprob[span.start : span.stop]), len(span), gap.extent, "denoise")
            confidence = infiller.calibration.probability(features)
            if confidence >= request.min_confidence:
                best = Proposal(outcome.text, gap.start, gap.end, confidence)
        if best is None:
            # what was good alone must still be good below what the gaps above have become
            middle = fill.proposal.text.removeprefix(gap.lead).removesuffix(gap.tail)
            kept = infiller.trim(middle, True, scene, gap)
            if not isinstance(kept, Refusal):
                best = Proposal(kept.text, gap.start, gap.end, fill.proposal.confidence)
        fills.append(_fill_of(fill.gap, best, "" if best else "syntax"))
        done = _with(done, best)
    return GapsResult(tuple(fills), timings=_ended(alone.timings, started))


def _request_for(request: GapsRequest, span: GapSpan, done: _Filled, started: float) -> InfillRequest | None:
    """The request for one gap in the document so far; None when the time is over."""
    deadline_ms = request.deadline_ms
    if deadline_ms is not None:
        deadline_ms -= (time.perf_counter() - started) * 1e3
        if deadline_ms <= 0:
            return None
    return InfillRequest(
        text=done.text,
        start=span.start + done.shift,
        end=span.end + done.shift,
        language=request.language,
        path=request.path,
        kind="span",
        neighbours=request.neighbours,
        indent=request.indent,
        deadline_ms=deadline_ms,
        min_confidence=request.min_confidence,
        is_explicit=True,
        is_rewrite=request.is_rewrite,
        seed=request.seed,
    )


def _gap(scene: Scene, one: InfillRequest, span: GapSpan) -> Gap:
    """The gap in canonical form: a block where lines may follow, otherwise what its line leaves room for."""
    here = surroundings(scene.snapshot, one.start, one.end)
    extent: Extent = "block"
    if not span.is_multiline:
        extent = "node" if here.tail.strip() else "rest"
    indent = span.lead.rsplit("\n", 1)[1] if "\n" in span.lead else scene.snapshot.indent_at(one.start)
    return Gap(one.start, one.end, extent, indent=indent, lead=span.lead, tail=span.tail, is_edit=True)


def _fill_of(span: GapSpan, best: Proposal | None, reason: str) -> GapFill:
    if best is None:
        return GapFill(span, None, reason or "empty")
    return GapFill(span, replace(best, start=span.start, end=span.end))


def _with(done: _Filled, best: Proposal | None) -> _Filled:
    if best is None:
        return done
    text = done.text[: best.start] + best.text + done.text[best.end :]
    return _Filled(text, done.shift + len(text) - len(done.text))


def _added(first: InfillTimings, second: InfillTimings) -> InfillTimings:
    return InfillTimings(*(a + b for a, b in zip(astuple(first), astuple(second), strict=True)))


def _ended(timings: InfillTimings, started: float) -> InfillTimings:
    return replace(timings, total_ms=(time.perf_counter() - started) * 1e3)
