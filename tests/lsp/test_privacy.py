"""What is never read and never proposed in, and that nothing of a session goes anywhere."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from lacuna_ls.lsp.documents import WINDOW_CHARS, Document
from lacuna_ls.lsp.options import Options
from lacuna_ls.lsp.privacy import Privacy
from lsp_client import FAKE_SERVER, initialize_params
from lsprotocol import types


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
    assert server.inline(secret, 0, 11) == []
    assert not server.messages()
    for _ in range(2):
        # who asks by a key is told why, once
        assert server.inline(secret, 0, 11, kind=1) == []
    (why,) = server.messages()
    assert why.startswith(f"Lacuna proposes nothing in {(workspace / name).name}: an ignore file")
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


def document(uri: str, text: str = "") -> Document:
    return Document(uri, "python", 1, text, "utf-16")


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        ("untitled:Untitled-1", True),
        ("untitled:", True),
        ("untitled:/p/.env", False),
        ("fugitive:///p/.git//0/.env", False),
        ("git:/p/secrets.py?%7B%22ref%22%3A%22~%22%7D", False),
        ("git:/p/%2Eenv", False),
        ("zipfile://[/p/deploy.pem", False),
        ("git:/p/a.py", True),
    ],
    ids=[
        "a new one",
        "nothing",
        "new, by name",
        "in the index",
        "with a query",
        "quoted",
        "no URI",
        "of git, ordinary",
    ],
)
def test_documents_without_a_file_count_by_the_path_of_their_uri(address, is_open, monkeypatch, tmp_path):
    # the folder of this process says nothing about them
    (tmp_path / "secrets").mkdir()
    monkeypatch.chdir(tmp_path / "secrets")
    privacy, one = Privacy(), document("untitled:")
    one.uri = address
    assert privacy.may_propose(one, Options()) is is_open
    assert privacy.may_read(one, Options()) is is_open


@pytest.mark.parametrize("roots", [[], ["repo/backend"], ["elsewhere"]], ids=["none", "a part", "another"])
def test_the_repository_counts_above_and_without_a_root(tmp_path, roots):
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / "backend").mkdir()
    (tmp_path / "repo" / ".gitignore").write_text("local_settings.py\n")
    privacy = Privacy()
    privacy.set_roots([str(tmp_path / root) for root in roots])
    ignored = document(uri(tmp_path / "repo" / "backend" / "local_settings.py"))
    assert not privacy.may_propose(ignored, Options())
    assert privacy.may_propose(document(uri(tmp_path / "repo" / "backend" / "a.py")), Options())
    options = Options(privacy=replace(Options().privacy, ignore_files=False))
    assert privacy.may_propose(ignored, options)


def typed(text: str, line: int) -> Document:
    """A document with this text, in which a letter was typed last at the start of a line."""
    one = document("file:///p/long.py", text)
    at = types.Position(line, 0)
    one.apply([types.TextDocumentContentChangePartial(types.Range(at, at), "x")], 2)
    return one


@pytest.mark.parametrize("redact", [True, False], ids=["redacted", "as it is"])
def test_of_a_long_document_what_stands_around_the_last_change(redact):
    options = Options(privacy=replace(Options().privacy, redact_secrets=redact))
    text = "".join(f"line_{number:06} = 1\n" for number in range(60_000))
    for line in (0, 30_000, 59_999):
        shown = Privacy().text(typed(text, line), options)
        assert 0.9 * WINDOW_CHARS < len(shown) <= WINDOW_CHARS
        assert f"xline_{line:06}" in shown
        # whole lines
        assert shown.endswith(" = 1\n")
        assert shown.startswith(("line_", "xline_"))
    # nobody knows where the user is: the top
    assert Privacy().text(document("file:///p/long.py", text), options).startswith("line_000000")


def test_a_window_cuts_no_private_key():
    # the block lies across the edge of the window
    filler = "a = 1\n" * ((WINDOW_CHARS // 2 - 600) // 6)
    block = "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkq\n" * 200 + "-----END PRIVATE KEY-----\n"
    text = "a = 1\n" * 40_000 + block + filler
    line = text.count("\n")
    shown = Privacy().text(typed(text + "b = 2\n" * 40_000, line), Options())
    assert "-----END" in shown
    assert "MIIE" not in shown


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
