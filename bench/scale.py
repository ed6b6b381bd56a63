"""What an answer costs as the work grows: length of the file, number of documents asked at once, size of the workspace.

Files are made of the snapshot's own code, repeated, so that they parse and their text is no surprise. Knows a server
through subject.py only.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Literal, get_args

from .client import Json
from .holes import Hole, cut_holes
from .metrics import percentile
from .snapshot import Snapshot, SourceFile
from .subject import Answer, Conditions, ServerSubject

ScaleKind = Literal["lines", "documents", "workspace"]
SCALE_KINDS: tuple[ScaleKind, ...] = get_args(ScaleKind)
SIZES: dict[ScaleKind, tuple[int, ...]] = {
    "lines": (100, 1_000, 10_000, 100_000),
    "documents": (1, 2, 4, 8, 16, 32),
    "workspace": (10, 100, 1_000, 10_000, 100_000),
}
FILES_PER_FOLDER = 200
MIDDLE_CHARS = 10_000
INDEX_WAIT_S = 3.0
"""How long a server may at least look around in a workspace before it is asked again."""
MAX_INDEX_WAIT_S = 180.0
IDLE_POLL_S = 1.0
IDLE_SHARE = 0.1
"""A server that uses less of a core than this has looked around."""

Progress = Callable[[int], object]


def long_file(snapshot: Snapshot, num_lines: int, seed: int = 0) -> SourceFile:
    """A file of num_lines lines: whole files of the snapshot's commonest language one after the other, the last cut."""
    languages = [file.language for file in snapshot.files]
    language = max(dict.fromkeys(languages), key=languages.count)
    files = [file for file in snapshot.files if file.language == language]
    rng = Random(f"{seed}/long")
    lines: list[str] = []
    while len(lines) < num_lines:
        lines += [*rng.choice(files).text.replace("\r\n", "\n").rstrip().split("\n"), ""]
    ending = files[0].path.rpartition(".")[2]
    return SourceFile(f"long_{num_lines}.{ending}", language, "\n".join(lines[: num_lines - 1]) + "\n")


def middle_holes(file: SourceFile, snapshot: Snapshot, count: int, seed: int) -> list[Hole]:
    """Lines to ask about in the middle of a file. Only the stretch around it is surveyed: a whole one takes minutes."""
    middle, reach = len(file.text) // 2, min(MIDDLE_CHARS, len(file.text) // 4)
    low = file.text.rfind("\n", 0, middle - reach) + 1
    high = file.text.find("\n", middle + reach) + 1 or len(file.text)
    part = replace(file, text=file.text[low:high])
    found = cut_holes(replace(snapshot, files=(part,)), ["line", "rest-of-line"], count, seed)
    return [Hole(file, hole.kind, tuple((low + start, low + end) for start, end in hole.spans)) for hole in found]


def _summary(size: int, answers: Sequence[Answer], subject: ServerSubject) -> Json:
    times = [answer.request_ms for answer in answers if answer.items]
    everything = [answer.request_ms for answer in answers]
    return {
        "size": size,
        "num_requests": len(answers),
        "num_proposals": len(times),
        "p50_ms": percentile(everything, 50),
        "p95_ms": percentile(everything, 95),
        "shown_p50_ms": percentile(times, 50) if times else None,
        "shown_p95_ms": percentile(times, 95) if times else None,
        "peak_memory_mib": subject.about.get("peak_memory_mib"),
    }


async def _ask(subject: ServerSubject, hole: Hole, name: str) -> Answer:
    uri = (subject.root / name).as_uri()
    subject.open(uri, hole.file.language, hole.text)
    try:
        return await subject.type_and_ask(uri, hole.spans[0][0])
    finally:
        subject.close(uri)


async def scale_lines(
    command: Sequence[str], snapshot: Snapshot, conditions: Conditions, sizes: Sequence[int], count: int, told: Progress
) -> list[Json]:
    """Latency by length of the file, in one server process: one document stays open, and holes in its middle move."""
    rows: list[Json] = []
    for number, size in enumerate(sizes, 1):
        file = long_file(snapshot, size)
        with tempfile.TemporaryDirectory(prefix="lacuna-scale-") as folder:
            subject = ServerSubject(command, conditions, Path(folder).resolve())
            try:
                await subject.start()
                holes = middle_holes(file, snapshot, count, seed=0)
                answers = [await _ask(subject, hole, file.path) for hole in holes]
            finally:
                await subject.stop()
        rows.append(_summary(file.num_lines, answers, subject))
        told(number)
    return rows


async def scale_documents(
    command: Sequence[str], snapshot: Snapshot, conditions: Conditions, sizes: Sequence[int], count: int, told: Progress
) -> list[Json]:
    """Latency by number of documents that are asked about at the same moment, again and again."""
    rows: list[Json] = []
    for number, size in enumerate(sizes, 1):
        with tempfile.TemporaryDirectory(prefix="lacuna-scale-") as folder:
            subject = ServerSubject(command, conditions, Path(folder).resolve())
            holes = cut_holes(snapshot, ["line", "rest-of-line"], size * max(2, count // size), seed=0)
            answers: list[Answer] = []
            try:
                await subject.start()
                for first in range(0, len(holes), size):
                    group = holes[first : first + size]
                    asked = (_ask(subject, hole, f"{place}/{hole.file.path}") for place, hole in enumerate(group))
                    answers += await asyncio.gather(*asked)
            finally:
                await subject.stop()
        rows.append(_summary(size, answers, subject))
        told(number)
    return rows


def make_workspace(root: Path, snapshot: Snapshot, num_files: int) -> None:
    """Write num_files files below root: the snapshot's own, cut to a hundred lines, under many names."""
    texts = ["".join(file.text.splitlines(keepends=True)[:100]) for file in snapshot.files]
    endings = ["." + file.path.rpartition(".")[2] for file in snapshot.files]
    for number in range(num_files):
        folder = root / f"part_{number // FILES_PER_FOLDER}"
        if number % FILES_PER_FOLDER == 0:
            folder.mkdir(parents=True)
        place = number % len(texts)
        path = folder / f"module_{number}{endings[place]}"
        path.write_text(f"# {number}\n{texts[place]}" if endings[place] == ".py" else texts[place], encoding="utf-8")


async def until_idle(subject: ServerSubject, least_s: float, most_s: float) -> None:
    """Wait until the server uses next to no processor time; least_s where the system does not say."""
    await asyncio.sleep(least_s)
    used_s = subject.cpu_seconds()
    until = perf_counter() + most_s - least_s
    while used_s is not None and perf_counter() < until:
        await asyncio.sleep(IDLE_POLL_S)
        now_s = subject.cpu_seconds()
        if now_s is None or now_s - used_s < IDLE_SHARE * IDLE_POLL_S:
            return
        used_s = now_s


async def scale_workspace(
    command: Sequence[str], snapshot: Snapshot, conditions: Conditions, sizes: Sequence[int], count: int, told: Progress
) -> list[Json]:
    """Latency and memory by number of files in the workspace folder: while the server looks around in it, and after."""
    rows: list[Json] = []
    for number, size in enumerate(sizes, 1):
        with tempfile.TemporaryDirectory(prefix="lacuna-scale-") as folder:
            root = Path(folder).resolve()
            make_workspace(root, snapshot, size)
            subject = ServerSubject(command, conditions, root)
            try:
                # other holes afterwards: what was asked before may be answered from memory
                holes = cut_holes(snapshot, ["line", "rest-of-line"], 2 * count, seed=0)
                await subject.start()
                begun = perf_counter()
                early = [await _ask(subject, hole, hole.file.path) for hole in holes[::2]]
                await until_idle(subject, INDEX_WAIT_S, MAX_INDEX_WAIT_S)
                looked_s = perf_counter() - begun
                answers = [await _ask(subject, hole, hole.file.path) for hole in holes[1::2]]
            finally:
                await subject.stop()
        early_ms = percentile([answer.request_ms for answer in early], 95)
        rows.append({**_summary(size, answers, subject), "early_p95_ms": early_ms, "looked_s": looked_s})
        told(number)
    return rows


SCALERS = {"lines": scale_lines, "documents": scale_documents, "workspace": scale_workspace}
