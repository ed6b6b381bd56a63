"""What the functions take that a call may mean, as far as they can be seen: which definitions of its name count.

Knows the document and the index of the workspace, no model and no draft.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePath

from .calls import Call
from .imports import Imported
from .imports_js import DEFAULT, NAMESPACE, WHOLE
from .index import LineIndex
from .languages import Language
from .parameters import Definition, Rules, Signature, base_of, class_end, definition_at, definitions_of, signature_of
from .scopes import lines_above
from .snapshot import width_of
from .span import Gap, Scene
from .unresolved import is_bound_anyway

MAX_BASES = 3
"""How far up a class hierarchy a constructor is looked for."""

MAX_PLACES = 8
"""So many definitions of one name are read in a document: there may be a thousand."""

MAX_ASKED = 40
"""Of so many definitions of one name in a document it is looked which class they are of."""

MAX_OWNER_CHARS = 60_000
"""How far above a definition the head of its class is looked for."""

MAX_PACKAGE_CHARS = 8_000
"""How far down a file it is looked for what it says that it belongs to."""

_CHUNK_CHARS = 2_000
"""Most heads stand nearer than that."""

ALIASES = (WHOLE, DEFAULT, NAMESPACE)
"""What is imported without a name of its own is called as it is defined, mostly."""

CONSTRUCTORS = ("__init__", "constructor", "__construct")

_ITSELF = ("self", "M", "_M")
"""What Ruby's modules and Lua's call themselves."""
_TYPE_HEAD = re.compile(r"\b(?:class|struct|interface|enum|impl|trait|record|module|namespace|union|mod)\b")
_HEAD_OWNER = re.compile(
    r"\bfunc[ \t]*+\((?:\w++[ \t]++)?\*?(\w++)[^()\n]*+\)|(?<!\w)(\w++)(?:<[^()\n<>]*+>)?(?:\.|::?)~?\w++[ \t]*+[(=]"
)
"""What a function's own head says that it belongs to: `func (r *Owner) name(`, `Owner::name(`, `Owner.name = `."""


def signatures_of(
    scene: Scene, gap: Gap, call: Call, path: str, index: LineIndex, rules: Rules
) -> Iterator[Signature]:
    """What the functions of that name take: those of this document where it has some, else of the others."""
    reader = _Reader(scene.language, rules, index)
    if call.receiver == "super" and call.name in CONSTRUCTORS:
        yield from _of_base(reader, scene, gap)
        return
    own = _own(scene, gap, call, path, rules) if call.receiver != "super" else []
    asks = call.root if call.receiver == "other" else call.name if call.receiver == "none" and not own else ""
    imported = _imported(scene, asks, path, index) if asks else None
    if call.root[:1].isupper() and imported is None and is_bound_anyway(scene.language, call.root):
        return
    here = [] if imported is not None and call.root else list(reader.signatures(scene.snapshot.text, own))
    yield from here or _elsewhere(reader, call, path, imported)


def _of_base(reader: _Reader, scene: Scene, gap: Gap) -> Iterator[Signature]:
    """What makes an object of the base of the class around the gap."""
    text = scene.snapshot.text
    around = _class_around(scene, gap, reader.rules)
    base = base_of(reader.rules, text, around) if around is not None else ""
    if base:
        yield from reader.constructors(text, base)


def _elsewhere(reader: _Reader, call: Call, path: str, imported: Imported | None) -> Iterator[Signature]:
    """What the functions of that name take that other files define: those of the nearest files."""
    name = call.name
    if imported is not None and not call.root and imported.name not in ("", *ALIASES):
        # `require('./x').name` has a dot
        name = imported.name.removeprefix(".")
    found = [
        (nearness(there, imported) if imported else 1, content, definition)
        for there, content, definition in reader.index.definitions(reader.rules, name)
        if there != path
        and not _is_wrong_kind(call, content, definition, reader.rules)
        and _may_be_of(call, path, there, content, definition, reader.rules)
    ]
    nearest = max((near for near, _, _ in found), default=0)
    for near, content, definition in found:
        if near == nearest > 0:
            yield from reader.signatures(content, [definition])


def nearness(path: str, imported: Imported) -> int:
    """Whether what is defined in the file at path may be what was imported: 2 where it is that module, 1 where it lies
    in the same package, which may pass it on, 0 where it lies elsewhere."""
    module = imported.module.removeprefix("node:")
    parts = [part for part in re.split(r"[/\\]" if imported.is_path else r"[./\\]", module) if part]
    stem = re.split(r"[/\\]", re.sub(r"(?:[/\\](?:__init__|index))?(?:\.d)?\.\w+\Z", "", path))
    if parts and (stem[-len(parts) :] == parts or stem[-len(parts) - 1 :] == [*parts, imported.name]):
        return 2
    # what is written from where the file stands lies in the workspace, and nobody else's module is called like it
    return int(imported.is_path or not set(stem).isdisjoint(module.partition(".")[0].split("/")))


def _is_wrong_kind(call: Call, text: str, definition: Definition, rules: Rules) -> bool:
    """Whether it is no method where one is called, or the other way round."""
    if call.receiver == "none":
        return definition.is_member
    # where methods are called without anything before them, all stand for themselves: those of a class further in
    is_free = not definition.is_member and (rules.owner is None or not text[definition.at].isspace())
    return is_free and (call.receiver != "other" or (rules.owner is not None and not call.owner))


def _may_be_of(call: Call, path: str, there: str, text: str, definition: Definition, rules: Rules) -> bool:
    """Whether what the file `there` defines can be called so from the file at path: it is near enough, or belongs to
    the class, the module or the package that it is called on."""
    if not call.owner:
        is_far = {"file": there != path, "folder": PurePath(there).parent != PurePath(path).parent, "workspace": False}
        return call.receiver != "none" or not is_far[rules.reach]
    named = _HEAD_OWNER.search(text, definition.at, definition.bracket + 1)
    if named is not None and (named[1] or named[2]) not in _ITSELF:
        return call.owner == (named[1] or named[2])
    head = type_around(text, definition.at)
    if head:
        return re.search(rf"\b{call.owner}\b", head) is not None
    file = PurePath(there)
    if call.owner.lower() in (file.stem.lower(), file.parent.name.lower()):
        return True
    package = rf"^(?:package|module|namespace)[ \t]+(?:[\w.\\]+[.\\])?{call.owner}\b"
    return re.search(package, text[:MAX_PACKAGE_CHARS], re.MULTILINE) is not None


def type_around(text: str, at: int) -> str:
    """The head of the class, or the like, that the line which begins at `at` stands in; "" for none."""
    width = width_of(text[at : at + 200])
    low = max(0, at - MAX_OWNER_CHARS)
    while width and (found := _further_out(text, low, at, width)) is not None:
        at, line = found
        if _TYPE_HEAD.search(line):
            return line
        width = width_of(line)
    return ""


def _further_out(text: str, low: int, end: int, width: int) -> tuple[int, str] | None:
    """The last line in text[low:end] that is indented less than width and is no mark or comment, and where it begins.

    By a pattern, a chunk at a time: a class may have thousands of lines, and a document forty such functions.
    """
    pattern = _less_than(width)
    size = _CHUNK_CHARS
    while end > low:
        begin = max(low, end - size)
        # a line that begins in the chunk may go on behind it
        for start in reversed([match.end() for match in pattern.finditer(text, begin, end + width)]):
            line = text[start : text.find("\n", start)]
            if width_of(line) < width:
                return start, line
        end, size = begin, 2 * size
    return None


@functools.cache
def _less_than(width: int) -> re.Pattern[str]:
    """Where lines begin which may be indented by less than so many columns, marks and comments apart."""
    return re.compile(rf"(?:\n|\A)(?=[ \t]{{0,{width - 1}}}[^\s{{}}()#/*])")


def _imported(scene: Scene, name: str, path: str, index: LineIndex) -> Imported | None:
    """The import that binds a name in the document, as the document has it."""
    tables = [table for table in index.imports if scene.language.name in table.family.languages]
    found = (each for table in tables for each in table.family.imports_of(scene.snapshot.text, path))
    return next((each for each in found if each.alias == name), None)


def _own(scene: Scene, gap: Gap, call: Call, path: str, rules: Rules) -> list[Definition]:
    """What the document itself defines that may be what is called."""
    found = list(definitions_of(rules, scene.snapshot.text, call.name))
    if call.owner:
        text = scene.snapshot.text
        found = [each for each in found[:MAX_ASKED] if _may_be_of(call, path, path, text, each, rules)]
    if call.receiver == "none":
        near = [each for each in found if each.is_member and each.at < gap.start][-MAX_PLACES:]
        near = [each for each in near if _is_nested(scene, gap, each, rules)]
        found = [each for each in found if not each.is_member or each in near]
    else:
        found = [each for each in found if each.is_member or each.is_class] or found
    outer = _class_around(scene, gap, rules) if call.receiver == "own" and len(found) > 1 else None
    if outer is not None:
        end = class_end(scene.snapshot.text, outer.at)
        found = [each for each in found if outer.at < each.at < end] or found
    return found[:MAX_PLACES]


def _is_nested(scene: Scene, gap: Gap, definition: Definition, rules: Rules) -> bool:
    """Whether a function that is further in than the margin is defined in a function around the gap, or in no class."""
    text = scene.snapshot.text
    width = width_of(text[definition.at : definition.bracket])
    for at, line in lines_above(scene.snapshot, gap.start):
        if at <= definition.at:
            break
        if width_of(line) < width:
            return False
    else:
        return False
    outer = _outer(scene, definition.at, rules)
    return outer is not None and not outer.is_class


@dataclass(frozen=True, slots=True)
class _Reader:
    """What definitions say of what they take."""

    language: Language
    rules: Rules
    index: LineIndex

    def signatures(self, text: str, found: Sequence[Definition]) -> Iterator[Signature]:
        for each in found:
            yield from self._read(text, each, 0)

    def _read(self, text: str, definition: Definition, depth: int) -> Iterator[Signature]:
        signature = signature_of(self.language, self.rules, text, definition)
        if signature is not None and not signature.of_fields:
            yield signature
            return
        is_derived = definition.is_class and depth < MAX_BASES
        base = base_of(self.rules, text, definition) if is_derived else ""
        above = self.constructors(text, base, depth + 1) if base else iter(())
        if signature is None:
            yield from above
            return
        first = next(above, Signature(()))
        names = {each.name for each in signature.parameters}
        inherited = [each for each in first.parameters if first.of_fields and each.name not in names]
        yield replace(signature, parameters=(*inherited, *signature.parameters))

    def constructors(self, text: str, name: str, depth: int = 1) -> Iterator[Signature]:
        """What makes an object of a class, which may be its base's business."""
        places = [(text, each) for each in islice(definitions_of(self.rules, text, name), 1)]
        places = places or [(there, each) for _, there, each in self.index.definitions(self.rules, name)]
        for where, each in [(where, each) for where, each in places if each.is_class][:2]:
            yield from self._read(where, each, depth)


def _class_around(scene: Scene, gap: Gap, rules: Rules) -> Definition | None:
    """The class that the gap is in."""
    outer = _outer(scene, gap.start, rules)
    while outer is not None and not outer.is_class:
        outer = _outer(scene, outer.at, rules)
    return outer


def _outer(scene: Scene, offset: int, rules: Rules) -> Definition | None:
    """What is defined nearest above the line of offset and further out, a function or a class."""
    width = width_of(scene.snapshot.line_at(offset))
    for at, line in lines_above(scene.snapshot, offset):
        if width_of(line) < width:
            width = width_of(line)
            found = definition_at(rules, scene.snapshot.text, at)
            if found is not None:
                return found
    return None
