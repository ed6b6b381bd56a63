"""Names that a document uses and nothing in it binds: what an import, or a line above, has still to bring.

By the scopes of Python, the only language here. A document whose names nobody can know (`from x import *`) says
nothing, and what the grammar cannot read counts as bound. Knows no model and no other file.
"""

from __future__ import annotations

import builtins
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import tree_sitter

from .languages import Language
from .syntax import readable

MAX_CHARS = 150_000
"""A longer document is not looked through: it would take more than 50 ms."""

_KNOWN = frozenset((*dir(builtins), "_", "get_ipython", "display", "reveal_type", "WindowsError", "unicode"))
"""Bound without being written: by the language, gettext, notebooks and type checkers."""

_QUERY = """
(identifier) @name
("." . (identifier) @other)
(keyword_argument name: (identifier) @other)
(dotted_name (identifier) @other)
(aliased_import alias: (identifier) @bound)
(import_statement name: (dotted_name . (identifier) @bound))
(import_from_statement name: (dotted_name (identifier) @bound))
(future_import_statement (dotted_name (identifier) @bound))
(function_definition name: (identifier) @bound)
(class_definition name: (identifier) @bound)
(type_alias_statement left: (type [(identifier) @bound (generic_type . (identifier) @bound)]))
(type_alias_statement left: (type (generic_type (type_parameter (type (identifier) @bound)))))
(function_definition type_parameters: (type_parameter (type (identifier) @bound)))
(class_definition type_parameters: (type_parameter (type (identifier) @bound)))
(parameters (identifier) @bound)
(lambda_parameters (identifier) @bound)
(default_parameter name: (identifier) @bound)
(typed_default_parameter name: (identifier) @bound)
(typed_parameter . (identifier) @bound)
(list_splat_pattern (identifier) @bound)
(dictionary_splat_pattern (identifier) @bound)
(assignment left: (identifier) @bound)
(named_expression name: (identifier) @bound)
(for_statement left: (identifier) @bound)
(for_in_clause left: (identifier) @bound)
(pattern_list (identifier) @bound)
(tuple_pattern (identifier) @bound)
(list_pattern (identifier) @bound)
(as_pattern_target (identifier) @bound)
(as_pattern_target (_ (identifier) @bound))
(case_pattern (dotted_name . (identifier) @bound .))
(case_pattern (as_pattern (identifier) @bound))
(splat_pattern (identifier) @bound)
(keyword_pattern (dotted_name (identifier) @bound))
(keyword_pattern . (identifier) @other)
(class_pattern (dotted_name . (identifier) @used))
(global_statement (identifier) @global)
(nonlocal_statement (identifier) @other)
(function_definition) @function
(lambda) @function
(class_definition body: (_) @class)
((assignment left: (identifier) @_all right: [(list (string (string_content) @exported))
  (tuple (string (string_content) @exported))]) (#eq? @_all "__all__"))
(wildcard_import) @wildcard
(ERROR) @error
"""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A name that is used where nothing binds it.

    is_reached: whether all such uses would find it if it were bound at the place that was asked about: that is in no
    function, or they lie in the same one. is_local: whether they also lie below that place, and in no function where
    that is in none.
    """

    name: str
    is_reached: bool
    is_local: bool


@dataclass(frozen=True, slots=True)
class _Scope:
    """A function's bytes from its parameters on, or a class's body, or all. body: where a function's begins; what
    stands before that, annotations and defaults, is read in the scope around it. bound: the names that are bound in it.
    """

    start: int
    end: int
    body: int
    is_class: bool
    outer: _Scope | None
    bound: set[bytes]

    def knows(self, name: bytes, byte: int) -> bool:
        """Whether a use of name at byte, in this scope, finds it."""
        scope: _Scope | None = self
        sees_class = True
        while scope is not None:
            # a class's names are its body's alone
            if (sees_class or not scope.is_class) and name in scope.bound:
                return True
            sees_class = sees_class and byte < scope.body
            scope = scope.outer
        return False


@cache
def _query(grammar: tree_sitter.Language) -> tree_sitter.Query:
    return tree_sitter.Query(grammar, _QUERY)


def unresolved_names(language: Language, text: str, at: int) -> tuple[Unresolved, ...]:
    """The names that nothing in text binds for those who use them, by their first use.

    at: an offset in a line that has still to be written; text is the document without what stands in it.
    """
    grammar = language.load() if language.name == "python" else None
    if grammar is None or len(text) > MAX_CHARS:
        return ()
    text = readable(language, text)
    data = text.encode("utf-8", "replace")
    root = tree_sitter.Parser(grammar).parse(data).root_node
    found = tree_sitter.QueryCursor(_query(grammar)).captures(root)
    if "wildcard" in found:
        return ()
    scopes = _scopes(found, len(data))
    starts = [scope.start for scope in scopes]
    everything = scopes[0]

    def innermost(byte: int) -> _Scope:
        scope: _Scope | None = scopes[bisect_right(starts, byte) - 1]
        while scope is not None and byte >= scope.end:
            scope = scope.outer
        return scope or everything

    names = {node.start_byte: data[node.start_byte : node.end_byte] for node in found.get("name", ())}
    bound = {node.start_byte for node in found.get("bound", ())}
    others = {node.start_byte for key in ("other", "global") for node in found.get(key, ())}
    others -= {node.start_byte for node in found.get("used", ())}
    errors = _Spans((node.start_byte, node.end_byte) for node in found.get("error", ()))
    everything.bound.update(names[node.start_byte] for node in found.get("global", ()))
    uses: list[int] = []
    for byte, name in names.items():
        if byte in errors:
            everything.bound.add(name)
        elif byte in bound:
            innermost(byte).bound.add(name)
        elif byte not in others:
            uses.append(byte)
    # a module that makes what it is asked for binds nothing of what it promises
    if b"__getattr__" not in everything.bound:
        exported = {node.start_byte: data[node.start_byte : node.end_byte] for node in found.get("exported", ())}
        names |= exported
        uses += exported
    place = len(text[:at].encode("utf-8", "replace"))
    here = _function(innermost(place))
    unresolved: dict[str, Unresolved] = {}
    for byte in sorted(uses):
        scope = innermost(byte)
        if scope.knows(names[byte], byte):
            continue
        word = names[byte].decode("utf-8", "replace")
        if word in _KNOWN or word.startswith("__"):
            continue
        is_inside = here.start <= byte < here.end
        is_below = byte > place and is_inside and bool(here.outer or not _function(scope).outer)
        known = unresolved.get(word, Unresolved(word, True, True))
        unresolved[word] = Unresolved(word, known.is_reached and is_inside, known.is_local and is_below)
    return tuple(unresolved.values())


def _scopes(found: dict[str, list[tree_sitter.Node]], num_bytes: int) -> list[_Scope]:
    """All scopes by their start, the whole document first; each stands behind the one around it."""
    spans = [(node.start_byte, node.end_byte, node.start_byte, True) for node in found.get("class", ())]
    for node in found.get("function", ()):
        # a function's name is its outer scope's, and what stands before it too
        first = node.child_by_field_name("type_parameters") or node.child_by_field_name("parameters") or node
        body = node.child_by_field_name("body") or first
        spans.append((first.start_byte, node.end_byte, body.start_byte, False))
    scopes = [_Scope(0, num_bytes + 1, 0, False, None, set())]
    for start, end, body_start, is_class in sorted(spans, key=lambda span: (span[0], -span[1])):
        outer: _Scope | None = scopes[-1]
        while outer is not None and start >= outer.end:
            outer = outer.outer
        scopes.append(_Scope(start, end, body_start, is_class, outer or scopes[0], set()))
    return scopes


class _Spans:
    """Spans of nodes, the outermost alone: which bytes lie in one."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            if not self._ends or start >= self._ends[-1]:
                self._starts.append(start)
                self._ends.append(end)

    def __contains__(self, byte: int) -> bool:
        at = bisect_right(self._starts, byte) - 1
        return at >= 0 and byte < self._ends[at]


def _function(scope: _Scope) -> _Scope:
    """The function that a scope belongs to, or the whole document."""
    while scope.is_class and scope.outer is not None:
        scope = scope.outer
    return scope
