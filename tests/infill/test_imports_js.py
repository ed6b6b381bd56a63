"""What files of JavaScript and TypeScript import and define, and how another file writes it."""

from __future__ import annotations

import time

import pytest
from lacuna_ls.infill.imports import MAX_NAMES, Imported, ImportTable
from lacuna_ls.infill.imports_js import ECMASCRIPT, imports_of, names_of
from lacuna_ls.infill.languages import language_for_path
from lacuna_ls.infill.needs import missing_imports
from lacuna_ls.infill.unresolved import unresolved_names


def table(files: dict[str, str]) -> ImportTable:
    """Of files by their paths below /p."""
    found = ImportTable(ECMASCRIPT)
    for name, text in files.items():
        found.update(f"/p/{name}", names_of(f"/p/{name}", text))
    return found


def missing(files: dict[str, str], name: str, marked: str) -> list[str]:
    """The statements that a file lacks in the line of the mark, beside the others."""
    path, text, at = f"/p/{name}", marked.replace("‸", ""), marked.index("‸")
    of = table(files)
    of.update(path, names_of(path, text))
    start, end = text.rfind("\n", 0, at) + 1, (text + "\n").index("\n", at)
    names = unresolved_names(language_for_path(path), text[:start] + text[end:], start)
    head, tail = text[start:at], text[at:end]
    return [head + each.rest + tail for each in missing_imports(head, tail, names, of, path, text)]


def of_path(place: str, name: str, alias: str, written: str, *, is_type: bool = False) -> Imported:
    return Imported(place, name, alias, True, written, is_type)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("import a from 'a';", [Imported("a", "default", "a")], id="the default"),
        pytest.param("import * as a from 'a'", [Imported("a", "*", "a")], id="a module"),
        pytest.param('import {a, b as c} from "@x/y"',
                     [Imported("@x/y", "a", "a"), Imported("@x/y", "b", "c")], id="names"),
        pytest.param("import a, {\n  b, // c\n  /* d */ e,\n} from 'm'",
                     [Imported("m", "default", "a"), Imported("m", "b", "b"), Imported("m", "e", "e")], id="all of it"),
        pytest.param("import type { A } from './t'", [of_path("/p/t", "A", "A", "./t", is_type=True)], id="types"),
        pytest.param("import { type A, type as b, type } from 'm'",
                     [Imported("m", "A", "A", is_type=True), Imported("m", "type", "b"), Imported("m", "type", "type")],
                     id="a type beside names"),
        pytest.param("import type from 'm'", [Imported("m", "default", "type")], id="what is called type"),
        pytest.param("import 'a'\nimport('b')\nimportant()\n// import c from 'c'\nx = `import d from 'd'`", [],
                     id="none"),
        pytest.param("const a = require('a')", [Imported("a", "module.exports", "a")], id="require"),
        pytest.param("var a = require( 'a' ),\n    b = require('b');",
                     [Imported("a", "module.exports", "a"), Imported("b", "module.exports", "b")], id="two of them"),
        pytest.param("let { a, b: c } = require('node:m')",
                     [Imported("node:m", "a", "a"), Imported("node:m", "b", "c")], id="names of it"),
        pytest.param("const a = require('m').b", [Imported("m", ".b", "a")], id="a member"),
        pytest.param("const a = require('m')('n'), b = require('m').c()", [], id="what it returns"),
        pytest.param("module.exports = require('a')\nexports.b = require('b')", [], id="passed on"),
        pytest.param("import a from './s/index.js'\nimport b from '..'\nimport c from './'",
                     [of_path("/p/s", "default", "a", "./s/index.js"), of_path("/", "default", "b", ".."),
                      of_path("/p", "default", "c", "./")], id="folders"),
        pytest.param("import a from './a.json'", [of_path("/p/a.json", "default", "a", "./a.json")], id="other files"),
    ],
)  # fmt: skip
def test_what_a_text_imports(text, found):
    assert list(imports_of(text, "/p/x.ts")) == found


@pytest.mark.parametrize(
    ("text", "defined", "own"),
    [
        pytest.param("export function a() {}\nexport async function* b() {}\nexport const c = 1\nexport class D {}\n",
                     "a b c D", "", id="by name"),
        pytest.param("export type A = 1\nexport interface B {}\nexport const enum C {}\nexport declare let d: A\n",
                     "A B C d", "", id="types"),
        pytest.param("export namespace A {}\nexport declare namespace B {}\n", "A B", "", id="namespaces"),
        pytest.param("const a = 1\nfunction b() {}\nexport { a as c, b }\n", "c b", "a", id="in a list"),
        pytest.param("export { a } from './a'\nexport * from './b'\nexport type { C } from './c'\n", "", "",
                     id="passed on"),
        pytest.param("import { a } from './a'\nexport { a, b }\n", "b", "", id="not what it imports"),
        pytest.param("export default class A {}\n", "A", "", id="by default"),
        pytest.param("function a() {}\nexport default a;\n", "a", "", id="by default, further down"),
        pytest.param("const a = 1\nmodule.exports = {\n  a, // x,\n  b: c, d: f(a, b), e: {}, g\n}\n", "a b d e", "",
                     id="an object, up to one within"),
        pytest.param("exports.a = 1\nmodule.exports.b = 2\nexports.a == 1\n", "a b", "", id="one by one"),
        pytest.param("class A {}\nexports = module.exports = A\n", "A", "", id="the whole module"),
        pytest.param("module.exports = class A {}\n", "A", "", id="the whole module at once"),
        pytest.param("test('a', () => {\n  expect(b)\n  new URL()\n})\nclass A {\n  c(d) {\n  }\n}\n", "",
                     "A test expect URL", id="what nobody has to import"),
        pytest.param("let a = vi.fn()\nlet b = await jest.c()\n", "", "a b vi jest", id="nor what tests have"),
    ],
)  # fmt: skip
def test_what_a_file_defines(text, defined, own):
    names = names_of("/p/a.ts", text)
    assert (names.defined, names.own) == (tuple(defined.split()), tuple(own.split()))


FILES = {
    "a.js": "import { f, g } from './util';\nimport fs from 'node:fs';\nimport * as path from 'path';\n",
    "s/b.js": "import { f } from '../util';\nimport D, { d } from '@/d';\nimport fs from 'node:fs';\n",
    "util.js": "export function f() {}\nexport const g = 1;\nexport class Only {}\n",
    "main/index.js": "export default class Main {}\n",
}


@pytest.mark.parametrize(
    ("name", "marked", "statements"),
    [
        pytest.param("c.js", "‸\nf(g);\n", ["import { f, g } from './util';"], id="as a neighbour has it"),
        pytest.param("s/t/c.js", "‸\nf(g);\n", ["import { f, g } from '../../util';"], id="from further in"),
        pytest.param("c.js", "‸\nfs(path)\n", ["import fs from 'node:fs';", "import * as path from 'path';"],
                     id="wholes"),
        pytest.param("c.js", "‸\nD(d)\n", ["import D, { d } from '@/d';"], id="a default and a name"),
        pytest.param("c.js", "‸\nnew Only()\n", ["import { Only } from './util';"], id="exported and not imported yet"),
        pytest.param("s/c.js", "‸\nnew Main()\n", ["import Main from '../main';"], id="by default, of a folder"),
        pytest.param("main/c.js", "‸\nnew Main()\n", ["import Main from '.';"], id="of its own folder"),
        pytest.param("c.js", "import x from \"./x.js\"\n‸\nnew Only(x)\n", ['import { Only } from "./util.js"'],
                     id="as the file has it: quotes, ends and endings"),
        pytest.param("c.js", "import {x} from 'x';\n‸\nf(x)\n", ["import {f} from './util';"], id="and braces"),
        pytest.param("c.cjs", "‸\nfs(f)\n", ["const fs = require('node:fs');", "const { f } = require('./util');"],
                     id="a file that requires"),
        pytest.param("c.js", "var x = require('x')\n‸\nfs(x)\n", ["var fs = require('node:fs')"], id="as it declares"),
        pytest.param("util.js", "‸\nf(g)\n", [], id="the module itself"),
        pytest.param("src/d.js", "‸\nd()\n", [], id="and by another name"),
        pytest.param("c.js", "‸\nconsole.log(nowhere)\n", [], id="unknown"),
        pytest.param("c.js", "‸\nf = 1\n", [], id="assigned"),
        pytest.param("c.js", "import { ‸\nf(g);\n", ["import { f, g } from './util';"], id="begun"),
        pytest.param("c.js", "import {‸}\nf(g);\n", ["import { f, g }"], id="and closed by an editor"),
        pytest.param("c.js", "import { g, ‸ } from './util';\nf(g);\n", ["import { g, f } from './util';"],
                     id="one more"),
        pytest.param("c.js", "import { g,‸\nf(g);\n", ["import { g, f } from './util';"], id="behind a comma"),
        pytest.param("c.js", "import { g, f } fr‸\nf(g);\n", ["import { g, f } from './util';"],
                     id="in another order"),
        pytest.param("c.js", "import { f } from \"‸\"\nf();\n", ["import { f } from \"./util\""],
                     id="the module alone"),
        pytest.param("c.js", "import { x, ‸\nf(g, x);\n", [], id="beside others"),
        pytest.param("c.js", "const ‸\nfs();\n", [], id="no require among imports"),
        pytest.param("c.cjs", "let { ‸\nf();\n", ["let { f } = require('./util');"], id="begun, to require"),
    ],
)  # fmt: skip
def test_how_a_missing_import_is_written(name, marked, statements):
    assert missing(FILES, name, marked) == statements


TYPED = {
    "a.ts": "import type { T } from './t'\nimport { C } from './c'\n",
    "t.ts": "export type T = 1\nexport interface I {}\n",
    "c.ts": "export class C {}\n",
}


@pytest.mark.parametrize(
    ("marked", "statements"),
    [
        pytest.param("‸\nlet a: T\n", ["import type { T } from './t'"], id="as others have it"),
        pytest.param("‸\nlet a: C\n", ["import { C } from './c'"], id="and not as one"),
        pytest.param("import type { X } from './x'\n‸\nlet a: [C, I, X]\n",
                     ["import type { C } from './c'", "import type { I } from './t'"], id="as the file has types"),
        pytest.param("import type { X } from './x'\n‸\nlet a: X = new C()\n", ["import { C } from './c'"],
                     id="a value"),
        pytest.param("import { x, type X } from './x'\n‸\nlet a: X | T = x\n", ["import { type T } from './t'"],
                     id="beside names"),
        pytest.param("import { ‸\nlet a: T\n", ["import { T } from './t'"], id="begun otherwise"),
        pytest.param("import type ‸\nlet a: T\n", ["import type { T } from './t'"], id="begun so"),
    ],
)  # fmt: skip
def test_what_is_a_type_alone(marked, statements):
    assert missing(TYPED, "x.ts", marked) == statements


def test_a_member_is_taken_as_others_take_it():
    files = {"a.js": "const u = require('universalify').fromPromise\nconst { x } = require('./m')\n",
             "b.js": "const y = require('./m').y\nconst { x } = require('./m')\n"}  # fmt: skip
    assert missing(files, "c.js", "‸\nmodule.exports = u(y)\n") == [
        "const u = require('universalify').fromPromise",
        "const y = require('./m').y",
    ]
    assert missing(files, "c.js", "‸\nmodule.exports = x(y)\n") == ["const { x, y } = require('./m')"]
    # or as the line does
    assert missing(files, "c.js", "const x = r‸\nmodule.exports = x\n") == ["const x = require('./m').x"]


def test_neighbours_know_best_and_then_the_nearest():
    files = {f"test/{i}.js": "import { f } from '../src';\n" for i in range(3)}
    files |= {"src/a.js": "import { f } from './f.js';\n", "x/v/a.js": "import { h } from './h';\n",
              "y/v/b.js": "import { h } from './h';\n"}  # fmt: skip
    assert missing(files, "src/b.js", "‸\nf();\n") == ["import { f } from './f.js';"]
    assert missing(files, "test/t.js", "‸\nf();\n") == ["import { f } from '../src';"]
    assert missing(files, "y/c.js", "‸\nh();\n") == ["import { h } from './v/h';"]
    # unless the line has another one already
    assert missing(files, "src/b.js", "import { ‸ } from '.';\nf();\n") == ["import { f } from '.';"]
    begun = "import { ‸ } from '../src/f.js';\nf();\n"
    assert missing(files, "test/t.js", begun) == ["import { f } from '../src/f.js';"]


def test_what_most_files_use_without_an_import_needs_none():
    files = {"a.js": "import { expect } from 'vitest';\nimport { URL } from 'url';\nexpect(new URL());\n"}
    marked = "‸\nexpect(URL);\n"
    assert missing(files, "c.js", marked) == ["import { expect } from 'vitest';", "import { URL } from 'url';"]
    files |= {f"{i}.js": "expect(1);\nx = new URL();\n" for i in range(3)}
    assert missing(files, "c.js", marked) == []


def test_the_more_have_something_else_that_is_called_so_the_less_likely_it_is_to_be_imported():
    files = {f"{i}.js": "import { f, g } from 'm';\n" for i in range(4)}
    files |= {f"own{i}.js": "function f() {}\n" for i in range(3)}
    found = {}
    for name in "fg":
        unresolved = unresolved_names(language_for_path("c.js"), f"{name}()", 0)
        (found[name],) = missing_imports("", "", unresolved, table(files), "/p/c.js", f"{name}()")
    assert found["f"].probability() < 0.7 < found["g"].probability()


@pytest.mark.parametrize("end", [pytest.param(".js", id="with endings"), pytest.param("", id="and without")])
def test_a_file_that_is_called_like_a_folder(end):
    files = {"q/a.js": f"import {{ f }} from '../q{end}';\n", "q.js": "export function f() {}\n"}
    assert missing(files, "q/s/c.js", "‸\nf();\n") == [f"import {{ f }} from '../../q{end}';"]


def test_a_file_that_has_endings_has_them_also_where_its_neighbours_have_none():
    files = {"a.d.ts": "import { f, g } from './f'\n", "f.js": "export function f() {}\n",
             "d/index.js": "export function h() {}\n", "b.d.ts": "import { h } from './d'\n"}  # fmt: skip
    marked = "import { x } from './x.js'\n‸\nf(h, x)\n"
    assert missing(files, "c.js", marked) == ["import { f } from './f.js'", "import { h } from './d/index.js'"]
    # of what nobody can tell whether it is a file
    assert missing(files, "c.js", "import { x } from './x.js'\n‸\ng(x)\n") == ["import { g } from './f'"]


def test_no_path_leads_into_another_package(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "package.json").touch()
    files = {"a/x.ts": "import { f } from '@s/b';\n", "b/f.ts": "export function f() {}\nexport function g() {}\n"}
    files |= {f"b/{name}.ts": "import { f, g } from './f';\n" for name in "xyz"}
    of = ImportTable(ECMASCRIPT)
    for name, text in files.items():
        of.update(str(tmp_path / name), names_of(str(tmp_path / name), text))

    def found(name: str) -> list[str]:
        unresolved = unresolved_names(language_for_path(name), "f(g)", 0)
        return [each.rest for each in missing_imports("", "", unresolved, of, str(tmp_path / name), "f(g)")]

    assert found("a/s/c.ts") == ["import { f } from '@s/b';"]
    assert found("b/s/c.ts") == ["import { f, g } from '../f';"]


def test_nothing_is_required_that_has_to_be_imported():
    files = {"m.mjs": "export const f = 1\n", "a.cjs": "const g = require('./g')\n"}
    assert missing(files, "c.cjs", "‸\nf(g)\n") == ["const g = require('./g')"]
    assert missing(files, "c.mjs", "‸\nf()\n") == ["import { f } from './m.mjs'"]


def test_whether_a_file_requires_the_others_tell_whose_name_does_not():
    files = {f"{i}.ts": "import { f } from './f';\n" for i in range(3)} | {"s/a.js": "const g = require('g');\n"}
    assert missing(files, "t/b.js", "‸\ng();\n") == ["const g = require('g');"]
    assert missing(files, "t/b.ts", "import x = require('x');\n‸\nf(x);\n") == ["import { f } from '../f';"]


def test_what_is_no_file_yet_has_nothing_by_a_path():
    of = table(FILES)
    names = unresolved_names(language_for_path("c.js"), "f(fs)", 0)
    found = missing_imports("", "", names, of, "untitled:Untitled-1", "f(fs)")
    assert [each.rest for each in found] == ["import fs from 'node:fs';"]


def test_names_in_no_order_are_less_likely_in_the_right_one():
    def confidence(names: str) -> float:
        of = table({"a.js": f"import {{ {names} }} from './m';\n", "b.js": "import { a, b } from './n';\n"})
        unresolved = unresolved_names(language_for_path("c.js"), "a(b)", 0)
        (found,) = missing_imports("", "", unresolved, of, "/p/c.js", f"\nimport {{ {names} }} from './m';\na(b)")
        return found.probability()

    assert confidence("y, x") < confidence("x, y")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("import " * 100_000, id="words"),
        pytest.param("import {\n" * 100_000, id="braces"),
        pytest.param("import" + "\n" * 500_000, id="lines"),
        pytest.param("const " + "a" * 500_000 + " = require(", id="a long name"),
        pytest.param("const a" + " " * 500_000, id="blanks"),
        pytest.param("a = require(" * 100_000, id="calls"),
        pytest.param("module.exports = {\n" * 100_000, id="exports"),
        pytest.param("export default a\n" * 100_000, id="defaults"),
        pytest.param("import {" + "/* " * 100_000 + "} from 'a'", id="comments"),
        pytest.param("import {a" + " " * 500_000 + "b} from 'a'", id="a name and blanks"),
        pytest.param("/* */" * 100_000 + "/* " * 100_000, id="what may stand above"),
    ],
)
def test_no_file_of_a_workspace_takes_long(text):
    started = time.process_time()
    names_of("/p/a.ts", text)
    ECMASCRIPT.no_code.fullmatch(text)
    ECMASCRIPT.leads.match(text)
    assert time.process_time() - started < 2.0


def test_a_file_of_nothing_but_names_is_not_kept_whole():
    lines = (f"import a{i} from 'm';\nexport const b{i} = 1;\nlet c{i};\nd{i}(1);\n" for i in range(2 * MAX_NAMES))
    names = names_of("/p/a.js", "".join(lines))
    assert (len(names.imported), len(names.defined) + len(names.own)) == (MAX_NAMES, MAX_NAMES)


def test_files_of_other_languages_say_nothing():
    assert ECMASCRIPT.names_of("/p/a.py", "import a from 'a'\n") == ECMASCRIPT.names_of("/p/b.py", "")


def test_nothing_is_left_of_files_that_are_gone():
    of = table(FILES)
    of.update("/p/a.js", names_of("/p/a.js", 'const x = require("x")\n'))
    fresh = table(FILES | {"a.js": 'const x = require("x")\n'})
    assert of.styles() == fresh.styles()
    for name in ("f", "g", "fs", "D", "Main", "x"):
        assert of.find(name, "/p/c.js") == fresh.find(name, "/p/c.js")
    for name in FILES:
        of.drop(f"/p/{name}")
    assert not of.styles()
