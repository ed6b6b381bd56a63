"""The language table: every row loads, and identifiers and extensions lead to the right row."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import tree_sitter
from lacuna_ls.infill.languages import LANGUAGES, PLAIN_TEXT, language_for, language_for_path

WITH_GRAMMAR = [row for row in LANGUAGES if row.grammar]


@pytest.mark.parametrize("row", WITH_GRAMMAR, ids=lambda row: row.name)
def test_every_grammar_loads_and_knows_the_node_types_of_its_row(row):
    grammar = row.load()
    assert grammar is not None
    words = row.comment_nodes | row.string_nodes
    parts = row.block_nodes | row.definition_nodes | row.import_nodes | row.parameter_nodes | row.keyword_nodes
    for node_type in words | parts:
        assert grammar.id_for_node_kind(node_type, True) is not None, node_type


@pytest.mark.parametrize("row", WITH_GRAMMAR, ids=lambda row: row.name)
def test_every_hole_query_compiles(row):
    query = tree_sitter.Query(row.load(), row.holes)
    names = {query.capture_name(i) for i in range(query.capture_count)}
    assert names & {"hole", "body", "todo"}


@pytest.mark.parametrize(
    ("language_id", "path", "name"),
    [
        pytest.param("python", "", "python", id="the plain case"),
        pytest.param("typescriptreact", "", "tsx", id="an LSP identifier that is not our name"),
        pytest.param("Go", "", "go", id="editors differ in case"),
        pytest.param("", "src/main.rs", "rust", id="no identifier: the extension decides"),
        pytest.param("markdown", "x.py", "text", id="a known identifier of another language is not overruled"),
        pytest.param("brainfuck", "", "text", id="an unknown language is plain text"),
        pytest.param("", "", "text", id="nothing known at all"),
    ],
)
def test_language_for(language_id, path, name):
    assert language_for(language_id, path).name == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        pytest.param("a/b.PY", "python", id="upper case extension"),
        pytest.param("a.test.ts", "typescript", id="two dots"),
        pytest.param("include/a.hpp", "cpp", id="a header of C++"),
        pytest.param("Makefile", "text", id="no extension"),
    ],
)
def test_language_for_path(path, name):
    assert language_for_path(path).name == name


def test_no_two_rows_claim_the_same_identifier_or_extension():
    ids = [each for row in LANGUAGES for each in row.ids]
    extensions = [each for row in LANGUAGES for each in row.extensions]
    assert len(ids) == len(set(ids))
    assert len(extensions) == len(set(extensions))


@pytest.mark.parametrize(
    "grammar",
    [
        pytest.param("tree_sitter_no_such_language:language", id="package missing"),
        pytest.param("tree_sitter_python:no_such_function", id="package changed"),
        pytest.param("builtins:list", id="not a grammar"),
    ],
)
def test_a_grammar_that_cannot_be_loaded_is_no_error(grammar):
    assert replace(PLAIN_TEXT, grammar=grammar).load() is None


def test_importing_the_room_loads_neither_torch_nor_a_grammar():
    code = (
        "import sys, lacuna_ls.infill.infiller\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'transformers')"
        " or m.startswith('tree_sitter_')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
