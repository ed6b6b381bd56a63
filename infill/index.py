"""The workspace's lines by what stands above and below them: code repeats itself, so a similar place is a draft.

Bounded: the text of files up to a budget, and one table of fixed size whose newest entries win. Over the budget the
file goes that was of use longest ago, and open documents go last; reading in the background ends there instead.
Incremental: a file is taken in by itself, at once when it is saved, or in the background in slices of a few
milliseconds. Every candidate is compared with the real text before it is believed, so a lossy table costs recall and
never truth. Knows paths and text, no model.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import sys
import threading
import time
import zlib
from array import array
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .definitions import rules_of
from .imports import ImportTable
from .imports_js import ECMASCRIPT
from .imports_python import PYTHON
from .languages import language_for_path
from .parameters import Definition, Rules, defined_in, definition_at
from .places import Lines, Place, block_at, likeness, past_docstring, rest_of
from .privacy import redact

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 150_000
"""Larger files are generated more often than written."""

POLL_LINES = 256
"""After so many lines a caller's cancel flag is looked at: about ten milliseconds."""

FILE_BYTES = 200
"""What Python takes for a file besides its path, its text and its line starts, on the safe side (120 were measured)."""

RESERVE_BYTES = 2_000
"""By so much less than its size a file may be estimated: hidden secrets may be longer than they were."""

SLOTS = 4
"""How many places one key remembers; the oldest is overwritten."""

NUM_KEYS = 1 << 18
NUM_WANTED = 8
HEAD_WORDS = 3

_WORD = re.compile(r"\w+")
_NUMBER_OR_STRING = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|\d+")


@dataclass(frozen=True, slots=True)
class Match:
    """A line, or a block, that begins like the one asked about. rest: what follows the head. number: of its line among
    those that are not blank. likeness: of its place, in [0, 1].
    """

    path: str
    number: int
    rest: str
    likeness: float


@dataclass(slots=True)
class _File(Lines):
    path: str
    base: int = 0

    @property
    def num_bytes(self) -> int:
        # one character beyond Latin-1 doubles what every other one takes, an emoji makes it four times as much
        return FILE_BYTES + sum(map(sys.getsizeof, (self.path, self.text, self.starts)))


class LineIndex:
    """The index. Thread-safe: a background thread fills it while the engine's thread asks it."""

    def __init__(self, max_text_bytes: int = 24_000_000) -> None:
        """max_text_bytes: memory for paths, text and line starts; the table beside it takes SLOTS * NUM_KEYS * 4."""
        self._max_bytes = max_text_bytes
        self._num_bytes = 0
        self._generation = 0
        self._files: OrderedDict[str, _File] = OrderedDict()
        """By path; what was of use longest ago comes first."""
        self._kept: frozenset[str] = frozenset()
        self._bases: list[int] = []
        self._by_base: list[_File] = []
        self._next_line = 1
        self._table = array("I", bytes(4 * SLOTS * NUM_KEYS))
        self._next_slot = bytearray(NUM_KEYS)
        self._lock = threading.Lock()
        self.imports = (ImportTable(PYTHON), ImportTable(ECMASCRIPT))
        """What the files import and define."""

    def __len__(self) -> int:
        """How many files are in the index."""
        return len(self._files)

    def __contains__(self, path: object) -> bool:
        """Whether a file is in the index."""
        return path in self._files

    @property
    def num_bytes(self) -> int:
        """About how much memory the index takes: paths, text, line starts and the table."""
        return self._num_bytes + len(self._table) * self._table.itemsize + len(self._next_slot)

    @property
    def generation(self) -> int:
        """How often the index was cleared. Who began before that must not write what it read by other rules."""
        return self._generation

    def update(
        self, path: str, text: str, generation: int | None = None, cancelled: Callable[[], bool] | None = None
    ) -> bool:
        """Take a file in, in place of what was known of it. generation: when the caller began; None: now.

        Where there is no room, what was of use longest ago is forgotten for it, and what is kept (see keep) after all
        others. Returns False where cancelled said so before anything was changed.
        """
        text = redact(text.replace("\r\n", "\n"))
        starts = Lines.of(text).starts
        file = _File(text, starts, path)
        # the slow part happens before the lock is taken, or a keystroke would wait for it
        names = [table.family.names_of(path, text) for table in self.imports]
        rules = rules_of(language_for_path(path))
        lines = ["", *(file.line(i) for i in range(len(starts))), ""]
        keys: list[tuple[int, ...]] = []
        for i in range(len(starts)):
            if cancelled is not None and i % POLL_LINES == 0 and cancelled():
                return False
            name = defined_in(rules, lines[i + 1]) if rules is not None else ""
            keys.append((*_keys(lines[i], lines[i + 2]), *_head_key(lines[i + 1]), *_name_key(name)))
        with self._lock:
            if generation not in (None, self._generation):
                return True
            self._drop(path)
            if not starts or file.num_bytes > self._max_bytes:
                return True
            file.base = self._next_line
            self._next_line += len(starts)
            if self._next_line > 0xF000_0000:
                # four thousand million lines later, begin anew rather than wrap round
                self._clear()
                file.base, self._next_line = 1, 1 + len(starts)
            self._files[path] = file
            self._bases.append(file.base)
            self._by_base.append(file)
            self._num_bytes += file.num_bytes
            for i, of_line in enumerate(keys):
                for key in of_line:
                    self._put(key, file.base + i)
            for table, each in zip(self.imports, names, strict=True):
                table.update(path, each)
            while self._num_bytes > self._max_bytes:
                self._drop(next((each for each in self._files if each not in self._kept), next(iter(self._files))))
        return True

    def keep(self, paths: Iterable[str]) -> None:
        """From now on these files, and no others, are forgotten last: the open documents."""
        self._kept = frozenset(paths)

    def has_room(self, text: str) -> bool:
        """Whether a file could be taken in now without another one being forgotten for it."""
        # an array that grows takes an eighth more than it needs
        num_bytes = sys.getsizeof(text) + 4.5 * text.count("\n") + FILE_BYTES + RESERVE_BYTES
        return self._num_bytes + num_bytes <= self._max_bytes

    def remove(self, path: str, generation: int | None = None) -> None:
        """Forget a file, or every file of a folder. generation: see update."""
        with self._lock:
            if generation not in (None, self._generation):
                return
            if path in self._files:
                self._drop(path)
                return
            inside = path.rstrip("/\\") + os.sep
            for each in [each for each in self._files if each.startswith(inside)]:
                self._drop(each)

    def clear(self) -> None:
        """Forget every file."""
        with self._lock:
            self._generation += 1
            self._clear()

    def similar(self, place: Place) -> list[Match]:
        """Lines that go on from the place's head and stand in places like it, the most alike first.

        Files that have such lines are of use, and stay longer.
        """
        found: dict[int, Match] = {}
        with self._lock:
            for line_id in self._entries((*_keys(place.above[0], place.below[0]), *_head_key(place.head))):
                if line_id not in found:
                    match = self._match(line_id, place)
                    if match is not None:
                        found[line_id] = match
            return self._best(found.values())

    def similar_blocks(self, place: Place, indent: str) -> list[Match]:
        """Blocks that begin in places like it, the most alike first; see similar. indent: of the gap's line.

        What stands in the way of a key may be a docstring, which is passed by.
        """
        found: dict[tuple[str, int], Match] = {}
        with self._lock:
            for line_id in self._entries((*_keys(place.above[0], ""), *_head_key(place.head))):
                known = self._line_of(line_id)
                if known is None:
                    continue
                file, i = known
                block = block_at(file, past_docstring(file, i), place, indent)
                if block is not None:
                    found[file.path, block.first] = Match(file.path, block.first, block.text, block.likeness)
            return self._best(found.values())

    def definitions(self, rules: Rules, name: str) -> list[tuple[str, str, Definition]]:
        """The path and the text of files that define a function or a class of this name, and where; a few of them."""
        found: list[tuple[str, str, Definition]] = []
        with self._lock:
            for line_id in self._entries(_name_key(name)):
                known = self._line_of(line_id)
                if known is None:
                    continue
                file, i = known
                definition = definition_at(rules, file.text, file.starts[i])
                is_same = definition is not None and definition.name == name
                if definition is not None and is_same and language_for_path(file.path).name in rules.languages:
                    found.append((file.path, file.text, definition))
        return found

    def _entries(self, keys: Iterable[int]) -> Iterator[int]:
        """What the table has under these keys."""
        for key in keys:
            slot = key % NUM_KEYS * SLOTS
            yield from filter(None, self._table[slot : slot + SLOTS])

    def _best(self, found: Iterable[Match]) -> list[Match]:
        """The most alike first; the files that have them are of use."""
        best = sorted(found, key=lambda match: -match.likeness)[:NUM_WANTED]
        for match in best:
            self._files.move_to_end(match.path)
        return best

    def _line_of(self, line_id: int) -> tuple[_File, int] | None:
        """The file and the line that an entry of the table stands for, if they are still there."""
        at = bisect_right(self._bases, line_id) - 1
        if at < 0:
            return None
        file, i = self._by_base[at], line_id - self._bases[at]
        if i >= len(file.starts) or self._files.get(file.path) is not file:
            return None
        return file, i

    def _match(self, line_id: int, place: Place) -> Match | None:
        known = self._line_of(line_id)
        if known is None:
            return None
        file, i = known
        rest = rest_of(file.line(i), place.head)
        if not rest:
            return None
        alike = likeness(place, (file.line(i - 1), file.line(i - 2)), (file.line(i + 1), file.line(i + 2)))
        return Match(file.path, i, rest, alike)

    def _put(self, key: int, line_id: int) -> None:
        row = key % NUM_KEYS
        slot = self._next_slot[row]
        self._table[row * SLOTS + slot] = line_id
        self._next_slot[row] = (slot + 1) % SLOTS

    def _drop(self, path: str) -> None:
        file = self._files.pop(path, None)
        if file is None:
            return
        self._num_bytes -= file.num_bytes
        for table in self.imports:
            table.drop(path)
        at = bisect_right(self._bases, file.base) - 1
        del self._bases[at], self._by_base[at]

    def _clear(self) -> None:
        self._files.clear()
        for table in self.imports:
            table.clear()
        self._bases.clear()
        self._by_base.clear()
        self._num_bytes = 0
        self._table = array("I", bytes(4 * SLOTS * NUM_KEYS))


def _shape(line: str) -> str:
    """A line with its numbers and strings blanked out: what differs between repetitions."""
    return _NUMBER_OR_STRING.sub("0", line.strip())


def _keys(above: str, below: str) -> Iterator[int]:
    """Places are found by the line above, by the line below, and by both together."""
    upper, lower = _shape(above), _shape(below)
    if upper and lower:
        yield zlib.crc32(f"b{upper}\n{lower}".encode("utf-8", "replace"))
    if upper:
        yield zlib.crc32(f"u{upper}".encode("utf-8", "replace"))
    if lower:
        yield zlib.crc32(f"l{lower}".encode("utf-8", "replace"))


def _name_key(name: str) -> Iterator[int]:
    """Definitions are found by what they define."""
    if name:
        yield zlib.crc32(f"d{name}".encode("utf-8", "replace"))


def _head_key(line: str) -> Iterator[int]:
    """And by how the line begins, once that is particular enough."""
    words = _WORD.findall(line)
    if len(words) >= HEAD_WORDS:
        yield zlib.crc32(("h" + " ".join(words[:HEAD_WORDS])).encode("utf-8", "replace"))


class WorkspaceIndexer:
    """Fills a LineIndex from folders, a few milliseconds at a time; the caller decides when and on which thread.

    Goes on until all is read, or the index is full: no file is forgotten for one that nobody has asked for.
    """

    def __init__(self, index: LineIndex, roots: Iterable[str | Path], is_excluded: Callable[[str], bool]) -> None:
        """is_excluded: paths that are not read."""
        self._index = index
        self._generation = index.generation
        self._has_complained = False
        self._roots = tuple(Path(root) for root in roots)
        self._is_excluded = is_excluded
        self._is_full = self._is_over = False
        self._work = self._walk(deque(str(root) for root in self._roots))
        self._changed: deque[str] = deque()
        self._preferred: deque[str] = deque()
        self._known_folders: set[str] = set()
        """Folders that have been preferred."""
        self._news = threading.Event()
        self.num_read = 0

    def refresh(self, paths: Sequence[str]) -> None:
        """These files were written, or are gone: read them anew, before what is left of the folders. Any thread."""
        self._changed.extend(paths)
        self.prefer(paths)
        self._news.set()

    def prefer(self, paths: Iterable[str]) -> None:
        """Documents that the user works on: the folders they lie in are read before the others. Any thread."""
        for path in () if self._is_over else paths:
            folder = str(Path(path).parent)
            if folder not in self._known_folders:
                self._known_folders.add(folder)
                self._preferred.append(folder)

    def step(self, budget_ms: float) -> bool:
        """Work for about budget_ms, but at least on one file or entry. Returns whether there is more to do."""
        until = time.perf_counter() + budget_ms / 1e3
        return any(time.perf_counter() >= until for _ in itertools.chain(self._reread(), self._work))

    def _reread(self) -> Iterator[None]:
        while self._changed:
            path = Path(self._changed.popleft())
            with self._guarded():
                is_read = False
                try:
                    is_read = self._is_inside(path) and self._is_wanted(path.name, str(path)) and self._read(path)
                finally:
                    if not is_read:
                        self._index.remove(str(path), self._generation)
            yield

    def _is_inside(self, path: Path) -> bool:
        """Whether the walk would come to this file."""
        return path.is_file() and not path.is_symlink() and self._is_reached(path.parent)

    def _is_reached(self, folder: Path) -> bool:
        """Whether the walk would come to this folder."""
        for root in self._roots:
            if folder.is_relative_to(root):
                inner = [each for each in (folder, *folder.parents) if each != root and each.is_relative_to(root)]
                if not any(_is_skipped(each.name) or each.is_symlink() for each in inner):
                    return True
        return False

    def _is_wanted(self, name: str, path: str) -> bool:
        # by the name first: the rules look at the disk
        return language_for_path(name).is_source and not self._is_excluded(path)

    def _walk(self, folders: deque[str]) -> Generator[None]:
        """Every folder in turn, the preferred ones first, then the outer ones; yields after each entry."""
        done: set[str] = set()
        while folder := self._next(folders):
            if folder in done:
                continue
            done.add(folder)
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        with self._guarded():
                            if not entry.is_symlink():
                                self._visit(entry, folders)
                        yield
                        if self._is_full:
                            break
            except OSError:
                # a folder that went away, or that we may not read, is not part of the workspace
                continue
            if self._is_full:
                logger.info(
                    "After %d files there is no room for more of the workspace. Left out: the rest of %s, and %d "
                    "folders with all that is in them.",
                    self.num_read,
                    folder,
                    len(set(folders) - done),
                )
                break
        self._is_over = True

    def _next(self, folders: deque[str]) -> str:
        """The folder to read next; "" where none is left."""
        while self._preferred:
            folder = Path(self._preferred.popleft())
            with self._guarded():
                if self._is_reached(folder):
                    return str(folder)
        return folders.popleft() if folders else ""

    @contextlib.contextmanager
    def _guarded(self) -> Generator[None]:
        """Whatever one entry does, the others are read."""
        try:
            yield
        except OSError:
            # it went away, or is not ours to look at
            pass
        except Exception:
            # one line in the log tells as much as one for every file
            if not self._has_complained:
                logger.exception("The workspace is read on, but something in it could not be.")
            self._has_complained = True

    def _visit(self, entry: os.DirEntry[str], folders: deque[str]) -> None:
        if entry.is_dir():
            if not _is_skipped(entry.name):
                folders.append(entry.path)
        elif entry.is_file() and entry.path not in self._index and self._is_wanted(entry.name, entry.path):
            # a pipe would be waited for; what is known comes from an open document, or was read when it was saved
            self._read(Path(entry.path), is_asked_for=False)

    def _read(self, path: Path, *, is_asked_for: bool = True) -> bool:
        """Take a file in, if it can be read. is_asked_for: others may be forgotten for it."""
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                return False
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return False
        if not is_asked_for and not self._index.has_room(text):
            self._is_full = True
            return False
        self.num_read += 1
        self._index.update(str(path), text, self._generation)
        return True

    def start(
        self, slice_ms: float = 4.0, pause_ms: float = 16.0, is_busy: Callable[[], bool] = lambda: False
    ) -> Callable[[], None]:
        """Work in a background thread, a slice at a time with pauses between; then wait for what refresh brings.

        is_busy: polled before each slice; while it is true nothing is read. Returns what stops it.
        """
        stopped = threading.Event()

        def work() -> None:
            while True:
                # cleared first: what comes after this line is seen below, or ends the wait
                self._news.clear()
                if stopped.is_set():
                    # the folder it is in is open, and the walk, which holds this reader and the index, holds itself
                    self._work.close()
                    return
                is_more = True
                with self._guarded():
                    is_more = is_busy() or self.step(slice_ms) or bool(self._changed)
                if is_more:
                    stopped.wait(pause_ms / 1e3)
                    continue
                logger.info("%d files of the workspace have been read.", self.num_read)
                self._news.wait()

        thread = threading.Thread(target=work, name="lacuna-index", daemon=True)
        thread.start()

        def stop() -> None:
            stopped.set()
            self._news.set()
            thread.join(timeout=2.0)

        return stop


def _is_skipped(folder: str) -> bool:
    return folder.startswith(".") or folder in _SKIPPED


_SKIPPED = frozenset(("node_modules", "__pycache__", "build", "dist", "target", "venv", "site-packages", "vendor"))
