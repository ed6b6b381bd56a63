"""What the editor tests share: is the editor there, and a fresh one per test that leaves no process behind."""

import os
import sys
from pathlib import Path

import pytest

# importlib mode puts no test folder on the path, and the drivers are shared by several files here
sys.path.insert(0, str(Path(__file__).parent))
from nvim_driver import NVIM, Neovim  # noqa: E402

REQUIRED = os.environ.get("LACUNA_EDITORS") == "required"
"""Set by CI: an editor that is missing there is a failure, not a skip."""


def missing(what):
    """Skip with a reason, or fail where everything has to run."""
    message = f"{what}; tests/support/setup_editors.sh fetches it"
    if REQUIRED:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def nvim(tmp_path):
    """A function that starts Neovim with the plugin and the fake server; see nvim_driver.Neovim for its arguments."""
    if not NVIM.exists():
        missing("no Neovim 0.12")
    opened = []

    def start(**options):
        folder = tmp_path / str(len(opened))
        folder.mkdir()
        wait = options.pop("wait", True)
        editor = Neovim(folder, **options)
        opened.append(editor)
        return editor.wait_ready() if wait else editor

    yield start
    for editor in opened:
        editor.close()
