"""A small repository of our own, an oracle that knows it, and the servers that are made of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

FAKE_SERVER = Path(__file__).with_name("fake_server.py")

SHAPES = '''"""Shapes."""

import math


class Circle:
    """A circle."""

    def __init__(self, radius: float) -> None:
        """Take the radius."""
        self.radius = radius
        self.label = "🟢 circle"

    def area(self) -> float:
        return math.pi * self.radius**2

    def describe(self, unit: str = "cm") -> str:
        # what a person wants to read
        size = round(self.area(), 2)
        if size > 100:
            kind = "large"
            size = int(size)
        else:
            kind = "small"
            size = float(size)
        return "a {} circle of {} {}".format(kind, size, unit)


def total(shapes: list[Circle]) -> float:
    result = 0.0
    for shape in shapes:
        area = shape.area()
        result = result + area
    return result
'''

STACK = """// a stack
function Stack() {
  this.items = [];
}

Stack.prototype.push = function (item) {
  this.items.push(item);
  return this.items.length;
};

function sum(values) {
  let result = 0;
  for (const value of values) {
    result = result + value;
    console.log(result, value);
  }
  return result;
}
"""

USERS = """import math


def hypotenuse(first, second):
    squares = first**2 + second**2
    return math.sqrt(squares)


def mean(values):
    result = 0.0
    for value in values:
        result = result + value
    return result / len(values)
"""


@pytest.fixture
def repository_folder(tmp_path: Path) -> Path:
    """A snapshot with two languages."""
    root = tmp_path / "shapes-1.2"
    (root / "pkg").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "pkg" / "shapes.py").write_text(SHAPES, encoding="utf-8")
    (root / "pkg" / "users.py").write_text(USERS, encoding="utf-8")
    (root / "pkg" / "stack.js").write_text(STACK, encoding="utf-8")
    (root / "tests" / "test_shapes.py").write_text("def test_nothing():\n    assert 1 + 1 == 2\n", encoding="utf-8")
    (root / "README.md").write_text("# Shapes\n", encoding="utf-8")
    return root


@pytest.fixture
def oracle(tmp_path: Path, repository_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Start the fake server with words; it knows the texts of the repository (or more of them)."""
    file = tmp_path / "oracle.json"
    # the oracle needs no time to load a model
    monkeypatch.setattr("lacuna_ls.bench.subject.READY_QUIET_S", 0.2)

    def command(*words: str, texts: list[str] | None = None) -> list[str]:
        known = [SHAPES, STACK, USERS, *(texts or [])]
        file.write_text(json.dumps(known), encoding="utf-8")
        monkeypatch.setenv("ORACLE", str(file))
        return [sys.executable, str(FAKE_SERVER), *words]

    return command
