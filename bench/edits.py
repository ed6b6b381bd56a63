"""What is typed in a replay: stretches of a snapshot's files, or the changes of a diff or of commits, as keys.

Knows no server: texts in, texts and keys out.
"""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .errors import ResultsError, SnapshotError
from .snapshot import Snapshot, SourceFile, git_environment, read_snapshot
from .subject import split_keys

GIT_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Edit:
    """One stretch of typing: put the cursor at start of the document as it is then, delete, and type text."""

    start: int
    num_deleted: int
    text: str


@dataclass(frozen=True, slots=True)
class Writing:
    """One file that is changed by typing, from old to new."""

    path: str
    language: str
    old: str
    new: str


def edits_between(old: str, new: str) -> list[Edit]:
    """What is to be typed to make new of old: changed stretches of lines, from the top down.

    The beginning and the end that a changed stretch has in common with the old one are not typed again.
    """
    old_lines, new_lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    edits: list[Edit] = []
    place = 0
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old_lines, new_lines, autojunk=False).get_opcodes():
        before, after = "".join(old_lines[a:b]), "".join(new_lines[c:d])
        if tag != "equal":
            head = 0
            while head < min(len(before), len(after)) and before[head] == after[head]:
                head += 1
            tail = 0
            while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
                tail += 1
            edits.append(Edit(place + head, len(before) - head - tail, after[head : len(after) - tail]))
        place += len(after)
    return edits


def keys_of(text: str) -> list[str]:
    """The keys that write text: one per character, a newline together with the indentation after it."""
    keys: list[str] = []
    end = len(text)
    while end > 0:
        (key,) = split_keys(text[:end], end, 1)
        keys.append(key)
        end -= len(key)
    return keys[::-1]


def stretches(snapshot: Snapshot, count: int, num_keys: int, seed: int) -> list[Writing]:
    """count stretches of whole lines, about num_keys keys each, taken out of files that are drawn by length.

    The rest of the file stands around what is typed, as where a person works on a file that exists.
    """
    rng = Random(f"{seed}/stretches")
    weights = [file.num_lines for file in snapshot.files]
    found: list[Writing] = []
    for file in rng.choices(snapshot.files, weights, k=count):
        lines = file.text.splitlines(keepends=True)
        first = rng.randrange(len(lines))
        last, size = first, 0
        while last < len(lines) and size < num_keys:
            size += len(lines[last].strip()) + 1
            last += 1
        old = "".join(lines[:first] + lines[last:])
        found.append(Writing(file.path, file.language, old, file.text))
    return found


def _changes(old: Sequence[SourceFile], new: Sequence[SourceFile]) -> list[Writing]:
    """The files that differ between two states of a snapshot, new ones included; deleted ones are nothing to type."""
    before = {file.path: file.text for file in old}
    return [
        Writing(file.path, file.language, before.get(file.path, ""), file.text)
        for file in new
        if before.get(file.path) != file.text
    ]


def _git(*words: str, cwd: Path | None = None, **environment: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=cwd,
            env=git_environment() | environment,
            check=True,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
        )
    except FileNotFoundError:
        raise ResultsError("git is needed for this, and is not installed.") from None
    except subprocess.SubprocessError as error:
        detail = getattr(error, "stderr", b"") or str(error).encode()
        raise ResultsError(f"git {words[0]} failed: {detail.decode('utf-8', 'replace').strip()}") from error
    return done.stdout


def from_diff(snapshot: Snapshot, patch: Path) -> list[Writing]:
    """What a unified diff changes in a snapshot, as git applies it to a scratch copy.

    Raises: ResultsError where the diff does not apply, or changes no file that is known.
    """
    if not patch.is_file():
        raise ResultsError(f"There is no diff {patch}.")
    with tempfile.TemporaryDirectory(prefix="lacuna-diff-") as folder:
        root = Path(folder)
        for file in snapshot.files:
            target = root / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.text, encoding="utf-8", newline="")
        # a repository of its own: inside another one git would apply nothing, and say so nowhere
        _git("init", "-q", cwd=root)
        _git("apply", "--whitespace=nowarn", str(patch.resolve()), cwd=root)
        shutil.rmtree(root / ".git")
        found = _changes(snapshot.files, read_snapshot(root).files)
    if not found:
        raise ResultsError(f"{patch} changes no source file of {snapshot.title}.")
    return found


def from_commits(root: Path, revisions: str) -> list[Writing]:
    """What changed in a git checkout between two revisions, `A..B`. Raises: ResultsError."""
    first, mark, second = revisions.partition("..")
    if not mark or not first or not second or second.startswith("."):
        raise ResultsError(f"{revisions!r} is no range of revisions; write A..B.")
    with tempfile.TemporaryDirectory(prefix="lacuna-commits-") as folder:
        states: list[Sequence[SourceFile]] = []
        # the objects alone, in a repository of our own: theirs may name programs that git would run over each file
        objects = _git("rev-parse", "--path-format=absolute", "--git-path", "objects", cwd=root)
        own = {"GIT_OBJECT_DIRECTORY": os.fsdecode(objects).rstrip("\n"), "GIT_NO_LAZY_FETCH": "1"}
        form = _git("rev-parse", "--show-object-format", cwd=root).decode().strip()
        _git("init", "-q", "--bare", f"--object-format={form}", cwd=Path(folder))
        for revision in (first, second):
            archive = Path(folder, "state.tar")
            # --end-of-options: a revision is never an option
            commit = _git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}", cwd=root)
            words = ("archive", "--format=tar", "--prefix=state/", f"--output={archive}", commit.decode().strip())
            _git(*words, cwd=Path(folder), **own)
            try:
                states.append(read_snapshot(archive).files)
            except SnapshotError:
                states.append(())
    found = _changes(*states)
    if not found:
        raise ResultsError(f"Nothing that can be typed changed in {revisions}.")
    return found
