"""Where Python code has its names from: what most packages agree on, and nothing that they import of themselves."""

from __future__ import annotations

from lacuna_ls.infill.imports import ImportTable
from lacuna_ls.infill.imports_python import PYTHON, USUAL_FILE
from lacuna_ls.training import usual_imports


def test_what_most_packages_agree_on():
    texts = {
        "a": "import os\nimport numpy as np\nfrom typing import Any\nfrom a.b import Own\nfrom x import Both\n",
        "b": "import os\nimport numpy as np\nfrom typing import Any\nfrom y import Both\nfrom a.b import Own\n",
        "c": "import os\nimport numpy as np\nfrom typing import Any\nfrom .d import Any as Other\nfrom y import Both\n",
        "d": "import os\nfrom z import Any\nfrom x import Both\nfrom __future__ import annotations\n",
    }
    files = [(name, f"{name}/m.py", text) for name, text in texts.items()]
    assert usual_imports.usual_imports(files) == ["numpy :np", "os :", "typing Any"]


def test_the_file_that_is_shipped_can_be_read():
    lines = USUAL_FILE.read_text(encoding="utf-8").splitlines()
    assert lines == sorted(lines)
    assert USUAL_FILE.stat().st_size < 40_000
    assert ImportTable(PYTHON).find("Any", "")[0].module == "typing"
