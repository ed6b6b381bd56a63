"""The baselines propose what a thoughtless copy would, end where they should, and see only what a server sees."""

from __future__ import annotations

from pathlib import Path

import pytest
from lacuna_ls.bench.baselines import neighbours_of
from lacuna_ls.bench.snapshot import read_snapshot
from lacuna_ls.infill.baselines import BASELINES, Context, copy_similar_line, ngram


def at(text: str, *neighbours: str) -> Context:
    cursor = text.index("▁")
    return Context(text.replace("▁", ""), cursor, neighbours)


REPEATED = "def first():\n    setup(one)\n    teardown(one, two)\n\n\ndef second():\n    setup(one)\n    ▁\n"


@pytest.mark.parametrize("name", ["copy", "n-gram"])
def test_what_was_said_before_is_said_again(name: str):
    assert BASELINES[name](at(REPEATED)) == "teardown(one, two)"


@pytest.mark.parametrize("name", ["copy", "n-gram"])
def test_a_begun_line_is_finished(name: str):
    assert BASELINES[name](at("value = compute(alpha, beta)\n\nvalue = comp▁\n".replace("comp▁", "compute(▁"))) == (
        "alpha, beta)"
    )


@pytest.mark.parametrize("name", ["copy", "n-gram"])
def test_what_stands_right_of_the_cursor_is_not_repeated(name: str):
    assert BASELINES[name](at("value = compute(alpha, beta)\n\nvalue = compute(▁)\n")) == "alpha, beta"


@pytest.mark.parametrize("name", ["copy", "n-gram"])
def test_a_neighbour_helps(name: str):
    assert BASELINES[name](at("setup(one)\n▁\n", "setup(one)\nteardown(one)\n")) == "teardown(one)"


def test_a_block_is_copied_whole_and_moved():
    text = "for x in y:\n    first(x)\n    second(x)\n\nif z:\n    for x in y:\n        ▁\n"
    assert copy_similar_line(at(text)) == "first(x)\n        second(x)"


def test_nothing_known_gives_nothing():
    for name in BASELINES:
        assert BASELINES[name](at("▁")) == ""


def test_endless_repetition_ends():
    assert 0 < len(ngram(at("a " * 50 + "▁"))) < 400


def test_neighbours_are_the_nearest_of_the_same_language(repository_folder: Path):
    snapshot = read_snapshot(repository_folder)
    by_path = {file.path: file for file in snapshot.files}
    assert [file.path for file in neighbours_of(snapshot, by_path["pkg/shapes.py"])] == ["pkg/users.py"]
    assert neighbours_of(snapshot, by_path["pkg/stack.js"]) == ()
    assert neighbours_of(snapshot, by_path["pkg/shapes.py"], 0) == ()
