"""What the files of a workspace import and define, by name: an import that one file lacks stands in another.

Knows paths and text, no document and no model. Python alone.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path, PurePath
from sys import intern

USUAL_FILE = Path(__file__).with_name("usual_imports.txt")
"""A line a module: the module, and what is imported from it; NAME:ALIAS for what gets another name, `:` for itself.
Written by training/usual_imports.py."""

MAX_NAMES = 1_000
"""So many names at most are kept of what one file imports, and of what it binds itself: one that is made of nothing
else would take a hundred times its own size."""

NUM_ORIGINS = 4
"""So many origins at most are told of a name."""

_STATEMENT = re.compile(
    r"""^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(?:\(([^()]*)\)|((?:[^\n#;\\]|\\\r?\n)+))
        |import[ \t]+([^\n#;]+))""",
    re.MULTILINE | re.VERBOSE,
)
_NOT_NAMES = re.compile(r"#[^\n]*|\\\r?\n")
_PART = re.compile(r"\s*([A-Za-z_][\w.]*)(?:\s+as\s+([A-Za-z_]\w*))?\s*\Z")
_DEFINITION = re.compile(
    r"^(?:(?:async[ \t]+)?def|class)[ \t]+([A-Za-z]\w*)|^(?:([A-Z]\w*)|([a-z_]\w*))[ \t]*(?::[^=\n]+)?=(?!=)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Imported:
    """One name that a statement binds. module: as it is written, dots in front for what is relative; or, where is_path,
    the path of a file or folder without its ending. name: of the thing in its module; "" for the module itself.
    alias: what it is bound to.
    """

    module: str
    name: str
    alias: str
    is_path: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a name comes from. module: the path of a file or folder without its ending, for what may lie in the package
    of the file that asks; else as it is written. name, alias: as of Imported. dotted: the module as others write it
    whole. num_dotted, num_relative: how many files write it whole, and with dots in front.
    """

    module: str
    name: str
    alias: str
    dotted: str = ""
    num_dotted: int = 0
    num_relative: int = 0

    @property
    def num_files(self) -> int:
        """How many have it from there; 0: one defines it, or everybody knows."""
        return self.num_dotted + self.num_relative


@dataclass(frozen=True, slots=True)
class Names:
    """What one file imports, what it defines at its margin for others, and the variables there that are its own."""

    imported: tuple[Imported, ...] = ()
    defined: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: str, text: str) -> Names:
        """Of a Python file; of another, nothing."""
        if not path.endswith((".py", ".pyi")):
            return cls()
        imported = (_resolved(each, path) for each in imports_of(text) if each.module != "__future__")
        found = list(islice(_DEFINITION.finditer(text), MAX_NAMES))
        defined = dict.fromkeys(intern(match[1] or match[2]) for match in found if not match[3])
        own = dict.fromkeys(intern(match[3]) for match in found if match[3])
        return cls(tuple(dict.fromkeys(islice(imported, MAX_NAMES))), tuple(defined), tuple(own))


def imports_of(text: str) -> Iterator[Imported]:
    """What the import statements of a Python text bind."""
    for match in _STATEMENT.finditer(text):
        module, bracketed, plain, modules = match.groups()
        for part in _NOT_NAMES.sub("", bracketed or plain or modules or "").split(","):
            found = _PART.match(part)
            if found is None:
                continue
            whole, alias = found[1], found[2]
            if module is None:
                yield Imported(intern(whole), "", intern(alias or whole.partition(".")[0]))
            elif "." not in whole:
                yield Imported(intern(module), intern(whole), intern(alias or whole))


class ImportTable:
    """Name -> where the files of a workspace have it from. Thread-safe."""

    def __init__(self) -> None:
        self._names: dict[str, Names] = {}
        """By path."""
        self._imported: defaultdict[str, Counter[Imported]] = defaultdict(Counter)
        self._defined: defaultdict[str, list[str]] = defaultdict(list)
        """Name -> paths."""
        self._own: Counter[str] = Counter()
        """Name -> how many files have a variable of their own that is called so."""
        self._lock = threading.Lock()

    def update(self, path: str, names: Names) -> None:
        """Take a file in, in place of what was known of it."""
        with self._lock:
            self._drop(path)
            self._names[path] = names
            for each in names.imported:
                self._imported[each.alias][each] += 1
            for name in names.defined:
                self._defined[name].append(path)
            self._own.update(names.own)

    def drop(self, path: str) -> None:
        """Forget a file."""
        with self._lock:
            self._drop(path)

    def clear(self) -> None:
        """Forget every file."""
        with self._lock:
            for table in (self._names, self._imported, self._defined, self._own):
                table.clear()

    def find(self, name: str, path: str) -> list[Origin]:
        """Where other files have a name from, the most usual first; where none imports it, who defines it; else where
        Python code has it from. From nowhere, where it is this file's to bind, or more files bind it than import it.

        path: of the file that asks, which says nothing.
        """
        with self._lock:
            mine = self._names.get(path, Names())
            found = Counter(self._imported.get(name, ()))
            found.subtract(each for each in mine.imported if each.alias == name)
            defined = [each for each in self._defined.get(name, ()) if each != path]
            num_own = self._own[name] - (name in mine.own)
        origins: dict[tuple[str, str], Origin] = {}
        for each, number in found.items():
            module = each.module if each.is_path else located(each.module, path)
            known = origins.get((module, each.name), Origin(module, each.name, name))
            if each.is_path:
                known = replace(known, num_relative=known.num_relative + number)
            else:
                known = replace(known, num_dotted=known.num_dotted + number, dotted=each.module)
            origins[module, each.name] = known
        usual = sorted((each for each in origins.values() if each.num_files > 0), key=lambda each: -each.num_files)
        here = _stem(path)
        others = [each for each in usual if each.module != here or not each.name]
        if len(others) < len(usual) and PurePath(path).stem != "__init__":
            # it is this file's to bind, and what else has it got it from here
            return []
        homes = dict.fromkeys(map(_stem, defined))
        # one of them is where the others have it from
        if len(homes) + num_own > 1 + sum(each.num_files for each in others):
            return []
        usual = others or [Origin(home, name, name) for home in homes if home != here] or _usual_origins().get(name, [])
        return usual[:NUM_ORIGINS]

    def _drop(self, path: str) -> None:
        names = self._names.pop(path, Names())
        for each in names.imported:
            counts = self._imported[each.alias]
            counts[each] -= 1
            if not counts[each]:
                del counts[each]
            if not counts:
                del self._imported[each.alias]
        for name in names.defined:
            self._defined[name].remove(path)
            if not self._defined[name]:
                del self._defined[name]
        for name in names.own:
            self._own[name] -= 1
            if not self._own[name]:
                del self._own[name]


@cache
def _usual_origins() -> dict[str, list[Origin]]:
    found: dict[str, list[Origin]] = {}
    for line in USUAL_FILE.read_text(encoding="utf-8").splitlines():
        module, *parts = line.split(" ")
        for part in parts:
            name, _, alias = part.partition(":")
            alias = alias or name or module.partition(".")[0]
            found[alias] = [Origin(module, name, alias, module)]
    return found


def written(origin: Origin, path: str, is_relative: bool) -> str:
    """How the file at path writes an origin's module. is_relative: whether with dots in front, where that can be."""
    there, here = PurePath(origin.module).parts, PurePath(path).parent.parts
    if len(there) == 1:
        return origin.module
    num_shared = next((i for i, pair in enumerate(zip(here, there)) if pair[0] != pair[1]), min(len(here), len(there)))
    # dots lead no further up than to the outermost package, and out of no script; a neighbour that others have with
    # dots lies in a package, with or without an __init__.py
    if is_relative and (here == there[:-1] or _is_package(there[:num_shared])):
        return "." * (len(here) - num_shared + 1) + ".".join(there[num_shared:])
    top = len(there) - 1
    while top > 1 and _is_package(there[:top]):
        top -= 1
    return origin.dotted or ".".join(there[top:])


def _is_package(parts: tuple[str, ...]) -> bool:
    return bool(parts) and Path(*parts, "__init__.py").exists()


def _stem(path: str) -> str:
    """The path of a module: of a package, its folder."""
    whole = PurePath(path)
    return str(whole.parent if whole.stem == "__init__" else whole.parent / whole.stem)


def _resolved(imported: Imported, path: str) -> Imported:
    """What is relative to the file at path by the path that it means."""
    inner = imported.module.lstrip(".")
    num_up = len(imported.module) - len(inner)
    if not num_up:
        return imported
    folders = PurePath(path).parents
    module = folders[min(num_up, len(folders)) - 1].joinpath(*inner.split(".") if inner else ())
    return Imported(intern(str(module)), imported.name, imported.alias, True)


def located(module: str, path: str) -> str:
    """The path that a module would have if it lay in the package of the file at path; the module where it does not."""
    first, *inner = module.split(".")
    folders = PurePath(path).parent.parts
    if first not in folders:
        return module
    top = len(folders) - folders[::-1].index(first)
    if _is_package(folders[: top - 1]):
        # a folder within a package that is called like something else, as many a `logging` is
        return module
    return str(PurePath(*folders[:top], *inner))
