"""What a user installs is what this repository tracks. Built once, as by `make wheel`: the wheel from the sdist."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOMS = ("lsp", "infill", "engine", "kernels", "training", "bench")
MIB = 2**20


@dataclass(frozen=True)
class Built:
    source: Path
    wheel: Path
    sdist: Path
    log: str


def run(*command: str | Path, cwd: Path | None = None, timeout: int = 240) -> str:
    words = [str(word) for word in command]
    # a developer who switched bytecode off would read setuptools' word about it
    env = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(words, cwd=cwd, env=env, check=False, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def built(repository: Path, tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Built:
    # a copy of the tracked files only: leftovers (egg-info, build/) of a working tree change what setuptools packs
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, target, follow_symlinks=False)
    log = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return Built(source, wheel, sdist, log)


def test_wheel_holds_the_tracked_files_of_the_rooms_and_nothing_else(built: Built, tracked: list[str]):
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {f"lacuna_ls/{name}" for name in tracked if name.split("/")[0] in ROOMS}
    assert names == expected


def test_wheel_files_are_byte_for_byte_the_tracked_ones(built: Built):
    with zipfile.ZipFile(built.wheel) as wheel:
        for name in wheel.namelist():
            if name.startswith("lacuna_ls/"):
                assert wheel.read(name) == (built.source / name.removeprefix("lacuna_ls/")).read_bytes(), name


def test_wheel_metadata(built: Built, project: dict):
    with zipfile.ZipFile(built.wheel) as wheel:
        info = next(name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
        entry_points = wheel.read(f"{info}/entry_points.txt").decode()
        metadata = wheel.read(f"{info}/METADATA").decode()
        licence = wheel.read(f"{info}/licenses/LICENSE").decode()
    assert "lacuna = lacuna_ls.lsp.cli:main" in entry_points
    assert "\nName: lacuna-ls\n" in metadata
    assert f"\nVersion: {project['project']['version']}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "Apache License" in licence
    assert "cp311" not in built.wheel.name, "the wheel is pure Python"


def test_sdist_holds_what_is_needed_to_test_it(built: Built, tracked: list[str]):
    with tarfile.open(built.sdist) as sdist:
        names = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in sdist.getnames()}
    wanted = [name for name in tracked if name.split("/")[0] in (*ROOMS, "tests", "editors")]
    wanted += ["Makefile", "LICENSE", "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"]
    wanted += ["pyproject.toml", "constraints.txt"]
    assert not [name for name in wanted if name not in names]
    assert not [name for name in names if "__pycache__" in name or "node_modules" in name or name.endswith(".pyc")]


def test_build_warns_of_nothing(built: Built):
    # an exclusion in MANIFEST.in that finds nothing to exclude is how it should be
    lines = re.findall(r"(?im)^.*(?:\bwarning\b|deprecat).*$", built.log)
    assert not [line for line in lines if "no previously-included" not in line]


def test_installed_wheel_runs(built: Built, project: dict, tmp_path: Path):
    # a fresh environment that borrows this one's libraries. A path line in a .pth does not run that folder's own .pth
    # files, so the editable install of this checkout stays out of sight
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    paths = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    own = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", built.wheel)
    said = run(tmp_path / "venv" / "bin" / "lacuna", "--version", cwd=tmp_path)
    assert project["project"]["version"] in said
    where = run(python, "-W", "error", "-c", "import lacuna_ls.lsp as room; print(room.__file__)", cwd=tmp_path)
    assert where.startswith(str(own))


def test_sizes(tracked: list[str], repository: Path, built: Built):
    sizes = {name: (repository / name).lstat().st_size for name in tracked}
    checkpoints = {name: size for name, size in sizes.items() if name.endswith(".safetensors")}
    embedded = sum(size for name, size in checkpoints.items() if name.split("/")[0] in ROOMS)
    assert embedded <= 16 * MIB, "the embedded checkpoint must stay within 16 MiB"
    assert sum(sizes.values()) < 48 * MIB, "the tracked tree must stay below 48 MiB"
    assert built.wheel.stat().st_size < 20 * MIB
    large = {name: size for name, size in sizes.items() if size > 512 * 1024 and name not in checkpoints}
    assert not large, "no data sets, corpora or large pictures in git"


def imported(repository: Path, folder: str) -> set[str]:
    """Top-level names that the modules of a folder import from elsewhere."""
    names: set[str] = set()
    for path in (repository / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
                words = {str(word.value) for word in node.args if isinstance(word, ast.Constant)}
                names |= {word for word in words if "." not in word}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                # grammars are rows of a table and imported by name
                names |= {found[0] for found in [re.match(r"tree_sitter_[a-z_]+", node.value)] if found}
    return names - set(sys.stdlib_module_names)


def distribution(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s;<>=!~\[]", requirement, maxsplit=1)[0]).lower()


def test_dependencies_are_what_the_rooms_import(project: dict, repository: Path):
    declared = {distribution(line) for line in project["project"]["dependencies"]}
    extra = {distribution(line) for lines in project["project"]["optional-dependencies"].values() for line in lines}
    provides = importlib.metadata.packages_distributions()
    used: dict[str, set[str]] = {}
    for room in ROOMS:
        for name in imported(repository, room):
            assert name in provides, f"{room}/ imports {name}, which no installed distribution provides"
            used.setdefault(distribution(provides[name][0]), set()).add(room)
    undeclared = {name: rooms for name, rooms in used.items() if name not in declared | extra}
    assert not undeclared, "imported but not in pyproject's dependencies"
    misused = [name for name in extra & used.keys() - declared if not used[name] <= {"training", "bench"}]
    assert not misused, "the extra is not there when Lacuna serves"
    assert not declared - used.keys(), "in pyproject's dependencies, but no room imports it"


def test_constraints_name_only_what_we_depend_on(project: dict, repository: Path):
    lines = (repository / "constraints.txt").read_text().splitlines()
    pinned = {distribution(line) for line in lines if line and not line.startswith("#")}
    assert pinned <= {distribution(line) for line in project["project"]["dependencies"]}
