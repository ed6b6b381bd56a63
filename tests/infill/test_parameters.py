"""What a function or a class takes, read from the lines that define it."""

from __future__ import annotations

import time

import pytest
from lacuna_ls.infill.definitions import rules_of
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.parameters import definitions_of, signature_of


def taken(text: str, language: str = "python") -> list[str | None]:
    """Of each definition of `load` its parameters: ? behind those with a default, ! behind those given by name."""
    row = language_for(language)
    rules = rules_of(row)
    assert rules is not None
    found: list[str | None] = []
    for definition in definitions_of(rules, text, "load"):
        signature = signature_of(row, rules, text, definition)
        if signature is None:
            found.append(None)
            continue
        names = [f"{each.name}{'?' * each.is_optional}{'!' * each.by_name}" for each in signature.parameters]
        found.append(" ".join((*names, *signature.more)))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def load(a, b=1, *, c, d=2): pass", ["a b? c! d?!"]),
        ("async def load[T](a: T, /, *rest: int) -> T:\n    pass", ["a *rest"]),
        ("def load(\n    a,  # one, two\n    b: dict[str, int] = {'x': (1, 2)},\n):\n    pass", ["a b?"]),
        ("@property\ndef load(self):\n    pass", [None]),
        ("@click.command()\n@click.option(\n    '--a')\ndef load(a):\n    pass", [None]),
        ("class load:\n    class Meta:\n        def __init__(self, x): pass\n    def __init__(self, a): pass", ["a"]),
        ("@dataclass(kw_only=True)\nclass load:\n    a: int\n    b: str = ''\n", ["a! b?!"]),
        ("@dataclass\nclass load:\n    a: int\n    b: int = field(init=False)\n    c: int = 1\n", ["a c?"]),
        ("class load(BaseModel):\n    a: int\n", ["a!"]),
        ("def load(", [None]),
    ],
)
def test_python(text: str, expected: list[str | None]) -> None:
    assert taken(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("function load(a, b = 1, ...rest) {", ["a b? ...rest"]),
        ("export const load = async (a: Map<string, number>, b?: number): Promise<void> => {", ["a b?"]),
        ("  public load(a: Array<Array<string>>, b: X<Y, Z>): void {", ["a b"]),
        ("  load(cb: (e: Error) => void, b: () => Map<A, B>) {", ["cb b"]),
        ("  get load() {", []),
        ("    load(a);", []),
        ("  load(a: string): void;", ["a"]),
        ("class load {\n  constructor(private a: string, readonly b = 1) {\n  }\n}", ["a b?"]),
    ],
)
def test_typescript(text: str, expected: list[str | None]) -> None:
    assert taken(text, "typescript") == expected


@pytest.mark.parametrize(
    ("language", "line"),
    [
        ("typescript", "load = (" + ") :" * 20_000 + " ;x"),
        ("typescript", "load(" + ") : " * 20_000 + " ;x"),
        ("typescript", "function load(a)" + " " * 20_000 + ":" + " " * 20_000 + "x" * 20_000),
        ("typescript", "function load(a" + " " * 3_900 + "!) {"),
        ("typescript", "load." * 20_000 + "load = function"),
        ("python", "def load(a)" + " ->" * 20_000),
    ],
)
def test_no_line_takes_long(language: str, line: str) -> None:
    started = time.perf_counter()
    taken(line, language)
    assert time.perf_counter() - started < 0.5
