"""How one setting is declared, found in a tree of dataclasses, and validated value by value.

A bad value costs one message and its default, never the server. Knows no particular setting: options.py declares those.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

T = TypeVar("T")

Scope = Literal["user", "resource"]
"""user: only the user's own settings count, a workspace cannot change it. resource: may differ by folder."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a human and a validator need to know about one value, beside its type and default."""

    description: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    scope: Scope = "resource"
    by_language: bool = False
    """May be overridden under `languages.<id>`."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. name: dotted, as on the wire. kind: bool, int, float, str, list or dict."""

    name: str
    kind: str
    default: Any
    setting: Setting

    @property
    def json_default(self) -> Any:
        """The default as it is written in JSON."""
        return list(self.default) if self.kind == "list" else self.default

    @property
    def range_text(self) -> str:
        """The allowed values in words, or an empty string."""
        if self.setting.choices:
            return " | ".join(self.setting.choices)
        if self.setting.minimum is None and self.setting.maximum is None:
            return ""
        return f"{self.setting.minimum:g} to {self.setting.maximum:g}"


def value(default: T, description: str, **rules: Any) -> T:
    """Declare one setting. Lists and dicts are given as a tuple or an empty mapping, because the tree is frozen."""
    setting = Setting(description, **rules)
    if isinstance(default, Mapping):
        return cast(T, dataclasses.field(default_factory=dict[str, Any], metadata={"setting": setting}))
    return dataclasses.field(default=default, metadata={"setting": setting})


def camel(name: str) -> str:
    """snake_case to camelCase."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def rows(cls: type[Any], prefix: str = "") -> Iterator[Row]:
    """Every setting below cls, in the order of declaration."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = prefix + camel(field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            yield from rows(hints[field.name], name + ".")
        else:
            yield Row(name, _kind(hints[field.name]), _default(field), field.metadata["setting"])


def _default(field: dataclasses.Field[Any]) -> Any:
    no_values: dict[str, Any] = {}
    return no_values if field.default is dataclasses.MISSING else field.default


def _kind(hint: Any) -> str:
    origin = typing.get_origin(hint) or hint
    if origin is tuple:
        return "list"
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "dict"
    if isinstance(hint, types.UnionType):
        return _kind(typing.get_args(hint)[0])
    return str(origin.__name__)


def check(row: Row, raw: object) -> tuple[Any, str]:
    """The value to use and an empty message, or the default and what was wrong with raw."""
    kind, setting = row.kind, row.setting
    ok: bool
    parsed: Any = raw
    if kind == "bool":
        ok = isinstance(raw, bool)
    elif kind == "int":
        ok = (isinstance(raw, int) or (isinstance(raw, float) and raw.is_integer())) and not isinstance(raw, bool)
        parsed = int(cast(float, raw)) if ok else raw
    elif kind == "float":
        ok = isinstance(raw, int | float) and not isinstance(raw, bool) and raw == raw
    elif kind == "str":
        ok = isinstance(raw, str)
    elif kind == "list":
        # an empty Lua table arrives as {}
        parsed = [] if raw == {} else raw
        ok = isinstance(parsed, list) and all(isinstance(item, str) for item in cast(list[object], parsed))
        parsed = tuple(cast(list[str], parsed)) if ok else raw
    else:
        parsed = {} if raw == [] else raw
        ok = isinstance(parsed, dict)
    want = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a string"}.get(
        kind, "a list of strings" if kind == "list" else "an object"
    )
    if ok and setting.choices and parsed not in setting.choices:
        ok, want = False, "one of " + ", ".join(setting.choices)
    low = setting.minimum if setting.minimum is not None else float("-inf")
    high = setting.maximum if setting.maximum is not None else float("inf")
    if ok and kind in ("int", "float") and not low <= parsed <= high:
        ok, want = False, f"a number from {low:g} to {high:g}"
    if ok:
        # only now, because a whole number may be beyond all floats
        return float(parsed) if kind == "float" else parsed, ""
    shown = repr(raw) if len(repr(raw)) <= 60 else repr(raw)[:57] + "..."
    return row.default, f"lacuna.{row.name}: {shown} is not {want}; using {row.default!r}."


def parse(cls: type[T], raw: object, *, prefix: str = "", scopes: frozenset[str], base: T) -> tuple[T, list[str]]:
    """Read raw over base. Values whose scope is not in scopes keep base's, silently when equal, else with a message.

    Returns the tree and one message per value that could not be used.
    """
    if raw is None:
        return base, []
    if raw == []:
        raw = {}
    if not isinstance(raw, Mapping):
        return base, [f"lacuna settings: {prefix.rstrip('.') or 'the whole'} is not an object; it was left out."]
    values = _undot(cast(Mapping[object, object], raw))
    hints = typing.get_type_hints(cls)
    changes: dict[str, Any] = {}
    messages: list[str] = []
    known: dict[str, dataclasses.Field[Any]] = {}
    for field in dataclasses.fields(cast(Any, cls)):
        known[camel(field.name)] = field
    for key, item in values.items():
        # snake_case is accepted too: Lua users write it
        found = known.get(key) or known.get(camel(key))
        if found is None:
            near = difflib.get_close_matches(key, list(known), 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else "."
            messages.append(f"lacuna.{prefix}{key} is not a setting{hint}")
            continue
        field = found
        current = getattr(base, field.name)
        name = prefix + camel(field.name)
        if dataclasses.is_dataclass(current):
            changes[field.name], more = parse(hints[field.name], item, prefix=name + ".", scopes=scopes, base=current)
            messages += more
            continue
        if item is None:
            continue
        row = Row(name, _kind(hints[field.name]), _default(field), field.metadata["setting"])
        parsed, message = check(row, item)
        if message:
            messages.append(message)
        if row.setting.scope not in scopes:
            if parsed != current:
                messages.append(f"lacuna.{name} can only be set in your own settings; the workspace's was left out.")
            continue
        changes[field.name] = parsed
    return dataclasses.replace(cast(Any, base), **changes), messages


def _undot(raw: Mapping[object, object]) -> dict[str, object]:
    """{"a.b": 1} as {"a": {"b": 1}}: editors send both forms."""
    result: dict[str, object] = {}
    for key, item in raw.items():
        head, dot, tail = str(key).partition(".")
        if not dot:
            old = result.get(head)
            if isinstance(old, dict) and isinstance(item, Mapping):
                cast(dict[str, object], old).update(_undot(cast(Mapping[object, object], item)))
            else:
                result[head] = item
        else:
            inner = result.get(head)
            merged = dict(cast(dict[str, object], inner)) if isinstance(inner, dict) else {}
            merged[tail] = item
            result[head] = merged
    return result
