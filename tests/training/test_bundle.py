"""A bundle: what was packed comes back as packages, held-out ones always, and a corpus is built from it."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest
from lacuna_ls.engine.errors import ModelNotFoundError
from lacuna_ls.training.bundle import read_bundle, write_bundle
from lacuna_ls.training.corpus import Corpus, build_corpus
from lacuna_ls.training.sources import Package

STDLIB = Path(sysconfig.get_paths()["stdlib"])


def package(folder: Path, name: str, *modules: str) -> Package:
    """Real source: what is no source text, or like another file, has no place in a corpus."""
    root = folder / name
    root.mkdir(parents=True)
    for module in modules:
        (root / f"{module}.py").write_bytes((STDLIB / f"{module}.py").read_bytes())
    files = tuple(sorted(path.name for path in root.iterdir()))
    return Package(name, "1.2", "MIT", "python", root, files)


def test_a_bundle_brings_back_its_packages_and_always_the_held_out_ones(tmp_path: Path) -> None:
    modules = {
        "small": ("bisect", "shlex"),
        "large": ("calendar", "csv"),
        "there": ("copy", "cmd"),
        "click": ("heapq", "queue"),
    }
    found = [package(tmp_path / "src", name, *names) for name, names in modules.items()]
    corpus = tmp_path / "corpus"
    manifest = build_corpus(corpus, packages=found, jobs=1)
    sizes = {name: row["bytes"] for name, row in manifest["packages"].items()}
    # room for the held-out package and the small one
    size = write_bundle(corpus, tmp_path / "b.tar.xz", {"there"}, sizes["click"] + sizes["small"])
    assert size == (tmp_path / "b.tar.xz").stat().st_size
    packages = read_bundle(tmp_path / "b.tar.xz", tmp_path / "there")
    assert {p.name for p in packages} == {"click", "small"}
    assert {(p.version, p.licence, p.language) for p in packages} == {("1.2", "MIT", "python")}
    texts = {name: data for p in packages for name, data in p.read() if p.name == "small"}
    assert texts.keys() == {path.name for path in (tmp_path / "src" / "small").iterdir()}
    again = build_corpus(tmp_path / "again", packages=packages, jobs=1)
    for name in ("click", "small"):
        assert again["packages"][name] == manifest["packages"][name]
    assert len(Corpus(tmp_path / "again", "holdout")) == 2


def test_a_bundle_holds_plain_files_only(tmp_path: Path) -> None:
    src = tmp_path / "src"
    found = [package(src, "click", "heapq", "queue"), package(src, "small", "bisect", "shlex")]
    build_corpus(tmp_path / "corpus", packages=found, jobs=1)
    write_bundle(tmp_path / "corpus", tmp_path / "b.tar.xz")
    read_bundle(tmp_path / "b.tar.xz", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["0.zip", "1.zip", "packages.json"]
    assert json.loads((tmp_path / "out" / "packages.json").read_text())[1]["name"] == "small"


def test_without_a_corpus_it_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="build the corpus first"):
        write_bundle(tmp_path, tmp_path / "bundle.tar.xz")
    assert not list(tmp_path.iterdir())
