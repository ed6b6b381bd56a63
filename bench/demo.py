"""`lacuna demo`: holes in code that the model has never seen, filled by a real server; examples, then the table.

Works offline on a fresh machine: the code is an installed package of the training's hold-out list (Lacuna itself needs
one of them), or any folder or archive that is named.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from ..infill.baselines import BASELINES
from .cli import parse_or_report, specs
from .errors import SnapshotError
from .holes import DEFAULT_KINDS, cut_holes
from .modes import bars
from .report import write_report
from .results import Record, Results, SubjectResult, check_writable, save
from .run import about_run, about_snapshot, run_baseline, run_server
from .snapshot import Snapshot, read_snapshot
from .subject import Conditions
from .tables import milliseconds, tables, wide_console

CANDIDATES = ("click", "rich", "httpx", "attr")
"""Import names of held-out packages (training/holdout.json), the first installed one is taken. rich is always there."""

MAX_EXACT_SHOWN = 4
MAX_OTHERS_SHOWN = 2
BASELINES_SHOWN = ("copy", "n-gram")


def held_out_package() -> Snapshot:
    """The first installed package of CANDIDATES as a snapshot. Raises: SnapshotError where there is none."""
    for name in CANDIDATES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            continue
        folder = Path(next(iter(spec.submodule_search_locations)))
        distributions = importlib.metadata.packages_distributions().get(name, [name])
        try:
            version = importlib.metadata.version(distributions[0])
        except importlib.metadata.PackageNotFoundError:
            version = ""
        return replace(read_snapshot(folder), name=distributions[0], version=version)
    raise SnapshotError(f"None of {', '.join(CANDIDATES)} is installed. Name a folder: lacuna demo FOLDER.")


def parser() -> argparse.ArgumentParser:
    """The command line of `lacuna demo`."""
    out = argparse.ArgumentParser(prog="lacuna demo", description="Fill holes in code that the model has never seen.")
    out.add_argument("snapshot", nargs="?", type=Path, metavar="SNAPSHOT", help="default: a held-out package")
    out.add_argument("--server", action="append", default=[], metavar="CMD", help="default: `lacuna serve`")
    out.add_argument("--holes", type=int, default=30, metavar="N", help="default: 30")
    out.add_argument("--seed", type=int, default=1, metavar="S")
    out.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    out.add_argument("--html", type=Path, metavar="FILE", help="write the report")
    return out


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line. Returns the exit code."""
    return parse_or_report(parser(), argv, _demo)


def _demo(options: argparse.Namespace) -> int:
    for path in (options.json, options.html):
        if path is not None:
            check_writable(path)
    console = wide_console()
    snapshot = read_snapshot(options.snapshot) if options.snapshot else held_out_package()
    spec = specs(options.server)[0]
    # shorter pauses than a person's: a demonstration should not take minutes
    conditions = Conditions(key_ms=60.0)
    holes = cut_holes(snapshot, DEFAULT_KINDS, options.holes, options.seed)
    if not holes:
        raise SnapshotError(f"No hole can be cut into {snapshot.title}. Name another folder.")
    title = escape(snapshot.title)
    console.print(
        f"Cutting {len(holes)} holes into [bold]{title}[/bold] ({len(snapshot.files)} files), which the "
        f"embedded model was not trained on, and filling them through a real language server ..."
        if options.snapshot is None
        else f"Cutting {len(holes)} holes into [bold]{title}[/bold] and filling them ..."
    )
    subject, baselines = SubjectResult(spec.name), [SubjectResult(name) for name in BASELINES_SHOWN]
    with bars() as all_bars, all_bars.task(spec.name, len(holes)) as told:
        asyncio.run(run_server(spec, snapshot, holes, conditions, subject, told))
    for each in baselines:
        run_baseline(BASELINES[each.name], snapshot, holes, each)
    about = about_run(conditions, seed=options.seed, kinds=list(DEFAULT_KINDS), num_holes=len(holes))
    results = Results(about, about_snapshot(snapshot), [subject, *baselines])
    show_examples(console, chosen(subject.records))
    console.print(tables(results))
    if options.json:
        save(results, options.json)
    if options.html:
        write_report([results], options.html)
    return 0


def chosen(records: Sequence[Record]) -> list[Record]:
    """A few to look at: the longest exact proposals, then the nearest of the others, in the order of the files."""
    exact = [record for record in records if record.judgement.is_exact]
    others = [record for record in records if record.proposal and not record.judgement.is_exact]
    exact.sort(key=lambda record: -len(record.reference))
    others.sort(key=lambda record: -record.judgement.similarity)
    picked = [*exact[:MAX_EXACT_SHOWN], *others[:MAX_OTHERS_SHOWN]]
    return [record for record in records if any(record is each for each in picked)]


def show_examples(console: Console, records: Sequence[Record]) -> None:
    """Before and after, in colour; what stood there, where the proposal is another."""
    for record in records:
        is_exact = record.judgement.is_exact
        verdict = "[green]exactly what stood there[/green]" if is_exact else "[yellow]not what stood there[/yellow]"
        console.rule(
            f"{escape(record.path)} · {record.kind} · {milliseconds(record.request_ms)} ms · {verdict}",
            align="left",
            style="dim",
        )
        console.print(_marked("before", record, Text("▁▁▁▁", style="red")))
        console.print(_marked("after", record, Text(record.proposal, style="bold green")))
        if not is_exact:
            console.print(_marked("was", record, Text(record.reference, style="yellow")))
    if records:
        console.print()


def _marked(title: str, record: Record, middle: Text) -> Text:
    before = "\n".join(record.before.split("\n")[-3:])
    after = "\n".join(record.after.split("\n")[:2])
    body = Text.assemble((before, "dim"), middle, (after, "dim"))
    out = Text()
    for number, row in enumerate(body.split("\n", allow_blank=True)):
        out.append(f"{title if number == 0 else '':>7} │ ", style="bold dim")
        out.append_text(row)
        out.append("\n")
    out.rstrip()
    return out
