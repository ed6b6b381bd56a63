"""What an answer costs as the work grows: length of the file, number of documents asked at once, size of the workspace.

Files are made of the snapshot's own code, repeated, so that they parse and their text is no surprise. Every size has a
server of its own, so that its memory is its own, too. Knows a server through subject.py only.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Literal, get_args

from .client import Json
from .errors import SnapshotError
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
ASKED_PART = 4
"""One file of so many is asked about, and not in the workspace."""
MIDDLE_CHARS = 10_000
INDEX_WAIT_S = 3.0
"""How long a server may at least look around in a workspace before it is asked again."""
MAX_INDEX_WAIT_S = 180.0
DRAFTED = "similar"
"""What Lacuna calls the source of an answer that a similar place gave."""
IDLE_POLL_S = 1.0
IDLE_SHARE = 0.1
"""A server that uses less of a core than this has looked around."""


def long_file(snapshot: Snapshot, num_lines: int) -> SourceFile:
    """A file of num_lines lines: whole files of the snapshot's commonest language one after the other, the last cut.

    Every file is there before one comes again, so that a copy of a line is as far away as it can be.
    """
    languages = [file.language for file in snapshot.files]
    language = max(dict.fromkeys(languages), key=languages.count)
    files = [file for file in snapshot.files if file.language == language]
    order = files.copy()
    Random("0/long").shuffle(order)
    lines: list[str] = []
    for file in itertools.cycle(order):
        if len(lines) >= num_lines:
            break
        lines += [*file.text.replace("\r\n", "\n").rstrip().split("\n"), ""]
    ending = files[0].path.rpartition(".")[2]
    return SourceFile(f"long_{num_lines}.{ending}", language, "\n".join(lines[: num_lines - 1]) + "\n")


def middle_holes(file: SourceFile, snapshot: Snapshot, count: int) -> list[Hole]:
    """Lines to ask about in the middle of a file. Only the stretch around it is surveyed: a whole one takes minutes."""
    middle, reach = len(file.text) // 2, min(MIDDLE_CHARS, len(file.text) // 4)
    low = file.text.rfind("\n", 0, middle - reach) + 1
    high = file.text.find("\n", middle + reach) + 1 or len(file.text)
    part = replace(file, text=file.text[low:high])
    found = cut_holes(replace(snapshot, files=(part,)), ["line", "rest-of-line"], count)
    return [Hole(file, hole.kind, tuple((low + start, low + end) for start, end in hole.spans)) for hole in found]


def _summary(size: int, answers: Sequence[Answer], subject: ServerSubject) -> Json:
    times = [answer.request_ms for answer in answers if answer.items]
    everything = [answer.request_ms for answer in answers]
    return {
        "size": size,
        "num_requests": len(answers),
        "num_proposals": len(times),
        "num_from_drafts": _num_from_drafts(answers),
        "p50_ms": percentile(everything, 50),
        "p95_ms": percentile(everything, 95),
        "shown_p50_ms": percentile(times, 50) if times else None,
        "shown_p95_ms": percentile(times, 95) if times else None,
        "peak_memory_mib": subject.about.get("peak_memory_mib"),
    }


def _num_from_drafts(answers: Sequence[Answer]) -> int | None:
    """How many answers a similar place gave, with or without the model; None where the server does not tell."""
    if not any(answer.told for answer in answers):
        return None
    return sum(answer.told.get("source") == DRAFTED for answer in answers)


async def _ask(subject: ServerSubject, hole: Hole, name: str) -> Answer:
    uri = (subject.root / name).as_uri()
    subject.open(uri, hole.file.language, hole.text)
    try:
        return await subject.type_and_ask(uri, hole.spans[0][0])
    finally:
        subject.close(uri)


async def scale_lines(
    command: Sequence[str], snapshot: Snapshot, conditions: Conditions, size: int, count: int
) -> Json:
    """Latency in a file of size lines, which is opened once: holes in its middle are cut and closed again by edits."""
    file = long_file(snapshot, size)
    with tempfile.TemporaryDirectory(prefix="lacuna-scale-") as folder:
        subject = ServerSubject(command, conditions, Path(folder).resolve())
        answers: list[Answer] = []
        async with subject.running():
            uri = (subject.root / file.path).as_uri()
            subject.open(uri, file.language, file.text)
            for hole in middle_holes(file, snapshot, count):
                start, end = hole.spans[0]
                subject.edit(uri, start, end, "")
                answers.append(await subject.type_and_ask(uri, start))
                subject.edit(uri, start, start, hole.references[0])
    return _summary(file.num_lines, answers, subject)


async def scale_documents(
    command: Sequence[str], snapshot: Snapshot, conditions: Conditions, size: int, count: int
) -> Json:
    """Latency where size documents are asked about at the same moment, again and again."""
    with tempfile.TemporaryDirectory(prefix="lacuna-scale-") as folder:
        subject = ServerSubject(command, conditions, Path(folder).resolve())
        holes = cut_holes(snapshot, ["line", "rest-of-line"], size * max(2, count // size))
        answers: list[Answer] = []
        async with subject.running():
            for first in range(0, len(holes), size):
                group = holes[first : first + size]
                asked = (_ask(subject, hole, f"{place}/{hole.file.path}") for place, hole in enumerate(group))
                answers += await asyncio.gather(*asked)
    return _summary(size, answers, subject)


def parted(snapshot: Snapshot) -> tuple[Snapshot, Snapshot]:
    """The snapshot in two: files that holes are cut into, and files that a workspace is made of.

    A hole whose own file is in the workspace is answered by looking it up, and says nothing of the model's time.
    Raises: SnapshotError where there is only one file.
    """
    if len(snapshot.files) < 2:
        raise SnapshotError("A workspace needs files beside those that are asked about. Name a snapshot of several.")
    texts = sorted({file.text for file in snapshot.files})
    # the same text under two names goes to one side
    asked = frozenset(Random("0/parted").sample(texts, max(1, len(texts) // ASKED_PART)))
    sides = ([file for file in snapshot.files if (file.text in asked) == is_asked] for is_asked in (True, False))
    first, second = (replace(snapshot, files=tuple(files)) for files in sides)
    return first, second


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
    command: Sequence[str], snapshot: Snapshot, conditions: Conditions, size: int, count: int
) -> Json:
    """Latency and memory with size files in the workspace folder: while the server looks around in it, and after.

    The holes are those of files that are not in the workspace. num_files_read: what the server says that it has read
    of it (Lacuna reads no more than 20,000 files).
    """
    asked, others = parted(snapshot)
    with tempfile.TemporaryDirectory(prefix="lacuna-scale-") as folder:
        root = Path(folder).resolve()
        make_workspace(root, others, size)
        subject = ServerSubject(command, conditions, root)
        # other holes afterwards: what was asked before may be answered from memory
        holes = cut_holes(asked, ["line", "rest-of-line"], 2 * count)
        async with subject.running():
            begun = perf_counter()
            early = [await _ask(subject, hole, hole.file.path) for hole in holes[::2]]
            await until_idle(subject, INDEX_WAIT_S, MAX_INDEX_WAIT_S)
            looked_s = perf_counter() - begun
            answers = [await _ask(subject, hole, hole.file.path) for hole in holes[1::2]]
    return {
        **_summary(size, answers, subject),
        "early_p95_ms": percentile([answer.request_ms for answer in early], 95),
        "looked_s": looked_s,
        "num_files_read": subject.about.get("num_files_read"),
    }


SCALERS = {"lines": scale_lines, "documents": scale_documents, "workspace": scale_workspace}
"""How one size is measured: one row, by a server of its own."""
