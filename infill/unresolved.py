"""Names that a document uses and nothing in it binds: what an import, or a line above, has still to bring.

By the scopes of Python, the only language here. A document whose names nobody can know (`from x import *`) says
nothing, and what the grammar cannot read counts as bound. Knows no model and no other file.
"""

from __future__ import annotations

import builtins
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache

import tree_sitter

from .languages import Language

MAX_CHARS = 150_000
"""A longer document is not looked through: it would take more than 50 ms."""

_KNOWN = frozenset((*dir(builtins), "_", "get_ipython", "display", "reveal_type", "WindowsError", "unicode"))
"""Bound without being written: by the language, gettext, notebooks and type checkers."""

_QUERY = """
(identifier) @name
(attribute attribute: (identifier) @other)
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
(function_definition parameters: (_) @parameters) @function
(lambda) @function
(class_definition body: (_) @class)
((assignment left: (identifier) @_all right: [(list (string (string_content) @exported))
  (tuple (string (string_content) @exported))]) (#eq? @_all "__all__"))
(wildcard_import) @wildcard
(ERROR) @error
"""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A name, and where it is used first that nothing binds it, as an offset of the text.

    is_local: whether all such uses lie below the place that was asked about, in the same function (or, where that is in
    no function, in none).
    """

    name: str
    offset: int
    is_local: bool


@dataclass(frozen=True, slots=True)
class _Scope:
    """A function's bytes from its parameters on, or a class's body, or all. bound: the names that are bound in it."""

    start: int
    end: int
    is_class: bool
    outer: _Scope | None
    bound: set[bytes]

    def knows(self, name: bytes) -> bool:
        """Whether a use of name in this scope finds it."""
        if name in self.bound:
            return True
        outer = self.outer
        while outer is not None:
            # a class's names are its body's alone
            if not outer.is_class and name in outer.bound:
                return True
            outer = outer.outer
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
    errors = sorted((node.start_byte, node.end_byte) for node in found.get("error", ()))
    everything.bound.update(names[node.start_byte] for node in found.get("global", ()))
    exported = {node.start_byte: data[node.start_byte : node.end_byte] for node in found.get("exported", ())}
    uses = list(exported)
    for byte, name in names.items():
        is_broken = any(low <= byte < high for low, high in errors)
        if is_broken:
            everything.bound.add(name)
        elif byte in bound:
            innermost(byte).bound.add(name)
        elif byte not in others:
            uses.append(byte)
    place = len(text[:at].encode("utf-8", "replace"))
    here = _function(innermost(place))
    names |= exported
    first: dict[bytes, int] = {}
    is_local: dict[bytes, bool] = {}
    for byte in sorted(uses):
        name = names[byte]
        scope = innermost(byte)
        if scope.knows(name):
            continue
        first.setdefault(name, byte)
        is_below = byte > place and (here.start <= byte < here.end if here.outer else not _function(scope).outer)
        is_local[name] = is_local.get(name, True) and is_below
    known = {name: name.decode("utf-8", "replace") for name in first}
    return tuple(
        Unresolved(known[name], len(data[:byte].decode("utf-8", "replace")), is_local[name])
        for name, byte in first.items()
        if known[name] not in _KNOWN and not known[name].startswith("__")
    )


def _scopes(found: dict[str, list[tree_sitter.Node]], num_bytes: int) -> list[_Scope]:
    """All scopes by their start, the whole document first; each stands behind the one around it."""
    # what stands before the parameters of a function is its outer scope's
    begins = {node.parent.start_byte: node.start_byte for node in found.get("parameters", ()) if node.parent}
    spans = [(begins.get(node.start_byte, node.start_byte), node.end_byte, False) for node in found.get("function", ())]
    spans += [(node.start_byte, node.end_byte, True) for node in found.get("class", ())]
    scopes = [_Scope(0, num_bytes + 1, False, None, set())]
    for start, end, is_class in sorted(spans, key=lambda span: (span[0], -span[1])):
        outer: _Scope | None = scopes[-1]
        while outer is not None and start >= outer.end:
            outer = outer.outer
        scopes.append(_Scope(start, end, is_class, outer or scopes[0], set()))
    return scopes


def _function(scope: _Scope) -> _Scope:
    """The function that a scope belongs to, or the whole document."""
    while scope.is_class and scope.outer is not None:
        scope = scope.outer
    return scope
