"""The house is in order: documents stay true, type checkers really check, nothing in git is out of place."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOMS = ("lsp", "infill", "engine", "kernels", "training", "bench")
DOCUMENTS = (
    "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/EDITORS.md", "docs/ENGINE_H200.md",
    "docs/NEGATIVE_KNOWLEDGE.md", "docs/OTHER_EDITORS.md", "docs/SEARCH.md", "docs/TRAINING.md",
)  # fmt: skip


@pytest.fixture(scope="session")
def texts(tracked: list[str], repository: Path) -> dict[str, str]:
    """The tracked files that people read and write, by name; this file left out, which names what is forbidden."""
    found: dict[str, str] = {}
    for name in tracked:
        path = repository / name
        if path.stat().st_size < 2**20 and path.name != Path(__file__).name:
            try:
                found[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    return found


def support(repository: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, repository / "tests" / "support" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_options_are_current(repository: Path):
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert support(repository, "readme_options").with_table(readme) == readme, "run `make docs`"


def test_readme_opens_with_the_two_commands(repository: Path):
    head = (repository / "README.md").read_text(encoding="utf-8")[:1500]
    assert "make demo" in head
    assert "make test" in head


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(repository: Path, document: str):
    text = (repository / document).read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        assert not path or ((repository / document).parent / path).exists(), f"{document} links to {target}"
        assert path or anchor in headings, f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_backticks_exist(repository: Path, document: str):
    # a document that names a file which moved is worse than none
    text = (repository / document).read_text(encoding="utf-8")
    rooted = re.findall(r"`((?:lsp|infill|engine|kernels|training|bench|editors|tests)/[\w./-]*)`", text)
    assert not [path for path in rooted if not (repository / path).exists()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_in_backticks_exist(repository: Path, document: str):
    named = set(re.findall(r"`(test_\w+)`", (repository / document).read_text(encoding="utf-8")))
    files = (file.read_text(encoding="utf-8") for file in (repository / "tests").rglob("test_*.py"))
    assert named <= {name for text in files for name in re.findall(r"(?m)^(?:async )?def (test_\w+)", text)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_in_documents_exist(repository: Path, document: str):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?m)^([a-z-]+):", makefile))
    text = (repository / document).read_text(encoding="utf-8")
    named = re.findall(r"`make ([a-z-]+)`|^\s*make ([a-z-]+)", text, re.MULTILINE)
    assert {first or second for first, second in named} <= targets


def test_every_make_target_is_explained(repository: Path):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"(?m)^([a-z-]+):", makefile)) == set(re.findall(r"(?m)^([a-z-]+):.*## \w", makefile))


def test_changelog_has_this_version(repository: Path):
    version = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"## {version}" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")


def test_rooms_are_listed_alike_everywhere(repository: Path):
    tools = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    packages = {f"lacuna_ls.{room}" for room in ROOMS}
    assert set(tools["setuptools"]["packages"]) == packages
    assert tools["setuptools"]["package-dir"] == {f"lacuna_ls.{room}": room for room in ROOMS}
    assert set(tools["mypy"]["packages"]) == packages
    assert set(tools["pyright"]["include"]) == {f"typings/lacuna_ls/{room}" for room in ROOMS}
    architecture = (repository / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert not [room for room in ROOMS if f"`{room}/`" not in architecture]


def test_every_dependency_has_its_reason(repository: Path):
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    lines = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    lines += [line for extra in project["project"]["optional-dependencies"].values() for line in extra]
    names = {re.split(r"[\s;<>=!~\[]", line, maxsplit=1)[0] for line in lines}
    section = (repository / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Dependencies")[1].split("\n## ")[0]
    missing = {name for name in names if not re.search(rf"\b{re.escape(name)}\b", section)}
    # one row speaks for all grammars, one word for pytest's plugins
    assert not {name for name in missing if not name.startswith(("tree-sitter-", "pytest-"))}


@pytest.mark.parametrize(
    ("checker", "arguments"),
    [
        # pyright walks into no link below an included folder: including their parent checked nothing, in silence
        pytest.param("pyright", ["--pythonpath", sys.executable], id="pyright-follows-the-links"),
        # mypy reads the rooms through mypy_path; a room missing from `packages` would be passed over
        pytest.param("mypy", ["--cache-dir", os.devnull], id="mypy-takes-every-room"),
    ],
)
def test_type_checkers_find_a_planted_error_in_every_room(
    repository: Path, tmp_path: Path, checker: str, arguments: list[str]
):
    shutil.copy(repository / "pyproject.toml", tmp_path)
    shutil.copytree(repository / "typings", tmp_path / "typings", symlinks=True)
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "planted.py").write_text('number: int = "text"\n\n\ndef untyped(x):\n    return x\n')
    command = [sys.executable, "-m", checker, *arguments]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stdout + done.stderr
    for room in ROOMS:
        lines = [line for line in done.stdout.splitlines() if re.search(rf"\b{room}/planted\.py:\d", line)]
        assert any(":1:" in line for line in lines), f"{checker} passes over {room}/\n{done.stdout}"
        assert any(":4:" in line for line in lines), f"{checker} is not strict in {room}/\n{done.stdout}"


def test_licence_is_the_apache_text(repository: Path):
    text = (repository / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Copyright [yyyy] [name of copyright owner]" in text


def test_ci_runs_make_test(repository: Path):
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")


def test_no_leftovers(texts: dict[str, str]):
    # the word itself is a word of this product: such a comment is a hole to fill. Tests write it on purpose
    leftover = re.compile(r"(#|//|--)\s*(TODO|FIXME|XXX)\b|^(<{7}|>{7}) ")
    wrong: list[str] = []
    for name, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if leftover.search(line) and not name.startswith("tests/"):
                wrong.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not wrong, "\n".join(wrong)


def test_nothing_names_the_machine_it_was_written_on(texts: dict[str, str]):
    # a mirror's host or a developer's folder works for nobody else
    hosts = r"\S*(?:pypi\.org|pythonhosted\.org|registry\.npmjs|deb\.debian|(?<![\w.])/work/)\S*"
    wrong = [f"{name}: {found}" for name, text in texts.items() for found in re.findall(hosts, text)]
    assert not wrong, "\n".join(wrong)


def test_a_group_that_is_repeated_possessively_is_atomic(texts: dict[str, str]):
    """Python before 3.11.5, as Debian 12 has it, misreads one with choices: `(?:a|b)*+`. `(?>a|b)*+` it reads."""
    misread: list[str] = []
    for name, text in texts.items():
        ends = re.finditer(r"(?<!\\)\)(?:[*+?]|\{[\d,]+\})\+", text) if name.endswith(".py") else ()
        for end in ends:
            depth, at = 1, end.start()
            while depth and at > 0:
                at -= 1
                depth += ((text[at] == ")") - (text[at] == "(")) * (text[at - 1] != "\\")
            if "|" in text[at : end.end()] and not text.startswith("(?>", at):
                misread.append(f"{name}: {text[at : end.end()]}")
    assert not misread


def test_no_generated_or_binary_clutter(tracked: list[str], repository: Path):
    folders = r"(^|/)(__pycache__|node_modules|\.venv|dist|build|\.cache)/"
    clutter = re.compile(rf"{folders}|\.(pyc|so|egg-info|vsix|parquet|gz|zst|zip)$")
    assert not [name for name in tracked if clutter.search(name)]
    pictures = [name for name in tracked if name.endswith((".png", ".gif", ".jpg"))]
    # a report that can be read takes more than a view of an editor
    limits = {"docs/benchmark.png": 150_000}
    assert not [name for name in pictures if (repository / name).stat().st_size > limits.get(name, 100_000)]
