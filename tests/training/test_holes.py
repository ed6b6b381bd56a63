"""Holes: canonical edges on any text, the mix, and what each kind means on real code."""

import random
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.training import holes
from lacuna_ls.training.holes import KIND_WEIGHTS, KINDS, MAX_BLOCK_LINES, MAX_MIDDLE_CHARS, Hole, HoleKind

CODE = textwrap.dedent('''\
    # Copyright 2020 Somebody
    # Licensed under some terms.

    """Accounts.

    A second line of prose.
    """
    import decimal


    class Account:
        def __init__(self, owner, balance=0):
            self.owner = owner
            self.balance = decimal.Decimal(balance)

        def deposit(self, amount):
            # refuse nonsense
            if amount <= 0:
                raise ValueError(f"amount {amount} is not positive")
            self.balance += amount
            return self.balance

        def transfer(
            self,
            other,
            amount,
        ):
            self.withdraw(amount, reason={"to": other.owner, "why": [1, 2, (3, 4)]})
            return other.deposit(amount)
    ''')

pieces = st.sampled_from(
    [
        "x = 1",
        "if a:",
        "foo(bar, [1, 2])",
        "\n",
        "\r\n",
        "    ",
        "\t",
        '"""',
        "# note",
        "}",
        "{",
        "(",
        "é🎈",
        "return y",
        " ",
        "'",
    ]
)
texts = st.one_of(st.text(max_size=200), st.lists(pieces, max_size=40).map("".join))


def find(kind: HoleKind, count: int = 200, text: str = CODE) -> list[str]:
    return [text[h.start : h.end] for h in holes.sample_holes(text, random.Random(7), (kind,), count)]


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(0, 2**32), st.sampled_from(KINDS))
def test_every_hole_of_any_text_is_canonical_and_bounded(text, seed, kind):
    for hole in holes.sample_holes(text, random.Random(seed), (kind,), 3):
        middle = text[hole.start : hole.end]
        assert hole.kind == kind
        assert holes.is_canonical(text, hole)
        # said again without the module's own words, so that is_canonical itself is tested
        assert 0 < len(middle) <= MAX_MIDDLE_CHARS
        assert not middle.endswith("\n")
        before = text[: hole.start].rpartition("\n")[2]
        assert before.strip(" \t\f") or middle[0] not in " \t\f\n"
        if kind in ("rest-of-line", "line"):
            assert "\n" not in middle
            assert text[hole.end : hole.end + 2] in ("", "\r") or text[hole.end :].startswith(("\n", "\r\n"))
        if kind in ("line", "block"):
            assert not before.strip(" \t\f")
        if kind == "node":
            assert middle == middle.strip()


@settings(max_examples=100, deadline=None)
@given(texts, st.integers(0, 2**32))
def test_a_hole_is_found_wherever_there_is_a_line_to_cut(text, seed):
    hole = holes.sample_hole(text, random.Random(seed))
    assert hole is None or holes.is_canonical(text, hole)
    # long lines may have no middle short enough, and a header of a licence is never cut: the strategy makes neither
    assert (hole is None) == (not any(line.strip(" \t\f\r") for line in text.split("\n")))


def test_the_same_seed_cuts_the_same_holes_and_another_seed_others():
    first = holes.sample_holes(CODE, random.Random(1), count=4)
    assert first == holes.sample_holes(CODE, random.Random(1), count=4)
    assert first != holes.sample_holes(CODE, random.Random(2), count=4)
    assert [hole.kind for hole in first] == sorted((hole.kind for hole in first), key=KINDS.index)
    assert len(set(first)) == len(first)


def test_the_training_mix_has_the_stated_shares():
    rng = random.Random(3)
    text = Path(holes.__file__).read_text("utf-8")
    counts = Counter(hole.kind for _ in range(3000) if (hole := holes.sample_hole(text, rng)))
    for kind, share in KIND_WEIGHTS.items():
        # 3000 draws: three standard deviations are below 0.03; kinds that find nothing fall back to "line"
        assert abs(counts[kind] / 3000 - share) < 0.035, kind


def test_a_licence_header_is_never_cut():
    middle_start = CODE.index('"""Accounts')
    assert all(hole.start >= middle_start for hole in holes.sample_holes(CODE, random.Random(0), KINDS, 100))


def test_prose_is_cut_less_often_than_code():
    code = "value = compute(value)\n" * 50
    prose = "# a remark about it\n" * 50
    text = code + prose
    rng = random.Random(0)
    drawn = [holes.sample_hole(text, rng) for _ in range(2000)]
    share = sum(hole is not None and hole.start >= len(code) for hole in drawn) / len(drawn)
    assert 0.18 < share < 0.28  # 0.3 / 1.3 = 0.23


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        # ends at the end of its line, begins where a token begins
        ("rest-of-line", "(balance)"),
        # begins inside a word
        ("rest-of-line", "osit(amount)"),
        # begins after the indentation
        ("line", "self.owner = owner"),
        # a call's arguments
        ("node", 'f"amount {amount} is not positive"'),
        # a nested bracket
        ("node", '"to": other.owner, "why": [1, 2, (3, 4)]'),
        # a right-hand side
        ("node", "decimal.Decimal(balance)"),
        # a bracket over several lines keeps its white space outside of the middle
        ("node", "self,\n        other,\n        amount,"),
        # a body
        ("block", "self.owner = owner\n        self.balance = decimal.Decimal(balance)"),
        # the rest of a body
        ("block", "self.balance += amount\n        return self.balance"),
    ],
)
def test_a_kind_cuts_what_its_name_says(kind, wanted):
    assert wanted in find(kind)


def test_blocks_are_short_whole_lines():
    body = "".join(f"    step_{i}()\n" for i in range(12))
    found = find("block", 300, f"def f():\n{body}\n\ndef g():\n    a()\n    b()\n")
    assert "a()\n    b()" in found
    assert all(2 <= middle.count("\n") + 1 <= MAX_BLOCK_LINES for middle in found)
    assert not any("step_0()" in middle for middle in found)


def test_carriage_returns_belong_to_the_suffix():
    text = "def f():\r\n    return 1\r\n"
    assert set(find("line", 20, text)) == {"return 1", "def f():"}


@pytest.mark.parametrize(
    ("text", "hole", "why"),
    [
        ("a = 1\n", Hole(0, 6, "line"), "contains its trailing newline"),
        ("    a = 1\n", Hole(2, 9, "line"), "begins inside the indentation"),
        ("    a = 1\n", Hole(8, 9, "line"), "a line hole that begins after the line did"),
        ("a = 1\n", Hole(2, 4, "rest-of-line"), "stops before the end of its line"),
        ("f( a )\n", Hole(2, 5, "node"), "a node with white space around it"),
        ("f(\n    a)\n", Hole(2, 5, "span"), "ends inside indentation"),
        ("a\nb\n", Hole(1, 1, "span"), "empty"),
        ("a\n", Hole(0, 9, "span"), "beyond the end of the text"),
    ],
)
def test_edges_that_are_not_canonical_are_told(text, hole, why):
    assert not holes.is_canonical(text, hole), why


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n   \n",
        # nothing but a licence: nothing that a model should learn to write
        "# Copyright 2020 Somebody\n# All rights reserved.\n",
    ],
)
def test_nothing_to_cut_is_a_value(text):
    assert holes.sample_hole(text, random.Random(0)) is None
    assert holes.sample_holes(text, random.Random(0), count=3) == []
