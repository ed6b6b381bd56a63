"""Files that are not open: read in the background by the same rules as the others, and anew when they are written."""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path

import pytest
from lacuna_ls.engine.modelfile import EMBEDDED
from lsp_client import Client, initialize_params, lacuna

ABOVE = "    with open(path, encoding=encoding) as stream:\n"
BELOW = "    return normalised(everything)\n"
HEAD = "        everything = "
SUBJECT = f"def read(path, encoding):\n{ABOVE}{HEAD}\n{BELOW}"

needs_model = pytest.mark.skipif(not EMBEDDED.exists(), reason="this tree carries no embedded model")


def holding(rest: str) -> str:
    """A file with a place like the one asked about, and rest in it."""
    return f"def load(path, encoding):\n{ABOVE}{HEAD}{rest}\n{BELOW}"


def folders(client: str, *roots: Path) -> dict:
    given = [{"uri": root.as_uri(), "name": root.name} for root in roots]
    return {**initialize_params(client), "rootUri": None, "workspaceFolders": given}


class Asker:
    """A server with the embedded model, and what it proposes at the place that is asked about."""

    def __init__(self, tmp_path: Path, client: str, *roots: Path, settings: object = None) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
        self.server = Client([lacuna(), "serve", "--log-level", "info"], env=env, settings=settings)
        self.server.initialize(folders(client, *roots), {"proposal": {"deadlineMs": 30000}})
        self._numbers = count(1)

    def num_readings(self) -> int:
        return sum("files of the workspace have been read" in line for line in self.server.stderr)

    def wait_read(self, number: int = 1) -> None:
        self.server.wait_for(lambda: self.num_readings() >= number, 120, "the workspace to be read")

    def proposed(self) -> str:
        """What is proposed, typing; each time in a new text, so that nothing is remembered."""
        number = next(self._numbers)
        uri = f"untitled:subject{number}.py"
        self.server.open(uri, f"number = {number}\n{SUBJECT}")
        items = self.server.inline(uri, 3, len(HEAD)) or [{"insertText": ""}]
        return items[0]["insertText"]


@pytest.fixture
def ask(tmp_path):
    """ask(client, *roots, settings=...) -> Asker."""
    askers = []

    def begin(*given, **more):
        askers.append(Asker(tmp_path / "state", *given, **more))
        return askers[-1]

    (tmp_path / "state").mkdir(mode=0o700)
    yield begin
    for each in askers:
        assert each.server.close() == 0


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "workspace"
    (folder / "package").mkdir(parents=True)
    return folder


@needs_model
@pytest.mark.parametrize("client", ["nvim", "vscode"])
def test_a_line_of_another_file_is_proposed(ask, root, client):
    (root / "package" / "other.py").write_text(holding("stream.zebra_crossing(41)"))
    asker = ask(client, root)
    asker.wait_read()
    assert asker.proposed() == "stream.zebra_crossing(41)"
    assert not asker.server.messages()


@needs_model
def test_a_line_of_a_private_file_is_not(ask, root):
    for name, rule in ((".gitignore", "generated.py"), (".lacunaignore", "mine_*.py"), (".copilotignore", "old/")):
        (root / name).write_text(rule + "\n")
    (root / "old").mkdir()
    (root / ".aws").mkdir()
    names = ["generated.py", "mine_too.py", "old/a.py", "secrets.py", "credentials.py", ".aws/b.py", "by_setting.py"]
    for name in names:
        (root / name).write_text(holding(f"stream.zebra_crossing({len(name)})"))
    (root / "public.py").write_text("x = 1\n")
    asker = ask("vscode", root, settings=lambda item: {"privacy": {"deny": ["by_setting.py"]}})
    asker.wait_read()
    assert any("1 files of the workspace have been read" in line for line in asker.server.stderr)
    assert "zebra" not in asker.proposed()


@needs_model
def test_a_secret_inside_a_file_is_not_proposed(ask, root):
    (root / "other.py").write_text(holding('connect(password="hunter2hunter2")'))
    asker = ask("vscode", root)
    asker.wait_read()
    assert "hunter2" not in asker.proposed()


@needs_model
def test_what_is_written_is_read_anew(ask, root):
    other = root / "package" / "other.py"
    asker = ask("vscode", root)
    server = asker.server
    asker.wait_read()
    assert "zebra" not in asker.proposed()
    # made by somebody else
    other.write_text(holding("stream.zebra_crossing(1)"))
    server.notify("workspace/didChangeWatchedFiles", {"changes": [{"uri": other.as_uri(), "type": 1}]})
    asker.wait_read(2)
    assert asker.proposed() == "stream.zebra_crossing(1)"
    # saved here
    other.write_text(holding("stream.zebra_crossing(2)"))
    server.notify("textDocument/didSave", {"textDocument": {"uri": other.as_uri()}})
    asker.wait_read(3)
    assert asker.proposed() == "stream.zebra_crossing(2)"
    # now private: what was read by the former rule is forgotten
    (root / ".gitignore").write_text("other.py\n")
    server.notify("textDocument/didSave", {"textDocument": {"uri": (root / ".gitignore").as_uri()}})
    asker.wait_read(4)
    assert "zebra" not in asker.proposed()
    (root / ".gitignore").unlink()
    server.notify("workspace/didChangeWatchedFiles", {"changes": [{"uri": (root / ".gitignore").as_uri(), "type": 3}]})
    asker.wait_read(5)
    assert asker.proposed() == "stream.zebra_crossing(2)"
    # the folder goes away, and only the folder is told of
    other.unlink()
    other.parent.rmdir()
    server.notify("workspace/didChangeWatchedFiles", {"changes": [{"uri": other.parent.as_uri(), "type": 3}]})
    asker.wait_read(6)
    assert "zebra" not in asker.proposed()


@needs_model
def test_folders_come_and_go(ask, root, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    (second / "other.py").write_text(holding("stream.zebra_crossing(7)"))
    asker = ask("vscode", root)
    asker.wait_read()
    folder = {"uri": second.as_uri(), "name": "second"}
    change = "workspace/didChangeWorkspaceFolders"
    asker.server.notify(change, {"event": {"added": [folder], "removed": []}})
    asker.wait_read(2)
    assert asker.proposed() == "stream.zebra_crossing(7)"
    asker.server.notify(change, {"event": {"added": [], "removed": [folder]}})
    asker.wait_read(3)
    assert "zebra" not in asker.proposed()


@needs_model
def test_a_large_workspace_does_not_delay_the_first_proposal(ask, root):
    piece = "".join(f"def function_{i}(value):\n    return value * {i}\n\n\n" for i in range(150))
    for number in range(400):
        (root / f"module_{number}.py").write_text(piece.replace("function", f"module_{number}"))
    asker = ask("vscode", root)
    asker.server.open("untitled:first.py", "def add(first, second):\n    return first + \n")
    asker.server.wait_ready(120)
    begun = time.monotonic()
    assert asker.server.inline("untitled:first.py", 1, 19, kind=1) is not None
    elapsed_s = time.monotonic() - begun
    # the first answer came while most of the files were still to be read
    assert not asker.num_readings()
    assert elapsed_s < 5
    asker.wait_read()


def test_the_folders_are_told_once_the_configuration_is_known(start, journal, root, tmp_path):
    second = tmp_path / "second"
    second.mkdir()

    def settings(item):
        return {"context": {"workspace": item.get("scopeUri") != second.as_uri()}}

    server = start(folders("nvim", root, second), settings=settings)
    server.wait_for(lambda: journal("index"), what="the folders")
    assert [each["roots"] for each in journal("index")] == [[str(root)]]
    server.notify("textDocument/didSave", {"textDocument": {"uri": (root / "a.py").as_uri()}})
    server.wait_for(lambda: journal("refresh"), what="the written file")
    assert journal("refresh")[0]["paths"] == [str(root / "a.py")]
    # switched off: nothing is read any more
    server.notify("workspace/didChangeConfiguration", {"settings": {"lacuna": {"enable": False}}})
    server.wait_for(lambda: len(journal("index")) == 2, what="the change")
    assert journal("index")[1]["roots"] == []


@pytest.mark.parametrize(
    ("client", "is_asked"), [("vscode", True), ("nvim", False)], ids=["can be asked", "cannot be asked"]
)
def test_written_files_are_asked_for_where_the_client_can_tell(start, root, client, is_asked):
    server = start(folders(client, root))
    server.request("lacuna/status")
    asked = [params for method, params in server.requests if method == "client/registerCapability"]
    assert len(asked) == is_asked
    assert server.server["capabilities"]["textDocumentSync"]["save"]
    if is_asked:
        assert asked[0]["registrations"][0]["method"] == "workspace/didChangeWatchedFiles"


@pytest.mark.parametrize(
    "params",
    [
        {"changes": [{"uri": "http://[bad", "type": 1}, {"uri": "", "type": 2}, {"uri": "file:", "type": 3}]},
        {"changes": []},
        {"changes": [{"uri": "file:///%ff%00/x.py", "type": 9}]},
        {},
    ],
)
def test_written_files_that_make_no_sense_change_nothing(start, root, params):
    server = start(folders("vscode", root))
    server.notify("workspace/didChangeWatchedFiles", params)
    server.notify("textDocument/didSave", {"textDocument": {"uri": "untitled:x"}})
    server.open("untitled:x", "x = \n")
    assert server.inline("untitled:x", 0, 4)[0]["insertText"] == "filled"
    assert not server.messages()
