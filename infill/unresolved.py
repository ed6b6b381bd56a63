"""Names that a document uses and nothing in it binds: what an import, or a line above, has still to bring.

By the scopes of Python, JavaScript and TypeScript, a query each. A document whose names nobody can know (`from x import
*`) says nothing, and what the grammar cannot read counts as bound. Knows no model and no other file.
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

MAX_DEPTH = 100
"""Deeper than that in functions and blocks everything counts as bound: looking further out costs the depth once more
for each use."""

_PYTHON_KNOWN = (*dir(builtins), "_", "get_ipython", "display", "reveal_type", "WindowsError", "unicode")
_ECMASCRIPT_KNOWN = """
arguments exports module require undefined
AggregateError Array ArrayBuffer BigInt BigInt64Array BigUint64Array Boolean DataView Date Error EvalError
FinalizationRegistry Float32Array Float64Array Function Infinity Int16Array Int32Array Int8Array Intl Iterator JSON Map
Math NaN Number Object Promise Proxy RangeError ReferenceError Reflect RegExp Set SharedArrayBuffer String Symbol
SyntaxError TypeError URIError Uint16Array Uint32Array Uint8Array Uint8ClampedArray WeakMap WeakRef WeakSet globalThis
Awaited Capitalize Exclude Extract InstanceType NonNullable Omit Parameters Partial Pick PropertyKey Readonly Record
Required ReturnType
"""
_TYPESCRIPT_TYPES = """
ArrayBufferLike ArrayBufferView ArrayLike AsyncGenerator AsyncIterable AsyncIterableIterator AsyncIterator ConcatArray
ConstructorParameters Generator Iterable IterableIterator IteratorResult Lowercase PromiseLike PropertyDescriptor
ProxyHandler ReadonlyArray ReadonlyMap ReadonlySet RegExpExecArray RegExpMatchArray TemplateStringsArray ThisType
Uncapitalize Uppercase
"""
_KNOWN = {True: frozenset(_PYTHON_KNOWN), False: frozenset(_ECMASCRIPT_KNOWN.split())}
"""Bound without being written, whether in Python or not: by the language and its types, gettext, notebooks and type
checkers. What hosts of JavaScript bind is no part of it: many a file imports what is called like that."""
_KNOWN_TYPES = frozenset(_TYPESCRIPT_TYPES.split())
"""Bound where a type is meant: `Iterable.from(x)` asks for a module that is called like that."""

_PYTHON = """
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

_ECMASCRIPT = """
[(identifier) (shorthand_property_identifier) (shorthand_property_identifier_pattern)] @name
(shorthand_property_identifier_pattern) @bound
(import_clause (identifier) @bound)
(namespace_import (identifier) @bound)
(import_specifier name: (identifier) @other alias: (identifier) @bound)
(import_specifier !alias name: (identifier) @bound)
(export_specifier alias: (identifier) @other)
(export_statement (export_clause (export_specifier name: (identifier) @other)) source: (_))
(namespace_export (identifier) @other)
(variable_declarator name: (identifier) @bound)
(for_in_statement left: (identifier) @bound)
(assignment_expression left: (identifier) @assigned)
(augmented_assignment_expression left: (identifier) @assigned)
(update_expression argument: (identifier) @assigned)
(array_pattern (identifier) @bound)
(pair_pattern value: (identifier) @bound)
(assignment_pattern left: (identifier) @bound)
(rest_pattern (identifier) @bound)
(catch_clause parameter: (identifier) @bound)
(arrow_function parameter: (identifier) @bound)
([(function_declaration name: (_) @bound) (function_expression name: (_) @bound) (class_declaration name: (_) @bound)
  (generator_function_declaration name: (_) @bound) (generator_function name: (_) @bound) (class name: (_) @bound)])
(variable_declaration (variable_declarator name: (_) @hoisted))
(for_in_statement kind: "var" left: (_) @hoisted)
[(function_declaration) (function_expression) (generator_function_declaration) (generator_function) (arrow_function)
 (method_definition)] @function
[(statement_block) (switch_body) (for_statement) (for_in_statement) (catch_clause)] @block
(ERROR) @error
"""

_JSX = """
([(jsx_opening_element name: (identifier) @other) (jsx_closing_element name: (identifier) @other)
  (jsx_self_closing_element name: (identifier) @other)] (#match? @other "^[a-z]"))
"""

_JAVASCRIPT = f"""{_ECMASCRIPT}{_JSX}
(formal_parameters (identifier) @bound)
"""

_TYPESCRIPT = f"""{_ECMASCRIPT}
(type_identifier) @name @type @plain
(type_query [(identifier) @type (member_expression object: (identifier) @type)])
(nested_type_identifier module: (identifier) @type)
(nested_type_identifier name: (type_identifier) @other)
(required_parameter pattern: (identifier) @bound)
(optional_parameter pattern: (identifier) @bound)
(required_parameter name: (identifier) @other)
(optional_parameter name: (identifier) @other)
(index_signature name: (identifier) @other)
(export_statement "namespace" (identifier) @other)
(import_require_clause (identifier) @bound)
(import_alias . (identifier) @bound)
([(interface_declaration name: (_) @bound) (type_alias_declaration name: (_) @bound) (enum_declaration name: (_) @bound)
  (abstract_class_declaration name: (_) @bound) (function_signature name: (_) @bound)
  (internal_module name: (identifier) @bound) (internal_module name: (nested_identifier . (identifier) @bound))
  (module name: (identifier) @bound)])
(enum_body name: (property_identifier) @name @bound)
(enum_assignment name: (property_identifier) @name @bound)
(enum_body) @block
(type_parameter name: (_) @bound)
(mapped_type_clause name: (_) @bound)
(infer_type (type_identifier) @bound @hoisted)
([(interface_declaration type_parameters: (_)) (type_alias_declaration type_parameters: (_))
  (class_declaration type_parameters: (_)) (abstract_class_declaration type_parameters: (_))
  (class type_parameters: (_))] @block)
[(function_type) (constructor_type) (method_signature) (call_signature) (construct_signature) (function_signature)
 (abstract_method_signature) (index_signature) (conditional_type)] @block
"""

_QUERIES = {"python": _PYTHON, "javascript": _JAVASCRIPT, "typescript": _TYPESCRIPT, "tsx": _TYPESCRIPT + _JSX}
_HEADS = ("type_parameters", "parameters", "parameter")
"""Fields that a scope begins with, where it has one of them: what stands before that is read around it."""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A name that is used where nothing binds it.

    is_reached: whether all such uses would find it if it were bound at the place that was asked about: that is in no
    function, or they lie in the same one. is_local: whether they also lie below that place, and in no function where
    that is in none. is_type: whether they only say what type something has.
    """

    name: str
    is_reached: bool
    is_local: bool
    is_type: bool = False


@dataclass(frozen=True, slots=True)
class _Scope:
    """A function's bytes from its parameters on, a block's, a class's body of Python, or all. body: where a function's
    begins; what stands before that, annotations and defaults, is read in the scope around it. hoist: of a block, the
    function around it, or all, which `var` binds in. bound: the names that are bound in it.
    """

    start: int
    end: int
    body: int
    is_class: bool
    outer: _Scope | None
    hoist: _Scope | None
    bound: set[bytes]

    def knows(self, name: bytes, byte: int) -> bool:
        """Whether a use of name at byte, in this scope, finds it."""
        scope, sees_class = self, True
        for _ in range(MAX_DEPTH):
            # a class's names are its body's alone
            if (sees_class or not scope.is_class) and name in scope.bound:
                return True
            sees_class = sees_class and byte < scope.body
            if scope.outer is None:
                return False
            scope = scope.outer
        return True


@cache
def _query(language: Language) -> tree_sitter.Query | None:
    text, grammar = _QUERIES.get(language.name), language.load()
    return tree_sitter.Query(grammar, text) if text and grammar else None


def is_bound_anyway(language: Language, name: str) -> bool:
    """Whether a name is bound without being written, in a language whose scopes are known."""
    return language.name in _QUERIES and name in _KNOWN[language.name == "python"]


def unresolved_names(language: Language, text: str, at: int) -> tuple[Unresolved, ...]:
    """The names that nothing in text binds for those who use them, by their first use.

    at: an offset in a line that has still to be written; text is the document without what stands in it.
    """
    grammar, query = language.load(), _query(language)
    if grammar is None or query is None or len(text) > MAX_CHARS:
        return ()
    text = readable(language, text)
    data = text.encode("utf-8", "replace")
    root = tree_sitter.Parser(grammar).parse(data).root_node
    if root.is_error:
        # all of it counts as bound, and looking through the children of one error takes the square of their number
        return ()
    found = tree_sitter.QueryCursor(query).captures(root)
    if "wildcard" in found:
        return ()
    scopes = _scopes(found, len(data))
    everything = scopes[0]
    names = {node.start_byte: data[node.start_byte : node.end_byte] for node in found.get("name", ())}
    bound = {node.start_byte for node in found.get("bound", ())}
    others = {node.start_byte for key in ("other", "global") for node in found.get(key, ())}
    others -= {node.start_byte for node in found.get("used", ())}
    types = {node.start_byte for node in found.get("type", ())}
    plain_types = {node.start_byte for node in found.get("plain", ())}
    errors, hoisted = _Spans(found.get("error", ())), _Spans(found.get("hoisted", ()))
    exported = {node.start_byte: data[node.start_byte : node.end_byte] for node in found.get("exported", ())}
    place = len(text[:at].encode("utf-8", "replace"))
    innermost = _innermost(scopes, {place, *names, *exported})
    everything.bound.update(names[node.start_byte] for node in found.get("global", ()))
    uses: list[int] = []
    for byte, name in names.items():
        if byte in errors:
            everything.bound.add(name)
        elif byte in bound:
            scope = innermost[byte]
            (scope.hoist if scope.hoist is not None and byte in hoisted else scope).bound.add(name)
        elif byte not in others:
            uses.append(byte)
    # what is assigned and bound nowhere becomes global; nobody can assign what is imported
    assigned = [node.start_byte for node in found.get("assigned", ())]
    everything.bound.update([names[byte] for byte in assigned if not innermost[byte].knows(names[byte], byte)])
    # a module that makes what it is asked for binds nothing of what it promises
    if b"__getattr__" not in everything.bound:
        names |= exported
        uses += exported
    here = _function(innermost[place])
    unresolved: dict[str, Unresolved] = {}
    for byte in sorted(uses):
        scope = innermost[byte]
        if scope.knows(names[byte], byte):
            continue
        word = names[byte].decode("utf-8", "replace")
        if is_bound_anyway(language, word) or word.startswith("__") or (word in _KNOWN_TYPES and byte in plain_types):
            continue
        is_inside = here.start <= byte < here.end
        is_below = byte > place and is_inside and bool(here.outer or not _function(scope).outer)
        known = unresolved.get(word, Unresolved(word, True, True, True))
        is_type = known.is_type and byte in types
        unresolved[word] = Unresolved(word, known.is_reached and is_inside, known.is_local and is_below, is_type)
    return tuple(unresolved.values())


def _scopes(found: dict[str, list[tree_sitter.Node]], num_bytes: int) -> list[_Scope]:
    """All scopes by their start, the whole document first; each stands behind the one around it."""
    spans = [(node.start_byte, node.end_byte, node.start_byte, "class") for node in found.get("class", ())]
    for kind in ("function", "block"):
        for node in found.get(kind, ()):
            # a function's name is its outer scope's, and what stands before it too
            first = next(filter(None, map(node.child_by_field_name, _HEADS)), node)
            body = node.child_by_field_name("body") or first
            spans.append((first.start_byte, node.end_byte, body.start_byte, kind))
    scopes = [_Scope(0, num_bytes + 1, 0, False, None, None, set())]
    for start, end, body_start, kind in sorted(spans, key=lambda span: (span[0], -span[1])):
        outer: _Scope | None = scopes[-1]
        while outer is not None and start >= outer.end:
            outer = outer.outer
        outer = outer or scopes[0]
        hoist = (outer.hoist or outer) if kind == "block" else None
        scopes.append(_Scope(start, end, body_start, kind == "class", outer, hoist, set()))
    return scopes


def _innermost(scopes: list[_Scope], offsets: Iterable[int]) -> dict[int, _Scope]:
    """The innermost scope of each byte."""
    found: dict[int, _Scope] = {}
    scope, i = scopes[0], 1
    for byte in sorted(offsets):
        while i < len(scopes) and scopes[i].start <= byte:
            scope = scopes[i]
            i += 1
        while byte >= scope.end and scope.outer is not None:
            scope = scope.outer
        found[byte] = scope
    return found


class _Spans:
    """Spans of nodes, the outermost alone: which bytes lie in one."""

    def __init__(self, nodes: Iterable[tree_sitter.Node]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in sorted(((n.start_byte, n.end_byte) for n in nodes), key=lambda span: (span[0], -span[1])):
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
