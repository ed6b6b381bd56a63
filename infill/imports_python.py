"""How Python imports: what the statements of a file bind, and how another file writes one.

A row of `Family` (imports.py). Knows paths and text, no document and no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path, PurePath
from sys import intern

from .imports import MAX_NAMES, Family, Imported, ImportTable, Known, Names, Origin, Statement, purity

USUAL_FILE = Path(__file__).with_name("usual_imports.txt")
"""A line a module: the module, and what is imported from it; NAME:ALIAS for what gets another name, `:` for itself.
Written by training/usual_imports.py."""

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
_FROM = re.compile(r"from[ \t]+(\S+)[ \t]+import[ \t]+(.*)\Z")
_RELATIVE = re.compile(r"^[ \t]*from[ \t]+\.", re.MULTILINE)
_CAPITALS = re.compile(r"[A-Z0-9_]{2,}\Z")
_NO_CODE = re.compile(r"(?>\s|#[^\n]*\n|[rRuU]?\"{3}(?s:.*?)\"{3}|[rRuU]?'{3}(?s:.*?)'{3})*+")
"""Never tried again in another way: a string ends at its first mark, and many of them would take for ever."""
_LEADS = re.compile(r"\s*+#!|(?>\s|#[^\n]*\n)*+(?:[rRuU]?[\"']|from[ \t]+__future__\b)")


def names_of(path: str, text: str) -> Names:
    """What a Python file imports and defines; nothing of another file."""
    if not path.endswith((".py", ".pyi")):
        return Names()
    imported = (each for each in _imports_at(text, path) if each.module != "__future__")
    found = list(islice(_DEFINITION.finditer(text), MAX_NAMES))
    defined = dict.fromkeys(intern(match[1] or match[2]) for match in found if not match[3])
    own = dict.fromkeys(intern(match[3]) for match in found if match[3])
    return Names(tuple(dict.fromkeys(islice(imported, MAX_NAMES))), tuple(defined), tuple(own))


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


def _imports_at(text: str, path: str) -> Iterator[Imported]:
    return (_resolved(each, path) for each in imports_of(text))


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
    folders = PurePath(path).parents
    if not num_up or not folders:
        # a document that is not saved is relative to nothing
        return imported
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


def _statements(
    head: str, tail: str, known: Sequence[Known], table: ImportTable, path: str, text: str
) -> list[Statement]:
    is_relative = _is_relative(text, path)
    groups: dict[str, list[tuple[Origin, float]]] = {}
    for _, origins in known:
        best = origins[0]
        wants_dots = best.num_relative > best.num_dotted if is_relative is None else is_relative
        module = written(best, path, wants_dots)
        begin = f"from {module} import " if best.name else _import(module, best.alias)
        groups.setdefault(begin, []).append((best, purity(best, origins)))
    begun = _FROM.match(head)
    found: list[Statement] = []
    for begin, members in groups.items():
        parts = sorted((_part(origin) for origin, _ in members), key=_order)
        whole = begin + ", ".join(parts) if members[0][0].name else begin
        if begun is not None and begin == f"from {begun[1]} import ":
            whole = head + _rest_of_names(begun[2], parts)
        found.append(Statement.of(whole, members))
    return found


def _is_relative(text: str, path: str) -> bool | None:
    """Whether a text has the modules of its own package with dots in front; None where it has none of them."""
    if _RELATIVE.search(text):
        return True
    return False if any(located(each.module, path) != each.module for each in imports_of(text)) else None


def _import(module: str, alias: str) -> str:
    return f"import {module}" if module.partition(".")[0] == alias else f"import {module} as {alias}"


def _part(origin: Origin) -> str:
    return origin.name if origin.name == origin.alias else f"{origin.name} as {origin.alias}"


def _order(part: str) -> tuple[int, str, str]:
    """isort's and ruff's: constants, then classes, then the rest; each by its letters."""
    kind = 0 if _CAPITALS.match(part) else 1 if part[:1].isupper() else 2
    return kind, part.lower(), part


def _rest_of_names(begun: str, parts: Sequence[str]) -> str:
    """What goes on with a list of names that has begun; "" where nothing does."""
    *whole, last = (part.strip() for part in begun.split(","))
    left = [part for part in parts if part not in whole]
    first = next((part for part in left if part.startswith(last)), None)
    if first is None:
        return ""
    return ", ".join([first[len(last) :], *(part for part in left if part is not first)])


PYTHON = Family(
    languages=("python",),
    names_of=names_of,
    imports_of=_imports_at,
    stem=_stem,
    located=located,
    usual=_usual_origins,
    statements=_statements,
    words=("from", "import"),
    begun=re.compile(r"\s*(?:from|import)\s"),
    no_code=_NO_CODE,
    leads=_LEADS,
    sure=(0.74, 0.86, 0.92),
    sure_begun=(0.9, 0.95, 0.96),
)
"""Its shares are those of 1,013 statements in held-out packages."""
