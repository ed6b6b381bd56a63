"""The arguments of a call that is being written, drafted from what the function takes and what is in sight."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from canned_engine import CannedEngine
from infill_cases import BYTE_POLICY, TOKENIZER, asked, indexed, seen
from lacuna_ls.infill.arguments import arguments_for
from lacuna_ls.infill.infiller import LocalInfiller
from lacuna_ls.infill.request import Proposal

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
    return [each.text for each in arguments_for(*seen(text, language), path, indexed(others or {}))]


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


@pytest.mark.parametrize(
    ("head", "call"),
    [
        pytest.param("from .shop import load", "load(|", id="a function"),
        pytest.param("from . import shop", "shop.load(|", id="a module"),
        pytest.param("from ... import shop", "shop.load(|", id="further up"),
    ],
)
def test_a_document_that_is_not_saved_is_relative_to_nothing(head: str, call: str) -> None:
    text = f"{head}\n\ndef f(path):\n    return {call}\n"
    assert drafted(text, others={"/p/shop.py": PYTHON}, path="")[0] == "path)"


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


def test_a_function_of_a_long_class_is_known_by_it_and_a_thousand_that_are_nested_end_soon() -> None:
    body = "        x = 1;\n" * 2_000
    text = f"class Shape {{\n    int a;\n{body}    public static int make(int b, int c) {{\n{body}    }}\n}}\n"
    call = "class B {\n    void f(int b, int c) {\n        Shape.make(|\n    }\n}\n"
    assert drafted(text + call, language="java") == ["b, c);"]
    assert drafted(text.replace("Shape", "Other") + call, language="java") == []
    nested = "".join(f"    def load(a{i}, b):\n        pass\n" for i in range(1_000))
    started = time.perf_counter()
    assert drafted(f"def f(a999, b):\n{nested}    load(|") == []
    assert time.perf_counter() - started < 0.1


def test_javascript_knows_functions_within_functions_and_what_is_the_language_s() -> None:
    inner = "function f(item) {\n  function sell(item) {\n    return 1;\n  }\n  return sell(|\n}\n"
    assert drafted(inner, "javascript") == ["item)"]
    others = {"/p/lists.js": "export class Lists {\n  isArray(item) {\n  }\n}\n"}
    assert drafted("function f(item) {\n  return Array.isArray(|\n}\n", "javascript", others) == []
    assert drafted("function f(item) {\n  return lists.isArray(|\n}\n", "javascript", others) == ["item)"]


OTHERS = {
    "go": {
        "/p/near.go": "package p\n\nfunc Open(path string) {\n}\n",
        "/q/shop.go": "package shop\n\nfunc Load(path string) {\n}\n\nfunc (s *Shop) Sell(item string) {\n}\n",
    },
    "rust": {"/p/a.rs": "pub struct Shop;\n\nimpl Shop {\n    pub fn load(path: &str) -> Shop {\n    }\n}\n"},
    "java": {"/p/Shop.java": "class Shop {\n    Shop(A owner) {\n    }\n\n    static A load(A path) {\n    }\n}\n"},
    "csharp": {"/p/Shop.cs": "class Shop\n{\n    public static bool Load(int path)\n    {\n    }\n}\n"},
    "c": {"/p/shop.c": "int load(char *path)\n{\n}\n"},
    "cpp": {"/p/shop.cpp": "int load(char *path)\n{\n}\n"},
    "php": {"/p/a.php": "<?php\nclass Shop\n{\n    public static function load($path)\n    {\n    }\n}\n"},
    "ruby": {
        "/p/a.rb": "class Shop\n  def initialize(owner)\n  end\n  def self.load(path)\n  end\n  def g()\n  end\nend\n",
    },
    "lua": {"/p/shop.lua": "function M.load(path)\nend\n\nfunction M:sell(item)\nend\n\nfunction free(path)\nend\n"},
}


@pytest.mark.parametrize(
    ("language", "around", "line", "expected"),
    [
        pytest.param("go", "func f(path string) {\n\t", "Open(|", "path)", id="go: a function of the folder"),
        pytest.param("go", "func f(path string) {\n\t", "Load(|", "", id="go: one of another folder"),
        pytest.param("go", "func f(path string) {\n\t", "shop.Load(|", "path)", id="go: one of that package"),
        pytest.param("go", "func f(path string) {\n\t", "store.Load(|", "", id="go: one of another package"),
        pytest.param("go", "func f(item string, s *Shop) {\n\t", "s.Sell(|", "item)", id="go: a method"),
        pytest.param("go", "func f(item string) {\n\t", "shop.Sell(|", "", id="go: no function, but a method"),
        pytest.param("go", "func f(path string) {\n\t", "if err := Open(|", "path); err != nil {", id="go: an error"),
        pytest.param("go", "", "func (s *Shop) Sell(|", "", id="go: a method is declared"),
        pytest.param("rust", "fn f(path: &str) {\n    ", "let a = Shop::load(|", "path);", id="rust: a statement"),
        pytest.param("rust", "fn f(path: &str) -> Shop {\n    ", "Shop::load(|", "path)", id="rust: a value"),
        pytest.param("rust", "fn f(path: &str) {\n    ", "if Shop::load(|", "path) {", id="rust: a condition"),
        pytest.param("rust", "fn f(path: &str) {\n    ", "Store::load(|", "", id="rust: another type"),
        pytest.param("java", "class A {\n    void f(A path) {\n        ", "Shop.load(|", "path);", id="java: static"),
        pytest.param("java", "class A {\n    void f(A path) {\n        ", "Store.load(|", "", id="java: another's"),
        pytest.param(
            "java",
            "class A {\n    private A owner;\n\n    A f() {\n        ",
            "return new Shop(|",
            "owner);",
            id="java: a field",
        ),
        pytest.param("java", "class A {\n    ", "void load(|", "", id="java: a method is declared"),
        pytest.param(
            "csharp",
            "class A\n{\n    int _path;\n\n    void F()\n    {\n        ",
            "Shop.Load(|",
            "_path);",
            id="csharp: a field with its mark",
        ),
        pytest.param(
            "csharp",
            "class A\n{\n    void F(int path)\n    {\n        if (path)\n        {\n        }\n        ",
            "if (Shop.Load(|",
            "path))",
            id="csharp: braces are lines of their own",
        ),
        pytest.param("csharp", "class A\n{\n    ", "void Load(|", "", id="csharp: a method is declared"),
        pytest.param("c", "int f(char *path)\n{\n    ", "if (load(|", "path)) {", id="c: a condition"),
        pytest.param("c", "int f(A *p)\n{\n    p->path = 1;\n    ", "load(|", "", id="c: a member is not in sight"),
        pytest.param("c", "int f(A *a, char *path)\n{\n    ", "a->load(|", "", id="c: a function is no member"),
        pytest.param("cpp", "struct A {\n    A(int path);\n\n    ", "A(|", "", id="cpp: a constructor is declared"),
        pytest.param("cpp", "", "A::A(char *path) : load(|", "", id="cpp: a member is initialized"),
        pytest.param("php", "<?php\nfunction f($path)\n{\n    ", "Shop::load(|", "$path);", id="php: static"),
        pytest.param("php", "<?php\nfunction f($path)\n{\n    ", "Store::load(|", "", id="php: another's"),
        pytest.param(
            "php",
            "<?php\nclass A\n{\n    function f()\n    {\n        $this->path = 1;\n        ",
            "Shop::load(|",
            "$this->path);",
            id="php: a member",
        ),
        pytest.param("ruby", "def f(owner)\n  ", "Shop.new(|", "owner)", id="ruby: an object"),
        pytest.param("ruby", "def f(path)\n  ", "Shop.load(|", "path)", id="ruby: a class's"),
        pytest.param("ruby", "def f(path)\n  ", "Store.load(|", "", id="ruby: another's"),
        pytest.param("ruby", "def f(path)\n  ", "g(|", "", id="ruby: no brackets are left empty"),
        pytest.param("lua", "function f(path)\n  ", "if shop.load(|", "path) then", id="lua: a module's"),
        pytest.param("lua", "function f(path)\n  ", "store.load(|", "", id="lua: another's"),
        pytest.param("lua", "function f(item, s)\n  ", "s:sell(|", "item)", id="lua: a method"),
        pytest.param("lua", "function f(path)\n  ", "free(|", "", id="lua: another file's own"),
    ],
)
def test_other_languages_have_their_own_ways_to_call(language: str, around: str, line: str, expected: str) -> None:
    below = "\nend\n" if language in ("ruby", "lua") else "\n}\n"
    drafts = drafted(f"{around}{line}{below}", language, OTHERS[language], path="/p/here")
    assert drafts[:1] == [expected] if expected else not drafts


@pytest.mark.parametrize(
    ("language", "head"),
    [
        ("go", "func load(more ...string) {\n}\n"),
        ("java", "static void load(String... more) {\n}\n"),
        ("csharp", "static void load(params string[] more) {\n}\n"),
        ("cpp", "void load(...) {\n}\n"),
        ("php", "<?php\nfunction load(...$more) {\n}\n"),
        ("ruby", "def load(*more)\nend\n"),
        ("lua", "function load(...)\nend\n"),
    ],
)
def test_what_takes_any_number_is_not_given_none(language: str, head: str) -> None:
    assert not {")", ");"}.intersection(drafted(f"{head}\nload(|", language))


def filled(answer: str, logprob: float, text: str) -> Proposal:
    """The first proposal over a model that answers so, with so much log-probability a token."""
    policy, index = replace(BYTE_POLICY, use_definitions=True), indexed({"/shop.py": PYTHON})
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
