"""The names that are in sight where something is being written."""

from __future__ import annotations

import pytest
from infill_cases import seen
from lacuna_ls.infill.definitions import rules_of
from lacuna_ls.infill.languages import language_for
from lacuna_ls.infill.scopes import Scope, scope_of


def scope_at(text: str, language: str = "python") -> Scope:
    """The scope at the | of a text."""
    rules = rules_of(language_for(language))
    assert rules is not None
    return scope_of(*seen(text, language), rules)


@pytest.mark.parametrize(
    ("text", "names", "absent"),
    [
        pytest.param("def f(a, b=1):\n    c = a\n    g(|", "a b c", "d f", id="parameters and what is assigned"),
        pytest.param("def f(a):\n    'd'  # e\n    x.g(|", "a x", "d e", id="no string, no comment"),
        pytest.param("def f(a):\n    a.d(e=1)\n    g(|", "a", "d e", id="no attribute, no argument's name"),
        pytest.param("def f(a):\n    d = g(|", "a", "d", id="not what the line itself binds"),
        pytest.param("def f(a):\n    for d in g(|", "a", "d", id="nor what it loops over"),
        pytest.param("def f(a):\n    a == g(|", "a", "", id="what is compared is bound"),
        pytest.param("def e(d):\n    pass\n\ndef f(a):\n    g(|", "a", "d", id="not what another function takes"),
        pytest.param("def f(a):\n    def h(b):\n        g(|", "a b", "", id="what the functions around it take"),
    ],
)
def test_what_is_in_sight(text: str, names: str, absent: str) -> None:
    scope = scope_at(text)
    assert [each for each in names.split() if not scope.has(each)] == []
    assert [each for each in absent.split() if scope.has(each)] == []


@pytest.mark.parametrize(
    ("language", "text", "names", "absent"),
    [
        pytest.param("c", "int f(A *a)\n{\n    a->b = c;\n    g(|", "a c", "b f", id="c: no member"),
        pytest.param("cpp", "int f(A a) {\n    a.b = B::d;\n    g(|", "a B", "b d", id="cpp: nothing of a class"),
        pytest.param(
            "csharp",
            "class A\n{\n    int d;\n\n    void F(int a)\n    {\n        if (a)\n        {\n            g(|",
            "a",
            "d F",
            id="csharp: a brace in a line of its own belongs to the line above",
        ),
        pytest.param(
            "php",
            "<?php\nclass A\n{\n    function f($a)\n    {\n        $this->b = 1;\n        g(|",
            "$a $this",
            "b $b",
            id="php: no member",
        ),
        pytest.param("rust", "fn f(a: &str) {\n    let c = b::d;\n    g(|", "a c b", "d", id="rust: nor of a module"),
    ],
)
def test_what_is_in_sight_in_other_languages(language: str, text: str, names: str, absent: str) -> None:
    scope = scope_at(text, language)
    assert [each for each in names.split() if not scope.has(each)] == []
    assert [each for each in absent.split() if scope.has(each)] == []


def test_what_something_is_called_on_is_bound_where_it_is_mentioned_otherwise() -> None:
    scope = scope_at("func f(a *A) {\n\tb := 1\n\tc.d()\n\tg(|", "go")
    assert [scope.binds(each) for each in "abc"] == [True, True, False]


def test_what_a_caller_takes_besides_can_be_passed_on() -> None:
    assert scope_at("def f(a, *args, **kwargs):\n    g(|").more == ("*args", "**kwargs")
    assert scope_at("function f(a, ...rest) {\n  g(|", "javascript").more == ("...rest",)
