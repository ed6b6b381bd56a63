"""One run: every hole of a snapshot asked of every subject, servers and baselines alike, under the same conditions.

Knows how a hole becomes a document and an answer a record; shows nothing and writes no file.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from ..infill.baselines import Baseline, Context
from .baselines import neighbours_of
from .errors import ServerError
from .holes import Hole, Progress
from .metrics import NOTHING, Judgement, judge, judge_begun
from .results import Json, Record, SubjectResult
from .snapshot import Snapshot
from .subject import Answer, Conditions, Item, ServerSubject
from .written import Begun

MAX_RESTARTS = 3
LINES_AROUND = 4


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """A server to be measured. command: its command line, word by word."""

    name: str
    command: tuple[str, ...]


@dataclass(slots=True)
class Gap:
    """Where one gap of a hole is in the document as it stands, before it is filled. begun: see Hole."""

    document: str
    cursor: int
    reference: str
    begun: Begun | None = None


def about_run(conditions: Conditions, **more: object) -> Json:
    """Date, machine, versions and conditions of a run, for the results file."""
    versions: dict[str, str] = {}
    for name in ("lacuna-ls", "torch", "tree-sitter"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "num_cores": num_cores(),
            "python": platform.python_version(),
        },
        "versions": versions,
        "conditions": {key: value for key, value in asdict(conditions).items() if value is not None},
        **more,
    }


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, for people."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def about_snapshot(snapshot: Snapshot) -> Json:
    """What names a snapshot in results."""
    return {
        "name": snapshot.name,
        "version": snapshot.version,
        "kind": snapshot.kind,
        "sha256": snapshot.sha256,
        "num_files": len(snapshot.files),
        "num_lines": snapshot.num_lines,
        "skipped": snapshot.skipped,
    }


def lines_around(text: str, start: int, end: int) -> tuple[str, str]:
    """Up to LINES_AROUND lines on each side of [start, end), for people."""
    before = "\n".join(text[:start].split("\n")[-LINES_AROUND:])
    return before, "\n".join(text[end:].split("\n")[:LINES_AROUND])


def _record(hole: Hole, number: int, gap: Gap) -> Json:
    before, after = lines_around(gap.document, gap.cursor, gap.cursor)
    return {
        "hole": hole.id,
        "kind": hole.kind,
        "language": hole.file.language,
        "path": hole.file.path,
        "gap": number,
        "num_lines": hole.file.num_lines,
        "before": before,
        "after": after,
        "reference": gap.reference,
    }


def judged(hole: Hole, number: int, gap: Gap, answer: Answer) -> Record:
    """The record of one answer."""

    def verdict(item: Item) -> Judgement:
        span, language = (item.start, item.end), hole.file.language
        if gap.begun is not None:
            return judge_begun(gap.begun, gap.cursor, gap.reference, item.text, language, replaced=span)
        return judge(gap.document, gap.cursor, gap.reference, item.text, language, replaced=span)

    best = answer.items[0] if answer.items else None
    told = answer.told
    confidence = best.confidence if best is not None else None
    if confidence is None and best is not None and "confidence" in told:
        confidence = float(told["confidence"])
    names = ("steps", "cached", "prefilled", "forwards")
    steps, cached, prefilled, forwards = (int(told[name]) if name in told else None for name in names)
    return Record(
        **_record(hole, number, gap),
        proposal=best.text if best is not None else "",
        replaced=(best.start - gap.cursor, best.end - gap.cursor) if best is not None else (0, 0),
        declined=answer.declined,
        error=answer.error,
        request_ms=answer.request_ms,
        keystroke_ms=answer.keystroke_ms,
        confidence=confidence,
        num_alternatives=len(answer.items),
        is_any_exact=any(verdict(item).is_exact for item in answer.items),
        source=told.get("source", ""),
        steps=steps,
        num_cached=cached,
        num_prefilled=prefilled,
        num_forwards=forwards,
        judgement=verdict(best) if best is not None else NOTHING,
    )


def first_gap(hole: Hole) -> Gap:
    """The first gap of a hole, the others still open."""
    return Gap(hole.text, hole.spans[0][0], hole.references[0], hole.begun)


def next_gap(hole: Hole, number: int, gap: Gap, answer: Answer) -> Gap:
    """The gap after number, in the document of a person who took the answer as it is; the same gap after the last."""
    if number + 1 == len(hole.spans):
        return gap
    filled = gap.document
    if answer.items:
        item = answer.items[0]
        filled = filled[: item.start] + item.text + filled[item.end :]
    between = hole.spans[number + 1][0] - hole.spans[number][1]
    # what stands right of the gap is still the same number of characters from the end
    num_after = len(gap.document) - gap.cursor
    return Gap(filled, len(filled) - num_after + between, hole.references[number + 1])


def by_file(holes: Sequence[Hole]) -> list[Hole]:
    """The order in which holes are asked about: neighbours stay open, as they do for a person."""
    return sorted(holes, key=lambda hole: (hole.file.path, hole.spans))


async def run_server(
    spec: ServerSpec,
    snapshot: Snapshot,
    holes: Sequence[Hole],
    conditions: Conditions,
    result: SubjectResult,
    progress: Progress,
) -> None:
    """Ask one server all holes. A server that dies is started again, a few times; the hole counts as an error.

    result: filled answer by answer, so that those so far are there whatever happens.

    The server sees an empty workspace folder, the document and conditions.num_neighbours open documents beside it:
    never the file on disk, where what was taken out still stands.
    Raises: ServerError where it cannot be started, or keeps dying.
    """
    result.command = list(spec.command)
    num_restarts = 0
    with tempfile.TemporaryDirectory(prefix="lacuna-bench-") as folder:
        subject = ServerSubject(spec.command, conditions, Path(folder).resolve())
        try:
            await subject.start()
            for done, hole in enumerate(by_file(holes), 1):
                try:
                    result.records += await _ask(subject, snapshot, hole, conditions)
                except ServerError as error:
                    num_restarts += 1
                    message = str(error).split("\n", 1)[0]
                    result.records.append(Record(**_record(hole, 0, first_gap(hole)), declined="error", error=message))
                    await subject.stop()
                    if num_restarts > MAX_RESTARTS:
                        raise
                    await subject.start()
                progress(done)
        finally:
            await subject.stop()
            result.about = {**subject.about, "num_restarts": num_restarts}


async def _ask(subject: ServerSubject, snapshot: Snapshot, hole: Hole, conditions: Conditions) -> list[Record]:
    root = subject.root
    others = neighbours_of(snapshot, hole.file, conditions.num_neighbours)
    subject.show_neighbours({(root / file.path).as_uri(): (file.language, file.text) for file in others})
    records: list[Record] = []
    uri = (root / hole.file.path).as_uri()
    gap = first_gap(hole)
    subject.open(uri, hole.file.language, gap.document)
    try:
        for number in range(len(hole.spans)):
            if number:
                subject.close(uri)
                subject.open(uri, hole.file.language, gap.document)
            answer = await subject.type_and_ask(uri, gap.cursor)
            records.append(judged(hole, number, gap, answer))
            gap = next_gap(hole, number, gap, answer)
    finally:
        subject.close(uri)
    return records


def run_baseline(
    baseline: Baseline,
    snapshot: Snapshot,
    holes: Sequence[Hole],
    result: SubjectResult,
    progress: Progress = lambda done: None,
) -> None:
    """Ask one baseline all holes. result: see run_server."""
    result.note = "baseline, in the benchmark's own process"
    for done, hole in enumerate(by_file(holes), 1):
        neighbours = tuple(other.text for other in neighbours_of(snapshot, hole.file))
        gap = first_gap(hole)
        for number in range(len(hole.spans)):
            begun = perf_counter()
            text = baseline(Context(gap.document, gap.cursor, neighbours))
            elapsed_ms = (perf_counter() - begun) * 1000
            items = (Item(text, gap.cursor, gap.cursor),) if text.strip() else ()
            answer = Answer(items, "" if items else "nothing", "", elapsed_ms, None)
            result.records.append(judged(hole, number, gap, answer))
            gap = next_gap(hole, number, gap, answer)
        progress(done)
