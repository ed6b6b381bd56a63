"""How JavaScript and TypeScript import: what `import` and `require` of a file bind, and how another file writes one.

A row of `Family` (imports.py). Knows paths and text, no document and no model. Reads by patterns, each of which goes
through a text once, whatever is in it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path, PurePath
from sys import intern
from typing import Any, TypeVar

import tree_sitter

from .imports import MAX_NAMES, Family, Imported, ImportTable, Known, Names, Origin, Statement, purity

T = TypeVar("T")

ENDINGS = (".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx")
_IMPORTING, _REQUIRING = (".mjs", ".mts", ".ts", ".tsx"), (".cjs", ".cts")

WHOLE, DEFAULT, NAMESPACE = "module.exports", "default", "*"
"""What a name may stand for besides what a module calls so itself: what `require` gives, `import x`, `import * as x`.
With a dot in front: a member that is taken from what `require` gives at once."""

_NAME = r"[A-Za-z_$][\w$]*+"
_IMPORT = re.compile(
    rf"""^[ \t]*+import\b\s*+(type\b(?!\s*+(?:,|from\b))\s*+)?
        (?:({_NAME})\s*+,?\s*+)?(?:\*\s*+as\s+({_NAME})\s*+|\{{([^{{}}]*+)\}}\s*+)?
        from\s*+(["'])([^"'\n]{{1,300}})\5[ \t]*+(;?)""",
    re.MULTILINE | re.VERBOSE,
)
_REQUIRE = re.compile(
    rf"""(?:\b(const|let|var|import)\b|,)\s*+(?:({_NAME})|\{{([^{{}}=]*+)\}})\s*+=\s*+
        require\([ \t]*+(["'])([^"'\n]{{1,300}})\4[ \t]*+\)(?:\.({_NAME}))?(?![ \t]*+[.(\[])(?=[ \t]*+([;,]?))""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"//[^\n]*|/\*(?s:.*?)(?:\*/|\Z)")
_PART = re.compile(rf"\s*+(type\s++(?!as\b))?({_NAME}|default)(?:\s*+(?:\bas\b|:)\s*+({_NAME}))?\s*+\Z")
_KEY = re.compile(rf"(?:^|,)\s*+({_NAME})\s*+(?=[:,]|\Z)")
_KINDS = r"const[ \t]+enum|function\*?|abstract[ \t]+class|class|const|let|var|type|interface|enum|namespace"
_DEFINITION = re.compile(
    rf"^(export[ \t]+(?:(default)[ \t]+)?)?(?:declare[ \t]+)?(?:async[ \t]+)?(?:{_KINDS})[ \t]+\*?[ \t]*({_NAME})",
    re.MULTILINE,
)
_EXPORTED = re.compile(
    rf"""^export[ \t]+default[ \t]+(?P<default>{_NAME})[ \t]*;?[ \t]*$
        |^export[ \t]+(?:type[ \t]+)?\{{(?P<list>[^{{}}]*+)\}}(?!\s*+from)
        |^(?:exports[ \t]*=[ \t]*)?module\.exports[ \t]*=[ \t]*(?:
            (?:class|(?:async[ \t]+)?function\*?)[ \t]+(?P<made>{_NAME})
            |(?P<whole>{_NAME})[ \t]*;?[ \t]*$|\{{(?P<object>[^{{}}]*+))
        |^(?:module\.)?exports\.(?P<one>{_NAME})[ \t]*=(?!=)""",
    re.MULTILINE | re.VERBOSE,
)
_HOSTS = """
AbortController AbortSignal Blob Buffer DOMException Event EventTarget File FormData Headers MessageChannel MessageEvent
Node ReadableStream Request Response TextDecoder TextEncoder TransformStream URL URLSearchParams WebSocket
WritableStream clearInterval clearTimeout console crypto document fetch global performance process queueMicrotask
setImmediate setInterval setTimeout structuredClone window
cy jest vi
"""
_USED = re.compile(
    rf"^[ \t]*+({_NAME})\((?![^()\n]*\)\s*[{{:])|\b(?=[A-FHMNRTUWcdfgjpqsvw])(?:{'|'.join(_HOSTS.split())})\b",
    re.MULTILINE,
)
"""Calls at the beginning of a line, as of a test's `expect`, and what hosts bind by themselves, also those of tests."""

_MODULE = re.compile(r"^(?:import[\s{*\"']|export[\s{*])", re.MULTILINE)
_COMMON = re.compile(r"^(?:module\.)?exports\b", re.MULTILINE)
_NO_CODE = re.compile(r"(?:#![^\n]*\n)?(?>\s|//[^\n]*\n|/\*(?s:.*?)\*/|(?:'use \w+'|\"use \w+\")[ \t]*;?)*+")
_LEADS = re.compile(r"\s*+#!|(?>\s|//[^\n]*\n|/\*(?s:.*?)\*/)*+(?:'use \w+'|\"use \w+\")")
_KEYWORD = re.compile(r"import|const|let|var")
_DECLARED = re.compile(rf"(?:const|let|var)\s+({_NAME})\s*=")
_ENDING = re.compile(r"(?:\.d)?\.[mc]?[jt]sx?\Z")
_TAIL = re.compile(r"(?:/index)?(?:\.[mc]?[jt]sx?)?\Z|/\Z")
_BRACES = re.compile(rf"((?:import\s+(?:type\s+)?(?:{_NAME}\s*,\s*)?|(?:const|let|var)\s+)\{{)([^{{}}]*)(\}}.*)?\Z")

IN_ORDER = 0.5
"""How often names are in the order of their letters where those of other statements are not."""


@dataclass(frozen=True, slots=True)
class Style:
    """How statements are written. is_module: by `import`, and not by `require`. quote, end: around a module, and behind
    it. pad: within braces. ending: of the last name of a relative path. types: how what is a type alone is imported:
    "type" in statements of their own, "inline" beside other names, "" like all else. is_sorted: whether names in braces
    are. None: a file shows nothing of it.
    """

    is_module: bool | None = None
    quote: str | None = None
    end: str | None = None
    pad: str | None = None
    keyword: str | None = None
    ending: str | None = None
    types: str | None = None
    is_sorted: bool | None = None

    def filled(self, other: Style) -> Style:
        """What this does not show as the other has it."""
        shown = {name: getattr(self, name) for name in _ASPECTS if getattr(self, name) is not None}
        return replace(other, **shown)


_ASPECTS = tuple(each.name for each in fields(Style))
_DEFAULT_STYLE = Style(True, '"', ";", " ", "const", "", "", True)


@dataclass(frozen=True, slots=True)
class _Found:
    """One statement of a text. whole: what the module itself is bound to; names: what stands in the braces."""

    is_module: bool
    is_type: bool
    keyword: str
    whole: str
    namespace: str
    names: str | None
    quote: str
    module: str
    member: str
    end: str


def names_of(path: str, text: str) -> Names:
    """What a file of JavaScript or TypeScript imports and defines; nothing of another file."""
    if not path.endswith(ENDINGS):
        return Names()
    found = _found(text)
    imported = tuple(dict.fromkeys(islice(_imports(found, path), MAX_NAMES)))
    bound = {each.alias for each in imported}
    defined: dict[str, None] = {}
    own: dict[str, None] = {}
    whole = ("", "")
    for match in islice(_DEFINITION.finditer(text), MAX_NAMES):
        (defined if match[1] else own)[intern(match[3])] = None
        if match[2]:
            whole = (match[3], DEFAULT)
    for match in islice(_EXPORTED.finditer(text), MAX_NAMES):
        made = match["made"] or match["whole"]
        if match["default"] or made:
            whole = (match["default"], DEFAULT) if match["default"] else (made, WHOLE)
            defined[intern(whole[0])] = None
        elif match["one"]:
            defined[intern(match["one"])] = None
        elif match["object"]:
            defined |= dict.fromkeys(intern(key[1]) for key in _KEY.finditer(_COMMENT.sub("", match["object"])))
        else:
            defined |= dict.fromkeys(alias for _, alias, _ in _parts(match["list"] or ""))
    # what is used and neither imported nor exported is the file's own, or needs no import
    own |= dict.fromkeys(intern(match[1] or match[0]) for match in islice(_USED.finditer(text), 4 * MAX_NAMES))
    mine = tuple(each for each in own if each not in defined and each not in bound)
    # who passes on what it imports defines nothing
    others = tuple(each for each in islice(defined, MAX_NAMES) if each not in bound)
    style = _style(found)
    if style is not None and path.endswith((*_IMPORTING, *_REQUIRING)):
        # its name told, which says nothing of files whose names do not
        style = replace(style, is_module=None)
    return Names(imported, others, mine[: MAX_NAMES - len(others)], whole, style)


def imports_of(text: str, path: str) -> Iterator[Imported]:
    """What the import statements and requires of a text at path bind."""
    return _imports(_found(text), path)


def _imports(found: Sequence[_Found], path: str) -> Iterator[Imported]:
    for each in found:
        whole = DEFAULT if each.is_module else f".{each.member}" if each.member else WHOLE
        for name, alias, is_type in (
            *([(whole, each.whole, "")] if each.whole else []),
            *([(NAMESPACE, each.namespace, "")] if each.namespace else []),
            *_parts(each.names or ""),
        ):
            yield _imported(each.module, name, alias, path, each.is_type or bool(is_type))


def _found(text: str) -> list[_Found]:
    found: list[_Found] = []
    for match in islice(_IMPORT.finditer(text), MAX_NAMES):
        is_type, whole, namespace, names, quote, module, end = match.groups()
        found.append(_Found(True, bool(is_type), "import", whole or "", namespace or "", names, quote, module, "", end))
    for match in islice(_REQUIRE.finditer(text), MAX_NAMES):
        keyword, whole, names, quote, module, member, end = match.groups()
        found.append(_Found(False, False, keyword or "", whole or "", "", names, quote, module, member or "", end))
    return found


def stem(path: str) -> str:
    """The path of a module: without its ending, and of an index its folder."""
    whole = PurePath(path)
    name = _ENDING.sub("", whole.name)
    return str(whole.parent if name == "index" else whole.parent / name)


def written(origin: Origin, path: str, style: Style, own: Style) -> str:
    """How the file at path writes an origin's module; "" where it cannot. own: what the file itself shows of style."""
    if not (origin.num_relative or origin.home):
        return origin.module
    if origin.num_near:
        # as the neighbours do
        way, ending = _split_ending(origin.near)
    elif _is_foreign(origin.module, path):
        return ""
    else:
        ending = _split_ending(origin.written)[1] if origin.num_relative else _ending_of(origin.home, style)
        is_file = not _is_index(origin.home) if origin.home else bool(ending) and not ending.startswith("/")
        way = _way(origin.module, path, is_file)
    if own.ending and not ending and origin.home:
        ending = _ending_of(origin.home, own)
    if own.ending == "" and not ending.endswith((".mjs", ".cjs")):
        ending = _ENDING.sub("", ending)
    return way and way + ending


def _is_foreign(module: str, path: str) -> bool:
    """Whether a module lies in a package within the project which the file at path is no part of."""
    around = PurePath(path).parents
    for folder in (PurePath(module), *PurePath(module).parents):
        if folder in around:
            return False
        if Path(folder, "package.json").exists():
            return True
    return False


def _way(module: str, path: str, is_file: bool) -> str:
    """The relative path from a file to a module, "" where there is none; is_file: which is no folder's index."""
    here = PurePath(path)
    if not here.is_absolute() or here.anchor != PurePath(module).anchor:
        # no file yet, or on another drive
        return ""
    way = os.path.relpath(module, here.parent).replace(os.sep, "/")
    if is_file and not way.strip("./"):
        # called like the folder that the other file lies in
        way = f"{way}/../{PurePath(module).name}".removeprefix("./")
    return way if way in (".", "..") or way.startswith("../") else f"./{way}"


def _statements(
    head: str, tail: str, known: Sequence[Known], table: ImportTable, path: str, text: str
) -> list[Statement]:
    own = _style(_found(text)) or Style()
    style = _style_of_line(head + tail, own, _usual(table.styles()), path, text)
    keyword, declared = _KEYWORD.match(head), _DECLARED.match(head)
    if keyword is not None and (keyword[0] == "import") != style.is_module:
        return []
    may_say_type = style.is_module and "import type "[: len(head)] == head[:12]
    groups: dict[tuple[str, bool], list[tuple[Origin, float]]] = {}
    modules: dict[str, str] = {}
    inline: set[str] = set()
    for each, origins in known:
        possible = [origin for origin in origins if _can_have(origin, style) and not _is_itself(origin.module, path)]
        fitting = [origin for origin in possible if _fits(origin, style)] or possible
        ways = {origin: way for origin in fitting if (way := written(origin, path, style, own))}
        if not ways:
            continue
        best = min(ways, key=lambda origin: _rank(origin, ways[origin], head + tail))
        modules.setdefault(best.module, ways[best])
        is_type = each.is_type and (bool(own.types) or 2 * best.num_types > best.num_files)
        if is_type and style.types == "inline" and best.name not in (DEFAULT, NAMESPACE):
            inline.add(each.name)
        key = best.module, bool(is_type and may_say_type and each.name not in inline)
        groups.setdefault(key, []).append((best, _purity(best, list(ways))))
    braces = _BRACES.match(head)
    found: list[Statement] = []
    for (module, is_type), members in groups.items():
        for first, parts, some in _split(members, is_type, style, inline, declared[1] if declared else ""):
            line = _text(first, parts, modules[module], is_type, style, braces, tail)
            statement = Statement.of(line, some)
            is_in_order = len(parts) < 2 or style.is_sorted
            found.append(statement if is_in_order else replace(statement, purity=IN_ORDER * statement.purity))
    return found


def _rank(origin: Origin, way: str, line: str) -> tuple[bool, int, int, int]:
    """What is least for the likeliest origin: one whose module the line has already; else neighbours have it from where
    this file will, then most files, and of the same number the nearest is likelier.
    """
    has_it = f'"{way}"' in line or f"'{way}'" in line
    return not has_it, -origin.num_near, -origin.num_files, way.count("/")


def _purity(best: Origin, origins: Sequence[Origin]) -> float:
    """The share of those who import a name that have it from the best of its origins, of neighbours where there are;
    times that of those who import it among all who have it."""
    num_near, num_files = sum(each.num_near for each in origins), sum(each.num_files for each in origins)
    share = (best.num_near + 1) / (num_near + 1) if num_near else purity(best, origins)
    return share * (num_files + 1) / (num_files + best.num_own + 1)


def _fits(origin: Origin, style: Style) -> bool:
    """Whether a file that is written so has an origin as the others do."""
    return origin.name not in ((WHOLE,) if style.is_module else (DEFAULT, NAMESPACE))


def _can_have(origin: Origin, style: Style) -> bool:
    """Whether it can have it at all: what `import x` gets from one's own module, `require` does not, nor anything of a
    file that has to be imported."""
    if style.is_module:
        return True
    is_own = bool(origin.num_relative or origin.home)
    return not origin.home.endswith((".mjs", ".mts")) and (_fits(origin, style) or not is_own)


def _is_itself(module: str, path: str) -> bool:
    """Whether a module that is written from a root of the project on is the file at path."""
    root, _, inner = module.partition("/")
    return root in ("@", "~", "#") and stem(path).replace(os.sep, "/").endswith("/" + _split_ending(inner)[0])


def _split(
    members: list[tuple[Origin, float]], is_type: bool, style: Style, inline: set[str], declared: str
) -> Iterator[tuple[str, list[str], list[tuple[Origin, float]]]]:
    """The statements that bring members of one module: what stands before the braces, what in them, and whom it
    brings. declared: the name that the line declares already."""
    joint = " as " if style.is_module else ": "
    parts: list[str] = []
    named: list[tuple[Origin, float]] = []
    wholes: list[tuple[Origin, float]] = []
    for each in members:
        name, alias = each[0].name, each[0].alias
        if name in (WHOLE, DEFAULT, NAMESPACE):
            wholes.append(each)
            continue
        is_member = name.startswith(".") and len(members) == 1
        name = name.removeprefix(".")
        if not style.is_module and (is_member or alias == declared):
            yield f"{alias}.{name}", [], [each]
            continue
        named.append(each)
        parts.append("type " * (alias in inline) + (name + joint) * (name != alias) + alias)
    parts.sort(key=lambda part: part.removeprefix("type "))
    for each in wholes:
        if style.is_module and each[0].name == NAMESPACE:
            yield f"* as {each[0].alias}", [], [each]
        elif style.is_module and named and not is_type:
            # `import a, { b }`, which is not for types
            yield each[0].alias, parts, [each, *named]
            named = []
        else:
            yield each[0].alias, [], [each]
    if named:
        yield "", parts, named


def _text(
    first: str, parts: list[str], module: str, is_type: bool, style: Style, braces: re.Match[str] | None, tail: str
) -> str:
    """A statement; with the names in braces as far as they are written, in their order."""
    source = f"{style.quote}{module}{style.quote}"
    if style.is_module:
        opening, closing = f"import {'type ' * is_type}", f" from {source}{style.end}"
    else:
        first, _, member = first.partition(".")
        opening, closing = f"{style.keyword} ", f" = require({source}){'.' * bool(member)}{member}{style.end}"
    if not parts:
        return opening + first + closing
    opening += f"{first}, {{" if first else "{"
    if braces is not None and braces[1] == opening:
        # names of which nothing is known may stand there where the module does
        others = parts if source not in tail else (*parts, *(part.strip() for part in braces[2].split(",")[:-1]))
        inner = _gone_on(braces[2], bool(braces[3]), parts, others, style.pad or "")
        if inner is not None:
            return f"{opening}{inner}}}{closing}"
    return f"{opening}{style.pad}{', '.join(parts)}{style.pad}}}{closing}"


def _gone_on(typed: str, is_closed: bool, parts: list[str], others: Collection[str], pad: str) -> str | None:
    """What stands in braces where a part of it is typed already; None where something else than others is."""
    *whole, last = (part.strip() for part in typed.split(","))
    if not all(part in others for part in whole) or (is_closed and last and last not in others):
        return None
    if is_closed:
        return typed
    left = [part for part in parts if part not in whole]
    following = next((part for part in left if part.startswith(last)), None)
    if following is None:
        return None
    blank = "" if typed[-1:].isspace() or last else " " if whole else pad
    return typed + blank + ", ".join([following[len(last) :], *(part for part in left if part != following)]) + pad


def _parts(inner: str) -> Iterator[tuple[str, str, str]]:
    """The names between braces: of the thing, what it is bound to, and whether it is a type."""
    for part in _COMMENT.sub("", inner).split(","):
        found = _PART.match(part)
        if found is not None:
            yield intern(found[2]), intern(found[3] or found[2]), found[1] or ""


def _imported(module: str, name: str, alias: str, path: str, is_type: bool) -> Imported:
    name, alias, module = intern(name), intern(alias), intern(module)
    if not module.startswith("."):
        return Imported(module, name, alias, is_type=is_type)
    place = os.path.normpath(PurePath(path).parent / _split_ending(module)[0])
    return Imported(intern(place), name, alias, True, module, is_type)


def _split_ending(module: str) -> tuple[str, str]:
    """A relative module without what does not count of it: an ending, `/index`, a slash; and that."""
    found = _TAIL.search(module)
    end = found.start() if found is not None else len(module)
    return module[:end], module[end:]


def _ending_of(home: str, style: Style) -> str:
    """What stands behind the path of a module that nobody imports yet."""
    whole = PurePath(home)
    own = whole.suffix
    if not style.ending and own not in (".mjs", ".cjs"):
        return ""
    ending = own if style.ending == own else {".ts": ".js", ".tsx": ".js", ".mts": ".mjs", ".cts": ".cjs"}.get(own, own)
    return f"/index{ending}" if _is_index(home) else ending


def _is_index(path: str) -> bool:
    """Whether the module at path is that of its folder."""
    return _ENDING.sub("", PurePath(path).name) == "index"


def _style(found: Sequence[_Found]) -> Style | None:
    """How the statements of a file are written; None where it has none."""
    # `import a = require('a')`, too
    is_module = any(each.keyword == "import" for each in found)
    found = [each for each in found if (each.keyword == "import") == is_module]
    if not found:
        return None
    lists = [each.names for each in found if each.names]
    names = [[part.strip() for part in each.split(",") if part.strip()] for each in lists]
    endings = [_ENDING.search(each.module) for each in found if each.module.startswith(".")]
    has_types, has_inline = any(each.is_type for each in found), any("type " in each for each in lists)
    return Style(
        is_module,
        _most(each.quote for each in found),
        # what goes on with a comma shows no end
        _most(each.end for each in found if each.end != ","),
        _most(" " if each[0].isspace() else "" for each in lists),
        _most(each.keyword for each in found if each.keyword != "import"),
        _most(each[0] if each else "" for each in endings),
        "type" if has_types else "inline" if has_inline else "",
        _most(each in (sorted(each), sorted(each, key=str.lower)) for each in names if len(each) > 1),
    )


def _usual(styles: Mapping[object, int]) -> Style:
    """How most files write their statements. styles: by how many files show them."""
    found = _DEFAULT_STYLE
    for name in _ASPECTS:
        numbers: Counter[Any] = Counter()
        for style, number in styles.items():
            numbers[getattr(style, name, None)] += number
        del numbers[None]
        if numbers:
            found = replace(found, **{name: numbers.most_common(1)[0][0]})
    return found


def _style_of_line(line: str, own: Style, usual: Style, path: str, text: str) -> Style:
    """How a statement is written of which line is there already: as that shows, as its file does, as most files do."""
    style = own.filled(usual)
    if own.is_module is None:
        style = replace(style, is_module=_is_module(path, text, bool(usual.is_module)))
    keyword = _KEYWORD.match(line)
    quote = next((char for char in line if char in "\"'"), style.quote)
    return replace(style, quote=quote, keyword=keyword[0] if keyword is not None else style.keyword)


def _is_module(path: str, text: str, otherwise: bool) -> bool:
    """Whether a file without any statement is one that imports: its own text and its name tell."""
    if path.endswith(_IMPORTING) or _MODULE.search(text):
        return True
    return otherwise and not path.endswith(_REQUIRING) and not _COMMON.search(text)


def _most(values: Iterable[T]) -> T | None:
    """The most usual of some values, the first of them at a tie; None of none."""
    numbers = Counter(values)
    return numbers.most_common(1)[0][0] if numbers else None


def _is_require(node: tree_sitter.Node) -> bool:
    """Whether a node declares what a `require` gives."""
    if node.type not in ("lexical_declaration", "variable_declaration") or not node.named_children:
        return False
    value = node.named_children[0].child_by_field_name("value")
    # `require('a').b`, and `require('a')('b')`
    for _ in range(3):
        if value is None or value.type == "identifier":
            break
        value = value.child_by_field_name("function") or value.child_by_field_name("object")
    return value is not None and value.text == b"require"


ECMASCRIPT = Family(
    languages=("javascript", "typescript", "tsx"),
    names_of=names_of,
    imports_of=imports_of,
    stem=stem,
    statements=_statements,
    words=("import", "const ", "let ", "var "),
    # what a function declares is seldom a module
    begun=re.compile(r"\s*import\b|(?:const|let|var)\s+\S|\s+(?:const|let|var)\s[^=]*=\s*req"),
    no_code=_NO_CODE,
    leads=_LEADS,
    is_import=_is_require,
    counts_all=False,
    sure=(0.9, 0.8, 0.93),
    sure_begun=(0.9, 0.89, 0.95),
)
"""Its shares are those of 1,900 statements in ten packages; in three others 87 % were right where it expected 82 %."""
