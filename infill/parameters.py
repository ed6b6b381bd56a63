"""What can be called by a name, and what it takes: the lines that define a function or a class, and their parameters.

By patterns over text, whose rows are definitions.py's: no tree, since the files that define it are read in passing and
never parsed. A line that is not understood defines nothing. Knows no document, no gap and no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .brackets import code_of, elements_at
from .languages import Language
from .snapshot import width_of

MAX_LIST_CHARS = 4_000
"""A longer list of parameters is not read."""

MAX_CLASS_CHARS = 12_000
"""How far down a class its constructor is looked for."""

MAX_DECORATOR_CHARS = 400
"""How far above a definition its decorators are looked for."""

MAX_PARAMETERS = 40

MAX_LINES = 1_000
"""In so many lines at most it is looked whether they define a name: a millisecond."""

Kind = Literal["by_name", "in_order", "more"]
"""Whose chances the drafts of a language's arguments have: Python's, JavaScript's, or those of definitions_more.py."""

CALLEE = re.compile(
    r"(?P<dot>(?:(?<![\w$.])(?:(?P<own>self|cls|this)|(?P<super>super(?:\([^()]*\))?))|[\w$)\]\"'`!])\??\.)?"
    r"(?<![\w$])(?P<name>[A-Za-z_$][\w$]*)\Z"
)
"""What is called, before the bracket of a call, in most languages: see Rules."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """name: "" for a pattern. is_optional: whether it has a default. by_name: whether it can only be given by name."""

    name: str
    is_optional: bool = False
    by_name: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """What a call of something gives. more: names of what takes any number of arguments besides, with their marks.

    of_fields: whether it is made from the fields of a class, which those of its base come before.
    """

    parameters: tuple[Parameter, ...]
    more: tuple[str, ...] = ()
    of_fields: bool = False


@dataclass(frozen=True, slots=True)
class Definition:
    """A line of text at `at` that defines name. is_class: then its constructor is what is called.

    is_member: whether it is defined in a class or an object. bracket: where its parameters begin; -1 for a class.
    """

    name: str
    at: int
    is_class: bool
    is_member: bool
    bracket: int


@dataclass(frozen=True, slots=True)
class Rules:
    """languages: names of their rows. defines: a pattern of lines that define something. Its group `class` is the name
    of a class; the others are names of functions, whose parameters' bracket is the last character of the match: such
    as begin with `free` stand for themselves however far in they are, such as begin with `member` belong to a class or
    an object, and the others do where they are further in than the margin. follows: what comes behind a list of
    parameters. parameter: one of them: `name`, and `default`, `rest` or `optional` where it has them. constructor: a
    pattern of the line in a class whose parameters are the class's, and ends as `defines` does. bases: of a class's
    head; its group is the first base. own: what a method calls its own object. builtin: methods of the language's own
    types, which any object may be of. keyword: arguments by name are written name=value.
    weights: those for the drafts of arguments.
    fields: a pattern of lines in the body of a class whose constructor is made from them; has_fields: of the lines
    above such a class, or of its first; by_name: what stands in those where it takes them by name alone.
    uncalled: a pattern of the lines above what is defined like a function, and called in another way, or not at all.

    How it is called. callee: a pattern of what ends at the bracket of a call; its groups are `name`, `dot` with what it
    is called on and a mark, and in that `own` and `super` for the caller's own object and its base. marks: how members
    are marked besides by a dot. declares: a pattern of what ends in a name that is declared there and not called.
    makes: of what makes an object of its group; behind `new` it needs none. owner: what it is called on is a class, a
    module or a package, the group, where that is plain from how it is written: then the definition stands in one of
    that name. None where imports say it. reach: how far from a call without any such the function may be defined.

    How it goes on. member: what stands before a member of the caller's own object. sigil: what names of variables begin
    with, and those of members do not. field: a pattern of the declaration of a field that may be called like `NAME`.
    leaves_empty: of which functions the brackets are left empty: of all, of those that take a certain number of
    arguments, or of none. end: what ends a statement; None where it is as around it. header_ends: of a line that begins
    a block the pattern, the bracket that closes its condition, and what follows that, where groups may be in.
    brace_below: whether the brace of a block may be a line of its own. value: a pattern of heads of functions, if
    what stands last in a block may be its value, which nothing ends; its group `none` is there where a head says that
    it is not.
    """

    languages: tuple[str, ...]
    defines: re.Pattern[str]
    follows: re.Pattern[str]
    parameter: re.Pattern[str]
    constructor: re.Pattern[str]
    bases: re.Pattern[str]
    own: frozenset[str]
    builtin: frozenset[str]
    keyword: bool = False
    weights: Kind = "in_order"
    fields: re.Pattern[str] | None = None
    has_fields: re.Pattern[str] | None = None
    by_name: re.Pattern[str] | None = None
    uncalled: re.Pattern[str] | None = None
    callee: re.Pattern[str] = CALLEE
    marks: tuple[str, ...] = ()
    declares: re.Pattern[str] | None = None
    makes: re.Pattern[str] | None = None
    owner: re.Pattern[str] | None = None
    reach: Literal["file", "folder", "workspace"] = "workspace"
    member: str = ""
    sigil: str = ""
    field: str = ""
    leaves_empty: Literal["all", "certain", "none"] = "all"
    end: str | None = None
    header_ends: tuple[tuple[re.Pattern[str], str, str], ...] = ()
    brace_below: bool = False
    value: re.Pattern[str] | None = None


def defined_in(rules: Rules, line: str) -> str:
    """The name that a line defines; "" where it defines none."""
    if "(" not in line and "class" not in line:
        return ""
    match = rules.defines.match(line)
    return match[match.lastgroup] if match is not None and match.lastgroup else ""


def definition_at(rules: Rules, text: str, at: int) -> Definition | None:
    """What the line that begins at `at` defines."""
    match = rules.defines.match(text, at)
    if match is None or not match.lastgroup:
        return None
    is_class = match.lastgroup == "class"
    is_free = is_class or match.lastgroup.startswith("free")
    is_member = match.lastgroup.startswith("member") or (match[0][:1].isspace() and not is_free)
    return Definition(match[match.lastgroup], at, is_class, is_member, -1 if is_class else match.end() - 1)


def definitions_of(rules: Rules, text: str, name: str) -> Iterator[Definition]:
    """The lines of a text that define a name, from the top, among the first MAX_LINES that have it."""
    at = text.find(name)
    for _ in range(MAX_LINES):
        if at < 0:
            return
        start = text.rfind("\n", 0, at) + 1
        found = definition_at(rules, text, start)
        if found is not None and found.name == name:
            yield found
        newline = text.find("\n", at)
        at = text.find(name, newline) if newline >= 0 else -1


def base_of(rules: Rules, text: str, definition: Definition) -> str:
    """The first class that a class derives from, by its last name; "" where there is none."""
    match = rules.bases.match(text, definition.at)
    return match[1] if match is not None else ""


def signature_of(language: Language, rules: Rules, text: str, definition: Definition) -> Signature | None:
    """What a call of what is defined there gives; None where that cannot be told, as for a class that leaves it to its
    base."""
    above = text[max(0, definition.at - MAX_DECORATOR_CHARS) : definition.at]
    if not definition.is_class:
        is_called = rules.uncalled is None or not rules.uncalled.search(above)
        return _signature(language, rules, text, definition.bracket) if is_called else None
    end = class_end(text, definition.at)
    # what is further in is a class's within it
    found = min(rules.constructor.finditer(text, definition.at, end), key=lambda each: width_of(each[0]), default=None)
    if found is not None:
        return _signature(language, rules, text, found.end() - 1)
    if rules.fields is None or rules.has_fields is None:
        return None
    line_end = text.find("\n", definition.at)
    if not rules.has_fields.search(above) and not rules.has_fields.match(text[definition.at : line_end]):
        return None
    by_name = rules.by_name is not None and bool(rules.by_name.search(above + text[definition.at : line_end]))
    return _fields(rules, text[line_end + 1 : end], by_name)


def class_end(text: str, at: int) -> int:
    """Where the body of a class ends, by its indentation, as far as it is looked at."""
    width = width_of(text[at : at + 200])
    end = text.find("\n", at) + 1
    stop = min(len(text), at + MAX_CLASS_CHARS)
    while 0 < end < stop:
        newline = text.find("\n", end)
        line = text[end : newline if newline >= 0 else len(text)]
        if line.strip() and width_of(line) <= width and line.lstrip()[:1] not in ")]}{":
            return end
        end = newline + 1
    return stop


def _fields(rules: Rules, body: str, by_name: bool) -> Signature | None:
    """The fields of a class at the indentation of its body, which its constructor takes in their order."""
    assert rules.fields is not None
    parameters: list[Parameter] = []
    width = -1
    for line in body.split("\n"):
        if not line.strip():
            continue
        width = width_of(line) if width < 0 else width
        match = rules.fields.match(line.partition(" #")[0].rstrip()) if width_of(line) == width else None
        if match is not None:
            parameters.append(Parameter(match["name"], match["default"] is not None, by_name))
    return Signature(tuple(parameters), of_fields=True) if 0 < len(parameters) <= MAX_PARAMETERS else None


def _rejoined(elements: Sequence[str]) -> Iterator[str]:
    """Elements that a comma of a type's own (`Map<string, number>`) has parted are one again."""
    whole = ""
    for each in elements:
        whole += ", " * bool(whole) + each
        if whole.count("<") <= whole.count(">") - whole.count("=>"):
            yield whole
            whole = ""
    yield whole


def _signature(language: Language, rules: Rules, text: str, bracket: int) -> Signature | None:
    found = elements_at(language, text, bracket, bracket + MAX_LIST_CHARS)
    if found is None or not rules.follows.match(text, found[1] + 1):
        return None
    parameters: list[Parameter] = []
    more: list[str] = []
    by_name = False
    # comments stand between parameters, and what a default says is of no interest
    elements = [code_of(language, each).strip() for each in found[0]]
    for element in _rejoined(elements) if language.blocks == "braces" else elements:
        if element in ("", "/"):
            continue
        match = rules.parameter.fullmatch(element)
        if match is None:
            return None
        if match["rest"]:
            more += [match["rest"] + match["name"]] if match["name"] else []
            by_name = True
        elif not parameters and match["name"] in rules.own:
            continue
        else:
            parts = match.groupdict()
            is_optional = bool(parts["default"] or parts.get("optional"))
            parameters.append(Parameter(match["name"], is_optional, by_name))
    return Signature(tuple(parameters), tuple(more)) if len(parameters) <= MAX_PARAMETERS else None
