"""The call whose arguments are being written, and what the functions of its name take, as far as they can be seen.

Knows the document and the index of the workspace, no model and no draft.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .brackets import elements_at, open_at_end
from .index import LineIndex
from .languages import Language
from .parameters import Definition, Rules, Signature, base_of, definition_at, definitions_of, signature_of
from .scopes import lines_above
from .snapshot import width_of
from .span import Gap, Scene

MAX_HEAD_CHARS = 400
"""In a longer line nobody is writing a call."""

MAX_BASES = 3
"""How far up a class hierarchy a constructor is looked for."""

Receiver = Literal["none", "own", "super", "other"]
"""What a function is called on: nothing, the caller's own object, its base, or anything else."""

_CALLEE = re.compile(
    r"(?P<dot>(?:(?<![\w$.])(?:(?P<own>self|cls|this)|(?P<super>super(?:\([^()]*\))?))|[\w$)\]\"'`!])\??\.)?"
    r"(?<![\w$])(?P<name>[A-Za-z_$][\w$]*)\Z"
)
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
    """

    name: str
    receiver: Receiver
    given: tuple[str, ...]
    begun: str
    outer: str
    is_new: bool
    has_blank: bool


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
    before = head[: opened[-1]]
    callee = _CALLEE.search(before)
    if callee is None or callee["name"] in _NOT_CALLED or _DEFINES.search(before):
        return None
    receiver: Receiver = "none"
    if callee["dot"]:
        receiver = "own" if callee["own"] else "super" if callee["super"] else "other"
    elements = elements_at(language, head[opened[-1] :] + ")", 0)
    if elements is None:
        return None
    *given, begun = elements[0]
    if any(not each or each.startswith(("*", "...")) for each in given):
        return None
    closing = {pair[0]: pair[1] for pair in language.brackets}
    outer = "".join(closing[head[at]] for at in reversed(opened[:-1]))
    is_new = re.search(r"\bnew\s+(?:[\w$]+\.)*\Z", before[: callee.start("name")]) is not None
    has_blank = not head.endswith(",")
    return Call(callee["name"], receiver, tuple(given), begun, outer, is_new, has_blank)


def signatures_of(
    scene: Scene, gap: Gap, call: Call, path: str, index: LineIndex, rules: Rules
) -> Iterator[Signature]:
    """What the functions of that name take: those of this document where it has some, else of the others."""
    name, text, language = call.name, scene.snapshot.text, scene.language
    if call.receiver == "super" and name in ("__init__", "constructor"):
        base = _own_base(scene, gap, rules)
        yield from _constructors(language, rules, text, base, path, index, 1) if base else ()
        return
    own: list[Definition] = []
    if call.receiver != "super":
        own = [each for each in definitions_of(rules, text, name) if not each.is_member or call.receiver != "none"]
        own = [each for each in own if not gap.start <= each.at <= gap.end]
    here = list(_read(language, rules, text, own, path, index))
    if here:
        yield from here
        return
    for other, there, found in index.definitions(rules, name):
        is_wrong_kind = found.is_member if call.receiver == "none" else call.receiver != "other" and not found.is_member
        if other != path and not is_wrong_kind:
            yield from _read(language, rules, there, [found], path, index)


def _read(
    language: Language, rules: Rules, text: str, found: Sequence[Definition], path: str, index: LineIndex
) -> Iterator[Signature]:
    for each in found:
        signature = signature_of(language, rules, text, each)
        if signature is not None:
            yield signature
        elif each.is_class and (base := base_of(rules, text, each)):
            yield from _constructors(language, rules, text, base, path, index, 1)


def _constructors(
    language: Language, rules: Rules, text: str, name: str, path: str, index: LineIndex, depth: int
) -> Iterator[Signature]:
    """What makes an object of a class, which may be its base's business."""
    places = [(text, each) for each in definitions_of(rules, text, name) if each.is_class]
    if not places:
        places = [(there, found) for _, there, found in index.definitions(rules, name) if found.is_class]
    for where, each in places:
        signature = signature_of(language, rules, where, each)
        if signature is not None:
            yield signature
        elif depth < MAX_BASES and (base := base_of(rules, where, each)):
            yield from _constructors(language, rules, where, base, path, index, depth + 1)


def _own_base(scene: Scene, gap: Gap, rules: Rules) -> str:
    """The base of the class that the gap is in."""
    width = width_of(scene.snapshot.line_at(gap.start))
    for at, line in lines_above(scene.snapshot, gap.start):
        if width_of(line) < width:
            width = width_of(line)
            found = definition_at(rules, scene.snapshot.text, at)
            if found is not None and found.is_class:
                return base_of(rules, scene.snapshot.text, found)
    return ""
