"""What is never read and never proposed in, and that nothing of a session goes anywhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from lsp_client import FAKE_SERVER, initialize_params


def uri(path: Path) -> str:
    return path.as_uri()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    (root / "build").mkdir(parents=True)
    (root / ".gitignore").write_text("build/\n")
    (root / ".lacunaignore").write_text("private_*\n")
    return root


def begin(start, workspace: Path, **more):
    def folders(params):
        return {**params, "rootUri": uri(workspace), "workspaceFolders": [{"uri": uri(workspace), "name": "w"}]}

    return start(folders(initialize_params("nvim")), **more)


@pytest.mark.parametrize(
    "name",
    [".env", "secrets.py", "deploy.pem", "build/out.py", "private_notes.py", "sub/.aws/config.py"],
    ids=["environment", "by name", "key", "gitignore", "lacunaignore", "folder of secrets"],
)
def test_excluded_documents_are_neither_filled_nor_read(start, journal, workspace, name):
    server = begin(start, workspace)
    secret, open_one = uri(workspace / name), uri(workspace / "a.py")
    server.open(secret, "password = 1\n")
    assert server.inline(secret, 0, 11, kind=1) == []
    server.open(open_one, "x = \n")
    assert server.inline(open_one, 0, 4) != []
    assert journal()[-1]["neighbours"] == []


def test_the_users_own_patterns(start, journal, workspace):
    server = begin(start, workspace, options={"privacy": {"deny": ["*_internal.py"]}, "disable": {"paths": ["tests/"]}})
    internal, test = uri(workspace / "x_internal.py"), uri(workspace / "tests" / "t.py")
    server.open(internal, "a = \n")
    server.open(test, "b = \n")
    assert server.inline(internal, 0, 4) == []
    assert server.inline(test, 0, 4) == []
    server.open(uri(workspace / "a.py"), "x = \n")
    server.inline(uri(workspace / "a.py"), 0, 4)
    # a path where nothing is proposed may still be read; a denied one may not
    assert journal()[-1]["neighbours"] == [str(workspace / "tests" / "t.py")]


def test_ignore_files_can_be_switched_off_by_the_user_but_the_deny_list_stays(start, workspace):
    server = begin(start, workspace, options={"privacy": {"ignoreFiles": False}})
    for name, is_filled in (("build/out.py", True), (".env", False)):
        server.open(uri(workspace / name), "x = \n")
        assert bool(server.inline(uri(workspace / name), 0, 4)) is is_filled


@pytest.mark.parametrize("redact", [True, False], ids=["by default", "switched off"])
def test_secrets_in_context_are_redacted(start, journal, workspace, redact):
    server = begin(start, workspace, options=None if redact else {"privacy": {"redactSecrets": False}})
    server.open(uri(workspace / "b.py"), 'api_key = "sk-abcdefghijklmnopqrstuvwxyz0123"\n')
    server.open(uri(workspace / "a.py"), "x = \n")
    server.inline(uri(workspace / "a.py"), 0, 4)
    assert ("sk-abcdef" in journal()[-1]["neighbour_texts"][0]) is not redact


def test_nothing_is_opened_to_the_network(start, tmp_path):
    # the audit hook sees every socket of the process, whoever opens it
    script = tmp_path / "watched.py"
    support = Path(FAKE_SERVER[-1]).parent
    script.write_text(
        "import socket, sys\n"
        "def watch(event, args):\n"
        "    if event in ('socket.connect', 'socket.sendto', 'socket.getaddrinfo', 'socket.bind'):\n"
        "        sys.stderr.write(f'NETWORK {event} {args[1:]}\\n')\n"
        "sys.addaudithook(watch)\n"
        f"sys.path.insert(0, {str(support)!r})\n"
        "import fake_infiller\n"
        "from lacuna_ls.lsp.serve import serve\n"
        "serve(level='info', load_infiller=fake_infiller.load)\n"
    )
    server = start(command=[sys.executable, "-P", str(script)])
    server.open("file:///workspace/a.py", "x = \n")
    (item,) = server.inline("file:///workspace/a.py", 0, 4)
    server.notify("lacuna/didShow", {"item": item})
    server.request("workspace/executeCommand", item["command"])
    server.request("lacuna/metrics", {})
    assert server.close() == 0
    assert not [line for line in server.stderr if "NETWORK" in line]


def test_the_log_quotes_no_text(start):
    server = start(env={"LACUNA_FAKE_LOG": "debug", "PATH": os.environ["PATH"]})
    server.open("file:///workspace/a.py", "MARKER = 'x'\n")
    server.inline("file:///workspace/a.py", 0, 12)
    server.send({"id": 77, "method": "textDocument/inlineCompletion", "params": {"MARKER": 1}})
    assert server.close() == 0
    assert any("infill a.py:1:13" in line for line in server.stderr)
    assert not [line for line in server.stderr if "MARKER" in line]
