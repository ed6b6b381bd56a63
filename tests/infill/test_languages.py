"""The language table: every row loads, and identifiers and extensions lead to the right row."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import tree_sitter
from infill_cases import filled
from lacuna_ls.infill.brackets import scan_blocks, scan_brackets
from lacuna_ls.infill.languages import LANGUAGES, PLAIN_TEXT, language_for, language_for_path
from lacuna_ls.infill.span import opens_block
from lacuna_ls.infill.syntax import Damage, SyntaxTree

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
        pytest.param("include/a.h", "cpp", id="a header of C or C++"),
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


SAMPLES = {
    "csharp": """using System;

class Greeter
{
    private readonly string name = @"C:\\";

    // don't
    public string Greet(int times)
    {
        for (int i = 0; i < times; i++)
        {
            Console.WriteLine($"{name}: \\"{i}\\"");
        }
        return name;
    }
}
""",
    "php": """<?php
namespace App;

use App\\Store;

#[Final]
class Cart
{
    private array $items = [];

    public function add(string $name, int $count = 1): void
    {
        foreach ($this->items as $key => $item) {
            echo "it's {$item['name']}\\n";
        }
        $this->items[] = ['name' => $name, 'count' => $count];
    }
}
""",
    "ruby": """require "json"

module Shop
  # don't
  class Cart
    attr_reader :items

    def add(name, count = 1)
      raise ArgumentError, "no #{name}" unless count.positive?
      @items[name] += count
      @items.each do |key, value|
        puts "#{key}: #{value}" if value > 1
      end
    end
  end
end
""",
    "lua": """local M = {}

--- it's a list
function M.map(list, fn)
  local out = {}
  for i, item in ipairs(list) do
    if item ~= nil then
      out[#out + 1] = fn(item)
    else
      out[#out + 1] = [[none (]]
    end
  end
  return out
end

return M
""",
    "bash": """#!/bin/bash
set -eu

# don't
usage() {
    echo "usage: $0 [-v] file" >&2
    exit 1
}

[ $# -gt 0 ] || usage
for file in "$@"; do
    case "$file" in
        -v | --verbose) verbose=1 ;;
        *) echo "${file##*/}: $(wc -l <"$file")" ;;
    esac
done
if [[ -n "${verbose:-}" ]]; then
    echo 'it is done'
fi
""",
    "css": """/* don't */
:root {
  --line-width: 2px;
}

@media (max-width: 40em) {
  .card > a:hover::after {
    border: var(--line-width) solid rgb(0, 0, 0);
    content: "(";
  }
}
""",
    "html": """<!doctype html>
<html lang="en">
  <body class="page">
    <!-- don't (yet -->
    <p>It's a <a href="x.html">link</a>.</p>
    <img src="a.png" alt="a smile :)">
  </body>
</html>
""",
    "json": """{
  "name": "a",
  "sizes": [1, 2.5, null],
  "inner": {
    "is_set": true,
    "text": "it's {"
  }
}
""",
    "toml": """[project]
name = "a"
# don't
files = [
    "a.py",
    'b.py',
]

[[tool.parts]]
size = { low = 1, high = 2.5 }
""",
    "yaml": """name: test
on: [push, pull_request]
# don't
jobs:
  build-it:
    steps:
      - uses: actions/checkout#v4
      - name: it's run
        run: |
          make test
        env: { A: "1", B: '{' }
""",
}
"""A piece of each language with what its scanner may trip over: apostrophes, hashes, brackets in strings."""


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_has_no_errors_and_its_scanner_finds_every_bracket(name):
    row = language_for(name)
    assert SyntaxTree.parse(row, SAMPLES[name]).damage() == Damage(0, 0)
    assert scan_brackets(row, SAMPLES[name]).num_unbalanced == 0


@pytest.mark.parametrize("name", SAMPLES)
def test_what_stood_there_comes_out_as_it_was(name):
    text = SAMPLES[name]
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        code, width = line.rstrip("\n"), len(line) - len(line.lstrip())
        for start in {width, (width + len(code)) // 2} if code.strip() else ():
            marked = "".join(lines[:number]) + code[:start] + "‸\n" + "".join(lines[number + 1 :])
            is_spaced = code[start].isspace() or (code[:start][-1:].isalnum() and code[start].isalnum())
            if width and not is_spaced:
                # what follows goes on in the answer, as a model would
                answer = code[start:] + "\n" + "".join(lines[number + 1 :])
                assert filled(marked, answer, name, is_explicit=True) == text, (marked, code[start:])


@pytest.mark.parametrize(
    ("name", "marked", "answer"),
    [
        pytest.param("csharp", "class A\n{\n    int f = ‸;\n}\n", "g(1", id="csharp"),
        pytest.param("php", "<?php\n$a = ‸;\n", "f(1", id="php"),
        pytest.param("ruby", "def f\n  a = ‸\nend\n", "[1, 2", id="ruby"),
        pytest.param("lua", "local a = ‸\nlocal b = 1\n", "f(1))", id="lua"),
        pytest.param("bash", 'a="b"\necho ‸\necho 1\n', '"$(date"', id="bash"),
        pytest.param("css", "a {\n  color: ‸\n}\n", "red; } }", id="css"),
        pytest.param("html", '<a href="‸">b</a>\n', 'x" "', id="html"),
        pytest.param("json", '{\n  "a": ‸\n}\n', "[1, 2", id="json"),
        pytest.param("toml", "[a]\nb = ‸\n", "name", id="toml"),
        pytest.param("yaml", "a: 1\nb: ‸\nc: 2\n", "[1, 2", id="yaml"),
    ],
)
def test_what_breaks_the_text_is_refused(name, marked, answer):
    assert filled(marked, answer, name, is_explicit=True) == "(syntax)"


@pytest.mark.parametrize(
    ("name", "line", "is_opened"),
    [
        ("ruby", "  def add(name)", True),
        ("ruby", "class A < B", True),
        ("ruby", "list.each do |item|", True),
        ("ruby", "class A; end", False),
        ("ruby", "return if a", False),
        ("ruby", "undo", False),
        ("lua", "local function f(a, b)", True),
        ("lua", "  if a then", True),
        ("lua", "vim.schedule(function()", True),
        ("lua", "local undo", False),
        ("lua", "if a then b() end", False),
        ("bash", "for a in b; do", True),
        ("bash", "usage() {", True),
        ("bash", 'case "$1" in', True),
        ("bash", "sudo", False),
        ("yaml", "  steps:", True),
        ("yaml", "  run: |", True),
        ("yaml", "  name: a", False),
        ("json", '  "a": [', True),
        ("css", "a {", True),
        ("html", "<p>", False),
    ],
)
def test_where_a_block_follows(name, line, is_opened):
    assert opens_block(line, language_for(name)) is is_opened


def test_data_and_markup_are_no_source():
    assert {row.name for row in LANGUAGES if not row.is_source} == {"css", "html", "json", "text", "toml", "yaml"}


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("lua", "for a in\n  b()\ndo\n  c()\nend\nwhile a do b() end\n"),
        ("ruby", "def f(a = 1, b = {})\n  c\nend\ndef g(a) = b\ndef h = b\n"),
        ("ruby", 'a = "" if b\na << if b\n  c\nend\nd || begin\n  c\nend\n@end = 1\n'),
        ("bash", "f() { if a; then b; fi; }\ndone=1\nif=2\n"),
    ],
)
def test_every_word_that_opens_a_block_is_closed(language: str, text: str) -> None:
    scan = scan_blocks(language_for(language), text)
    assert (scan.open_brackets, scan.num_stray) == ((), 0)
