"""`lacuna bench`: reads the command line, runs, shows tables on stdout and progress on stderr, writes files."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from .baselines import BASELINES
from .errors import BenchError
from .holes import DEFAULT_KINDS, KINDS, cut_holes
from .report import write_report
from .results import Results, by, compare, load, save
from .run import ServerSpec, about_run, about_snapshot, run_baseline, run_server
from .snapshot import read_snapshot
from .subject import Conditions, default_command, parse_command
from .tables import compare_table, tables, wide_console


class Bars:
    """Progress bars on stderr; nothing where stderr is no terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[TaskTold]:
        """One bar; call what is given with the number of things done."""
        task = self._progress.add_task(title, total=total)
        yield TaskTold(self._progress, task)


class TaskTold:
    """Call it with how many are done."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def __call__(self, done: int) -> None:
        self._progress.update(self._task, completed=done)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars for everything inside."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bars(progress)


def parser() -> argparse.ArgumentParser:
    """The command line of `lacuna bench`."""
    out = argparse.ArgumentParser(
        prog="lacuna bench",
        description="Cut holes into a repository snapshot, have a language server fill them as an editor would ask, "
        "and report how good and how fast the proposals are.",
    )
    out.add_argument(
        "snapshot", nargs="?", type=Path, metavar="SNAPSHOT", help="folder, git checkout, sdist, zip, wheel"
    )
    out.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="[NAME=]CMD",
        help="a server to measure, also several; default: this installation's `lacuna serve`",
    )
    out.add_argument("--holes", type=int, default=100, metavar="N", help="in all, in equal parts by kind; default: 100")
    out.add_argument("--seed", type=int, default=0, metavar="S")
    out.add_argument(
        "--kinds",
        default=",".join(DEFAULT_KINDS),
        metavar="K,K",
        help=f"all, or of: {', '.join(KINDS)}; default: {','.join(DEFAULT_KINDS)}",
    )
    out.add_argument("--languages", default="", metavar="L,L", help="default: all that are known")
    out.add_argument("--no-tests", action="store_true", help="leave the snapshot's own tests out")
    out.add_argument(
        "--baselines", default=",".join(BASELINES), metavar="B,B", help=f"none, or of: {', '.join(BASELINES)}"
    )
    out.add_argument("--explicit", action="store_true", help="ask as by a key, not as while typing")
    out.add_argument("--keys", type=int, default=2, metavar="N", help="characters that are typed before; default: 2")
    out.add_argument("--key-ms", type=float, default=150.0, metavar="MS", help="time between them; default: 150")
    out.add_argument("--think-ms", type=float, default=0.0, metavar="MS", help="from last key to request; default: 0")
    out.add_argument("--neighbours", type=int, default=2, metavar="N", help="other documents open; default: 2")
    out.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="longest wait for one answer; default: 30"
    )
    out.add_argument(
        "--options", default="", metavar="JSON", help="initialization options, or settings, as JSON object"
    )
    out.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    out.add_argument("--html", type=Path, metavar="FILE", help="write the report, one file with everything in it")
    out.add_argument(
        "--from", dest="report_from", nargs="+", type=Path, metavar="JSON", help="only write the report of former runs"
    )
    out.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="compare two results files instead")
    return out


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line. Returns the exit code: 0 well, 1 it could not be done, 2 it was asked wrongly."""
    return parse_or_report(parser(), argv, _dispatch)


def parse_or_report(
    given: argparse.ArgumentParser, argv: Sequence[str] | None, command: Callable[[argparse.Namespace], int]
) -> int:
    """Parse argv and run command on it; what goes wrong in the world is one message on stderr, and 1."""
    try:
        return command(given.parse_args(argv))
    except BenchError as error:
        sys.stderr.write(f"{given.prog}: {error}\n")
        return 1


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
    return _bench(options)


def _words(text: str, known: Sequence[str], everything: str, what: str) -> list[str]:
    if text == everything:
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
    given: dict[str, Any] | None = None
    if options.options:
        try:
            given = json.loads(options.options)
        except ValueError as error:
            raise BenchError(f"--options is no JSON: {error}.") from error
        if not isinstance(given, dict):
            raise BenchError("--options must be a JSON object.")
    return Conditions(
        is_explicit=options.explicit,
        num_keys=max(0, options.keys),
        key_ms=options.key_ms,
        think_ms=options.think_ms,
        timeout_s=options.timeout,
        num_neighbours=options.neighbours,
        initialization_options=given,
        settings={"lacuna": given} if given is not None else None,
    )


def _bench(options: argparse.Namespace) -> int:
    servers = specs(options.server)
    kinds = _words(options.kinds, KINDS, "all", "kind of hole")
    baselines = [] if options.baselines == "none" else _words(options.baselines, list(BASELINES), "all", "baseline")
    conditions = conditions_of(options)
    languages = [word for word in options.languages.split(",") if word]
    snapshot = read_snapshot(options.snapshot, languages, include_tests=not options.no_tests)
    with bars() as all_bars:
        with all_bars.task("cutting holes", options.holes) as told:
            holes = cut_holes(snapshot, [kind for kind in KINDS if kind in kinds], options.holes, options.seed, told)
        if not holes:
            raise BenchError("No hole of these kinds can be cut into this snapshot. Try --kinds all.")
        about = about_run(conditions, seed=options.seed, kinds=kinds, num_holes=len(holes))
        results = Results(about, about_snapshot(snapshot))
        for spec in servers:
            with all_bars.task(spec.name, len(holes)) as told:
                results.subjects.append(asyncio.run(run_server(spec, snapshot, holes, conditions, told)))
        for name in baselines:
            with all_bars.task(name, len(holes)) as told:
                results.subjects.append(run_baseline(name, snapshot, holes, told))
    if options.json:
        save(results, options.json)
    if options.html:
        write_report([results], options.html)
    wide_console().print(tables(results))
    return 0


def _compare(first_path: Path, second_path: Path) -> int:
    first, second = load(first_path), load(second_path)
    others = {subject.name: subject for subject in second.subjects}
    pairs = []
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
            f"{first_path} and {second_path} share no gap of one subject: compare runs over the same snapshot, seed "
            "and kinds, with the same subject names."
        )
    wide_console().print(compare_table(pairs, first_path.name, second_path.name))
    return 0
