"""The call whose arguments are being written, by what stands before it in its line.

Knows the document; what is called by that name, and what it takes, is callees.py's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .brackets import elements_at, open_at_end
from .parameters import Rules
from .scopes import scope_of
from .span import Gap, Scene

MAX_HEAD_CHARS = 400
"""In a longer line nobody is writing a call."""

Receiver = Literal["none", "own", "super", "other"]
"""What a function is called on: nothing, the caller's own object, its base, or anything else."""

_ROOT = re.compile(r"(?<![\w$.)\]])([A-Za-z_$][\w$]*)(?:\??\.[\w$]+)*\??\.\Z")
_DEFINES = re.compile(r"\b(?:def|class|function|func|fn|interface|struct|impl|enum|trait|sub)\s+[\w$.]*\Z")
_NEW = re.compile(r"\bnew\s+(?:[\w$]+\.|\w*\\)*\Z")
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
    owner: the class, the module or the package that it is called on, where that is plain; else "".
    """

    name: str
    receiver: Receiver
    given: tuple[str, ...]
    begun: str
    outer: str
    is_new: bool
    has_blank: bool
    root: str = ""
    owner: str = ""


def call_at(scene: Scene, gap: Gap, rules: Rules) -> Call | None:
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
    callee = callee_of(before, rules)
    if callee is None or _is_constructor(scene, before, callee[0], rules):
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
    owner = _owner(scene, gap, before[: len(before) - len(name)], rules) if receiver == "other" else ""
    has_blank = not head.endswith(",")
    return Call(name, receiver, tuple(given), begun, outer, is_new, has_blank, root[1] if root else "", owner)


def callee_of(before: str, rules: Rules) -> tuple[str, Receiver, bool] | None:
    """What is called by a bracket that follows this text: its name, what it is called on, and whether that makes an
    object; None where it is no call."""
    made = rules.makes.search(before) if rules.makes is not None else None
    if made is not None:
        return made[1], "none", True
    callee = rules.callee.search(before)
    if callee is None or callee["name"] in _NOT_CALLED or _DEFINES.search(before):
        return None
    if rules.declares is not None and rules.declares.search(before):
        return None
    receiver: Receiver = "none"
    if callee["dot"]:
        receiver = "own" if callee["own"] else "super" if callee["super"] else "other"
    return callee["name"], receiver, _NEW.search(before, 0, callee.start("name")) is not None


def _is_constructor(scene: Scene, before: str, name: str, rules: Rules) -> bool:
    """Whether a constructor is declared there, which has the name of its class and no type."""
    if rules.declares is None or before.strip() != name:
        return False
    head = rf"\b(?:class|struct)[ \t]+(?:\w+[ \t]+){{0,3}}{re.escape(name)}(?!\w)"
    return re.search(head, scene.tree.text) is not None


def _owner(scene: Scene, gap: Gap, before: str, rules: Rules) -> str:
    """The class, the module or the package that something is called on; "" where it may be a variable."""
    found = rules.owner.search(before) if rules.owner is not None else None
    if found is None:
        return ""
    may_be_variable = before.endswith(".") and found[1][0].islower()
    return "" if may_be_variable and scope_of(scene, gap, rules).binds(found[1]) else found[1]
