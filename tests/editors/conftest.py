"""What the editor tests share: is the editor there, and a fresh one per test that leaves no process behind."""

import itertools
import os
import re
import sys
from pathlib import Path

import pytest

# importlib mode puts no test folder on the path, and the drivers are shared by several files here
sys.path.insert(0, str(Path(__file__).parent))
from nvim_driver import NVIM, Neovim

REQUIRED = os.environ.get("LACUNA_EDITORS") == "required"
"""Set by CI: an editor that is missing there is a failure, not a skip."""


def missing(what):
    """Skip with a reason, or fail where everything has to run."""
    message = f"{what}; tests/support/setup_editors.sh fetches it"
    if REQUIRED:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def nvim_binary():
    """The program itself."""
    if not NVIM.exists():
        missing("no Neovim 0.12")
    return NVIM


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def keep_if_failed(request):
    """For the end of a fixture: keeps what each editor of a failed test shows and has logged, under .editors/failed."""

    def keep(editors):
        if request.node.stash.get(FAILED, False):
            for n, editor in enumerate(editors):
                editor.keep_evidence(f"{request.node.nodeid}_{n}")

    return keep


@pytest.fixture
def nvim(tmp_path, nvim_binary, keep_if_failed):
    """A function that starts Neovim with the plugin and the fake server; see nvim_driver.Neovim for its arguments."""
    opened = []

    def start(**options):
        folder = tmp_path / str(len(opened))
        folder.mkdir()
        wait = options.pop("wait", True)
        editor = Neovim(folder, **options)
        opened.append(editor)
        return editor.wait_ready() if wait else editor

    yield start
    keep_if_failed(opened)
    for editor in opened:
        editor.close()


def can_run_vscode():
    """Import the driver, or skip with the reason."""
    try:
        import vscode_driver
    except ImportError as error:
        missing(f"no {error.name}")
    if not vscode_driver.CODE.exists():
        missing("no code-server")
    if not vscode_driver.CHROMIUM:
        missing("no chromium")
    if not vscode_driver.VSIX.exists():
        missing("no .vsix (make vsix)")
    return vscode_driver


# not for the session: while playwright runs, the main thread has a running event loop, and nobody else may have one
@pytest.fixture(scope="module")
def browser():
    """One Chromium for all windows of a module."""
    driver = can_run_vscode()
    chromium = driver.Browser()
    yield chromium
    chromium.close()


@pytest.fixture(scope="session")
def code_server(tmp_path_factory):
    """One VS Code with the extension, trusted workspaces, and the fake server."""
    driver = can_run_vscode()
    code = driver.CodeServer(tmp_path_factory.mktemp("code") / "base")
    yield code
    code.close()


@pytest.fixture
def start_code_server(tmp_path):
    """A function that starts a VS Code of its own, for tests of settings and trust."""
    driver = can_run_vscode()
    started = []

    def start(**options):
        code = driver.CodeServer(tmp_path / f"code{len(started)}", **options)
        started.append(code)
        return code

    yield start
    for code in started:
        code.close()


@pytest.fixture
def open_window(browser, tmp_path, keep_if_failed):
    """A function that opens a window on a folder of its own; picture and logs are kept when the test fails."""
    driver = can_run_vscode()
    opened = []

    def start(code, name=None, **options):
        window = driver.Window(code, browser, tmp_path / (name or f"ws{len(opened)}"), **options)
        opened.append(window)
        return window

    yield start
    keep_if_failed(opened)
    for window in opened:
        window.close()


@pytest.fixture(scope="module")
def shared_window(code_server, browser, tmp_path_factory):
    """One window for the tests of a module that only need a file of their own."""
    driver = can_run_vscode()
    window = driver.Window(code_server, browser, tmp_path_factory.mktemp("shared") / "ws")
    try:
        window.wait_ready()
    except AssertionError:
        window.keep_evidence("shared_window")
        raise
    yield window
    window.close()


FILE_NUMBERS = itertools.count(1)


@pytest.fixture
def window(shared_window, code_server, request, keep_if_failed):
    """The shared window, with a new file: `window("text")`."""

    def fresh(text="import os\n\n", suffix=".py"):
        name = re.sub(r"\W+", "_", request.node.name)
        return shared_window.open(f"{name}_{next(FILE_NUMBERS)}{suffix}", text)

    yield fresh
    keep_if_failed([shared_window])
    shared_window.keys("Escape", "Escape", "Escape")
    # a failed test may have left it quiet, or a setting changed
    if {"paused", "snoozed"} & set(re.findall(r"\w+", shared_window.status_label())):
        shared_window.command("Lacuna: Resume")
    code_server.write_settings()
