"""A repository snapshot: source files of known languages out of a folder, git checkout, sdist, zip or wheel.

Reads archives in memory and extracts nothing. The order of files is always that of their paths, and the hash is that
of their contents, so that one snapshot is one thing on every machine. Knows no hole and no server.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import subprocess
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

from ..infill.languages import PLAIN_TEXT, language_for_path
from .errors import SnapshotError

SnapshotKind = Literal["folder", "git", "sdist", "zip", "wheel"]

MAX_FILE_BYTES = 1 << 20
MAX_TOTAL_BYTES = 256 << 20
MAX_FILES = 20_000
MAX_LINE_CHARS = 2_000
"""A longer line means generated or minified code."""

_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "build", "dist", "venv", "site-packages", "target"})
_VERSIONED = re.compile(r"(?P<name>.+?)-(?P<version>\d[\w.!+]*?)(?:-[\w.]+-[\w.]+-[\w.]+)?")
_ARCHIVES: tuple[tuple[tuple[str, ...], SnapshotKind], ...] = (
    ((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar"), "sdist"),
    ((".whl",), "wheel"),
    ((".zip",), "zip"),
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """path: relative to the snapshot's root, with slashes. language: a name of infill's table."""

    path: str
    language: str
    text: str

    @property
    def num_lines(self) -> int:
        return self.text.count("\n") + 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """files in the order of their paths. sha256: of paths and contents. skipped: reason -> number of files."""

    name: str
    version: str
    kind: SnapshotKind
    origin: Path
    files: tuple[SourceFile, ...]
    sha256: str
    skipped: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def num_lines(self) -> int:
        return sum(file.num_lines for file in self.files)

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}".strip()


def archive_kind(path: Path) -> SnapshotKind | None:
    """What kind of archive a file name says it is; None for anything else."""
    for endings, kind in _ARCHIVES:
        if path.name.lower().endswith(endings):
            return kind
    return None


def read_snapshot(path: Path, languages: Sequence[str] = (), *, include_tests: bool = True) -> Snapshot:
    """Read the files of all languages that are code (`Language.is_source`), or those of the languages named.

    Raises: SnapshotError where there is nothing usable at path, or more than the limits of this module.
    """
    try:
        is_there = path.exists()
    except PermissionError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    except OSError:
        # longer than any name on this system
        is_there = False
    if not is_there:
        raise SnapshotError(f"There is no {path}. Name a folder, a git checkout, an sdist, a zip or a wheel.")
    kind: SnapshotKind
    if path.is_dir():
        kind = "git" if (path / ".git").exists() else "folder"
        found = _from_git(path) if kind == "git" else _from_folder(path)
        name, version = _title(path.resolve().name)
    else:
        archive = archive_kind(path)
        if archive is None:
            raise SnapshotError(f"{path} is neither a folder nor an archive (.tar.gz, .zip, .whl).")
        kind = archive
        found = _from_tar(path) if kind == "sdist" else _from_zip(path)
        name, version = _title(_stem(path.name))
    files, skipped = _usable(found, languages, include_tests)
    if not files:
        wanted = f" in {', '.join(languages)}" if languages else ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "no file at all"
        raise SnapshotError(f"{path} has no source file{wanted} that can be read ({reasons}).")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.text}\0".encode())
    return Snapshot(name, version, kind, path, tuple(files), digest.hexdigest(), dict(skipped))


def _stem(name: str) -> str:
    for endings, _ in _ARCHIVES:
        for ending in endings:
            if name.lower().endswith(ending):
                return name[: -len(ending)]
    return name


def _title(stem: str) -> tuple[str, str]:
    match = _VERSIONED.fullmatch(stem)
    return (match["name"], match["version"]) if match else (stem, "")


def _usable(
    found: Iterator[tuple[str, bytes | None]], languages: Sequence[str], include_tests: bool
) -> tuple[list[SourceFile], Counter[str]]:
    files: list[SourceFile] = []
    skipped: Counter[str] = Counter()
    total = 0
    for path, data in found:
        language = language_for_path(path)
        if language.name not in languages if languages else not language.is_source:
            continue
        whole = PurePath(path)
        if whole.anchor or ".." in whole.parts:
            # an archive may hold any name, and a copy of its files must not land elsewhere
            skipped["outside"] += 1
        elif not include_tests and is_test_path(path):
            skipped["tests"] += 1
        elif data is None or len(data) > MAX_FILE_BYTES:
            skipped["too large"] += 1
        elif (text := _decoded(data)) is None or not _is_text(path):
            skipped["not UTF-8"] += 1
        elif not text.strip():
            skipped["empty"] += 1
        elif max(map(len, text.split("\n"))) > MAX_LINE_CHARS:
            skipped["generated"] += 1
        else:
            total += len(data)
            if total > MAX_TOTAL_BYTES or len(files) >= MAX_FILES:
                raise SnapshotError(
                    f"The snapshot has more than {MAX_FILES} files or {MAX_TOTAL_BYTES >> 20} MiB of source. "
                    "Name a part of it, or fewer languages."
                )
            files.append(SourceFile(path, language.name, text))
    files.sort(key=lambda file: file.path)
    return files, skipped


def is_test_path(path: str) -> bool:
    """Whether a path of a snapshot belongs to its tests."""
    parts = PurePosixPath(path).parts
    return any(part in ("test", "tests", "_tests", "testing") for part in parts[:-1]) or parts[-1].startswith(
        ("test_", "conftest")
    )


def _is_text(path: str) -> bool:
    """Whether a file's name is UTF-8: no other fits into a URI and into results."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decoded(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    # a lone carriage return is a line end to an editor and none to the rest of the world: leave such files out
    return None if "\0" in text or "\r" in text.replace("\r\n", "") else text


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else None
    except OSError:
        return None


def _from_folder(root: Path) -> Iterator[tuple[str, bytes | None]]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(".") and name not in _SKIPPED_FOLDERS and not name.endswith(".egg-info")
        )
        for name in sorted(files):
            path = Path(folder, name)
            if language_for_path(name) is not PLAIN_TEXT and path.is_file() and not path.is_symlink():
                yield path.relative_to(root).as_posix(), _read(path)


def git_environment() -> dict[str, str]:
    """The environment for git in a folder that is named: within a hook of git's it names another repository."""
    named = ("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")
    return {name: value for name, value in os.environ.items() if name not in named}


def _from_git(root: Path) -> Iterator[tuple[str, bytes | None]]:
    # its own configuration may name a program that git would start to learn what changed
    command = ["git", "-C", str(root), "-c", "core.fsmonitor=false", "ls-files", "-z"]
    try:
        done = subprocess.run(command, env=git_environment(), check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        # without git, or with a broken repository, it is a folder like any other
        yield from _from_folder(root)
        return
    for name in done.stdout.decode("utf-8", "replace").split("\0"):
        path = root / name
        if name and language_for_path(name) is not PLAIN_TEXT and path.is_file() and not path.is_symlink():
            yield name, _read(path)


def _inner(name: str) -> str:
    """The path inside an sdist, without the folder that wraps everything."""
    return name.split("/", 1)[1] if "/" in name else name


def _from_tar(path: Path) -> Iterator[tuple[str, bytes | None]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if not member.isfile() or language_for_path(member.name) is PLAIN_TEXT:
                    continue
                stream = archive.extractfile(member) if member.size <= MAX_FILE_BYTES else None
                yield _inner(member.name), stream.read(MAX_FILE_BYTES + 1) if stream else None
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        # ValueError: a header whose numbers are none
        raise SnapshotError(f"{path} cannot be read as a tar archive: {error}. Fetch it again.") from error


def _from_zip(path: Path) -> Iterator[tuple[str, bytes | None]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.is_dir() or language_for_path(member.filename) is PLAIN_TEXT:
                    continue
                if member.file_size > MAX_FILE_BYTES:
                    yield member.filename, None
                    continue
                # the size in the directory may lie: read no further than the limit
                with archive.open(member) as stream:
                    yield member.filename, stream.read(MAX_FILE_BYTES + 1)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        # NotImplementedError, for a form of compression that Python lacks, is a RuntimeError
        raise SnapshotError(f"{path} cannot be read as a zip archive: {error}. Fetch it again.") from error
