"""The house stands as designed: imports point down only, and what is deliberately absent stays absent.

Everything is read from the syntax trees of every module, so an import inside a function counts too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("lsp", "infill", "engine", "kernels", "training", "bench")

DOWN = {
    "kernels": set(),
    "engine": {"kernels"},
    "infill": {"engine"},
    "lsp": {"infill", "engine"},
    "training": {"engine", "infill"},
    "bench": {"infill"},
}
"""Which rooms each room may import, from anywhere in a module."""

COMMAND_LINE = {"lsp/cli.py", "lsp/doctor.py", "lsp/fill.py", "lsp/record.py"}
"""These print and put the rooms together: inside a function they may import any room, at the top only what is below."""

STDOUT_IS_A_TERMINAL = COMMAND_LINE | {"bench/kernels_gpu.py"}
"""Modules that no server ever loads."""

AT_HOME = {
    "pygls": {"lsp"},
    "lsprotocol": {"lsp", "bench"},
    "tree_sitter": {"infill"},
    "tokenizers": {"infill", "training"},
    "torch": {"kernels", "engine", "training", "lsp"},
    "triton": {"kernels"},
    "safetensors": {"engine", "training"},
    "transformers": {"engine", "training"},
    "msgpack": {"engine"},
    "rich": {"lsp", "bench", "training", "engine"},
}
"""Libraries that only some rooms know. A room that is not listed has no business with it."""

HEAVY = {"torch", "transformers", "triton", "numpy"}

NO_HEAVY_AT_IMPORT = (
    "lacuna_ls.lsp",
    "lacuna_ls.lsp.cli",
    "lacuna_ls.lsp.server",
    "lacuna_ls.infill",
    "lacuna_ls.infill.request",
    "lacuna_ls.engine.problem",
)


DYNAMIC_IMPORTS = ("importlib.import_module", "import_module", "__import__")


@dataclass(frozen=True)
class Import:
    """One import. target: dotted, absolute (lacuna_ls.<room>... for ours). is_lazy: inside a function."""

    file: str
    line: int
    target: str
    is_relative: bool
    is_lazy: bool

    @property
    def top(self) -> str:
        return self.target.split(".")[0]

    @property
    def room(self) -> str:
        return self.file.split("/")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def modules() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    found: list[Import] = []
    file, room = str(path.relative_to(ROOT)), path.parent.name

    def visit(node: ast.AST, is_lazy: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(file, node.lineno, name.name, False, is_lazy) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = {0: "", 1: f"lacuna_ls.{room}", 2: "lacuna_ls"}.get(node.level)
            assert base is not None, f"{file}:{node.lineno} climbs out of the namespace"
            parts = [part for part in (base, node.module or "") if part]
            # `from .. import engine` and `from . import model` name a module in the last part
            targets = [".".join([*parts, name.name]) for name in node.names] if not node.module else [".".join(parts)]
            found.extend(Import(file, node.lineno, target, node.level > 0, is_lazy) for target in targets)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in DYNAMIC_IMPORTS:
            argument = node.args[0] if node.args else None
            target = argument.value if isinstance(argument, ast.Constant) else "a name made at run time"
            found.append(Import(file, node.lineno, str(target), False, is_lazy))
        lazy = is_lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, lazy)

    visit(tree_of(path), False)
    return tuple(found)


def all_imports() -> list[Import]:
    return [found for path in modules() for found in imports_of(path)]


def test_every_room_has_modules():
    assert {path.parent.name for path in modules()} == set(ROOMS)


def test_imports_between_rooms_point_down():
    wrong = []
    for found in all_imports():
        parts = found.target.split(".")
        if parts[0] != "lacuna_ls" or len(parts) < 2:
            continue
        here, there = found.file.split("/")[0], parts[1]
        if there == here or there in DOWN[here]:
            continue
        if found.file in COMMAND_LINE and found.is_lazy:
            continue
        wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_rooms_import_each_other_relatively():
    # the folders are also importable by their bare names when the checkout is the working directory: never rely on it
    wrong = [str(found) for found in all_imports() if found.top in ("lacuna_ls", *ROOMS) and not found.is_relative]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", sorted(AT_HOME))
def test_libraries_stay_in_their_rooms(library: str):
    wrong = [
        str(found)
        for found in all_imports()
        if found.top == library or (library == "tree_sitter" and found.top.startswith("tree_sitter_"))
        if found.room not in AT_HOME[library]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_server_room_imports_heavy_libraries_only_inside_functions():
    wrong = [
        str(found)
        for found in all_imports()
        if found.room == "lsp" and not found.is_lazy and found.top in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_transformers_is_imported_only_where_it_is_compared_with():
    # three seconds at import, and it is the truth the engine is measured by: never part of serving
    wrong = [str(found) for found in all_imports() if found.top == "transformers" and not found.is_lazy]
    assert not wrong, "\n".join(wrong)


def test_nothing_loads_code_from_data():
    forbidden = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    wrong = [str(found) for found in all_imports() if found.top in forbidden]
    for path in modules():
        for node in ast.walk(tree_of(path)):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "trust_remote_code" in node.value:
                wrong.append(f"{where} names trust_remote_code")
            if not isinstance(node, ast.Call):
                continue
            name, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in ("eval", "exec"):
                wrong.append(f"{where} calls {name}")
            for word in ("trust_remote_code", "shell", "allow_pickle"):
                if keywords.get(word, "False") != "False":
                    wrong.append(f"{where} passes {word}={keywords[word]} to {name}")
            if name == "torch.load" and keywords.get("weights_only") != "True":
                wrong.append(f"{where} loads a checkpoint without weights_only=True")
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_prints():
    # stdout is the wire: one stray line breaks every editor that is attached
    wrong = []
    for path in modules():
        if path.relative_to(ROOT).as_posix() in STDOUT_IS_A_TERMINAL:
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "pprint.pprint"):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} writes to stdout")
    assert not wrong, "\n".join(wrong)


def test_rooms_are_flat_and_typed():
    for room in ROOMS:
        folders = [path for path in (ROOT / room).iterdir() if path.is_dir() and path.name != "__pycache__"]
        assert not folders, f"a sub-folder is missing from the wheel: {folders}"
        assert (ROOT / room / "py.typed").is_file()
        assert (ROOT / "typings" / "lacuna_ls" / room).resolve() == ROOT / room


def test_kernels_has_no_init():
    # with one, the checkout's own folder is a package called `kernels`, which transformers probes for
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "__init__.py").exists()
    assert not (ROOT / "typings" / "lacuna_ls" / "__init__.py").exists()


def test_every_module_says_its_responsibility():
    silent = [str(path.relative_to(ROOT)) for path in modules() if not ast.get_docstring(tree_of(path))]
    assert not silent, f"no module docstring: {silent}"


@pytest.mark.parametrize("module", NO_HEAVY_AT_IMPORT)
def test_import_loads_no_torch(module: str):
    # an editor waits for `initialize`; torch costs seconds. In a process of its own: this one may have torch already
    script = (
        f"import sys, {module}\n"
        f"heavy = {HEAVY} & {{name.split('.')[0] for name in sys.modules}}\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    command = [sys.executable, "-W", "error", "-P", "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"importing {module} loads: {done.stderr.strip()}"
