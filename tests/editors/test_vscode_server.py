"""VS Code and the server: found, started when needed, missing, killed, untrusted, installed; windows of every kind."""

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import time
import zipfile

import psutil
import pytest
from nvim_driver import FAKE, until
from test_vscode_ghost import choose, menu, notebook

pytestmark = [pytest.mark.editor, pytest.mark.slow]

MULTI = "def multi(a, b):\n    x = a\n    return x + b"


def test_a_killed_server_comes_back(code_server, open_window):
    w = open_window(code_server).wait_ready()
    w.at_end("def multi")
    w.see(MULTI[9:])
    os.kill(w.server_pids()[0], signal.SIGKILL)
    until(lambda: len(w.server_pids()) == 2, "a second server")

    def num_opened():
        # VS Code may open its own settings, too
        told = w.messages("textDocument/didOpen")
        return sum(row["params"]["textDocument"]["uri"].endswith("/a.py") for row in told)

    until(lambda: num_opened() == 2, "the document, opened again")
    w.wait_ready()
    w.keys("Backspace")
    w.type("i")
    w.see(MULTI[9:])
    w.keys("Tab")
    w.see_file("import os\n\n" + MULTI)
    # and closing the window leaves nothing behind
    pid = w.server_pids()[1]
    assert psutil.pid_exists(pid)
    w.close()
    until(lambda: not psutil.pid_exists(pid), "the end of the server", 90)


def running_extension(w):
    """The row of the extension in VS Code's own table, or None when it is not activated."""
    w.focus()
    w.command("Developer: Show Running Extensions")
    rows = w.page.locator(".runtime-extensions-editor .extension")
    until(lambda: "ms" in rows.first.inner_text() if rows.count() else False, "the table", 90)
    row = rows.filter(has_text="Lacuna")
    seen = []

    def is_settled():
        seen.append((rows.count(), row.first.inner_text().replace("\n", " ") if row.count() else None))
        time.sleep(0.25)
        # a row may come late, and says "Activating..." before it tells the time
        return len(seen) > 5 and len(set(seen[-5:])) == 1 and (seen[-1][1] is None or re.search(r"\dms", seen[-1][1]))

    until(is_settled, "a table at rest", 60)
    return seen[-1][1]


def activation_ms(row):
    """The time that such a row tells."""
    return [float(part.removesuffix("ms")) for part in row.split() if part.removesuffix("ms").isdigit()][-1]


def test_nothing_is_loaded_for_plain_text(code_server, open_window):
    w = open_window(code_server, file="notes.txt", text="x\n", size=(1000, 1800))
    assert running_extension(w) is None
    assert w.messages() == []


def test_what_only_a_server_can_do_starts_none_and_says_so(code_server, open_window):
    w = open_window(code_server, file="notes.txt", text="x\n").focus()
    # a list of commands that opens before the extensions are read stays without theirs
    time.sleep(3)
    w.command("Lacuna: Pause")
    until(lambda: "the server is not running" in w.toasts(), "the message")
    assert w.messages() == []


def test_activation_without_a_supported_file_is_quick_and_starts_nothing(code_server, open_window):
    """By VS Code's own clock, in a window at rest. A machine with more to do than cores is slower by as much."""
    best = 1e9
    limit = 50 * max(1.0, os.getloadavg()[0] / os.cpu_count())
    for _ in range(4):
        # tall, because the table draws only the rows in view
        w = open_window(code_server, file="notes.txt", text="x\n", size=(1000, 1800)).focus()
        # the extensions of the editor itself start with the window, all at once
        time.sleep(3)
        w.open("a.pl", "1;\n", is_logged=False)
        row = running_extension(w)
        assert row
        best = min(best, activation_ms(row))
        assert w.messages() == []
        assert w.status_text() == ""
        w.close()
        if best < 50:
            break
    assert best < limit


def test_bad_settings_cost_a_message(start_code_server, open_window):
    code = start_code_server(settings={"lacuna.oops": 1, "lacuna.editor.extraLanguages": ["perl"]})
    w = open_window(code, file="a.pl", text="\n").wait_ready()
    sent = w.messages("initialize")[0]["params"]["initializationOptions"]
    # the server hears of its own settings only, and of none that it does not know by the extension's doing
    assert not {"server", "editor", "trace"} & set(sent)
    assert sent["proposal"]["extent"] == "auto"
    w.at_end("def multi")
    w.see(MULTI[9:])
    w.keys("Tab")
    w.see_file("\n" + MULTI)
    # VS Code hands out values of any type; the defaults stand in for them
    wrong = {
        "editor.extraLanguages": 7,
        "editor.snoozeMinutes": "x",
        "disable.languages": 7,
        "server.logLevel": "trace",
    }
    code.write_settings(**{f"lacuna.{name}": value for name, value in wrong.items()})
    w.close()
    w = open_window(code).wait_ready()
    assert next(row for row in w.messages() if row["event"] == "start")["argv"] == ["serve", "--log-level", "info"]
    choose(w, "Snooze for 5 minutes")
    until(lambda: "snoozed" in w.status_label(), "the snooze")
    menu(w, "Resume", "Disable for python")


def test_in_an_editor_that_closes_brackets_by_itself(start_code_server, open_window):
    # as VS Code is where nobody has set it otherwise
    code = start_code_server(settings={"editor.autoClosingBrackets": "languageDefined"})
    w = open_window(code, text="").wait_ready()

    def is_closed():
        # the language's brackets come some time after its documents
        w.focus()
        w.keys("Control+a", "Delete")
        w.type("x = f(")
        time.sleep(1)
        return "()" in w.page.locator(w.editor()).inner_text()

    until(is_closed, "a bracket that the editor closes")
    w.keys("Control+a", "Delete")
    # what a proposal opens is closed behind the cursor, as if it were typed
    w.at_end("table = ")
    w.see("make({")
    w.keys("Tab")
    w.see_file("table = make({})")
    w.type("a")
    w.see_file("table = make({a})")
    w.keys("Control+z")
    w.see_file("table = make({})")
    w.keys("Control+a", "Delete")
    # a proposal goes on behind a bracket that the editor has closed
    w.at_end("total = count(")
    w.see_file("total = count()")
    until(lambda: "names" in w.ghost() and "+ 1" in w.ghost(), f"the proposal around it (shown: {w.ghost()!r})")
    w.keys("Tab")
    w.see_file("total = count(names) + 1")


@pytest.mark.journey
def test_a_missing_server_is_said_and_typing_goes_on(start_code_server, open_window, tmp_path):
    code = start_code_server(settings={"lacuna.server.path": str(tmp_path / "no/such/lacuna")})
    w = open_window(code)
    until(lambda: "is not an executable" in w.toasts(), "the message", 90)
    until(lambda: "server not found" in w.status_label(), "the status")
    w.at_end("def multi")
    w.see_file("import os\n\ndef multi")
    # naming the right one is enough: no reload
    code.write_settings(**{"lacuna.server.path": str(code.path)})
    w.wait_ready()
    w.at_end("(")
    w.see(MULTI[10:])
    w.see_file("import os\n\ndef multi(")


def test_a_server_that_always_dies_is_given_up(start_code_server, open_window):
    code = start_code_server(command=[sys.executable, "-S", "-c", "import sys; sys.exit(7)"])
    w = open_window(code)
    until(lambda: "ended 6 times" in w.status_label(), "giving up", 60)
    w.at_end("def multi")
    w.see_file("import os\n\ndef multi")


@pytest.mark.parametrize("path", [None, "${workspaceFolder}/.venv/bin/lacuna", "link/.venv/bin/lacuna"])
def test_an_untrusted_workspace_starts_nothing_of_its_own(start_code_server, open_window, tmp_path, path):
    """Neither by its settings nor by a program that lies in it, by whatever name the user's own setting calls that."""
    path = str(tmp_path / path) if path and path.startswith("link") else path
    (tmp_path / "link").symlink_to("evil")
    code = start_code_server(trust=False, settings={"lacuna.server.path": path})
    mark = tmp_path / "started"
    evil = f"#!/bin/sh\ntouch {mark}\n"
    folder = tmp_path / "evil"
    more = {
        ".venv/bin/lacuna": evil,
        ".vscode/settings.json": json.dumps({"lacuna.server.path": str(folder / ".venv/bin/lacuna")}),
    }
    for name, content in more.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
    (folder / ".venv/bin/lacuna").chmod(0o755)
    w = open_window(code, "evil")
    until(lambda: "Restricted Mode" in w.page.locator(".statusbar").inner_text(), "the restricted mode", 90)
    until(lambda: "server not found" in w.status_label() or "was not found" in w.toasts(), "the status", 90)
    assert not mark.exists()
    w.at_end("x = 1")
    w.see_file("import os\n\nx = 1")
    assert not mark.exists()


def with_variables(**variables):
    return ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()), *FAKE]


def test_text_typed_while_the_server_starts_is_asked_for_once(start_code_server, open_window):
    code = start_code_server(command=with_variables(FAKE_INIT_MS=6000))
    w = open_window(code)
    until(lambda: w.messages("initialize"), "the start", 90)
    w.at_end("def multi")
    assert w.messages("textDocument/didOpen") == []
    w.see(MULTI[9:])
    (request,) = w.messages("textDocument/inlineCompletion")
    # nobody asked by hand: the settings for automatic proposals hold
    assert request["params"]["context"]["triggerKind"] == 2
    w.keys("Tab")
    w.see_file("import os\n\n" + MULTI)
    w.close()
    # and nothing is asked where nothing was typed
    w = open_window(code)
    until(lambda: w.messages("initialize"), "the start", 90)
    w.at_end()
    w.wait_ready()
    time.sleep(1)
    assert w.requests() == 0


def test_a_server_that_never_answers_can_be_restarted(start_code_server, open_window, tmp_path):
    mark = tmp_path / "mark"
    script = f'if [ ! -e "{mark}" ]; then echo $$ > "{mark}"; exec sleep 1000; fi; exec "$@"'
    code = start_code_server(command=["/bin/sh", "-c", script, "sh", *FAKE])
    w = open_window(code)
    until(lambda: mark.exists() and mark.read_text().strip(), "the first server", 90)
    hung = int(mark.read_text())
    w.focus()
    w.command("Lacuna: Restart the Server")
    w.wait_ready()
    assert len(w.server_pids()) == 1
    until(lambda: not psutil.pid_exists(hung), "the end of the first server")
    # what was asked for is no error to be told of
    assert "couldn't create connection" not in w.toasts()


def test_a_language_is_switched_where_the_settings_say_so(start_code_server, open_window, tmp_path):
    # a server that is too busy to tell its status does not keep the menu waiting
    code = start_code_server(command=with_variables(FAKE_STATUS_MS=600000))
    off = {"lacuna.languages": {"python": {"enable": False, "proposal.extent": "line"}}}
    more = {".vscode/settings.json": json.dumps(off), "b.pl": "\n"}
    w = open_window(code, more=more).wait_ready()

    def settings(file):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(file.read_text())
        return {}

    choose(w, "Enable for python")
    here = w.folder / ".vscode/settings.json"
    rest = {"lacuna.languages": {"python": {"proposal.extent": "line"}}}
    until(lambda: settings(here) == rest, f"the folder's setting (now: {settings(here)})")
    choose(w, "Disable for python")
    user = code.settings_files[0]
    until(lambda: settings(user).get("lacuna.languages") == {"python": {"enable": False}}, "the user's setting")
    w.open("b.pl", None, is_logged=False)
    choose(w, "Enable for perl")
    until(lambda: settings(user).get("lacuna.editor.extraLanguages") == ["perl"], "the list")
    # the server hears of it
    w.open("b.pl", None)


def test_the_block_of_a_language_in_the_settings_counts(start_code_server, open_window):
    """`"[python]"`: the server gets it as an entry of `languages`, which wins where both say something."""
    block = {"[python]": {"lacuna.enable": False, "lacuna.proposal.extent": "line"}}
    settings = {"lacuna.languages": {"python": {"proposal.extent": "block"}}}
    code = start_code_server(command=with_variables(FAKE_PULL=1), settings=settings)
    w = open_window(code, more={".vscode/settings.json": json.dumps(block)}).wait_ready()

    def told():
        """Of each time that the server was told the settings: of all, and of the folder."""
        return [[each["languages"] for each in row["result"]] for row in w.messages() if row["event"] == "pulled"]

    want = {"python": {"enable": False, "proposal.extent": "block"}}
    assert w.messages("initialize")[0]["params"]["initializationOptions"]["languages"] == want
    until(lambda: [want, want] in told(), f"the settings (told: {told()})")
    # the menu knows what the block says, and overrules it
    for label, is_on in (("Enable", True), ("Disable", False), ("Enable", True)):
        choose(w, f"{label} for python")
        want = {"python": {"enable": is_on, "proposal.extent": "block"}}
        until(lambda want=want: told()[-1] == [want, want], f"{label} (told: {told()})")
    (w.folder / ".vscode/settings.json").write_text(json.dumps({"[python]": {"lacuna.trigger.automatic": False}}))
    want = {"python": {"trigger.automatic": False, "enable": True, "proposal.extent": "block"}}
    until(lambda: told()[-1] == [want, want], f"the block alone (told: {told()})")


PYTHON_EXTENSION = """
const vscode = require('vscode');
exports.activate = () => {
  const changed = new vscode.EventEmitter();
  let folder = process.env.HOME + '/first';
  vscode.commands.registerCommand('python.other', () => {
    folder = process.env.HOME;
    changed.fire({});
  });
  return { environments: {
    getActiveEnvironmentPath: () => ({ path: folder }),
    resolveEnvironment: async () => ({ executable: { uri: vscode.Uri.file(folder + '/bin/python') } }),
    onDidChangeActiveEnvironmentPath: changed.event,
  } };
};
"""


def test_the_selected_python_environment_is_used_and_followed(start_code_server, open_window, tmp_path):
    manifest = {
        "name": "python",
        "publisher": "ms-python",
        "version": "1.0.0",
        "engines": {"vscode": "^1.91.0"},
        "main": "./main.js",
        "contributes": {"commands": [{"command": "python.other", "title": "Take the Other Environment"}]},
    }
    vsix = tmp_path / "python.vsix"
    with zipfile.ZipFile(vsix, "w") as archive:
        archive.writestr("extension/package.json", json.dumps(manifest))
        archive.writestr("extension/main.js", PYTHON_EXTENSION)
    # the launcher lies in the second environment
    code = start_code_server(settings={"lacuna.server.path": None}, extensions=[vsix])
    w = open_window(code)
    until(lambda: "server not found" in w.status_label(), "the status", 90)
    w.focus()
    w.command("Take the Other Environment")
    w.wait_ready()


def test_a_trusted_workspace_brings_its_environment(start_code_server, open_window, tmp_path):
    code = start_code_server(settings={"lacuna.server.path": None})
    with_environment(tmp_path / "project")
    w = open_window(code, "project").wait_ready()
    w.at_end("def multi")
    w.see(MULTI[9:])
    w.keys("Tab")
    w.see_file("import os\n\n" + MULTI)


def test_a_folder_that_is_added_brings_its_environment(start_code_server, open_window, tmp_path):
    code = start_code_server(settings={"lacuna.server.path": None})
    workspace = tmp_path / "some.code-workspace"
    workspace.write_text(json.dumps({"folders": [{"path": "one"}]}))
    w = open_window(code, "one", workspace=workspace)
    until(lambda: "server not found" in w.status_label(), "the status", 90)
    with_environment(tmp_path / "two")
    workspace.write_text(json.dumps({"folders": [{"path": "one"}, {"path": "two"}]}))
    w.wait_ready()


def with_environment(folder):
    """A folder whose own environment has the fake server."""
    program = folder / ".venv/bin/lacuna"
    program.parent.mkdir(parents=True)
    quoted = " ".join(f"'{part}'" for part in FAKE)
    program.write_text(f'#!/bin/sh\nexport FAKE_LOG="${{PWD}}.log"\nexec {quoted} "$@"\n')
    program.chmod(0o755)


def wheel(folder):
    """A package with the name of the server and its console script, which runs the fake one."""
    path = folder / "lacuna_ls-9.9-py3-none-any.whl"
    quoted = repr([*FAKE, "serve"])
    code = "import os\ndef main():\n    os.environ['FAKE_LOG'] = os.getcwd() + '.log'\n"
    code += f"    os.execv({FAKE[0]!r}, {quoted})\n"
    info = "lacuna_ls-9.9.dist-info"
    files = {
        "fake_lacuna.py": code,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: lacuna-ls\nVersion: 9.9\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nlacuna = fake_lacuna:main\n",
    }
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content.encode())}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_the_server_is_installed_after_consent(start_code_server, open_window, tmp_path):
    package = wheel(tmp_path)
    code = start_code_server(settings={"lacuna.server.path": None, "lacuna.server.package": str(package)})
    w = open_window(code)
    until(lambda: "was not found" in w.toasts(), "the offer", 90)
    w.page.get_by_role("button", name="Install…").click()
    dialog = w.page.locator(".monaco-dialog-box")
    dialog.wait_for()
    assert str(package) in dialog.inner_text()
    assert w.messages() == []
    dialog.get_by_role("button", name="Install", exact=True).click()
    w.wait_ready()
    w.at_end("def multi")
    w.see(MULTI[9:])
    w.keys("Tab")
    w.see_file("import os\n\n" + MULTI)


def test_several_folders(code_server, open_window, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("import os\n\n")
    workspace = tmp_path / "both.code-workspace"
    workspace.write_text(json.dumps({"folders": [{"path": "one"}, {"path": "two"}]}))
    w = open_window(code_server, "one", text="import os\n\n", workspace=workspace).wait_ready()
    folders = [one["name"] for one in w.messages("initialize")[0]["params"]["workspaceFolders"]]
    assert folders == ["one", "two"]
    w.at_end("def multi")
    w.see(MULTI[9:])
    w.keys("Tab")
    w.see_file("import os\n\n" + MULTI)


def test_a_notebook_cell(code_server, open_window):
    w = open_window(code_server, file="notes.txt", text="", size=(1200, 700)).focus()
    w.open("a.ipynb", notebook("import os\n"))
    until(lambda: "fake" in w.status_label(), "a ready status", 90)
    w.page.click(".notebookOverlay .monaco-editor .view-lines")
    w.keys("Control+End")
    w.type("def multi")
    w.see(MULTI[9:])
    w.keys("Tab")

    def saved():
        w.save()
        time.sleep(0.2)
        return "".join(json.loads(w.file.read_text())["cells"][0]["source"]) == "import os\n" + MULTI

    until(saved, "the saved cell")


def test_a_failure_leaves_a_picture_and_the_logs(code_server, open_window, tmp_path):
    w = open_window(code_server).wait_ready()
    w.keep_evidence("tests/x.py::test_it[a b]", tmp_path / "failed")
    assert sorted(file.name for file in (tmp_path / "failed").iterdir()) == [
        "tests_x_py_test_it_a_b.png",
        "tests_x_py_test_it_a_b.txt",
    ]
    assert (tmp_path / "failed/tests_x_py_test_it_a_b.png").read_bytes().startswith(b"\x89PNG")
    told = (tmp_path / "failed/tests_x_py_test_it_a_b.txt").read_text()
    # the status bar, the server's log, and code-server's own; the extension's is there where spdlog could be built
    for part in ("status: Lacuna, fake", "textDocument/didOpen", "Extension Host Process"):
        assert part in told
    if list(code_server.user.rglob("Lacuna.log")):
        assert f"server: {code_server.path}" in told
