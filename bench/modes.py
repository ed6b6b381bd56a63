"""What `lacuna bench` can be asked to do, one function each: results in, the same results with more in them out.

Between the command line, which says what is wanted, and the rooms' parts, which do one thing each. Shows nothing but
progress.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..infill.infiller import LocalInfiller
from .ablate import ablate, variants
from .baselines import GENERATE, baseline
from .datasets import Task, check_all
from .edits import Writing
from .errors import ServerError, SnapshotError
from .execution import Workbench, execute, noticed_bodies, prepare
from .holes import Hole, cut_holes
from .joint import compare_joint
from .replay import Pace, replay
from .results import FAILED, Json, Record, Results, SubjectResult
from .run import Keep, ServerSpec, run_baseline, run_server
from .sandbox import Limits
from .scale import SCALERS, SIZES, ScaleKind
from .snapshot import Snapshot
from .subject import Conditions
from .windows import measure_windows

Told = Callable[[int], object]


class Bars:
    """Progress bars on stderr; nothing where stderr is no terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def task(self, title: str, total: int) -> Generator[Told, None, None]:
        """One bar; call what is given with the number of things done."""
        task = self._progress.add_task(title, total=total)
        yield lambda done: self._progress.update(task, completed=done)


@contextmanager
def bars() -> Generator[Bars, None, None]:
    """Progress bars for everything inside."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bars(progress)


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is asked, and how."""

    servers: Sequence[ServerSpec]
    baselines: Sequence[str]
    conditions: Conditions
    seed: int = 0
    num_generated: int = 100
    """How many holes are asked of transformers' own generate."""
    limits: Limits = field(default_factory=Limits)


def ask_all(
    plan: Plan,
    snapshot: Snapshot,
    holes: Sequence[Hole],
    all_bars: Bars,
    subjects: list[SubjectResult],
    keep: Keep = lambda: None,
) -> None:
    """Every subject on every hole, each put into subjects before it is asked. keep: called after each.

    A server that ends for good in the middle keeps what it answered, and says so in its note; the others go on.
    Raises: ServerError where one cannot be started at all.
    """
    for spec in plan.servers:
        subject = SubjectResult(spec.name)
        with all_bars.task(spec.name, len(holes)) as told, _entered(subject, subjects):
            try:
                asyncio.run(run_server(spec, snapshot, holes, plan.conditions, told, subject))
            except ServerError as error:
                if not subject.records:
                    raise
                num_asked = len({record.hole for record in subject.records})
                subject.note = f"{FAILED} after {num_asked} of {len(holes)} holes: {error}"
        keep()
    engine: Json = (plan.conditions.initialization_options or {}).get("engine", {})
    for name in plan.baselines:
        asked = holes
        if name == GENERATE:
            asked = holes[:: max(1, -(-len(holes) // plan.num_generated))]
        subject = SubjectResult(name)
        with all_bars.task(name, len(asked)) as told, _entered(subject, subjects):
            propose = baseline(name, str(engine.get("model", "")))
            run_baseline(name, propose, snapshot, asked, told, subject)
        keep()


@contextmanager
def _entered(subject: SubjectResult, subjects: list[SubjectResult]) -> Generator[None, None, None]:
    """Have subject among subjects, also while it is asked; not where nothing was asked of it."""
    subjects.append(subject)
    try:
        yield
    finally:
        if not subject.records:
            subjects.remove(subject)


def own_infiller(plan: Plan) -> LocalInfiller:
    """Lacuna's own infiller in this process, which only some modes need, with the model that the options name.

    Raises: LacunaError's kinds.
    """
    from ..infill.load import load_infiller

    engine: Json = (plan.conditions.initialization_options or {}).get("engine", {})
    return load_infiller(engine.get("model"), str(engine.get("device", "auto")))


def ask_variants(
    plan: Plan,
    snapshot: Snapshot,
    holes: Sequence[Hole],
    all_bars: Bars,
    subjects: list[SubjectResult],
    keep: Keep = lambda: None,
) -> None:
    """Lacuna's own infiller, whole and with one part left out, on every hole. See ablate.py, and ask_all for keep."""
    infiller = own_infiller(plan)
    rows = variants(infiller.policy)
    with all_bars.task("ablations", len(rows) * len(holes)) as told:
        offsets = {row.name: number * len(holes) for number, row in enumerate(rows)}
        try:
            ablate(
                infiller,
                rows,
                snapshot,
                holes,
                plan.conditions,
                lambda name: lambda done: told(offsets[name] + done),
                subjects,
                keep,
            )
        finally:
            infiller.close()


def add_joint(results: Results, plan: Plan, snapshot: Snapshot, count: int, all_bars: Bars) -> None:
    """Several holes of a document jointly against one by one, by Lacuna's own infiller. See joint.py.

    Raises: SnapshotError where the snapshot has no place for several gaps.
    """
    holes = cut_holes(snapshot, ["gaps"], count, plan.seed)
    if not holes:
        raise SnapshotError(f"Nowhere in {snapshot.title} can several gaps be cut into one document.")
    infiller = own_infiller(plan)
    try:
        with all_bars.task("several gaps", len(holes)) as told:
            results.extras["joint"] = compare_joint(infiller, holes, told)
    finally:
        infiller.close()


def add_replay(
    results: Results, plan: Plan, writings: Sequence[Writing], pace: Pace, max_keys: int, all_bars: Bars
) -> None:
    """Replayed typing, once as somebody who accepts and once as somebody who types everything."""
    rows = results.extras.setdefault("replay", [])
    for spec in plan.servers:
        for accepts in (True, False):
            with all_bars.task(f"{spec.name}, typing", max_keys) as told:
                stats, _ = asyncio.run(
                    replay(
                        spec.command,
                        writings,
                        plan.conditions,
                        pace=pace,
                        accepts=accepts,
                        seed=plan.seed,
                        max_keys=max_keys,
                        progress=told,
                    )
                )
            rows.append({"subject": spec.name, "pace": pace, "accepts": accepts, **stats.summary()})


def add_scale(
    results: Results,
    plan: Plan,
    snapshot: Snapshot,
    kinds: Sequence[ScaleKind],
    most: int,
    count: int,
    all_bars: Bars,
    keep: Keep = lambda: None,
) -> None:
    """Latency as the work grows, for the first server; sizes above most are left out (0: none is).

    keep: called after each size, because the large ones take long.
    """
    found: dict[str, list[Json]] = results.extras.setdefault("scale", {})
    spec = plan.servers[0]
    for kind in kinds:
        sizes = [size for size in SIZES[kind] if not most or size <= most]
        with all_bars.task(f"{spec.name}, {kind}", len(sizes)) as told:
            for number, size in enumerate(sizes, 1):
                row = asyncio.run(SCALERS[kind](spec.command, snapshot, plan.conditions, size, count))
                found.setdefault(kind, []).append(row)
                told(number)
                keep()


def add_windows(results: Results, plan: Plan, counts: Sequence[int], all_bars: Bars) -> None:
    """Memory of several windows of one user, and the death of the one with the model; for the first server."""
    rows = results.extras.setdefault("windows", [])
    spec = plan.servers[0]
    for count in counts:
        with all_bars.task(f"{spec.name}, {count} windows", count) as told:
            row = asyncio.run(measure_windows(spec.command, plan.conditions, count, told))
        rows.append({"subject": spec.name, **row})


def add_execution(
    results: Results, plan: Plan, snapshot: Snapshot, count: int, tests: Sequence[str], limits: Limits, all_bars: Bars
) -> None:
    """The snapshot's own tests around filled bodies, for every subject.

    Raises: SnapshotError where the tests do not pass as they are, or notice nothing.
    """
    with tempfile.TemporaryDirectory(prefix="lacuna-execute-") as name:
        bench: Workbench = prepare(snapshot, Path(name), tests, limits)
        with all_bars.task("bodies that tests notice", count) as told:
            holes, tried = noticed_bodies(bench, snapshot, count, plan.seed, told)
        if not holes:
            raise SnapshotError(f"The tests of {snapshot.title} noticed none of {tried} missing function bodies.")
        rows = results.extras.setdefault("execution", [])
        subjects: list[SubjectResult] = []
        ask_all(plan, snapshot, holes, all_bars, subjects)
        for subject in subjects:
            with all_bars.task(f"{subject.name}, tests", len(holes)) as told:
                row = execute(bench, holes, subject.records, told)
            rows.append({"subject": subject.name, "tried": tried, **row})


def add_checks(results: Results, tasks: Sequence[Task], limits: Limits, all_bars: Bars) -> None:
    """pass@1 of every subject on the tasks of a data set."""
    rows = results.extras.setdefault("execution", [])
    for subject in results.subjects:
        records: list[Record] = subject.records
        with all_bars.task(f"{subject.name}, running", len(records)) as told:
            rows.append({"subject": subject.name, **check_all(tasks, records, limits, told)})
