"""Ablations: what each part of a fill is worth. One row per part that is left out, over the same holes.

In process, because a server has no option to leave a part out: the infiller is made by its own loader, and each row is
one policy of it (infill/pose.py) over the same loaded model. Keys are typed as subject.py types them: what can be read
before the last key is read outside of the clock. Explicit requests, so that everything that passes the gates is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from ..infill.infiller import LocalInfiller
from ..infill.pose import Policy
from ..infill.request import InfillRequest, Neighbour
from .baselines import neighbours_of
from .holes import Hole
from .results import SubjectResult
from .run import Gap, Keep, Progress, first_gap, judged, next_gap
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
        Variant("without the syntax gate", replace(policy, use_syntax_gate=False)),
        Variant("without token healing", replace(policy, use_healing=False)),
        Variant("greedy instead of a beam search", replace(policy, decoding="verify")),
        Variant("greedy, and no drafting", replace(policy, decoding="autoregressive")),
        Variant(DIFFUSION, replace(policy, decoding="denoise")),
    ]


def ablate(
    infiller: LocalInfiller,
    rows: Sequence[Variant],
    snapshot: Snapshot,
    holes: Sequence[Hole],
    conditions: Conditions,
    told: Callable[[str], Progress],
    into: list[SubjectResult] | None = None,
    keep: Keep = lambda: None,
) -> list[SubjectResult]:
    """Every row on every hole, with the engine of infiller. told: given a row's name, what to tell its progress.

    into: where each row is put before it is asked; keep: called after each.
    """
    found: list[SubjectResult] = into if into is not None else []
    for row in rows:
        one = LocalInfiller(
            infiller.engine,
            infiller.tokenizer,
            calibration=infiller.calibration,
            policy=row.policy,
            rules=infiller.rules,
        )
        found.append(SubjectResult(row.name, about={"base": WHOLE}, note="in the benchmark's own process"))
        _row(one, row, snapshot, holes, conditions, told(row.name), found[-1])
        keep()
    return found


def _row(
    infiller: LocalInfiller,
    row: Variant,
    snapshot: Snapshot,
    holes: Sequence[Hole],
    conditions: Conditions,
    progress: Progress,
    result: SubjectResult,
) -> None:
    # by file, as a server is asked
    for done, hole in enumerate(sorted(holes, key=lambda hole: (hole.file.path, hole.spans)), 1):
        others = neighbours_of(snapshot, hole.file, conditions.num_neighbours) if row.has_neighbours else ()
        neighbours = tuple(Neighbour(file.path, file.text) for file in others)
        gap = first_gap(hole)
        for number in range(len(hole.spans)):
            answer = _ask(infiller, hole, gap, neighbours, conditions)
            result.records.append(judged(hole, number, gap, answer))
            filled = gap.document
            if answer.items:
                item = answer.items[0]
                filled = filled[: item.start] + item.text + filled[item.end :]
            gap = next_gap(hole, number, gap, filled)
        progress(done)
    infiller.recent.forget()


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
