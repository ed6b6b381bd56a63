"""The arguments of a call that is being written, drafted from what the function takes and what is in sight."""

from __future__ import annotations

from dataclasses import replace

import pytest
from canned_engine import CannedEngine
from infill_cases import BYTE_POLICY, TOKENIZER, asked
from lacuna_ls.infill.arguments import arguments_for
from lacuna_ls.infill.index import LineIndex
from lacuna_ls.infill.infiller import LocalInfiller
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.request import Proposal
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


def drafted(
    text: str, language: str = "python", others: dict[str, str] | None = None, path: str = "/here"
) -> list[str]:
    """What is drafted at the | of a text at path, the likeliest first. others: files of the workspace."""
    at = text.index("|")
    text = text[:at] + text[at + 1 :]
    index = LineIndex()
    for each, other in (others or {}).items():
        index.update(each, other)
    here, row = Snapshot(text), language_for(language)
    scene = Scene(here, SyntaxTree.around(row, text, at, at), here.indent(at))
    return [each.text for each in arguments_for(scene, Gap(at, at, "rest"), path, index)]


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
        pytest.param("def f(load, path):\n    return load(|", "", id="what the caller was given is another function"),
        pytest.param("def f(x):\n    for path in load(|", "", id="what the line itself binds is not bound yet"),
        pytest.param("import json\n\ndef f(path):\n    json.load(|", "", id="a module's function is none of these"),
        pytest.param("def f(x):\n    def g(x):\n        pass\n\n    g(|", "x)", id="a function within a function"),
        pytest.param("class A:\n    def g(x):\n        pass\n\ndef f(x):\n    g(|", "", id="a method alone is unknown"),
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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from json import load", ""),
        ("from shop import load", "path)"),
        ("from .shop import load", "path)"),
        ("from .shop import sell as load", "item)"),
        ("from numpy import (\n    array,\n    load,\n)", ""),
    ],
)
def test_a_name_is_what_the_document_imports(line: str, expected: str) -> None:
    shop = "def load(path):\n    pass\n\n\ndef sell(item):\n    pass\n"
    text = f"{line}\n\n\ndef f(path, item):\n    load(|"
    drafts = drafted(text, others={"/p/shop.py": shop}, path="/p/here.py")
    assert drafts[:1] == [expected] if expected else not drafts


def test_of_two_modules_the_imported_one_counts() -> None:
    others = {"/p/a.py": "def load(path):\n    pass\n", "/p/b.py": "def load(item):\n    pass\n"}
    text = "from p.b import load\n\n\ndef f(path, item):\n    load(|"
    assert drafted(text, others=others, path="/p/here.py")[0] == "item)"
    assert (
        drafted(text.replace("p.b import load", "p import b").replace(" load(", " b.load("), others=others)[0]
        == "item)"
    )


def test_a_method_of_the_own_class_comes_before_others() -> None:
    text = (
        "class A:\n    def put(self, item):\n        pass\n\n\n"
        "class B:\n    def put(self, path):\n        pass\n\n    def f(self, item, path):\n        self.put(|"
    )
    assert drafted(text) == ["path)", "path=path)"]


def test_bases_without_end_and_a_thousand_definitions_end_soon() -> None:
    circle = "class A(B):\n    pass\n\n\nclass B(A):\n    pass\n\n\n"
    assert drafted(f"{circle * 300}def f(x):\n    A(|") == []
    assert drafted("def load(\n" * 10_000 + "def f(x):\n    load(|") == []


def test_javascript_knows_functions_within_functions_and_what_is_the_language_s() -> None:
    inner = "function f(item) {\n  function sell(item) {\n    return 1;\n  }\n  return sell(|\n}\n"
    assert drafted(inner, "javascript") == ["item)"]
    others = {"/p/lists.js": "export class Lists {\n  isArray(item) {\n  }\n}\n"}
    assert drafted("function f(item) {\n  return Array.isArray(|\n}\n", "javascript", others) == []
    assert drafted("function f(item) {\n  return lists.isArray(|\n}\n", "javascript", others) == ["item)"]


def filled(answer: str, logprob: float, text: str) -> Proposal:
    """The first proposal over a model that answers so, with so much log-probability a token."""
    index = LineIndex()
    index.update("/shop.py", PYTHON)
    policy = replace(BYTE_POLICY, use_definitions=True)
    infiller = LocalInfiller(CannedEngine(TOKENIZER, answer, logprob), TOKENIZER, policy=policy, index=index)
    return infiller.fill(asked(text, path="/here.py")).proposals[0]


def test_a_draft_that_the_model_says_too_is_likelier_and_one_that_it_does_not_say_less_likely() -> None:
    text = "from shop import load\n\ndef f(path, other):\n    return load(‸\n"
    drafted = filled("other)", -3.0, text)
    agreed = filled("path)", -3.0, text)
    sure = filled("other)", -0.001, text)
    assert (drafted.text, drafted.source) == ("path)", "call")
    assert (agreed.text, agreed.source) == ("path)", "model")
    assert (sure.text, sure.source) == ("other)", "model")
    assert drafted.confidence < 0.5 < agreed.confidence
