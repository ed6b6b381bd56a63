"""LocalInfiller: the life of one infill, from a request to proposals, over any engine.

One step per sentence: recall, read, decide, pose, denoise, trim, rank, floor, remember. Knows the engine only as the
protocol of engine/problem.py, and neither LSP nor tensors. Expected outcomes are values: declines carry a short key.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..engine.problem import Canvas, CanvasProblem, CanvasResult, Engine, Loadable, Timings
from .arguments import arguments_for
from .calibration import Calibration, Features
from .candidates import Candidate, agreed, doubted, features_of, is_raw, proposal_of, ranked_by_confidence
from .context import ContextGatherer, gatherer_for
from .gaps import fill_gaps
from .heads import heads_for
from .healing import can_open
from .index import MAX_FILE_BYTES, LineIndex, WorkspaceIndexer
from .languages import language_for
from .layout import Prompt
from .needs import Needs, head_of
from .pose import CHARS_PER_TOKEN, Policy, canvases_for, problem_for, prompt_for
from .recent import RecentProposals
from .request import (
    Cancelled,
    GapsRequest,
    GapsResult,
    InfillerStatus,
    InfillRequest,
    InfillResult,
    InfillTimings,
)
from .seeds import drafts_for
from .snapshot import Snapshot
from .span import Gap, Scene
from .syntax import SyntaxTree
from .tokenizer import Tokenizer
from .trigger import Decline, decide
from .trim import Refusal, Trimmed, trim

MAX_TREES = 8
"""How many documents keep their last tree, so that the next keystroke is an incremental parse."""

TRIM_RESERVE_MS = 4.0
"""Kept back from a deadline for what comes after the engine."""

MAX_LEARNED = 64
"""With more open documents than this on record, those that are open no longer are forgotten."""

MAX_SHOWN_DRAFTS = 3

REWRITE_ROWS = 16
MAX_REWRITE = 2
"""A rewrite gets at most so many times the rows of a block: a quarter more than what stands there, and a few."""

BINDING_SHARE = 0.4
"""How often `name = ` and the model's rest of the line are exactly right, where that rest alone is said to be."""

MIN_SECOND_FILL_MS = 20.0
"""With less than this left, a second fill is not worth beginning."""


class LocalInfiller:
    """Implements `Infiller` over an `Engine` and a `Tokenizer`. Calls come from one thread, recall from any."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        calibration: Calibration | None = None,
        policy: Policy | None = None,
        is_excluded: Callable[[str], bool] = lambda path: False,
        gather: ContextGatherer | None = None,
        index: LineIndex | None = None,
    ) -> None:
        """is_excluded: paths that nothing is proposed in. gather: finds neighbouring text for a gap; None: by the
        policy's budget. index: lines to draft from.
        """
        self.engine = engine
        self.tokenizer = tokenizer
        self.calibration = calibration or Calibration()
        self.policy = policy or Policy()
        self.is_excluded = is_excluded
        self.recent = RecentProposals()
        self.refusals: Counter[str] = Counter()
        """How many results were not shown, by reason; declines of the trigger count too, drafts as "draft-"."""
        self.index = LineIndex() if index is None else index
        """Lines of the workspace. The open documents come in with the requests; a WorkspaceIndexer brings the rest."""
        self._needs = Needs(self.index.imports)
        self._gather = gather or gatherer_for(self.policy.limits, is_excluded, CHARS_PER_TOKEN)
        self._learned: dict[str, int] = {}
        self._learns_ahead = False
        """Whether somebody prefetches, which is the time to learn in: nobody waits."""
        self._indexer: WorkspaceIndexer | None = None
        self._stop_indexing: Callable[[], None] = _no_indexing
        self._trees: OrderedDict[tuple[str, str], SyntaxTree] = OrderedDict()

    def recall(self, request: InfillRequest) -> InfillResult | None:
        """The answer from memory where the user types along a former proposal; under 2 ms, on any thread."""
        started = time.perf_counter()
        found = self.recent.recall(request)
        shown = tuple(proposal for proposal in found if proposal.confidence >= request.min_confidence)
        if not shown:
            return None
        return InfillResult(
            shown[: max(1, request.num_alternatives)], timings=InfillTimings(total_ms=_ms_since(started))
        )

    def prefetch(self, request: InfillRequest, cancelled: Cancelled | None = None) -> None:
        scene = self.read(request)
        gap = self._decide(request, scene)
        if isinstance(gap, Decline):
            return
        prompt = self._prompt(request, scene, gap)
        self.engine.prefill(prompt.tokens, cancelled)
        # so that no fill has to
        if self._has_needs(request):
            self._needs.imports(scene, gap, request.path)
            self._needs.name(scene, gap, request.path)
        self._learns_ahead = True
        while not (cancelled is not None and cancelled()) and self._learn(request, cancelled):
            pass

    def fill(self, request: InfillRequest, cancelled: Cancelled | None = None) -> InfillResult:
        started = time.perf_counter()
        remembered = self.recall(request)
        is_enough = remembered is not None and len(remembered.proposals) >= request.num_alternatives
        # a key that asks for more than what is remembered is not answered with that
        if remembered is not None and (is_enough or not request.is_explicit):
            return remembered
        scene = self.read(request)
        gap = self._decide(request, scene)
        if isinstance(gap, Decline):
            return self._nothing(gap.reason, started)
        result = self.fill_gap(request, scene, gap, cancelled)
        self.recent.remember(request, result.proposals)
        return replace(result, timings=replace(result.timings, total_ms=_ms_since(started)))

    def fill_gap(
        self, request: InfillRequest, scene: Scene, gap: Gap, cancelled: Cancelled | None = None
    ) -> InfillResult:
        """Fill a gap that is decided already: pose, denoise, trim, rank, floor."""
        started = time.perf_counter()
        # who has something rewritten wants what stands there, only better, and not what stands elsewhere
        may_draft = self.policy.use_drafts and not request.is_rewrite
        has_needs = self._has_needs(request)
        drafts = self._drafts(request, scene, gap, cancelled) if may_draft else []
        if has_needs:
            drafts = ranked_by_confidence([*self._imports(request, scene, gap), *drafts])
        if self.policy.use_definitions and not request.is_rewrite:
            drafts = agreed(drafts, self._from_definitions(request, scene, gap))
            drafts.sort(key=lambda candidate: -candidate.confidence)
        is_sure = bool(drafts) and drafts[0].confidence >= max(self.policy.instant_confidence, request.min_confidence)
        if is_sure and not request.is_explicit and request.num_alternatives == 1:
            return InfillResult((proposal_of(drafts[0], gap),), timings=InfillTimings(layout_ms=_ms_since(started)))
        prompt = self._prompt(request, scene, gap)
        problem = self.problem(prompt, gap, request, started)
        layout_ms = _ms_since(started)
        results = self.engine.fill(problem, cancelled)
        if any(result.is_cancelled for result in results) or (cancelled is not None and cancelled()):
            return InfillResult(is_cancelled=True, timings=_timings(results, layout_ms, 0.0, started))
        trim_started = time.perf_counter()
        candidates, reason = self._trim(results, scene, gap, problem, prompt.typed)
        # who cannot be asked about a text is far away, or slow
        name = self._needs.name(scene, gap, request.path) if has_needs and self.policy.can_score else ""
        if name and not any(re.search(rf"\b{name}\b", each.trimmed.text) for each in candidates[:1]):
            candidates += self._binding(name, request, scene, gap, started, cancelled)
        if len(candidates) < request.num_alternatives > 1 and problem.decoding not in ("denoise", "beam"):
            others = self._alternatives(request, scene, gap, problem, prompt.typed, started, cancelled)
            now = replace(problem, deadline_ms=_left_ms(request, started))
            candidates = self._comparable(candidates, others, gap, now, prompt.typed, cancelled)
        ranked = ranked_by_confidence(agreed(candidates, drafts))[: max(1, request.num_alternatives)]
        shown = [each for each in map(doubted, ranked) if each.confidence >= request.min_confidence]
        timings = _timings(results, layout_ms, _ms_since(trim_started), started)
        if not shown:
            return self._nothing("low-confidence" if ranked else reason, started, timings)
        proposals = tuple(proposal_of(candidate, gap) for candidate in shown)
        return InfillResult(proposals, timings=replace(timings, total_ms=_ms_since(started)))

    def fill_gaps(self, request: GapsRequest, cancelled: Cancelled | None = None) -> GapsResult:
        """Fill several gaps of one document, one after the other or jointly."""
        return fill_gaps(self, request, cancelled)

    def status(self) -> InfillerStatus:
        engine = self.engine.status()
        return InfillerStatus(engine.state, engine.model, engine.device, engine.detail)

    def load(self) -> None:
        if isinstance(self.engine, Loadable):
            self.engine.load()

    def unload(self) -> None:
        if isinstance(self.engine, Loadable):
            self.engine.unload()

    def index_workspace(
        self,
        roots: Sequence[str],
        is_excluded: Callable[[str], bool] | None = None,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """See Infiller.index_workspace. is_excluded: None means the files that nothing is proposed in."""
        self._stop_indexing()
        # what was read by other rules, or in other folders, is forgotten
        self.index.clear()
        self._indexer = WorkspaceIndexer(self.index, roots, is_excluded or self.is_excluded)
        self._indexer.prefer(self._learned)
        self._learned.clear()
        self._stop_indexing = self._indexer.start(is_busy=is_busy)

    def refresh_files(self, paths: Sequence[str]) -> None:
        """See Infiller.refresh_files."""
        if self._indexer is not None:
            self._indexer.refresh(paths)

    def close(self) -> None:
        self._stop_indexing()
        self.recent.forget()
        self._trees.clear()
        self.engine.close()

    def read(self, request: InfillRequest) -> Scene:
        """What the request shows: the tree of its window (from the last one of this document where there is one)."""
        language = language_for(request.language, request.path)
        snapshot = Snapshot(request.text)
        key = (request.path, language.name)
        tree = SyntaxTree.around(language, request.text, request.start, request.end, self._trees.get(key))
        self._trees[key] = tree
        self._trees.move_to_end(key)
        if len(self._trees) > MAX_TREES:
            self._trees.popitem(last=False)
        return Scene(snapshot, tree, snapshot.indent(request.start, request.indent, language.indent))

    def _decide(self, request: InfillRequest, scene: Scene) -> Gap | Decline:
        return decide(request, scene, self.is_excluded)

    def _prompt(self, request: InfillRequest, scene: Scene, gap: Gap) -> Prompt:
        neighbours = ""
        if self.policy.use_neighbours:
            neighbours = self._gather(request, scene.snapshot, scene.tree, gap)
        old = scene.snapshot.text[gap.start : gap.end] if request.is_rewrite else ""
        return prompt_for(self.tokenizer, scene.snapshot, gap, self.policy, neighbours, request.head, old)

    def problem(self, prompt: Prompt, gap: Gap, request: InfillRequest, started: float) -> CanvasProblem:
        """What the engine is asked for a gap, within what is left of the deadline."""
        deadline_ms = _left_ms(request, started)
        num_alternatives = request.num_alternatives
        policy = self.policy
        if request.is_rewrite and gap.is_multiline:
            # it may get longer than it was, and what the policy gives a gap is made for shorter ones
            num_old = len(self.tokenizer.encode(request.text[gap.start : gap.end]))
            num_rows = min(num_old * 5 // 4 + REWRITE_ROWS, MAX_REWRITE * policy.num_rows_block)
            policy = replace(policy, num_rows_block=max(policy.num_rows_block, num_rows))
        problem = problem_for(self.tokenizer, prompt, gap, policy, num_alternatives, deadline_ms, request.seed)
        rows = max(len(canvas.tokens) for canvas in problem.canvases)
        floor = self.calibration.least_logprob(request.min_confidence, gap.extent, problem.decoding, rows)
        return replace(problem, floor=floor)

    def _alternatives(
        self,
        request: InfillRequest,
        scene: Scene,
        gap: Gap,
        problem: CanvasProblem,
        typed: str,
        started: float,
        cancelled: Cancelled | None,
    ) -> list[Candidate]:
        """Other readings of the gap. Greedy decoding knows one answer only; diffusion has one per length."""
        deadline_ms = _left_ms(request, started)
        if deadline_ms is not None and deadline_ms < MIN_SECOND_FILL_MS:
            return []
        if problem.opening and not can_open(problem.opening, "denoise"):
            # diffusion has no way to begin with what is typed
            return []
        canvases = canvases_for(self.tokenizer, gap, self.policy, request.num_alternatives)
        other = replace(problem, decoding="denoise", canvases=canvases, deadline_ms=deadline_ms)
        results = self.engine.fill(other, cancelled)
        if any(result.is_cancelled for result in results):
            return []
        return self._trim(results, scene, gap, other, typed)[0]

    def _drafts(
        self, request: InfillRequest, scene: Scene, gap: Gap, cancelled: Cancelled | None
    ) -> list[Candidate]:
        """What similar places suggest, as far as it passes the gates, the likeliest first."""
        if not self._learns_ahead:
            self._learn(request, cancelled)
        found: list[Candidate] = []
        for draft in drafts_for(scene.snapshot, gap, self.index, request.path)[:MAX_SHOWN_DRAFTS]:
            confidence = draft.probability()
            if draft.is_block and confidence < request.min_confidence:
                # most are: the gates would cost more than finding them did, and so little makes no answer likelier
                continue
            found += self._passed(draft.text, confidence, "similar", scene, gap)
        return sorted(found, key=lambda candidate: -candidate.confidence)

    def _has_needs(self, request: InfillRequest) -> bool:
        # what is bound further up than the text reaches is not known
        return self.policy.use_needs and not request.is_rewrite and not request.head

    def _imports(self, request: InfillRequest, scene: Scene, gap: Gap) -> list[Candidate]:
        """Import statements that the document lacks, as far as they pass the gates."""
        found: list[Candidate] = []
        for missing in self._needs.imports(scene, gap, request.path):
            found += self._passed(missing.rest, missing.probability(), "import", scene, gap)
        return found

    def _from_definitions(self, request: InfillRequest, scene: Scene, gap: Gap) -> list[Candidate]:
        """What definitions elsewhere ask for, as far as it passes the gates: the arguments of a call, or what the head
        of a function takes that is called as others are."""
        found: list[Candidate] = []
        for source, drafts in (("call", arguments_for), ("head", heads_for)):
            for draft in drafts(scene, gap, request.path, self.index)[:MAX_SHOWN_DRAFTS]:
                found += self._passed(draft.text, draft.probability(), source, scene, gap)
        return found

    def _passed(self, text: str, confidence: float, source: str, scene: Scene, gap: Gap) -> list[Candidate]:
        """A draft as a candidate; none where a gate refuses it."""
        outcome = self.trim(text, True, scene, gap)
        if isinstance(outcome, Refusal):
            self.refusals[f"draft-{outcome.reason}"] += 1
            return []
        return [Candidate(outcome, confidence, math.log(confidence), source)]

    def _binding(
        self, name: str, request: InfillRequest, scene: Scene, gap: Gap, started: float, cancelled: Cancelled | None
    ) -> list[Candidate]:
        """What the model would give a name that the gap has to bind."""
        deadline_ms = _left_ms(request, started)
        if deadline_ms is not None and deadline_ms < MIN_SECOND_FILL_MS:
            return []
        begun = replace(gap, extent="rest", lead=f"{gap.lead}{name.removeprefix(head_of(scene, gap))} = ")
        prompt = self._prompt(request, scene, begun)
        problem = self.problem(prompt, begun, replace(request, num_alternatives=1), started)
        results = self.engine.fill(problem, cancelled)
        if any(result.is_cancelled for result in results):
            return []
        found = self._trim(results, scene, begun, problem, prompt.typed)[0]
        return [replace(each, confidence=BINDING_SHARE * each.confidence, source="binding") for each in found[:1]]

    def _learn(self, request: InfillRequest, cancelled: Cancelled | None) -> bool:
        """Take one open document into the index that is new or has changed; False where there is none, or no time."""
        if len(self._learned) > MAX_LEARNED:
            # none of those that are open, however many, or they would be learnt over and over
            here = {neighbour.path for neighbour in request.neighbours}
            self._learned = {path: stamp for path, stamp in self._learned.items() if path in here}
        if self._indexer is not None:
            self._indexer.prefer((request.path, *(neighbour.path for neighbour in request.neighbours)))
        for neighbour in request.neighbours:
            if len(neighbour.text) > MAX_FILE_BYTES:
                continue
            stamp = hash(neighbour.text)
            if self._learned.get(neighbour.path) != stamp and not self.is_excluded(neighbour.path):
                # before it comes in, or it would be the first to go where only open documents are left
                self.index.keep((*self._learned, neighbour.path))
                if not self.index.update(neighbour.path, neighbour.text, cancelled=cancelled):
                    return False
                self._learned[neighbour.path] = stamp
                return True
        return False

    def _comparable(
        self,
        candidates: list[Candidate],
        others: list[Candidate],
        gap: Gap,
        problem: CanvasProblem,
        typed: str,
        cancelled: Cancelled | None,
    ) -> list[Candidate]:
        """All candidates by one measure, the encoder's: where diffusion is given an answer's end, that end costs it
        nothing, and the shortest would win. candidates: the causal answer, if it may be shown. others: by diffusion.
        """
        every = [*candidates, *others]
        if not self.policy.can_score or not others or len(every) < 2:
            return every
        scores = self.scores(problem, gap, [typed + each.trimmed.middle for each in every], cancelled)
        if scores is None:
            return every
        # the causal answer was held to the word that is typed, which nothing is while it is scored: it keeps what it
        # has, and the others stand as far from it as the scores do
        shift = candidates[0].logprob - scores[0].logprob_sum if candidates else 0.0
        for i in range(len(candidates), len(every)):
            features = replace(scores[i], logprob_sum=scores[i].logprob_sum + shift)
            confidence = self.calibration.probability(features)
            every[i] = replace(every[i], confidence=confidence, logprob=features.logprob_sum)
        return every

    def scores(
        self, problem: CanvasProblem, gap: Gap, texts: Sequence[str], cancelled: Cancelled | None = None
    ) -> list[Features] | None:
        """How likely the encoder finds each text in the gap that the problem is about; None when cancelled."""
        tokens = [(*self.tokenizer.encode(text.replace("\r\n", "\n")), *self.tokenizer.ending) for text in texts]
        canvases = tuple(Canvas(each, (False,) * len(each)) for each in tokens)
        scoring = replace(problem, decoding="score", canvases=canvases, opening=(), floor=None)
        results = self.engine.fill(scoring, cancelled)
        if any(result.is_cancelled for result in results):
            return None
        return [Features(sum(r.logprob), len(r.tokens), gap.extent, problem.decoding) for r in results]

    def trim(self, raw: str, is_complete: bool, scene: Scene, gap: Gap) -> Trimmed | Refusal:
        """What to show of a middle (trim.py)."""
        return trim(raw, is_complete, gap, scene, is_gated=self.policy.use_syntax_gate)

    def _trim(
        self, results: list[CanvasResult], scene: Scene, gap: Gap, problem: CanvasProblem, typed: str
    ) -> tuple[list[Candidate], str]:
        """The results worth ranking, and why the first of the others is not. typed: what each has to begin with."""
        candidates: list[Candidate] = []
        first_reason = ""
        for number, (result, canvas) in enumerate(zip(results, problem.canvases, strict=True)):
            is_enough = len({each.trimmed.text for each in candidates}) >= problem.num_certain
            if problem.decoding == "beam" and number and (is_enough or not result.is_finished):
                # the likeliest come first, and what is no answer comes last
                break
            if result.is_given_up:
                first_reason = first_reason or "low-confidence"
                continue
            if is_raw(result, problem):
                outcome: Trimmed | Refusal = Refusal("deadline")
            else:
                # what is pinned behind a candidate length is no part of the middle
                end = min(result.end, canvas.pinned.index(True) if True in canvas.pinned else result.end)
                raw = self.tokenizer.answer(result.tokens[:end])
                is_whole = result.is_finished or problem.decoding == "denoise"
                is_complete = is_whole and result.end < len(canvas.tokens)
                if raw.startswith(typed):
                    outcome = self.trim(raw.removeprefix(typed), is_complete, scene, gap)
                else:
                    # the deadline came first, or an engine that knows no opening
                    outcome = Refusal("unfinished")
            if isinstance(outcome, Refusal):
                self.refusals[outcome.reason] += 1
                first_reason = first_reason or outcome.reason
                continue
            features = features_of(result, gap, problem)
            candidates.append(Candidate(outcome, self.calibration.probability(features), features.logprob_sum))
        return candidates, first_reason

    def _nothing(self, reason: str, started: float, timings: InfillTimings | None = None) -> InfillResult:
        if timings is None or reason == "low-confidence":
            self.refusals[reason] += 1
        timings = replace(timings or InfillTimings(), total_ms=_ms_since(started))
        return InfillResult(declined=reason, timings=timings)


def _no_indexing() -> None:
    return


def _left_ms(request: InfillRequest, started: float) -> float | None:
    """What is left of the request's deadline for the engine."""
    if request.deadline_ms is None:
        return None
    return max(1.0, request.deadline_ms - _ms_since(started) - TRIM_RESERVE_MS)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3


def _timings(results: list[CanvasResult], layout_ms: float, trim_ms: float, started: float) -> InfillTimings:
    # the canvases share one sweep, so its times are the longest of theirs, not the sum
    work = max((result.timings for result in results), key=lambda t: t.denoise_ms + t.verify_ms, default=Timings())
    return InfillTimings(
        layout_ms=layout_ms,
        prefill_ms=work.prefill_ms,
        denoise_ms=work.denoise_ms,
        verify_ms=work.verify_ms,
        trim_ms=trim_ms,
        total_ms=_ms_since(started),
        num_prefilled=work.num_prefilled,
        num_cached=work.num_cached,
        num_forwards=work.num_forwards,
        steps=max((result.steps for result in results), default=0),
    )
