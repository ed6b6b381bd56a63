"""`lacuna bench`: reads the command line, runs, shows tables on stdout and progress on stderr, writes files."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from ..infill.baselines import BASELINES
from ..infill.languages import LANGUAGES, PLAIN_TEXT
from .baselines import GENERATE
from .datasets import Task, is_dataset, read_tasks
from .edits import Writing, from_commits, from_diff, stretches
from .errors import BenchError
from .execution import TEST_LIMITS
from .holes import DEFAULT_KINDS, KINDS, WRITTEN_KINDS, Hole, HoleKind, cut_holes
from .modes import (
    Plan,
    Session,
    add_checks,
    add_execution,
    add_joint,
    add_replay,
    add_scale,
    add_windows,
    ask_all,
    ask_variants,
    bars,
)
from .report import write_report
from .results import FAILED, Json, Paired, Results, by, check_writable, compare, load, save
from .run import ServerSpec, about_run, about_snapshot
from .sandbox import Limits
from .scale import SCALE_KINDS, ScaleKind
from .snapshot import Snapshot, read_snapshot
from .subject import Conditions, default_command, parse_command
from .tables import ablation_table, compare_table, extras_tables, tables, wide_console
from .written import STATES

STRETCHES_PER_REPLAY = 4
ALL_BASELINES = [*BASELINES, GENERATE]
ALL_LANGUAGES = [language.name for language in LANGUAGES if language is not PLAIN_TEXT]
INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended."""


def parser() -> argparse.ArgumentParser:
    """The command line of `lacuna bench`."""
    out = argparse.ArgumentParser(
        prog="lacuna bench",
        description="Cut holes into a repository snapshot, have a language server fill them as an editor would ask, "
        "and report how good and how fast the proposals are.",
    )
    out.add_argument(
        "snapshot",
        nargs="?",
        type=Path,
        metavar="SNAPSHOT",
        help="a folder, git checkout, sdist, zip or wheel; or a .jsonl(.gz) of HumanEval-Infilling or SAFIM",
    )
    who = out.add_argument_group("who is asked")
    who.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="[NAME=]CMD",
        help="a server to measure, also several times; default: this installation's `lacuna serve`",
    )
    who.add_argument(
        "--baselines",
        default=",".join(BASELINES),
        metavar="B,B",
        help=f"none, all, or of: {', '.join(ALL_BASELINES)}; default: {','.join(BASELINES)}",
    )
    who.add_argument(
        "--generate-holes", type=int, default=100, metavar="N", help=f"holes for {GENERATE} (1-2 s each); default: 100"
    )
    who.add_argument(
        "--ablate",
        action="store_true",
        help="instead of servers: Lacuna's own infiller in this process, whole and with one part left out",
    )
    what = out.add_argument_group("holes")
    what.add_argument("--holes", type=int, default=100, metavar="N", help="in equal parts by kind; default: 100")
    what.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    what.add_argument(
        "--kinds",
        default=",".join(DEFAULT_KINDS),
        metavar="K,K",
        help=f"all, or of: {', '.join(KINDS)}; default: {','.join(DEFAULT_KINDS)}",
    )
    what.add_argument(
        "--written",
        choices=STATES,
        default="finished",
        help="the function around a hole is finished, or written up to the cursor, with brackets and quotes open, or "
        f"closed as by VS Code (both for {', '.join(WRITTEN_KINDS)}); default: finished",
    )
    what.add_argument(
        "--languages",
        default="code",
        metavar="L,L",
        help=f"code (no data or markup), all, or of: {', '.join(ALL_LANGUAGES)}; default: code",
    )
    what.add_argument("--no-tests", action="store_true", help="leave the snapshot's own tests out")
    how = out.add_argument_group("how it is asked")
    how.add_argument("--explicit", action="store_true", help="as by a key, not as while typing")
    how.add_argument("--keys", type=int, default=2, metavar="N", help="characters typed before; default: 2")
    how.add_argument("--key-ms", type=float, default=150.0, metavar="MS", help="time between them; default: 150")
    how.add_argument("--think-ms", type=float, default=0.0, metavar="MS", help="from last key to request; default: 0")
    how.add_argument("--neighbours", type=int, default=2, metavar="N", help="other documents open; default: 2")
    how.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="longest wait for one answer; default: 30"
    )
    how.add_argument("--ready", type=float, default=180.0, metavar="S", help="longest wait for the model; default: 180")
    how.add_argument("--options", default="", metavar="JSON", help="the server's options, as a JSON object")
    more = out.add_argument_group("more than holes (--holes 0: only these)")
    more.add_argument("--replay", choices=("fast", "human"), help="type stretches of the snapshot key by key")
    more.add_argument("--replay-diff", type=Path, metavar="PATCH", help="type what a unified diff changes instead")
    more.add_argument("--replay-commits", metavar="A..B", help="type what changed between two revisions instead")
    more.add_argument("--replay-keys", type=int, default=1000, metavar="N", help="how many keys; default: 1000")
    more.add_argument("--joint", type=int, default=0, metavar="N", help="N documents: several holes jointly and singly")
    more.add_argument("--scale", metavar="K,K", help=f"latency as work grows: all, or of: {', '.join(SCALE_KINDS)}")
    more.add_argument("--scale-max", type=int, default=0, metavar="N", help="leave larger sizes out")
    more.add_argument("--scale-requests", type=int, default=30, metavar="N", help="requests per size; default: 30")
    more.add_argument("--windows", default="", metavar="N,N", help="memory of N windows, and kill -9 of the first")
    more.add_argument("--execute", type=int, default=0, metavar="N", help="run the snapshot's tests on N filled bodies")
    more.add_argument("--tests", default="", metavar="CMD", help="how its tests are run; default: pytest")
    more.add_argument("--limit-s", type=float, default=0.0, metavar="S", help="time for one run of a program or tests")
    more.add_argument("--limit-mib", type=int, default=0, metavar="MIB", help="memory for one run")
    out.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    out.add_argument("--html", type=Path, metavar="FILE", help="write the report, one file with everything in it")
    other = out.add_argument_group("instead of a run")
    other.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="compare two results files")
    other.add_argument("--from", dest="report_from", nargs="+", type=Path, metavar="JSON", help="report former runs")
    return out


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line. Returns the exit code: 0 well, 1 it could not be done, 2 it was asked wrongly, 130 it was
    interrupted."""
    return parse_or_report(parser(), argv, _dispatch)


def parse_or_report(
    given: argparse.ArgumentParser, argv: Sequence[str] | None, command: Callable[[argparse.Namespace], int]
) -> int:
    """Parse argv and run command on it; what goes wrong in the world is one message on stderr, and 1; Ctrl-C is 130."""
    try:
        return command(given.parse_args(argv))
    except BenchError as error:
        sys.stderr.write(f"{given.prog}: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{given.prog}: interrupted\n")
        return INTERRUPTED


def _dispatch(options: argparse.Namespace) -> int:
    if options.compare:
        return _compare(*options.compare)
    if options.report_from:
        if options.html is None:
            raise BenchError("--from writes a report: name its file with --html.")
        write_report([load(path) for path in options.report_from], options.html)
        return 0
    if options.snapshot is None:
        sys.stderr.write("lacuna bench: name a SNAPSHOT (a folder, sdist, zip or wheel), or --compare A B.\n")
        return 2
    more = (options.replay, options.replay_diff, options.replay_commits, options.joint, options.scale, options.windows)
    if options.holes <= 0 and not any(more) and not options.execute and not is_dataset(options.snapshot):
        sys.stderr.write("lacuna bench: --holes 0 leaves nothing to do: add --replay, --joint, --scale or another.\n")
        return 2
    return _bench(options)


def _words(text: str, known: Sequence[str], what: str) -> list[str]:
    """The words of a list with commas, or all that are known. Raises: BenchError."""
    if text == "all":
        return list(known)
    words = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in known]
    if unknown:
        raise BenchError(f"There is no {what} {', '.join(unknown)}; there are {', '.join(known)}.")
    return words


def specs(commands: Sequence[str]) -> list[ServerSpec]:
    """The servers that are named on the command line; this installation's own where none is.

    Raises: ServerError.
    """
    if not commands:
        return [ServerSpec("lacuna", tuple(default_command()))]
    found: list[ServerSpec] = []
    for number, text in enumerate(commands, 1):
        name, mark, rest = text.partition("=")
        is_named = bool(mark) and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        words = parse_command(rest if is_named else text)
        default = Path(words[0]).name if len(commands) == 1 else f"{number}:{Path(words[0]).name}"
        found.append(ServerSpec(name if is_named else default, tuple(words)))
    return found


def conditions_of(options: argparse.Namespace) -> Conditions:
    """The conditions that the command line names. Raises: BenchError."""
    given: Json | None = None
    if options.options:
        try:
            parsed: Any = json.loads(options.options)
        except ValueError as error:
            raise BenchError(f"--options is no JSON: {error}.") from error
        if not isinstance(parsed, dict):
            raise BenchError("--options must be a JSON object.")
        given = cast(Json, parsed)
    return Conditions(
        is_explicit=options.explicit,
        num_keys=max(0, options.keys),
        key_ms=options.key_ms,
        think_ms=options.think_ms,
        timeout_s=options.timeout,
        ready_timeout_s=options.ready,
        num_neighbours=options.neighbours,
        initialization_options=given,
        settings={"lacuna": given} if given is not None else None,
    )


def numbers(text: str) -> list[int]:
    """Whole numbers from 1 on, with commas between them. Raises: BenchError."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise BenchError(f"{text!r} is no list of numbers, for example 2,8.") from error
    if min(found) < 1:
        raise BenchError(f"{text!r} holds a number below 1.")
    return found


def limits_of(options: argparse.Namespace, usual: Limits) -> Limits:
    """The limits that the command line names, the usual ones where it does not."""
    return Limits(options.limit_s or usual.seconds, options.limit_mib or usual.memory_mib)


def _plan(options: argparse.Namespace) -> Plan:
    """Raises: BenchError."""
    baselines = [] if options.baselines == "none" else _words(options.baselines, ALL_BASELINES, "baseline")
    scales = cast("list[ScaleKind]", _words(options.scale or "", SCALE_KINDS, "scale"))
    return Plan(
        servers=specs(options.server),
        baselines=baselines,
        conditions=conditions_of(options),
        seed=options.seed,
        num_generated=max(1, options.generate_holes),
        scales=scales,
        windows=numbers(options.windows) if options.windows else [],
        tests=parse_command(options.tests, "test command") if options.tests.strip() else [],
    )


def _kinds(options: argparse.Namespace) -> list[HoleKind]:
    """Raises: BenchError."""
    is_begun = options.written != "finished"
    # "all" are all that there are in this state
    kinds = _words(options.kinds, WRITTEN_KINDS if is_begun and options.kinds == "all" else KINDS, "kind of hole")
    if is_begun and is_dataset(options.snapshot):
        raise BenchError("The tasks of a data set are in finished code: leave --written out.")
    if is_begun and (others := [kind for kind in kinds if kind not in WRITTEN_KINDS]):
        raise BenchError(f"--written {options.written} has no {', '.join(others)}; it has {', '.join(WRITTEN_KINDS)}.")
    return cast("list[HoleKind]", kinds)


def _bench(options: argparse.Namespace) -> int:
    # all that can be wrong with the command line before the holes, which may take hours
    kinds = _kinds(options)
    languages = [] if options.languages == "code" else _words(options.languages, ALL_LANGUAGES, "language")
    plan = _plan(options)
    if options.replay_diff is not None and not options.replay_diff.is_file():
        raise BenchError(f"There is no diff {options.replay_diff}.")
    for path in (options.json, options.html):
        if path is not None:
            check_writable(path)
    tasks: list[Task] = []
    holes: list[Hole] = []
    if is_dataset(options.snapshot):
        tasks, skipped = read_tasks(options.snapshot, options.holes)
        holes = [task.hole for task in tasks]
        snapshot = _as_snapshot(options.snapshot, tasks, skipped)
    else:
        snapshot = read_snapshot(options.snapshot, languages, include_tests=not options.no_tests)
        if options.holes > 0:
            ordered: list[HoleKind] = [kind for kind in KINDS if kind in kinds]
            with bars() as all_bars, all_bars.task("cutting holes", options.holes) as told:
                holes = cut_holes(snapshot, ordered, options.holes, options.seed, told, written=options.written)
            if not holes:
                raise BenchError("No hole of these kinds can be cut into this snapshot. Try --kinds all.")
    about = about_run(plan.conditions, seed=options.seed, kinds=kinds, num_holes=len(holes), written=options.written)
    results = Results(about, about_snapshot(snapshot))

    def keep() -> None:
        if options.json:
            save(results, options.json)

    try:
        with bars() as all_bars:
            _measure(options, Session(plan, snapshot, results, all_bars, keep), holes, tasks)
    except BaseException as error:
        is_failure = isinstance(error, Exception)
        results.about["ended"] = (str(error).split("\n", 1)[0] if is_failure else "") or "interrupted"
        raise
    finally:
        # hours may have gone into what there is: it is kept and shown, whatever ended the rest
        if results.subjects or any(results.extras.values()):
            keep()
            _show(options, results)
    failed = [subject for subject in results.subjects if subject.note.startswith(FAILED)]
    for subject in failed:
        sys.stderr.write(f"lacuna bench: {subject.name} {subject.note}\n")
    return 1 if failed else 0


def _measure(options: argparse.Namespace, session: Session, holes: Sequence[Hole], tasks: Sequence[Task]) -> None:
    """Everything that is asked for, into the session's results."""
    if holes and options.ablate:
        ask_variants(session, holes)
    elif holes:
        ask_all(session, holes, session.results.subjects)
    if tasks:
        add_checks(session, tasks, limits_of(options, Limits()))
    if options.replay or options.replay_diff or options.replay_commits:
        add_replay(session, _writings(options, session.snapshot), options.replay or "fast", options.replay_keys)
    if options.joint:
        add_joint(session, options.joint)
    if session.plan.scales:
        add_scale(session, options.scale_max, options.scale_requests)
    if session.plan.windows:
        add_windows(session)
    if options.execute:
        add_execution(session, options.execute, limits_of(options, TEST_LIMITS))


def _writings(options: argparse.Namespace, snapshot: Snapshot) -> list[Writing]:
    """What a replay types. Raises: BenchError."""
    if options.replay_diff:
        return from_diff(snapshot, options.replay_diff)
    if options.replay_commits:
        return from_commits(options.snapshot, options.replay_commits)
    num_keys = max(20, options.replay_keys // STRETCHES_PER_REPLAY)
    return stretches(snapshot, 2 * STRETCHES_PER_REPLAY, num_keys, options.seed)


def _show(options: argparse.Namespace, results: Results) -> None:
    """The tables first: they need nothing but a terminal."""
    wide_console().print(tables(results))
    if options.ablate and results.subjects:
        wide_console().print(ablation_table(results.subjects))
    wide_console().print(extras_tables(results.extras))
    if options.html:
        write_report([results], options.html)


def _as_snapshot(path: Path, tasks: Sequence[Task], skipped: dict[str, int]) -> Snapshot:
    """A file of tasks in the place of a snapshot: every task is a file alone in its folder, so that none is another's
    neighbour."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    files = tuple(task.hole.file for task in tasks)
    return Snapshot(path.name.split(".jsonl")[0], "", "folder", path, files, digest, skipped)


def _compare(first_path: Path, second_path: Path) -> int:
    first, second = load(first_path), load(second_path)
    others = {subject.name: subject for subject in second.subjects}
    pairs: list[tuple[str, str, Paired]] = []
    for subject in first.subjects:
        other = others.get(subject.name)
        if other is None:
            continue
        pairs.append((subject.name, "all", compare(subject.records, other.records)))
        kinds = by(subject.records, lambda record: record.kind)
        if subject.command and len(kinds) > 1:
            pairs += [(subject.name, kind, compare(records, other.records)) for kind, records in kinds.items()]
    if not any(pair.num_shared for _, _, pair in pairs):
        raise BenchError(
            f"{first_path} and {second_path} share no gap of one subject: compare runs over the same snapshot, seed, "
            "kinds and --written, with the same subject names."
        )
    if first.snapshot.get("sha256") != second.snapshot.get("sha256"):
        sys.stderr.write(
            f"lacuna bench: {first_path} and {second_path} are of different snapshots (their sha256 differ); only "
            "gaps at the same place with the same text are compared.\n"
        )
    wide_console().print(compare_table(pairs, first_path.name, second_path.name))
    return 0
