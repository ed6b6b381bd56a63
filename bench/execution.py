"""Does a filled function body work? The snapshot's own unit tests around it, in a scratch copy, with limits.

A body counts only where the tests notice it: they pass on the original and fail when the body raises. Python only,
because that is what can be run everywhere without a build. Knows no server: it takes proposals and runs tests.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .datasets import filled
from .errors import SnapshotError
from .holes import Hole, Progress, cut_holes
from .results import Json, Record
from .sandbox import Limits, Outcome, run_limited
from .snapshot import Snapshot, is_test_path

DEFAULT_TESTS = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly")
TEST_LIMITS = Limits(seconds=120.0, memory_mib=4096, file_mib=256, num_processes=256)
ATTEMPTS_PER_BODY = 4


@dataclass(slots=True)
class Workbench:
    """A scratch copy of a snapshot in which tests run. command: how; folder: the copy."""

    folder: Path
    command: tuple[str, ...]
    limits: Limits

    def run(self) -> Outcome:
        """Run the tests as things are now."""
        places = [str(place) for place in (self.folder, self.folder / "src", self.folder / "lib") if place.is_dir()]
        return run_limited(self.command, self.folder, self.limits, environment={"PYTHONPATH": ":".join(places)})

    def run_with(self, path: str, text: str) -> Outcome:
        """Run the tests with another text in one file."""
        target = self.folder / path
        original = target.read_bytes()
        try:
            target.write_text(text, encoding="utf-8", newline="")
            return self.run()
        finally:
            target.write_bytes(original)


def unpack(snapshot: Snapshot, folder: Path) -> Path:
    """Copy a snapshot, tests and data included, below folder; the root of the copy.

    Raises: SnapshotError where the archive cannot be unpacked safely.
    """
    if snapshot.kind in ("folder", "git"):
        ignored = shutil.ignore_patterns(".git", "__pycache__", "node_modules", ".venv", "venv")
        return Path(shutil.copytree(snapshot.origin, folder / "copy", ignore=ignored, symlinks=True))
    try:
        if snapshot.kind == "sdist":
            if not hasattr(tarfile, "data_filter"):
                advice = "Python 3.11.4 or newer unpacks it safely; or unpack it and name the folder"
                raise SnapshotError(f"{snapshot.origin} is an archive. {advice}.")
            with tarfile.open(snapshot.origin) as archive:
                archive.extractall(folder, filter="data")
        else:
            with zipfile.ZipFile(snapshot.origin) as archive:
                archive.extractall(folder)
    except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise SnapshotError(f"{snapshot.origin} cannot be unpacked: {error}.") from error
    inside = list(folder.iterdir())
    return inside[0] if snapshot.kind == "sdist" and len(inside) == 1 and inside[0].is_dir() else folder


def prepare(snapshot: Snapshot, folder: Path, tests: Sequence[str] = (), limits: Limits = TEST_LIMITS) -> Workbench:
    """A scratch copy whose tests pass. Raises: SnapshotError where they do not, with the end of their output."""
    bench = Workbench(unpack(snapshot, folder), tuple(tests) or DEFAULT_TESTS, limits)
    outcome = bench.run()
    if not outcome.is_passed:
        tail = "\n  ".join(outcome.output.strip().splitlines()[-8:])
        raise SnapshotError(
            f"The tests of {snapshot.title} do not pass here as they are ({outcome.kind}). Install what they need, or "
            f"name a command that passes with --tests.\n  {tail}"
        )
    return bench


def noticed_bodies(
    bench: Workbench,
    snapshot: Snapshot,
    count: int,
    seed: int,
    progress: Progress = lambda found: None,
) -> tuple[list[Hole], int]:
    """Up to count function bodies whose absence the tests notice, and how many were tried."""
    code = tuple(file for file in snapshot.files if file.language == "python" and not is_test_path(file.path))
    if not code:
        raise SnapshotError(f"{snapshot.title} has no Python code beside its tests.")
    found: list[Hole] = []
    tried = 0
    for hole in cut_holes(replace(snapshot, files=code), ["function-body"], ATTEMPTS_PER_BODY * count, seed):
        if len(found) == count:
            break
        tried += 1
        start = hole.spans[0][0]
        broken = hole.text[:start] + 'raise NotImplementedError("taken out")' + hole.text[start:]
        if bench.run_with(hole.file.path, broken).kind == "failed":
            found.append(hole)
            progress(len(found))
    return found, tried


def execute(
    bench: Workbench,
    holes: Sequence[Hole],
    records: Sequence[Record],
    progress: Progress,
) -> Json:
    """How many of one subject's proposals pass the tests, with the outcomes by reason."""
    by_id = {hole.id: hole for hole in holes}
    outcomes: Counter[str] = Counter()
    for done, record in enumerate(records, 1):
        hole = by_id[record.hole]
        if not record.proposal:
            outcomes["declined"] += 1
        elif record.judgement.is_exact:
            outcomes["passed"] += 1
        else:
            outcomes[bench.run_with(hole.file.path, filled(hole, record)).kind] += 1
        progress(done)
    num_all = sum(outcomes.values())
    return {
        "num_bodies": num_all,
        "num_passed": outcomes["passed"],
        "pass_rate": outcomes["passed"] / num_all if num_all else None,
        "outcomes": dict(outcomes.most_common()),
    }
