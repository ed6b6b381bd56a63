"""What files import and define, and how another file writes it."""

from __future__ import annotations

import random
import time

import pytest
from lacuna_ls.infill.imports import MAX_NAMES, Imported, ImportTable, Names
from lacuna_ls.infill.imports_python import PYTHON, imports_of, names_of, written


def table(**texts: str) -> ImportTable:
    """Of files by their paths: `a__b` is /a/b.py."""
    found = ImportTable(PYTHON)
    for name, text in texts.items():
        path = "/" + name.replace("__", "/") + ".py"
        found.update(path, names_of(path, text))
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("import a\n", [Imported("a", "", "a")], id="a module"),
        pytest.param("import a.b, c as d\n", [Imported("a.b", "", "a"), Imported("c", "", "d")], id="several"),
        pytest.param("from a import b, c as d  # e\n",
                     [Imported("a", "b", "b"), Imported("a", "c", "d")], id="names"),
        pytest.param("from .a import (  # x\n    b,\n    c as d,  # y\n)\n",
                     [Imported(".a", "b", "b"), Imported(".a", "c", "d")], id="in brackets"),
        pytest.param("from a import b, \\\n    c\n",
                     [Imported("a", "b", "b"), Imported("a", "c", "c")], id="two lines"),
        pytest.param("    from .. import a\r\n", [Imported("..", "a", "a")], id="inside of a function, CRLF"),
        pytest.param("from a import *\n", [], id="nobody knows what"),
        pytest.param("x = 'import a'\n# import b\nimported = 1\nimport_b()\n", [], id="no statements"),
    ],
)  # fmt: skip
def test_what_a_text_imports(text, found):
    assert list(imports_of(text)) == found


def test_what_a_file_defines():
    text = "def f(): ...\nasync def g(): ...\nclass A: ...\nB = 1\nC: int = 2\n"
    text += "d = 3\n_E = 4\nX == 5\nif x:\n    Y = 1\n"
    assert names_of("/a.py", text) == Names((), ("f", "g", "A", "B", "C"), ("d", "_E"))
    assert names_of("/a.js", text) == Names()


def test_the_most_usual_origin_comes_first_and_the_file_itself_says_nothing():
    of = table(a="from x import n\n", b="from x import n\n", c="from y import n\n", d="from z import n\n")
    assert [(each.module, each.num_files) for each in of.find("n", "/d.py")] == [("x", 2), ("y", 1)]
    of.drop("/a.py")
    of.update("/b.py", names_of("/b.py", "import os\n"))
    assert [each.module for each in of.find("n", "/e.py")] == ["y", "z"]
    of.clear()
    assert of.find("n", "/e.py") == []


def test_one_module_written_in_two_ways_is_one():
    of = table(p__a="from .m import n\n", p__b="from p.m import n\n", p__s__c="from ..m import n\n")
    (origin,) = of.find("n", "/p/d.py")
    assert (origin.num_dotted, origin.num_relative) == (1, 2)
    assert written(origin, "/p/d.py", True) == ".m"
    assert written(origin, "/p/d.py", False) == "p.m"
    # another place has it whole
    assert written(origin, "/t/d.py", True) == "p.m"


def test_what_nobody_imports_is_where_it_is_defined(tmp_path):
    (tmp_path / "p" / "s").mkdir(parents=True)
    for folder in ("p", "p/s"):
        (tmp_path / folder / "__init__.py").touch()
    of, home = ImportTable(PYTHON), tmp_path / "p" / "s" / "m.py"
    of.update(str(home), names_of(str(home), "class A: ...\n"))
    (origin,) = of.find("A", str(tmp_path / "t.py"))
    assert origin.num_files == 0
    assert written(origin, str(tmp_path / "t.py"), False) == "p.s.m"
    assert written(origin, str(tmp_path / "p" / "x.py"), True) == ".s.m"
    assert written(origin, str(tmp_path / "p" / "s" / "x.py"), True) == ".m"
    # dots lead out of no package
    assert written(origin, str(tmp_path / "t" / "x.py"), True) == "p.s.m"
    of.update(str(home.with_name("__init__.py")), names_of("/__init__.py", "B = 1\n"))
    assert written(of.find("B", "/x.py")[0], str(tmp_path / "p" / "x.py"), True) == ".s"


def test_what_others_have_from_the_file_that_asks_is_its_own_to_bind():
    of = table(p__a="from .m import n\n", t="from p import n\n")
    # nor does it get it from the package, which has it from here
    assert of.find("n", "/p/m.py") == []
    assert [each.module for each in of.find("n", "/p/__init__.py")] == ["/p/m"]


def test_what_most_files_bind_themselves_is_had_from_nowhere():
    of = table(a="log = 1\n", b="from .a import log\n", c="log = 2\n")
    assert [each.module for each in of.find("log", "/d.py")] == ["/a"]
    of.update("/e.py", names_of("/e.py", "log = 3\n"))
    assert of.find("log", "/d.py") == []
    # the file itself says nothing
    assert [each.module for each in of.find("log", "/e.py")] == ["/a"]
    # more than one home that nobody imports from
    of = table(a="def run(): ...\n", b="def run(): ...\n")
    assert of.find("run", "/d.py") == []


def test_a_script_has_nothing_with_dots(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "__init__.py").touch()
    of, asks = ImportTable(PYTHON), str(tmp_path / "run.py")
    for name in "ab":
        path = str(tmp_path / "p" / f"{name}.py")
        of.update(path, names_of(path, "from .m import n\n"))
    (origin,) = of.find("n", asks)
    assert written(origin, asks, True) == "p.m"
    assert written(origin, str(tmp_path / "p" / "c.py"), True) == ".m"
    # nor has what is no file yet
    assert written(origin, "", True) == "p.m"


def test_a_folder_that_is_called_like_a_module_is_not_that_module(tmp_path):
    (tmp_path / "p" / "logging").mkdir(parents=True)
    for folder in ("p", "p/logging"):
        (tmp_path / folder / "__init__.py").touch()
    of, asks = table(a="from logging import getLogger\n"), str(tmp_path / "p" / "logging" / "x.py")
    (origin,) = of.find("getLogger", asks)
    assert written(origin, asks, True) == "logging"


def test_a_module_with_a_stub_is_one():
    of = ImportTable(PYTHON)
    for path in ("/p/m.py", "/p/m.pyi"):
        of.update(path, names_of(path, "class A: ...\n"))
    assert [each.module for each in of.find("A", "/p/c.py")] == ["/p/m"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("from " + "." * 100_000 + "\n", id="dots"),
        pytest.param("from" + " " * 100_000 + "\n", id="blanks"),
    ],
)
def test_no_file_of_a_workspace_takes_long(text):
    started = time.process_time()
    names_of("/a.py", text)
    assert time.process_time() - started < 2.0


def test_a_file_of_nothing_but_names_is_not_kept_whole():
    names = names_of("/a.py", "".join(f"import a{i}\nA{i} = a{i} = 1\nb{i} = 1\n" for i in range(2 * MAX_NAMES)))
    assert (len(names.imported), len(names.defined) + len(names.own)) == (MAX_NAMES, MAX_NAMES)


def test_what_everybody_knows():
    of = ImportTable(PYTHON)
    assert [(each.module, each.name) for each in of.find("Path", "/a.py")] == [("pathlib", "Path")]
    assert [(each.module, each.name) for each in of.find("np", "/a.py")] == [("numpy", "")]
    assert of.find("no_such_name_anywhere", "/a.py") == []


def test_nothing_is_left_of_files_that_are_gone():
    # any order of updates and drops leaves what the files that are there say
    rng = random.Random(5)
    of, texts = ImportTable(PYTHON), {}
    pieces = ["import a\n", "from a import b\n", "from .a import b as c\n", "def d(): ...\n", "class E: ...\n"]
    pieces += ["b = 1\n", "c: int = 1\n"]
    for _ in range(300):
        path = f"/p/{rng.randrange(6)}.py"
        if rng.random() < 0.4:
            of.drop(path)
            texts.pop(path, None)
        else:
            texts[path] = "".join(rng.sample(pieces, rng.randrange(8)))
            of.update(path, names_of(path, texts[path]))
        fresh = ImportTable(PYTHON)
        for each, text in texts.items():
            fresh.update(each, names_of(each, text))
        for name in "abcdE":
            key = [(each.module, each.name, each.num_files) for each in fresh.find(name, "")]
            assert sorted(key) == sorted((each.module, each.name, each.num_files) for each in of.find(name, ""))
