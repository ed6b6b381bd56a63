"""Imports that a document lacks, and names that the code below a gap needs: as drafts, where they may stand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from canned_engine import CannedEngine
from infill_cases import BYTE_POLICY, TOKENIZER, applied, asked
from lacuna_ls.infill.index import LineIndex
from lacuna_ls.infill.infiller import LocalInfiller

POLICY = replace(BYTE_POLICY, use_needs=True)


def infiller(answer="unlikely", **options) -> LocalInfiller:
    """Over a workspace of two files, with an engine that answers with the given text."""
    index = LineIndex()
    index.update("/p/a.py", "from typing import Any, Optional, cast\nfrom .m import Thing, make\nimport numpy as np\n")
    index.update("/p/b.py", "from typing import Any\nfrom p.m import make\n\n\nclass Own: ...\n")
    logprob = options.pop("logprob", -3.0)
    return LocalInfiller(CannedEngine(TOKENIZER, answer, logprob), TOKENIZER, policy=POLICY, index=index)


def best(marked: str, **options) -> str:
    """The first proposal's text, or "" where there is none that an import is missing for."""
    path = options.pop("path", "/p/c.py")
    result = infiller().fill(asked(marked, path=path, **options))
    return next((each.text for each in result.proposals if each.source == "import"), "")


USES = "\n\ndef f(x: Optional[Any]):\n    return cast(Any, x)\n"


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        pytest.param("import os\n‸\n", "from typing import Any, Optional, cast", id="below an import"),
        pytest.param("‸\nimport os\n", "from typing import Any, Optional, cast", id="above one"),
        pytest.param('#!x\n"""Doc."""\n‸\n', "from typing import Any, Optional, cast", id="at the top"),
        pytest.param("from os import (\n    path,\n)\n‸\n", "from typing import Any, Optional, cast", id="brackets"),
        pytest.param("import os\nfr‸\n", "om typing import Any, Optional, cast", id="a word begun"),
        pytest.param("x = 1\n\n\nfrom ‸\n", "typing import Any, Optional, cast", id="begun, wherever"),
        pytest.param("from typing import ‸\n", "Any, Optional, cast", id="the module is there"),
        pytest.param("from typing import Op‸\n", "tional, Any, cast", id="one is begun"),
        pytest.param("from typing import cast, ‸\n", "Any, Optional", id="one is there"),
        pytest.param("from typing import Any, Optional, cast‸\n", "", id="all are there"),
        pytest.param("from os import ‸\n", "", id="another module"),
        pytest.param("x = 1\n‸\n", "", id="not among imports"),
        pytest.param("import os\nx = ‸\n", "", id="another statement"),
        pytest.param("import os\nif x:\n    ‸\n", "", id="another column"),
        pytest.param("import os\n# ‸\n", "", id="in a comment"),
        pytest.param('def g():\n    """Doc.\n\n    from ‸\n    """\n', "", id="in a docstring"),
        pytest.param('"""Doc."""\nx = 1\ny = """z"""\n‸\n', "", id="below code between strings"),
        pytest.param('‸\n# a\n"""Doc."""\n', "", id="above a docstring"),
        pytest.param('"""Doc."""\n‸\n\nfrom __future__ import annotations\n', "", id="above the future"),
        pytest.param("‸\n#!/usr/bin/python\n", "", id="above what starts it"),
        pytest.param("def g():\n    import os\n    ‸\n    return os\n", "", id="in another function"),
        pytest.param("def g():\n    import os\n    ‸\n", "", id="at the end of another function"),
        pytest.param('"""Doc."""\n' + '"""" ' * 40 + "\n‸\n", "", id="many strings"),
        pytest.param("import typing\nfrom typing import *\n‸\n", "", id="nobody knows what is bound"),
    ],
)
def test_a_missing_import_is_proposed_where_one_may_stand(head, rest):
    assert best(head + USES) == rest


@pytest.mark.parametrize(
    ("marked", "statement"),
    [
        pytest.param("from . import x\n‸\ny = make(x)\n", "from .m import make", id="as this file does: with dots"),
        pytest.param("import p.x\n‸\ny = make(p.x)\n", "from p.m import make", id="and without"),
        pytest.param("import os\n‸\ny = np.array(os)\n", "import numpy as np", id="by another name"),
        pytest.param("import os\n‸\ny = Own()\n", "from b import Own", id="defined and not imported yet"),
        pytest.param("import os\n‸\ny = Counter(os)\n", "from collections import Counter", id="in no file"),
        pytest.param("import os\n‸\ny = sys.argv\n", "import sys", id="a module in no file"),
        pytest.param("import os\n‸\ny = nowhere(os)\n", "", id="unknown"),
        pytest.param("if TYPE_CHECKING:\n    import os\n    ‸\n\ny: Thing\n", "from .m import Thing", id="indented"),
    ],
)
def test_how_it_is_written(marked, statement, tmp_path):
    assert best(marked) == statement


SCRIPTS = {
    "/p/a.js": "import { f } from './util';\nimport fs from 'node:fs';\n",
    "/p/r/a.js": "const { g } = require('./g');\nconst path = require('path');\n",
    "/p/t.ts": "import type { T } from './types';\n",
}


def best_script(marked: str, path: str) -> str:
    """As best, in a workspace of JavaScript and TypeScript."""
    subject = infiller()
    for each, text in SCRIPTS.items():
        subject.index.update(each, text)
    result = subject.fill(asked(marked, path=path, language=""))
    return next((each.text for each in result.proposals if each.source == "import"), "")


@pytest.mark.parametrize(
    ("path", "marked", "rest"),
    [
        pytest.param("/p/b.js", "import x from 'x';\n‸\nf(x);\n", "import { f } from './util';", id="below an import"),
        pytest.param("/p/b.js", "import x from 'x';\r\n‸\r\nf(x);\r\n", "import { f } from './util';", id="CRLF"),
        pytest.param("/p/b.js", "‸\nimport x from 'x';\nf(x);\n", "import { f } from './util';", id="above one"),
        pytest.param("/p/b.js", "import {\n  x,\n} from 'x';\n‸\nf(x);\n", "import { f } from './util';",
                     id="braces"),
        pytest.param("/p/b.js", "#!/usr/bin/env node\n/* a */\n// b\n'use strict';\n‸\nexport default f();\n",
                     "import { f } from './util';", id="at the top"),
        pytest.param("/p/b.js", "‸\n// a\n'use client';\nimport x from 'x';\nf(x);\n", "", id="above a directive"),
        pytest.param("/p/b.js", "'use client'\n‸\nf();\n", "import { f } from './util';", id="below a directive"),
        pytest.param("/p/b.js", "import x from 'x';\nim‸\nf(x);\n", "port { f } from './util';", id="a word begun"),
        pytest.param("/p/b.js", "x();\nimport { ‸\nf();\n", "f } from './util';", id="begun, wherever"),
        pytest.param("/p/b.js", "import {‸}\nf();\n", " f } from './util';", id="closed by the editor"),
        pytest.param("/p/b.js", "import { f } from '‸'\nf();\n", "./util';", id="the module alone"),
        pytest.param("/p/b.js", "import { x, ‸ } from './util';\nf(x);\n", "f", id="beside what nobody knows"),
        pytest.param("/p/b.js", "import { x, ‸ } from './x';\nf(x);\n", "", id="of another module"),
        pytest.param("/p/b.js", "import { ‸ } from './util';\nf();\n", "f", id="between the braces"),
        pytest.param("/p/b.ts", "import x from 'x';\n‸\nlet a: T = x;\n", "import type { T } from './types';",
                     id="a type"),
        pytest.param("/p/b.tsx", "‸\nexport const A = () => <div>{f()}</div>;\n", "import { f } from './util';",
                     id="tsx"),
        pytest.param("/p/r/b.js", "const x = require('x');\n‸\ng(x);\n", "const { g } = require('./g');", id="require"),
        pytest.param("/p/r/b.js", "const x = require('x').y;\n‸\ng(x);\n", "const { g } = require('./g');",
                     id="below a member"),
        pytest.param("/p/r/b.js", "exports.a = 1;\nconst pa‸\npath.join();\n", "th = require('path');",
                     id="a name begun"),
        pytest.param("/p/r/b.js", "function h() {\n  const x = require('x');\n  ‸\n  return g(x);\n}\n",
                     "const { g } = require('./g');", id="in the function that needs it"),
        pytest.param("/p/r/b.js", "function h() {\n  const x = require('x');\n  ‸\n  return x;\n}\ng();\n", "",
                     id="in another function"),
        pytest.param("/p/b.js", "x();\n‸\nf();\n", "", id="not among imports"),
        pytest.param("/p/b.js", "import x from 'x';\nfunction h() {\n  ‸\n  f(x);\n}\n", "", id="in a function"),
        pytest.param("/p/r/b.js", "exports.a = 1;\nconst ‸\npath.join();\n", "", id="a declaration begun elsewhere"),
        pytest.param("/p/b.js", "import x from 'x';\n// ‸\nf(x);\n", "", id="in a comment"),
        pytest.param("/p/b.js", "/*\nimport { ‸\n*/\nf();\n", "", id="in a comment of several lines"),
        pytest.param("/p/b.js", "const x = `\nimport { ‸\n`;\nf(x);\n", "", id="in a string"),
        pytest.param("/p/b.py", "import x\n‸\nf(x)\n", "", id="in another language"),
    ],
)  # fmt: skip
def test_a_missing_import_of_javascript(path, marked, rest):
    assert best_script(marked, path) == rest


def test_a_module_that_is_called_like_its_folder_says_nothing_of_its_package(tmp_path):
    folder = tmp_path / "p" / "logging"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    subject = infiller()
    subject.index.update(str(folder / "y.py"), "from .m import build\n")
    request = asked("import logging\n‸\nx = build(logging)\n", path=str(folder / "x.py"))
    assert subject.fill(request).proposals[0].text == "from .m import build"


def test_it_is_the_answer_without_asking_the_model_where_it_is_sure():
    subject = infiller()
    result = subject.fill(asked("import os\n‸\nx: Any\n", path="/p/c.py"))
    assert [(each.text, each.source) for each in result.proposals] == [("from typing import Any", "import")]
    assert not subject.engine.problems


def test_of_several_missing_statements_the_one_used_first_comes_first():
    request = asked("import os\n‸\nx: Any = make(np)\n", path="/p/c.py", num_alternatives=3, is_explicit=True)
    found = [each for each in infiller().fill(request).proposals if each.source == "import"]
    assert found[0].text == "from typing import Any"
    assert {each.text for each in found[1:]} == {"from p.m import make", "import numpy as np"}
    assert all(each.confidence < 0.4 for each in found)


@pytest.mark.parametrize(
    ("marked", "written"),
    [
        pytest.param("def f():\n    ‸\n    return total\n", "total = 7", id="the function needs it"),
        pytest.param("def f():\n    to‸\n    return total\n", "tal = 7", id="its name is begun"),
        pytest.param("def f():\n    ‸\n    return f\n", "7", id="nothing is needed"),
        pytest.param("def f():\n    x = ‸\n    return total\n", "7", id="another statement"),
        pytest.param("def f():\n    ‸\n    return np\n", "7", id="an import would bring it"),
    ],
)
def test_a_name_that_the_code_below_needs_is_bound(marked, written):
    result = infiller("7").fill(asked(marked, path="/p/c.py", num_alternatives=2, is_explicit=True))
    assert written in [each.text for each in result.proposals]


@pytest.mark.parametrize(
    "marked",
    [
        pytest.param("def f(\n    a,\n    ‸\n    b,\n):\n    return total\n", id="in brackets"),
        pytest.param('def f():\n    """A\n    ‸\n    """\n    return total\n', id="in a docstring"),
    ],
)
def test_no_name_is_bound_where_no_statement_may_stand(marked):
    subject = infiller("c,")
    result = subject.fill(asked(marked, path="/p/c.py"))
    assert [each.text for each in result.proposals] == ["c,"]
    assert len(subject.engine.problems) == 1


def test_an_import_is_proposed_in_the_function_that_needs_it():
    assert best("def g():\n    import os\n    ‸\n    return np.array(os)\n") == "import numpy as np"


def test_an_answer_that_has_the_name_is_let_alone():
    subject = infiller("total = f(1)")
    result = subject.fill(asked("def f():\n    ‸\n    return total\n", path="/p/c.py"))
    assert [each.text for each in result.proposals] == ["total = f(1)"]
    assert len(subject.engine.problems) == 1


def test_a_document_is_looked_over_once_a_line(monkeypatch):
    from lacuna_ls.infill import needs

    seen = []
    monkeypatch.setattr(needs, "unresolved_names", lambda *given: seen.append(given) or ())
    subject = infiller()
    request = asked("import os\n‸\nx: Any\n", path="/p/c.py")
    subject.prefetch(request)
    for typed in ("", "f", "fr", "fro", "from"):
        text = request.text[: request.start] + typed + request.text[request.start :]
        at = request.start + len(typed)
        subject.fill(replace(request, text=text, start=at, end=at))
    assert len(seen) == 1


def test_what_is_bound_above_what_is_seen_is_not_missed():
    request = asked("import os\n‸\nx: Any\n", path="/p/c.py", head="from typing import Any\n")
    assert all(each.source != "import" for each in infiller().fill(request).proposals)


def test_line_ends_of_windows():
    marked = "import os\r\n‸\r\nx: Any\r\n"
    request = asked(marked, path="/p/c.py")
    (proposal,) = infiller().fill(request).proposals
    assert applied(request.text, proposal) == "import os\r\nfrom typing import Any\r\nx: Any\r\n"
