"""Ablations: what each part of a fill is worth. One row per part that is left out, over the same holes.

In process, because a server has no option to leave a part out: the infiller is made by its own loader, and each row is
one policy of it (infill/pose.py) over the same loaded model. Keys are typed as subject.py types them: what can be read
before the last key is read outside of the clock. Explicit requests, so that everything that passes the gates is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from ..infill.infiller import LocalInfiller
from ..infill.pose import Policy
from ..infill.request import InfillRequest, Neighbour
from .baselines import neighbours_of
from .holes import Hole, Progress
from .results import SubjectResult
from .run import Gap, by_file, first_gap, judged, next_gap
from .snapshot import Snapshot
from .subject import Answer, Conditions, Item, split_keys

WHOLE = "as served"
DIFFUSION = "by diffusion"


@dataclass(frozen=True, slots=True)
class Variant:
    """One row. has_neighbours: whether the open documents beside the hole's are shown to the infiller at all."""

    name: str
    policy: Policy
    has_neighbours: bool = True


def variants(policy: Policy) -> list[Variant]:
    """The rows. policy: what the server uses, which is the first row."""
    return [
        Variant(WHOLE, policy),
        Variant("without suffix", replace(policy, use_suffix=False)),
        Variant("without neighbouring context", policy, has_neighbours=False),
        Variant("neighbouring text in the prompt too", replace(policy, use_neighbours=True)),
        Variant("without drafts from similar lines", replace(policy, use_drafts=False)),
        Variant("without missing imports and names", replace(policy, use_needs=False)),
        Variant("without what definitions ask for", replace(policy, use_definitions=False)),
        Variant("without the syntax gate", replace(policy, use_syntax_gate=False)),
        Variant("without token healing", replace(policy, use_healing=False)),
        Variant("greedy instead of a beam search", replace(policy, decoding="verify")),
        Variant("greedy, and no drafting", replace(policy, decoding="autoregressive")),
        Variant(DIFFUSION, replace(policy, decoding="denoise")),
    ]


def run_variant(
    infiller: LocalInfiller,
    variant: Variant,
    snapshot: Snapshot,
    holes: Sequence[Hole],
    conditions: Conditions,
    result: SubjectResult,
    progress: Progress,
) -> None:
    """Ask one row all holes, with the engine of infiller. result: see run.run_server."""
    result.about, result.note = {"base": WHOLE}, "in the benchmark's own process"
    one = LocalInfiller(
        infiller.engine,
        infiller.tokenizer,
        calibration=infiller.calibration,
        policy=variant.policy,
        is_excluded=infiller.is_excluded,
    )
    for done, hole in enumerate(by_file(holes), 1):
        others = neighbours_of(snapshot, hole.file, conditions.num_neighbours) if variant.has_neighbours else ()
        neighbours = tuple(Neighbour(file.path, file.text) for file in others)
        gap = first_gap(hole)
        for number in range(len(hole.spans)):
            answer = _ask(one, hole, gap, neighbours, conditions)
            result.records.append(judged(hole, number, gap, answer))
            gap = next_gap(hole, number, gap, answer)
        progress(done)


def _ask(
    infiller: LocalInfiller, hole: Hole, gap: Gap, neighbours: tuple[Neighbour, ...], conditions: Conditions
) -> Answer:
    request = InfillRequest(
        text=gap.document,
        start=gap.cursor,
        end=gap.cursor,
        language=hole.file.language,
        path=hole.file.path,
        neighbours=neighbours,
        is_explicit=True,
    )
    # one answer must not be another hole's memory
    infiller.recent.forget()
    for key in split_keys(gap.document, gap.cursor, 1) if conditions.num_keys else ():
        place = gap.cursor - len(key)
        before = replace(request, text=gap.document[:place] + gap.document[gap.cursor :], start=place, end=place)
        infiller.prefetch(before)
    begun = perf_counter()
    result = infiller.fill(request)
    elapsed_ms = (perf_counter() - begun) * 1000
    items = tuple(Item(each.text, each.start, each.end, each.confidence) for each in result.proposals)
    timings = result.timings
    counts = {
        "steps": timings.steps,
        "cached": timings.num_cached,
        "prefilled": timings.num_prefilled,
        "forwards": timings.num_forwards,
    }
    source = result.proposals[0].source if result.proposals else ""
    told = {"source": source, **{name: str(count) for name, count in counts.items()}}
    return Answer(items, "" if items else result.declined or "nothing", "", elapsed_ms, None, told)
