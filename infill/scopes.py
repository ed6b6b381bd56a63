"""The names that are in sight where something is being written: what the functions around it take, and mention.

By lines, indentation and patterns: no tree, as the line that is being written is broken for a parser. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .brackets import code_of
from .parameters import Rules, definition_at, signature_of
from .snapshot import Snapshot, width_of
from .span import Gap, Scene

MAX_SCOPE_CHARS = 6_000
"""How far up it is looked."""

MAX_FUNCTIONS = 8
"""Of so many functions around a gap, and above it in them, the parameters are in sight."""

_CONTROL = re.compile(
    r"\s*(?:\}\s*)?(?:async\s+)?(?:if|elif|else|for|foreach|while|do|switch|match|case|default|try|catch|except"
    r"|finally|with|using|loop|unless|until|begin|rescue|ensure|when|synchronized|unsafe|lock)\b"
)
_FUNCTION_HEAD = re.compile(
    r"\s*(?:async\s+)?def\b|.*\b(?:function|func|fn)\b|.*=>|.*\).*\{\s*\Z|.*\|\s*\{?\s*\Z"
)
_TYPE_HEAD = re.compile(r"[^(]*\b(?:class|struct|interface|namespace|enum|union|record|trait|extern|impl)\b")
_BINDS = re.compile(
    r"\A\s*(?:(?:(?:export|const|let|var|final)\s+)*[\w$,. \t]*[\w$][ \t]*(?::[^=\n]*)?=(?![=>])"
    r"|(?:async\s+)?for\b.*?\b(?:in|of)\b)"
)
"""What a line gives a name to, which has none before its end."""
_CLOSERS = ")]}"
_GOES_ON = ("(", "[", ",")
"""What ends a line whose statement goes on in the lines below."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The functions around a gap up to it, without their strings and comments; at a module's margin what is above.
    Whatever marks a member, there it is a dot.

    parameters: what those functions take. more: of what the innermost of them takes besides (Signature).
    members: the document around the gap.
    """

    text: str
    parameters: frozenset[str]
    more: tuple[str, ...]
    members: str

    def has(self, name: str) -> bool:
        """Whether something is called so; what an argument, a function or an attribute is called is no such thing."""
        if not name or name in self.parameters:
            return bool(name)
        return re.search(rf"(?<![\w$.@]){re.escape(name)}(?![\w$(])(?!=[^=>])", self.text) is not None

    def binds(self, name: str) -> bool:
        """Whether something is called so besides what has members, as a module or a class has them."""
        if name in self.parameters:
            return True
        return re.search(rf"(?<![\w$.@]){re.escape(name)}(?![\w$(.])", self.text) is not None


def scope_of(scene: Scene, gap: Gap, rules: Rules) -> Scope:
    """What is in sight at a gap. By indentation alone, as the line that is being written is broken for a parser."""
    snapshot = scene.snapshot
    first = line_start = snapshot.line_start(gap.start)
    width = width_of(snapshot.line_at(gap.start))
    is_opened = False
    for at, line in lines_above(snapshot, gap.start):
        if not width:
            first = at
        elif rules.brace_below and width_of(line) < width and line.strip() == "{":
            # whose it is says the next line above that stands no further in
            is_opened, width = True, width_of(line) + 1
        elif width_of(line) < width and line.lstrip()[:1] not in _CLOSERS:
            width = width_of(line)
            is_function = _FUNCTION_HEAD.match(line) is not None or (is_opened and not _TYPE_HEAD.match(line))
            is_opened = False
            if not is_function and not _CONTROL.match(line) and not line.rstrip().endswith(_GOES_ON):
                # in a class, or an object, only what stands further in is in sight
                break
            first = at if is_function or not width else first
            if not width:
                break
    low = max(first, line_start - MAX_SCOPE_CHARS)
    # what the line itself binds is not bound yet
    head = code_of(scene.language, snapshot.text[line_start : gap.start])
    text = code_of(scene.language, snapshot.text[low:line_start]) + _BINDS.sub(" ", head)
    heads = [match.start() for match in re.finditer(r"^[^\n]*\(", text, re.MULTILINE)]
    found = [definition for at in heads if (definition := definition_at(rules, text, at)) and not definition.is_class]
    signatures = [signature_of(scene.language, rules, text, each) for each in found[-MAX_FUNCTIONS:]]
    names = frozenset(each.name for signature in signatures if signature for each in signature.parameters)
    innermost = signatures[-1] if signatures else None
    for mark in rules.marks:
        text = text.replace(mark, ".")
    return Scope(text, names, innermost.more if innermost else (), scene.tree.text)


def lines_above(snapshot: Snapshot, offset: int) -> Iterator[tuple[int, str]]:
    """The lines above that of offset which are not blank, the nearest first, each with where it begins."""
    end = snapshot.line_start(offset)
    stop = max(0, end - MAX_SCOPE_CHARS)
    while end > stop:
        at = snapshot.line_start(end - 1)
        line = snapshot.text[max(at, stop) : end - 1]
        if line.strip():
            yield at, line
        end = at
