"""The call whose arguments are being written, and what the functions of its name take, as far as they can be seen.

Knows the document and the index of the workspace, no model and no draft.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from .brackets import elements_at, open_at_end
from .imports import Imported
from .imports_js import DEFAULT, NAMESPACE, WHOLE
from .index import LineIndex
from .languages import Language
from .parameters import Definition, Rules, Signature, base_of, class_end, definition_at, definitions_of, signature_of
from .scopes import lines_above
from .snapshot import width_of
from .span import Gap, Scene
from .unresolved import is_bound_anyway

MAX_HEAD_CHARS = 400
"""In a longer line nobody is writing a call."""

MAX_BASES = 3
"""How far up a class hierarchy a constructor is looked for."""

MAX_PLACES = 8
"""So many definitions of one name are read in a document: there may be a thousand."""

ALIASES = (WHOLE, DEFAULT, NAMESPACE)
"""What is imported without a name of its own is called as it is defined, mostly."""

Receiver = Literal["none", "own", "super", "other"]
"""What a function is called on: nothing, the caller's own object, its base, or anything else."""

_CALLEE = re.compile(
    r"(?P<dot>(?:(?<![\w$.])(?:(?P<own>self|cls|this)|(?P<super>super(?:\([^()]*\))?))|[\w$)\]\"'`!])\??\.)?"
    r"(?<![\w$])(?P<name>[A-Za-z_$][\w$]*)\Z"
)
_ROOT = re.compile(r"(?<![\w$.)\]])([A-Za-z_$][\w$]*)(?:\??\.[\w$]+)*\??\.\Z")
_DEFINES = re.compile(r"\b(?:def|class|function|func|fn|interface|struct|impl|enum|trait|sub)\s+[\w$.]*\Z")
_NOT_CALLED = frozenset(
    """
    if elif while for switch match return and or not in is catch function async await lambda yield with assert del
    typeof new else case except raise throw import from print sizeof defined super
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Call:
    """A call whose arguments are being written. given: those that are whole. begun: what is written of the next one.

    outer: the marks that close the brackets which are open around the call in its line, the innermost first.
    is_new: whether it makes an object. has_blank: whether a blank, or nothing, stands before what is to come.
    root: where it is called on something else, the name that this begins with: `a` of `a.b.call(`; "" for none.
    """

    name: str
    receiver: Receiver
    given: tuple[str, ...]
    begun: str
    outer: str
    is_new: bool
    has_blank: bool
    root: str = ""


def call_at(scene: Scene, gap: Gap) -> Call | None:
    """The call whose arguments the gap's line is in the midst of, if it began in this line."""
    snapshot, language = scene.snapshot, scene.language
    line_start = snapshot.line_start(gap.start)
    head = snapshot.text[line_start : gap.start] + gap.lead
    if "(" not in head or len(head) > MAX_HEAD_CHARS:
        return None
    opened = open_at_end(language, head)
    if not opened or head[opened[-1]] != "(" or not scene.tree.is_code_at(gap.start):
        return None
    callee = callee_of(head[: opened[-1]])
    if callee is None:
        return None
    elements = elements_at(language, head[opened[-1] :] + ")", 0)
    if elements is None:
        return None
    *given, begun = elements[0]
    if any(not each or each.startswith(("*", "...")) for each in given):
        return None
    closing = {pair[0]: pair[1] for pair in language.brackets}
    outer = "".join(closing[head[at]] for at in reversed(opened[:-1]))
    name, receiver, is_new = callee
    root = _ROOT.search(head, 0, opened[-1] - len(name)) if receiver == "other" else None
    return Call(
        name, receiver, tuple(given), begun, outer, is_new, not head.endswith(","), root=root[1] if root else ""
    )


def callee_of(before: str) -> tuple[str, Receiver, bool] | None:
    """What is called by a bracket that follows this text: its name, what it is called on, and whether that makes an
    object; None where it is no call."""
    callee = _CALLEE.search(before)
    if callee is None or callee["name"] in _NOT_CALLED or _DEFINES.search(before):
        return None
    receiver: Receiver = "none"
    if callee["dot"]:
        receiver = "own" if callee["own"] else "super" if callee["super"] else "other"
    is_new = re.search(r"\bnew\s+(?:[\w$]+\.)*\Z", before[: callee.start("name")]) is not None
    return callee["name"], receiver, is_new


def signatures_of(
    scene: Scene, gap: Gap, call: Call, path: str, index: LineIndex, rules: Rules
) -> Iterator[Signature]:
    """What the functions of that name take: those of this document where it has some, else of the others."""
    name, text = call.name, scene.snapshot.text
    reader = _Reader(scene.language, rules, index)
    if call.receiver == "super" and name in ("__init__", "constructor"):
        outer = _class_around(scene, gap, rules)
        base = base_of(rules, text, outer) if outer is not None else ""
        yield from reader.constructors(text, base) if base else ()
        return
    own = _own(scene, gap, call, rules) if call.receiver != "super" else []
    asks = call.root if call.receiver == "other" else name if call.receiver == "none" and not own else ""
    imported = _imported(scene, asks, path, index) if asks else None
    if call.root[:1].isupper() and imported is None and is_bound_anyway(scene.language, call.root):
        return
    if imported is not None and call.root:
        own = []
    elif imported is not None and imported.name not in ("", *ALIASES):
        # `require('./x').name` has a dot
        name = imported.name.removeprefix(".")
    here = list(reader.signatures(text, own))
    if here:
        yield from here
        return
    others = [
        (nearness(there, imported) if imported else 1, content, definition)
        for there, content, definition in index.definitions(rules, name)
        if there != path and not _is_wrong_kind(call, definition)
    ]
    nearest = max((near for near, _, _ in others), default=0)
    for near, content, definition in others:
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


def _is_wrong_kind(call: Call, definition: Definition) -> bool:
    if call.receiver == "none":
        return definition.is_member
    return call.receiver != "other" and not definition.is_member


def _imported(scene: Scene, name: str, path: str, index: LineIndex) -> Imported | None:
    """The import that binds a name in the document, as the document has it."""
    families = (table.family for table in index.imports if scene.language.name in table.family.languages)
    for family in families:
        return next((each for each in family.imports_of(scene.snapshot.text, path) if each.alias == name), None)
    return None


def _own(scene: Scene, gap: Gap, call: Call, rules: Rules) -> list[Definition]:
    """What the document itself defines that may be what is called."""
    found = list(definitions_of(rules, scene.snapshot.text, call.name))
    if call.receiver == "none":
        found = [each for each in found if not each.is_member or _is_nested(scene, gap, each, rules)]
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
