"""What `lacuna bench` can be asked to do, one function each, which puts what it measures into the session's results.

Between the command line, which says what is wanted, and the rooms' parts, which do one thing each. Shows nothing but
progress.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import rich.progress
from rich.console import Console

from ..infill.infiller import LocalInfiller
from .ablate import run_variant, variants
from .baselines import GENERATE, baseline
from .datasets import Task, check_all
from .edits import Writing
from .errors import ServerError, SnapshotError
from .execution import execute, noticed_bodies, prepare
from .holes import Hole, Progress, cut_holes
from .joint import compare_joint
from .replay import Pace, replay
from .results import FAILED, Json, Results, SubjectResult, option_of
from .run import ServerSpec, run_baseline, run_server
from .sandbox import Limits
from .scale import SCALERS, SIZES, ScaleKind
from .snapshot import Snapshot
from .subject import Conditions
from .windows import measure_windows


class Bars:
    """Progress bars on stderr; nothing where stderr is no terminal."""

    def __init__(self, progress: rich.progress.Progress) -> None:
        self._progress = progress

    @contextmanager
    def task(self, title: str, total: int) -> Generator[Progress]:
        """One bar; call what is given with the number of things done."""
        task = self._progress.add_task(title, total=total)
        yield lambda done: self._progress.update(task, completed=done)


@contextmanager
def bars() -> Generator[Bars]:
    """Progress bars for everything inside."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with rich.progress.Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bars(progress)


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is asked, and how; what has to be read of the command line before hours are spent.

    num_generated: how many holes are asked of transformers' own generate. scales, windows, tests: see add_scale,
    add_windows and add_execution.
    """

    servers: Sequence[ServerSpec]
    baselines: Sequence[str]
    conditions: Conditions
    seed: int
    num_generated: int
    scales: Sequence[ScaleKind]
    windows: Sequence[int]
    tests: Sequence[str]

    def engine_option(self, name: str, default: str) -> str:
        """The server's option engine.NAME, which what runs in this process keeps to."""
        return option_of(self.conditions.initialization_options, "engine", name, default)


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the command: what is asked, of what code, and where it goes.

    keep: called whenever there is more in results, to put it where nothing that happens later can lose it.
    """

    plan: Plan
    snapshot: Snapshot
    results: Results
    bars: Bars
    keep: Callable[[], object]


def ask_all(session: Session, holes: Sequence[Hole], subjects: list[SubjectResult]) -> None:
    """Every subject on every hole, each put into subjects before it is asked.

    A server that ends for good in the middle keeps what it answered, and says so in its note; the others go on.
    Raises: ServerError where one cannot be started at all.
    """
    plan, snapshot = session.plan, session.snapshot
    for spec in plan.servers:
        with _entered(session, spec.name, len(holes), subjects) as (subject, told):
            try:
                asyncio.run(run_server(spec, snapshot, holes, plan.conditions, subject, told))
            except ServerError as error:
                if not subject.records:
                    raise
                num_asked = len({record.hole for record in subject.records})
                subject.note = f"{FAILED} after {num_asked} of {len(holes)} holes: {error}"
    for name in plan.baselines:
        asked = holes[:: max(1, -(-len(holes) // plan.num_generated))] if name == GENERATE else holes
        with _entered(session, name, len(asked), subjects) as (subject, told):
            run_baseline(baseline(name, plan.engine_option("model", "")), snapshot, asked, subject, told)


def ask_variants(session: Session, holes: Sequence[Hole]) -> None:
    """Lacuna's own infiller, whole and with one part left out, on every hole. See ablate.py."""
    with own_infiller(session.plan) as infiller:
        for variant in variants(infiller.policy):
            with _entered(session, variant.name, len(holes), session.results.subjects) as (subject, told):
                conditions = session.plan.conditions
                run_variant(infiller, variant, session.snapshot, holes, conditions, subject, told)


@contextmanager
def _entered(
    session: Session, name: str, num_holes: int, subjects: list[SubjectResult]
) -> Generator[tuple[SubjectResult, Progress]]:
    """A subject that is among subjects, also while it is asked, and its bar; not where nothing was asked of it."""
    subject = SubjectResult(name)
    subjects.append(subject)
    try:
        with session.bars.task(name, num_holes) as told:
            yield subject, told
    finally:
        if not subject.records:
            subjects.remove(subject)
    session.keep()


@contextmanager
def own_infiller(plan: Plan) -> Generator[LocalInfiller]:
    """Lacuna's own infiller in this process, which only some modes need, with the model that the options name.

    Raises: LacunaError's kinds.
    """
    from ..infill.load import load_infiller

    infiller = load_infiller(plan.engine_option("model", ""), plan.engine_option("device", "auto"))
    try:
        yield infiller
    finally:
        infiller.close()


def add_joint(session: Session, count: int) -> None:
    """Several holes of a document jointly against one by one, by Lacuna's own infiller. See joint.py.

    Raises: SnapshotError where the snapshot has no place for several gaps.
    """
    holes = cut_holes(session.snapshot, ["gaps"], count, session.plan.seed)
    if not holes:
        raise SnapshotError(f"Nowhere in {session.snapshot.title} can several gaps be cut into one document.")
    with own_infiller(session.plan) as infiller, session.bars.task("several gaps", len(holes)) as told:
        session.results.extras["joint"] = compare_joint(infiller, holes, told)
    session.keep()


def add_replay(session: Session, writings: Sequence[Writing], pace: Pace, max_keys: int) -> None:
    """Replayed typing, once as somebody who accepts and once as somebody who types everything."""
    plan = session.plan
    rows = session.results.extras.setdefault("replay", [])
    for spec in plan.servers:
        for accepts in (True, False):
            with session.bars.task(f"{spec.name}, typing", max_keys) as told:
                stats, _ = asyncio.run(
                    replay(
                        spec.command,
                        writings,
                        plan.conditions,
                        pace=pace,
                        accepts=accepts,
                        seed=plan.seed,
                        max_keys=max_keys,
                        snapshot=session.snapshot,
                        progress=told,
                    )
                )
            rows.append({"subject": spec.name, "pace": pace, "accepts": accepts, **stats.summary()})
    session.keep()


def add_scale(session: Session, most: int, count: int) -> None:
    """Latency as the work grows in the ways of plan.scales, for the first server.

    Sizes above most are left out (0: none is). What there is is kept after each size, because the large ones take long.
    """
    plan = session.plan
    found: dict[str, list[Json]] = session.results.extras.setdefault("scale", {})
    spec = plan.servers[0]
    for kind in plan.scales:
        sizes = [size for size in SIZES[kind] if not most or size <= most]
        with session.bars.task(f"{spec.name}, {kind}", len(sizes)) as told:
            for number, size in enumerate(sizes, 1):
                row = asyncio.run(SCALERS[kind](spec.command, session.snapshot, plan.conditions, size, count))
                found.setdefault(kind, []).append(row)
                told(number)
                session.keep()


def add_windows(session: Session) -> None:
    """Memory of several windows of one user (plan.windows: of how many, several times), and the death of the one with
    the model; for the first server."""
    rows = session.results.extras.setdefault("windows", [])
    spec = session.plan.servers[0]
    for count in session.plan.windows:
        with session.bars.task(f"{spec.name}, {count} windows", count) as told:
            row = asyncio.run(measure_windows(spec.command, session.plan.conditions, count, told))
        rows.append({"subject": spec.name, **row})
    session.keep()


def add_execution(session: Session, count: int, limits: Limits) -> None:
    """The snapshot's own tests (run by the command plan.tests) around filled bodies, for every subject.

    Raises: SnapshotError where the tests do not pass as they are, or notice nothing.
    """
    snapshot, plan = session.snapshot, session.plan
    with tempfile.TemporaryDirectory(prefix="lacuna-execute-") as name:
        bench = prepare(snapshot, Path(name), plan.tests, limits)
        with session.bars.task("bodies that tests notice", count) as told:
            holes, tried = noticed_bodies(bench, snapshot, count, plan.seed, told)
        if not holes:
            raise SnapshotError(f"The tests of {snapshot.title} noticed none of {tried} missing function bodies.")
        rows = session.results.extras.setdefault("execution", [])
        subjects: list[SubjectResult] = []
        # what they answer is no result before it has run
        ask_all(replace(session, keep=lambda: None), holes, subjects)
        for subject in subjects:
            with session.bars.task(f"{subject.name}, tests", len(holes)) as told:
                row = execute(bench, holes, subject.records, told)
            rows.append({"subject": subject.name, "tried": tried, **row})
    session.keep()


def add_checks(session: Session, tasks: Sequence[Task], limits: Limits) -> None:
    """pass@1 of every subject on the tasks of a data set."""
    rows = session.results.extras.setdefault("execution", [])
    for subject in session.results.subjects:
        with session.bars.task(f"{subject.name}, running", len(subject.records)) as told:
            rows.append({"subject": subject.name, **check_all(tasks, subject.records, limits, told)})
    session.keep()
