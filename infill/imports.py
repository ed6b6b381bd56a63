"""What the files of a workspace import and define, by name: an import that one file lacks stands in another.

Knows paths and text, no document and no model. What differs between languages is a `Family` each: imports_python.py and
imports_js.py.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import tree_sitter

from .unresolved import Unresolved

MAX_NAMES = 1_000
"""So many names at most are kept of what one file imports, and of what it binds itself: one that is made of nothing
else would take a hundred times its own size."""

NUM_ORIGINS = 4
"""So many origins at most are told of a name."""


@dataclass(frozen=True, slots=True)
class Imported:
    """One name that a statement binds. module: as it is written, dots in front for what is relative; or, where is_path,
    the path of a file or folder without its ending. name: of the thing in its module; "" for the module itself.
    alias: what it is bound to. written: a path as the file writes it. is_type: whether only the type is imported.
    """

    module: str
    name: str
    alias: str
    is_path: bool = False
    written: str = ""
    is_type: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a name comes from. module: the path of a file or folder without its ending, for what may lie in the package
    of the file that asks; else as it is written. name, alias: as of Imported. dotted: the module as others write it
    whole. num_dotted, num_relative: how many files write it whole, and with dots in front. num_types: how many of them
    import only the type, num_near: how many lie in the folder of the file that asks. written, near: how most of them
    write a path, and most of those in its folder. home: the file of this path that defines it, where one does. num_own:
    how many files have something else that is called so, or use it without an import.
    """

    module: str
    name: str
    alias: str
    dotted: str = ""
    num_dotted: int = 0
    num_relative: int = 0
    num_types: int = 0
    num_near: int = 0
    written: str = ""
    near: str = ""
    home: str = ""
    num_own: int = 0

    @property
    def num_files(self) -> int:
        """How many have it from there; 0: one defines it, or everybody knows."""
        return self.num_dotted + self.num_relative


@dataclass(frozen=True, slots=True)
class Names:
    """What one file imports, what it defines at its margin for others, and what it has without either: variables there
    that are its own, in some languages also what it uses and nobody has to import.

    whole: which of the defined others do not get by its name, and what they ask for instead. style: how its statements
    are written, where languages leave a choice.
    """

    imported: tuple[Imported, ...] = ()
    defined: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    whole: tuple[str, str] = ("", "")
    style: object | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """A whole statement. num_files: how many have the least usual of its names from there. purity: the least share of
    the files that import one of its names and have it from there.
    """

    text: str
    num_files: int
    purity: float

    @classmethod
    def of(cls, text: str, members: Sequence[tuple[Origin, float]]) -> Statement:
        """members: the origin of each name that it binds, and its purity."""
        num_files = min(origin.num_files for origin, _ in members)
        return cls(text, num_files, min(purity for _, purity in members))


Known = tuple[Unresolved, list[Origin]]
"""A name that nothing binds, and where it may come from; at least one origin."""


@dataclass(frozen=True, slots=True)
class Family:
    """What differs in imports between languages. languages: names of their rows (languages.py).

    names_of: what a file (path, text) imports and defines; nothing of files in other languages. imports_of: what the
    text of a file (text, path) imports, whatever its ending. stem: the path of a file as a module's: without its
    ending, and of a package its folder. located: the path of a module that is written whole and may lie in the package
    of a file; the module where it does not. usual: where all code has names from. statements: (head, tail, names,
    table, path, text) those that bind some of names, to be written at path behind head and before tail; text is the
    document without what stands between.

    words: what a statement begins with. begun: a pattern of lines so far that are one wherever they stand.
    no_code: a pattern of what may stand above the first. leads: of what is below a line above which it has to stand.
    is_import: whether a node that is not among the language's import_nodes is one all the same.
    counts_all: whether a document with many names that nobody knows is not one that lacks a few imports: what the
    language binds by itself is known. sure, sure_begun: how often a statement was exactly right, by the number of files
    that have its names from there (none, one, more); the second where it has begun.
    """

    languages: tuple[str, ...]
    names_of: Callable[[str, str], Names]
    imports_of: Callable[[str, str], Iterable[Imported]]
    stem: Callable[[str], str]
    statements: Callable[[str, str, Sequence[Known], ImportTable, str, str], list[Statement]]
    words: tuple[str, ...]
    begun: re.Pattern[str]
    no_code: re.Pattern[str]
    leads: re.Pattern[str]
    sure: tuple[float, ...]
    sure_begun: tuple[float, ...]
    located: Callable[[str, str], str] = lambda module, path: module
    usual: Callable[[], Mapping[str, list[Origin]]] = dict
    is_import: Callable[[tree_sitter.Node], bool] = lambda node: False
    counts_all: bool = True


class ImportTable:
    """Name -> where the files of a workspace have it from, in the languages of one family. Thread-safe."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._names: dict[str, Names] = {}
        """By path."""
        self._imported: defaultdict[str, defaultdict[Imported, list[str]]] = defaultdict(lambda: defaultdict(list))
        """Name -> what it stands for -> the paths of those who import it so."""
        self._defined: defaultdict[str, list[str]] = defaultdict(list)
        """Name -> paths."""
        self._own: Counter[str] = Counter()
        """Name -> how many files have something of their own that is called so."""
        self._styles: Counter[object | None] = Counter()
        self._lock = threading.Lock()

    def update(self, path: str, names: Names) -> None:
        """Take a file in, in place of what was known of it."""
        with self._lock:
            self._drop(path)
            if names == Names():
                return
            self._names[path] = names
            for each in names.imported:
                self._imported[each.alias][each].append(path)
            for name in names.defined:
                self._defined[name].append(path)
            self._own.update(names.own)
            self._styles[names.style] += 1

    def drop(self, path: str) -> None:
        """Forget a file."""
        with self._lock:
            self._drop(path)

    def clear(self) -> None:
        """Forget every file."""
        with self._lock:
            for table in (self._names, self._imported, self._defined, self._own, self._styles):
                table.clear()

    def styles(self) -> Mapping[object, int]:
        """How files write their statements, and how many do so."""
        with self._lock:
            return Counter(self._styles)

    def find(self, name: str, path: str) -> list[Origin]:
        """Where other files have a name from, the most usual first; where none imports it, who defines it; else where
        all code has it from. From nowhere, where it is this file's to bind, or more files bind it than import it.

        path: of the file that asks, which says nothing.
        """
        with self._lock:
            mine = self._names.get(path, Names())
            importers = self._imported.get(name, dict[Imported, list[str]]())
            found = [(each, [other for other in paths if other != path]) for each, paths in importers.items()]
            defined = {each: self._names[each].whole for each in self._defined.get(name, ()) if each != path}
            num_own = self._own[name] - (name in mine.own)
        if not (found or defined or num_own):
            # most names of a document are of this kind
            return self.family.usual().get(name, [])
        origins: dict[tuple[str, str], Origin] = {}
        folder = str(PurePath(path).parent)
        inside = folder.rstrip(os.sep) + os.sep
        for each, paths in sorted(found, key=lambda pair: -len(pair[1])):
            number = len(paths)
            module = each.module if each.is_path else self.family.located(each.module, path)
            known = origins.get((module, each.name), Origin(module, each.name, name, written=each.written))
            num_near = sum(other.startswith(inside) and os.sep not in other[len(inside) :] for other in paths)
            known = replace(
                known,
                num_types=known.num_types + number * each.is_type,
                num_near=known.num_near + num_near,
                near=known.near or each.written * bool(num_near),
            )
            if each.is_path:
                known = replace(known, num_relative=known.num_relative + number)
            else:
                known = replace(known, num_dotted=known.num_dotted + number, dotted=each.module)
            origins[module, each.name] = known
        usual = sorted((each for each in origins.values() if each.num_files > 0), key=lambda each: -each.num_files)
        here = self.family.stem(path)
        others = [each for each in usual if each.module != here or not each.name]
        if len(others) < len(usual) and here != folder:
            # it is this file's to bind, and what else has it got it from here
            return []
        homes = {self.family.stem(each): (each, whole) for each, whole in defined.items()}
        # one of them is where the others have it from
        if len(homes) + num_own > 1 + sum(each.num_files for each in others):
            return []
        if not others:
            others = [
                Origin(home, whole[1] if whole[0] == name else name, name)
                for home, (_, whole) in homes.items()
                if home != here
            ]
        if not others:
            return self.family.usual().get(name, [])[:NUM_ORIGINS]
        # the same where no file shows that it defines it
        num_own -= not homes and num_own > 0
        return [
            replace(each, home=homes.get(each.module, ("", ""))[0], num_own=num_own) for each in others[:NUM_ORIGINS]
        ]

    def _drop(self, path: str) -> None:
        names = self._names.pop(path, None)
        if names is None:
            return
        for each in names.imported:
            origins = self._imported[each.alias]
            origins[each].remove(path)
            if not origins[each]:
                del origins[each]
            if not origins:
                del self._imported[each.alias]
        for name in names.defined:
            self._defined[name].remove(path)
            if not self._defined[name]:
                del self._defined[name]
        for name in names.own:
            self._own[name] -= 1
            if not self._own[name]:
                del self._own[name]
        self._styles[names.style] -= 1
        if not self._styles[names.style]:
            del self._styles[names.style]


def purity(best: Origin, origins: Sequence[Origin]) -> float:
    """The share of those who import a name that have it from the best of its origins; with one more who does."""
    return (best.num_files + 1) / (sum(origin.num_files for origin in origins) + 1)
