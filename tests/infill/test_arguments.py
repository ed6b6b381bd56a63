"""The arguments of a call that is being written, drafted from what the function takes and what is in sight."""

from __future__ import annotations

import pytest
from lacuna_ls.infill.arguments import arguments_for
from lacuna_ls.infill.index import LineIndex
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.snapshot import Snapshot
from lacuna_ls.infill.span import Gap, Scene
from lacuna_ls.infill.syntax import SyntaxTree

PYTHON = """\
class Shop:
    def __init__(self, owner, till=None):
        self.owner = owner

    def sell(self, item, buyer, *, price, discount=0):
        pass

    def open(self):
        pass


def load(path, encoding="utf-8"):
    return path


"""


def drafted(text: str, language: str = "python", others: dict[str, str] | None = None) -> list[str]:
    """What is drafted at the | of a text, the likeliest first. others: files of the workspace."""
    at = text.index("|")
    text = text[:at] + text[at + 1 :]
    index = LineIndex()
    for path, other in (others or {}).items():
        index.update(path, other)
    here, row = Snapshot(text), language_for(language)
    scene = Scene(here, SyntaxTree.around(row, text, at, at), here.indent(at))
    return [each.text for each in arguments_for(scene, Gap(at, at, "rest"), "/here", index)]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param("def f(path):\n    return load(|", "path)", id="what is in sight is called like the parameter"),
        pytest.param("def f(path):\n    return load(|)", "path", id="where the bracket is closed"),
        pytest.param("def f(path):\n    return load(pa|", "th)", id="where a word of it is typed"),
        pytest.param("def f(path):\n    if load(|", "path):", id="what begins a block ends with a colon"),
        pytest.param("def f(owner):\n    return [Shop(|", "owner)]", id="a class takes what its constructor does"),
        pytest.param("def f(s, item, buyer, price):\n    s.sell(item, |", "buyer, price=price)", id="what is left"),
        pytest.param("def f(s, item, buyer, price):\n    s.sell(item,|", " buyer, price=price)", id="and its blank"),
        pytest.param("def f(shop):\n    shop.open(|", ")", id="nothing is taken"),
        pytest.param("def f(s, item, price):\n    s.sell(item, price=|", "", id="a buyer is nowhere in sight"),
        pytest.param("def f(other):\n    return load(|", "", id="nothing is called so"),
        pytest.param("def f(path):\n    return unknown(|", "", id="nobody knows the function"),
        pytest.param("def f(path):\n    'load(|", "", id="a string is no call"),
        pytest.param("def f(path):\n    def load(|", "", id="a definition is no call"),
    ],
)
def test_what_is_in_sight_is_given_to_the_parameter_of_its_name(call: str, expected: str) -> None:
    drafts = drafted(PYTHON + call)
    assert drafts[:1] == [expected] if expected else not drafts


def test_the_definition_may_stand_in_another_file() -> None:
    text = "from shop import load\n\ndef f(path):\n    return load(|\n"
    assert drafted(text, others={"/shop.py": PYTHON})[0] == "path)"
    assert drafted(text, others={}) == []


def test_in_javascript_a_statement_ends_as_its_neighbours_do() -> None:
    shop = "export function load(path, encoding) {\n  return path;\n}\n"
    text = "import { load } from './shop';\n\nfunction f(path, encoding) {\n  const a = 1;\n  return load(|\n}\n"
    assert drafted(text, "javascript", {"/shop.js": shop})[0] == "path, encoding);"
