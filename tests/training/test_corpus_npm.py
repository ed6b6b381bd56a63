"""JavaScript and TypeScript from npm packages: permissive, written by somebody, held out by whole package."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from lacuna_ls.training import corpus
from lacuna_ls.training.corpus import Corpus, build_corpus, clean_text, cut_script_licence
from lacuna_ls.training.sources import Package, is_test, is_wanted_script, npm_licence, npm_packages


def script(seed: int, is_typed: bool = False, num_functions: int = 10) -> str:
    """A plausible module that shares no long run of tokens with that of another seed."""
    rng = random.Random(seed)

    def word() -> str:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(4, 9))) + "_"

    parts = ["'use strict';\n"]
    for _ in range(num_functions):
        name, first, second, third = word(), word(), word(), word()
        typed = (": string", ": number", ": boolean") if is_typed else ("", "", "")
        head = f"\nexport function {name}({first}{typed[0]}, {second}{typed[1]}){typed[2]} {{\n"
        parts.append(f"{head}  const {third} = {first}.{word()}({second}, '{word()}');\n  return {third};\n}}\n")
    return "".join(parts)


@pytest.mark.parametrize(
    ("about", "entered"),
    [
        # one SPDX identifier
        ({"license": "MIT"}, True),
        # an expression with a permissive arm
        ({"license": "(MIT OR GPL-3.0-or-later)"}, True),
        ({"license": "GPL-3.0-or-later"}, False),
        # what no list knows, and what points to a file, cannot be judged here
        ({"license": "WTFPL"}, False),
        ({"license": "SEE LICENSE IN LICENSE.txt"}, False),
        ({"license": "UNLICENSED"}, False),
        # old packages: an object, and a list to choose from
        ({"license": {"type": "BSD-2-Clause"}}, True),
        ({"licenses": [{"type": "Proprietary"}, {"type": "MIT"}]}, True),
        ({"licenses": [{"type": "Proprietary"}]}, False),
        ({"licenses": [{"type": "Apache-2.0"}, {"type": "MIT"}]}, True),
        ({}, False),
        ({"license": 7}, False),
    ],
)
def test_licences(about: dict[str, object], entered: bool) -> None:
    assert (npm_licence(about) is not None) == entered


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("index.js", True),
        ("src/view.tsx", True),
        ("lib/deep/module.mjs", True),
        # declarations, minified, bundled
        ("index.d.ts", False),
        ("types/index.d.mts", False),
        ("jquery.min.js", False),
        ("react.production.js", False),
        # a build's folder
        ("dist/index.js", False),
        ("build/src/index.js", False),
        # another package inside, vendored code, no script
        ("node_modules/other/index.js", False),
        ("vendor/lib.js", False),
        ("package.json", False),
        ("setup.py", False),
    ],
)
def test_wanted_files(path: str, wanted: bool) -> None:
    assert is_wanted_script(path) == wanted


def test_tests_of_scripts_are_told_by_their_path() -> None:
    assert all(map(is_test, ("src/__tests__/a.js", "src/a.test.ts", "a.spec.mjs", "test/a.js")))
    assert not any(map(is_test, ("src/latest.js", "src/testimony.ts", "spec.js")))


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        (script(1), "javascript", ""),
        (script(2, is_typed=True), "typescript", ""),
        # types are no JavaScript
        (script(2, is_typed=True), "javascript", "does not parse"),
        (script(1) + "function (\n", "javascript", "does not parse"),
        # what a compiler wrote, wherever it says so
        (script(1) + "//# sourceMappingURL=index.js.map\n", "javascript", "generated"),
        ('Object.defineProperty(exports, "__esModule", { value: true });\n' + script(1), "javascript", "generated"),
        ("var __awaiter = (this && this.__awaiter);\n" + script(1), "javascript", "generated"),
        # minified: all in one line
        (script(1).replace("\n", " "), "javascript", "long lines"),
    ],
)
def test_cleaning_names_its_reason(text: str, language: str, reason: str) -> None:
    found, got = clean_text(text.encode(), language)
    assert (got, bool(found)) == (reason, not reason)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/*!\n * Copyright (c) 2020 A\n * MIT Licensed\n */\n\nlet a;\n", "let a;\n"),
        ("// SPDX-License-Identifier: MIT\nlet a;\n", "let a;\n"),
        # a comment that says something else stays, also between two licences
        ("/* Copyright A */\n/** About a. */\n// Copyright B\nlet a;\n", "/** About a. */\nlet a;\n"),
        ("#!/usr/bin/env node\n// Copyright A\nlet a;\n", "#!/usr/bin/env node\nlet a;\n"),
        ("let licence;\n// the licence plate\n", "let licence;\n// the licence plate\n"),
    ],
)
def test_licence_headers_are_cut(source: str, expected: str) -> None:
    assert cut_script_licence(source) == expected


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node_modules folder with a scoped package, a nested one, and what must not enter."""
    root = tmp_path_factory.mktemp("npm") / "node_modules"
    files = {
        "plain/package.json": {"name": "plain", "version": "1.2.3", "license": "MIT"},
        "plain/index.js": script(10),
        "plain/index.d.ts": script(11, is_typed=True),
        "plain/dist/plain.js": script(12),
        "plain/test/index.js": script(13),
        # only says how the folder's modules are meant
        "plain/esm/package.json": {"type": "module"},
        "plain/esm/index.mjs": script(14),
        # inside of another package
        "plain/node_modules/inner/package.json": {"name": "inner", "version": "2.0.0", "license": "ISC"},
        "plain/node_modules/inner/main.js": script(15),
        "@scope/typed/package.json": {"name": "@scope/typed", "version": "0.1.0", "license": "Apache-2.0"},
        "@scope/typed/src/index.ts": script(16, is_typed=True),
        # a held-out package, and a copy of one of its files elsewhere
        "semver/package.json": {"name": "semver", "version": "7.0.0", "license": "ISC"},
        "semver/index.js": script(17),
        "plain/copied.js": "// Copyright A\n" + script(17),
        "closed/package.json": {"name": "closed", "version": "1.0.0", "license": "UNLICENSED"},
        "closed/index.js": script(18),
        "only-types/package.json": {"name": "only-types", "version": "1.0.0", "license": "MIT"},
        "only-types/index.d.ts": script(19, is_typed=True),
        "broken/package.json": "{",
        "broken/index.js": script(20),
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return root


def test_packages_are_found_with_their_own_files(modules: Path) -> None:
    found = {package.name: package for package in npm_packages(modules)}
    assert {name: package.files for name, package in found.items()} == {
        "npm/plain": ("copied.js", "esm/index.mjs", "index.js", "test/index.js"),
        "npm/inner": ("main.js",),
        "npm/@scope/typed": ("src/index.ts",),
        "npm/semver": ("index.js",),
    }
    assert (found["npm/plain"].version, found["npm/plain"].licence) == ("1.2.3", "MIT")


def test_the_mix_is_python_first_and_holds_whole_packages_out(modules: Path, tmp_path: Path) -> None:
    code = "".join(f"def call_{i}(value):\n    return value.method_{i}(value, 'text {i}')\n\n\n" for i in range(12))
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "a.py").write_text(code, "utf-8")
    own = Package("own", "1.0", "MIT", "python", tmp_path / "python", ("a.py",))
    manifest = build_corpus(tmp_path / "out", packages=[own], jobs=1, npm=[modules])
    train, held = Corpus(tmp_path / "out"), Corpus(tmp_path / "out", "holdout")
    languages = {f"{row['package']}/{row['path']}": row["language"] for row in train.files()}
    assert languages == {
        "own/a.py": "python",
        "npm/plain/index.js": "javascript",
        "npm/plain/esm/index.mjs": "javascript",
        "npm/plain/test/index.js": "javascript",
        "npm/inner/main.js": "javascript",
        "npm/@scope/typed/src/index.ts": "typescript",
    }
    assert [row["package"] for row in held.files()] == ["npm/semver"]
    # the copy of the held-out file goes, not the held-out file
    assert manifest["left_out"]["exact duplicate"] == 1
    assert manifest["packages"]["npm/semver"]["split"] == "holdout"
    chance = {
        f"{row['package']}/{row['path']}": weight / size
        for row, weight, size in zip(train.files(), train.sample_weights, train.index[:, 1], strict=True)
    }
    python = chance["own/a.py"]
    assert chance["npm/plain/index.js"] / python == pytest.approx(corpus.OTHER_LANGUAGE_WEIGHT)
    both = corpus.OTHER_LANGUAGE_WEIGHT * corpus.TEST_WEIGHT
    assert chance["npm/plain/test/index.js"] / python == pytest.approx(both)
