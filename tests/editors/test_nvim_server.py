"""Neovim and its server: found, started when needed, missing, killed, wrongly set, stopped; and no process left."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from nvim_driver import FAKE, NVIM, PLUGIN, ROOT, Terminal, until

pytestmark = [pytest.mark.editor]

MULTI = "def multi(a, b):\n    x = a\n    return x + b"


def open_line(editor, text):
    editor.keys("G", "o")
    editor.type(text)


def notifications(editor):
    return editor.lua("return vim.fn.execute('messages')")


def clients(editor):
    return editor.lua("return #vim.lsp.get_clients({ name = 'lacuna' })")


def test_nothing_starts_for_a_file_of_another_type(nvim):
    ed = nvim(file="notes.txt", text="x\n", wait=False)
    ed.keys("G", "o")
    ed.type("def multi")
    until(lambda: ed.vim.vvars["vim_did_enter"], "the end of the start")
    assert clients(ed) == 0
    assert ed.messages() == []
    assert ed.lua("return package.loaded['lacuna.ghost'] == nil and package.loaded['lacuna.server'] == nil")
    assert ed.text == "x\ndef multi"


def test_a_file_type_can_be_added(nvim):
    ed = nvim(file="notes.txt", text="x\n", config={"filetypes": ["text"]})
    open_line(ed, "def multi")
    ed.see(MULTI[9:])


def test_disabled_by_its_setting(nvim):
    ed = nvim(config={"enabled": False}, wait=False)
    ed.keys("G", "o")
    ed.type("def multi")
    until(lambda: ed.vim.vvars["vim_did_enter"], "the end of the start")
    assert clients(ed) == 0
    assert ed.text == "import os\n\ndef multi"
    # started by hand it has all that belongs to it
    ed.keys("<Esc>")
    ed.vim.command("Lacuna start")
    ed.wait_ready()
    ed.keys("a")
    ed.see(MULTI[9:])
    ed.keys("<Tab>")
    ed.see_text("import os\n\n" + MULTI)


def test_a_killed_server_comes_back(nvim):
    ed = nvim()
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    os.kill(ed.server_pids()[0], signal.SIGKILL)
    until(lambda: len(ed.server_pids()) == 2, "a second server")
    # it is asked again in the same insert mode, without a further key
    ed.see(MULTI[9:])
    ed.keys("<Tab>")
    ed.see_text("import os\n\n" + MULTI)
    assert clients(ed) == 1


def test_a_server_that_always_dies_is_given_up_and_typing_goes_on(nvim):
    script = "import sys; sys.stderr.write('no model here'); sys.exit(7)"
    ed = nvim(cmd=[sys.executable, "-S", "-c", script], wait=False)
    ed.keys("G", "o")
    ed.type("def multi")
    until(lambda: (ed.lua("return require('lacuna.server').status") or {}).get("kind") == "error", "giving up", 90)
    message = ed.lua("return require('lacuna.server').status.message")
    assert "code 7" in message
    assert ":Lacuna restart" in message
    assert ed.text == "import os\n\ndef multi"
    assert ed.lua("return require('lacuna').statusline()") == "lacuna ✗"


@pytest.mark.journey
def test_a_missing_server_is_said_once(nvim):
    ed = nvim(cmd=["/no/such/lacuna", "serve"], wait=False)
    until(lambda: "server not found" in notifications(ed), "the message")
    ed.vim.command("edit " + str(ed.file.with_name("b.py")))
    ed.keys("i")
    ed.type("def multi")
    assert notifications(ed).count("server not found") == 1
    assert ed.text == "def multi"
    ed.keys("<Esc>")
    # but once more to whoever asks for it
    ed.vim.command("Lacuna start")
    assert notifications(ed).count("server not found") == 2
    ed.vim.command("checkhealth lacuna")
    report = "\n".join(ed.vim.current.buffer[:])
    assert "/no/such/lacuna" in report
    assert f"pip install {ROOT}" in report


def test_the_server_is_installed_from_the_repository_that_the_plugin_lies_in(nvim, tmp_path):
    """By a python3 that only writes down what it is asked, and leaves a launcher of the fake server."""
    log, fake = tmp_path / "asked", tmp_path / "bin/python3"
    fake.parent.mkdir()
    fake.write_text(
        f"""#!/bin/sh
echo "$@" >> {log}
case "$2" in
venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
pip) printf '#!/bin/sh\\nexec {" ".join(FAKE)} "$@"\\n' > "${{0%/*}}/lacuna" && chmod +x "${{0%/*}}/lacuna" ;;
esac
"""
    )
    fake.chmod(0o755)
    ed = nvim(cmd=None, env={"PATH": f"{fake.parent}:/usr/bin:/bin"}, wait=False)
    until(lambda: "server not found" in notifications(ed), "the message")
    ed.lua("vim.fn.confirm = function(question) vim.g.asked = question; return 2 end")
    ed.vim.command("Lacuna install")
    assert f"Install {ROOT} with pip into" in ed.vim.eval("g:asked")
    assert not log.exists(), "nobody has said yes"
    ed.lua("vim.fn.confirm = function() return 1 end")
    ed.vim.command("Lacuna install")
    until(lambda: ed.messages("initialize"), "the server")
    private = ed.lua("return require('lacuna.server').private_dir()")
    assert log.read_text().splitlines() == [f"-m venv {private}", f"-m pip install --upgrade {ROOT}"]


def test_what_an_installation_failed_for_is_said(nvim, tmp_path):
    """As Debian's Python without its venv package says it."""
    fake = tmp_path / "python3"
    fake.write_text("#!/bin/sh\necho ensurepip is not available\nexit 1\n")
    fake.chmod(0o755)
    ed = nvim(cmd=None, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, wait=False)
    ed.lua("vim.fn.confirm = function() return 1 end")
    ed.vim.command("Lacuna install")
    until(lambda: f"{fake} failed:\nensurepip is not available" in notifications(ed), "the message")


def test_on_windows_python_is_not_called_python3(nvim, tmp_path):
    for name in ("py", "python3"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\nexit 3\n')
        (tmp_path / name).chmod(0o755)
    ed = nvim(cmd=None, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, wait=False)
    until(lambda: "server not found" in notifications(ed), "the message")
    ed.lua("vim.fn.has = function(what) return what == 'win32' and 1 or 0 end")
    ed.lua("vim.fn.confirm = function() return 1 end")
    ed.vim.command("Lacuna install")
    until(lambda: "failed" in notifications(ed), "the message")
    private = ed.lua("return require('lacuna.server').private_dir()")
    assert (tmp_path / "asked").read_text() == f"py -m venv {private}\n"


def test_the_server_is_looked_for_in_the_environment_then_on_the_path(nvim, tmp_path):
    def fake_at(folder):
        folder.mkdir(parents=True)
        launcher = folder / "lacuna"
        launcher.write_text(f'#!/bin/sh\nexec {" ".join(FAKE)} {folder.parent.name} "$@"\n')
        launcher.chmod(0o755)
        return folder

    path, venv = fake_at(tmp_path / "path/bin"), fake_at(tmp_path / "venv/bin")
    search = f"{path}:/usr/bin:/bin"
    ed = nvim(cmd=None, env={"PATH": search})
    until(ed.messages, "a start")
    assert ed.messages()[0]["argv"] == ["path", "serve"]
    # the driver removes VIRTUAL_ENV; this one is set inside
    ed = nvim(cmd=None, env={"PATH": search}, init=f"vim.env.VIRTUAL_ENV = '{venv.parent}'\n")
    until(ed.messages, "a start")
    assert ed.messages()[0]["argv"] == ["venv", "serve"]
    ed = nvim(cmd=None, env={"PATH": "/usr/bin:/bin"}, wait=False)
    until(lambda: "server not found" in notifications(ed), "the message")


def test_bad_settings_cost_one_message_each(nvim):
    config = {"ghost": {"debounce_ms": "soon", "colour": "red"}, "keys": {"accept": False}, "speed": 11}
    ed = nvim(config=config)
    said = notifications(ed)
    assert 'ghost.debounce_ms must be a integer, not "soon"; using 0' in said
    assert "ghost.colour is not a setting" in said
    assert "speed is not a setting" in said
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    # keys.accept = false: Tab is nobody's
    ed.keys("<C-v>", "<Tab>")
    ed.see_text("import os\n\ndef multi\t")


def test_what_is_no_table_of_settings_no_command_and_no_key_is_said_too(nvim):
    config = {"cmd": [1], "ghost": False, "keys": {"accept": ""}, "preview": {"accept": ""}, "enabled": False}
    ed = nvim(config=config, wait=False)
    until(lambda: notifications(ed), "the messages")
    assert notifications(ed).strip().split("\n") == [
        "lacuna: cmd must be a list of strings, not { 1 }; using nil",
        "lacuna: ghost must be a table, not false; it was left out",
        'lacuna: keys.accept must be a key or false, not ""; using "<Tab>"',
        'lacuna: preview.accept must be a key or false, not ""; using "<Tab>"',
    ]


def test_settings_reach_the_server_and_can_change(nvim):
    ed = nvim(config={"settings": {"proposal": {"extent": "line"}}})
    first = until(lambda: ed.messages("initialize"))[0]["params"]["initializationOptions"]
    assert first == {"proposal": {"extent": "line"}}
    sent = until(lambda: ed.messages("workspace/didChangeConfiguration"))[0]["params"]["settings"]
    assert sent == {"lacuna": {"proposal": {"extent": "line"}}}
    ed.lua("require('lacuna.server').configure({ oops = 1 })")
    until(lambda: len(ed.messages("workspace/didChangeConfiguration")) == 2)
    until(lambda: "lacuna.oops is not an option" in notifications(ed), "the server's complaint")
    ed.lua("require('lacuna').setup({ settings = { proposal = { extent = 'block' } } })")
    sent = until(lambda: ed.messages("workspace/didChangeConfiguration")[2:])[0]["params"]["settings"]
    assert sent == {"lacuna": {"proposal": {"extent": "block"}}}
    open_line(ed, "def multi")
    ed.see(MULTI[9:])


def test_setup_is_optional_and_wins_over_the_global(nvim):
    ed = nvim(config={"keys": {"accept": "<C-a>"}}, init="require('lacuna').setup({ keys = { accept = '<C-y>' } })\n")
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.keys("<C-y>")
    ed.see_text("import os\n\n" + MULTI)


def test_stop_start_restart(nvim):
    ed = nvim()
    # the second finds the first under way
    ed.vim.command("Lacuna restart")
    ed.vim.command("Lacuna restart")
    until(lambda: len(ed.server_pids()) == 2, "a restart")
    ed.wait_ready()
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.keys("<Esc>")
    ed.vim.command("Lacuna stop")
    until(lambda: clients(ed) == 0, "the stop")
    # longer than it takes to revive one that has crashed
    time.sleep(0.4)
    assert len(ed.server_pids()) == 2
    ed.vim.command("Lacuna start")
    until(lambda: len(ed.server_pids()) == 3, "a start")
    ed.wait_ready()
    ed.keys("a")
    ed.see(MULTI[9:])
    # the ones before were asked to leave and did
    for pid in ed.server_pids()[:2]:
        until(lambda pid=pid: not psutil.pid_exists(pid), "the end of a former server")


def projects(ed, *names):
    """Opens a file in each of several projects, one after the other."""
    for name in names:
        (ed.folder / name / ".git").mkdir(parents=True)
        (ed.folder / name / "a.py").write_text("import os\n\n")
        ed.vim.command(f"edit {ed.folder / name / 'a.py'}")


def folders(ed):
    sent = ed.messages("workspace/didChangeWorkspaceFolders")
    return [folder["name"].rpartition("/")[2] for row in sent for folder in row["params"]["event"]["added"]]


def test_all_projects_have_one_server(nvim):
    ed = nvim(init="vim.o.hidden = true\n")
    projects(ed, "one", "two")
    until(lambda: len(ed.messages("textDocument/didOpen")) == 3, "three files")
    ed.vim.command(f"edit {ed.folder / 'one/b.py'}")
    until(lambda: len(ed.messages("textDocument/didOpen")) == 4, "four files")
    assert clients(ed) == 1
    assert len(ed.server_pids()) == 1
    assert folders(ed) == ["one", "two"]
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.keys("<M-w>")
    until(lambda: ed.messages("lacuna/didPartiallyAccept"), "telling of the word")
    ed.keys("<Esc>")
    ed.vim.command("Lacuna stop")
    until(lambda: clients(ed) == 0, "the stop")
    time.sleep(0.6)
    assert len(ed.server_pids()) == 1
    ed.vim.command("Lacuna start")
    until(lambda: len(ed.messages("textDocument/didOpen")) == 8, "all files again")
    assert clients(ed) == 1
    assert ed.text == "\ndef multi("


LATE = """
import os, sys, time
while not os.path.exists(sys.argv[1]): time.sleep(0.02)
os.execv(sys.argv[2], sys.argv[2:])
"""


def late(flag):
    """The command of a server that hangs until a file is there."""
    return [sys.executable, "-S", "-E", "-c", LATE, str(flag), *FAKE]


def test_a_project_opened_while_the_server_starts(nvim, tmp_path):
    ed = nvim(cmd=late(tmp_path / "go"), wait=False)
    until(lambda: len(children(ed)) == 1, "the process")
    projects(ed, "one", "two")
    (tmp_path / "go").touch()
    until(lambda: len(ed.messages("textDocument/didOpen")) == 3, "three files")
    assert folders(ed) == ["one", "two"]
    assert clients(ed) == 1
    assert ed.text == "import os\n"


def children(ed):
    return [child.pid for child in psutil.Process(ed.vim.call("getpid")).children()]


def test_a_server_that_hangs_at_its_start_is_stopped_and_restarted(nvim, tmp_path):
    ed = nvim(cmd=late(tmp_path / "go"), wait=False)
    first = until(lambda: children(ed), "the process")
    ed.vim.command("Lacuna restart")
    second = until(lambda: [pid for pid in children(ed) if pid not in first], "another process")
    until(lambda: children(ed) == second, "the end of the first")
    ed.vim.command("Lacuna stop")
    until(lambda: children(ed) == [], "the end of the second")
    time.sleep(0.6)
    assert children(ed) == []
    (tmp_path / "go").touch()
    ed.vim.command("Lacuna start")
    ed.wait_ready()
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    assert ed.text == "import os\n\ndef multi"


def test_stopped_right_after_a_crash_it_stays_away(nvim):
    ed = nvim()
    os.kill(ed.server_pids()[0], signal.SIGKILL)
    until(lambda: "starting it again" in (ed.lua("return require('lacuna.server').status.message") or ""), "the crash")
    ed.vim.command("Lacuna stop")
    time.sleep(0.6)
    assert len(ed.server_pids()) == 1
    assert clients(ed) == 0


@pytest.mark.parametrize("command", ["lua vim.lsp.enable('lacuna', false)", "lsp stop lacuna", "lsp disable lacuna"])
def test_stopped_by_the_editor_s_own_means_it_stays_away(nvim, command):
    ed = nvim()
    ed.vim.command(command)
    until(lambda: ed.lua("return (require('lacuna.server').status or {}).message") == "stopped", "the stop")
    # longer than the wait after a crash
    time.sleep(0.5)
    assert clients(ed) == 0
    assert len(ed.server_pids()) == 1
    ed.vim.command("Lacuna start")
    until(lambda: len(ed.server_pids()) == 2, "a start")
    until(lambda: clients(ed) == 1, "the client")


@pytest.mark.parametrize("command", ["write", "saveas", "file"])
def test_a_new_file_that_gets_its_name(nvim, command):
    """The editor may take the buffer for another one then, and forget its autocommands."""
    ed = nvim()
    ed.vim.command("enew")
    ed.lua("vim.keymap.set('i', '<Tab>', 'plain', { buffer = true })")
    ed.vim.command("setfiletype python")
    ed.wait_ready()
    ed.vim.command(f"{command} {ed.file.with_name('new.py')}")
    ed.wait_ready()
    uri = f"file://{ed.file.with_name('new.py')}"
    until(
        lambda: uri in [row["params"]["textDocument"]["uri"] for row in ed.messages("textDocument/didOpen")],
        "opening it under its name",
    )
    ed.keys("i")
    ed.type("def multi")
    ed.see(MULTI[9:])
    ed.keys("<Tab>")
    ed.see_text(MULTI)
    ed.keys("<CR>", "<Tab>")
    # indented by the editor
    until(lambda: ed.text.startswith(MULTI) and ed.text.endswith("plain"), "the mapping that was there before")


def test_a_file_that_gets_another_name(nvim):
    ed = nvim()
    ed.vim.command(f"file {ed.file.with_name('new.py')}")
    uris = [f"file://{ed.file.with_name(name)}" for name in ("a.py", "new.py")]

    def told(method):
        return [row["params"]["textDocument"]["uri"] for row in ed.messages(method)]

    until(lambda: told("textDocument/didOpen") == uris, "opening it under its name")
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.keys("<Esc>")
    ed.vim.command("write")
    ed.settle()
    assert told("textDocument/didOpen") == uris
    assert told("textDocument/didClose") == uris[:1]


def test_a_pause_outlives_a_crash(nvim):
    ed = nvim()
    ed.vim.command("Lacuna pause")
    until(lambda: ed.lua("return require('lacuna').statusline()") == "lacuna ⏸", "the pause")
    os.kill(ed.server_pids()[0], signal.SIGKILL)
    until(lambda: len(ed.server_pids()) == 2, "a second server")
    until(lambda: len(ed.messages("lacuna/pause")) == 2, "the pause of the second")
    until(lambda: ed.lua("return require('lacuna').statusline()") == "lacuna ⏸", "the pause")
    ed.vim.command("Lacuna resume")
    until(lambda: ed.lua("return require('lacuna').statusline()") == "lacuna", "the end of it")
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    assert ed.text == "import os\n\ndef multi"


# what lazy.nvim does with `{ url = ..., event = 'VeryLazy', main = 'lacuna', opts = {...} }`
LAZY = """
local root, opts = ...
vim.opt.runtimepath:prepend(root)
vim.cmd.source(root .. '/plugin/lacuna.lua')
require('lacuna').setup(opts)
"""


def test_the_first_screen_waits_for_no_server(nvim):
    look = "function() vim.g.at_enter = vim.lsp.is_enabled('lacuna') end"
    ed = nvim(init=f"vim.api.nvim_create_autocmd('VimEnter', {{ callback = {look} }})\n").wait_ready()
    assert ed.lua("return { vim.g.at_enter, vim.lsp.is_enabled('lacuna') }") == [False, True]


def test_loaded_after_the_file(nvim):
    ed = nvim(plugin=False, wait=False)
    until(lambda: ed.vim.vvars["vim_did_enter"], "the end of the start")
    ed.lua(LAZY, str(ROOT), {"keys": {"accept": "<C-y>"}})
    ed.wait_ready()
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.keys("<C-y>")
    ed.see_text("import os\n\n" + MULTI)
    ed.vim.command("help lacuna-install")
    assert ed.vim.eval("expand('%:t')") == "lacuna.txt"


def test_loaded_by_the_first_insert_mode(nvim):
    ed = nvim(plugin=False, wait=False)
    until(lambda: ed.vim.vvars["vim_did_enter"], "the end of the start")
    ed.keys("Go")
    until(lambda: ed.vim.eval("mode()") == "i")
    ed.lua(LAZY, str(ROOT), {})
    ed.wait_ready()
    ed.type("def multi")
    ed.see(MULTI[9:])
    ed.keys("<Tab>")
    ed.see_text("import os\n\n" + MULTI)


def test_commands_and_their_completion(nvim):
    ed = nvim()
    names = ed.vim.call("getcompletion", "Lacuna ", "cmdline")
    assert {"status", "pause", "resume", "fill", "fillall", "rewrite", "repair", "next", "snooze", "restart"} <= set(
        names
    )
    assert ed.vim.call("getcompletion", "Lacuna re", "cmdline") == ["rewrite", "repair", "refuse", "resume", "restart"]
    assert ed.vim.call("getcompletion", "Lacuna accept ", "cmdline") == ["all"]
    # as the editor lets every command be shortened
    assert ed.vim.call("getcompletion", "Lac acc", "cmdline") == ["accept"]
    ed.lua("pcall(vim.cmd, 'Lacuna nonsense')")
    until(lambda: 'no subcommand "nonsense"' in notifications(ed))
    for word in ("soon", "nan"):
        ed.lua(f"pcall(vim.cmd, 'Lacuna snooze {word}')")
        until(lambda word=word: f'snooze takes a number of minutes, not "{word}"' in notifications(ed))
    assert ed.lua("return require('lacuna').statusline()") != "lacuna zz"
    said = [ed.vim.command_output(f"Lacuna {command}") for command in ("accept", "refuse all")]
    assert said == ["lacuna: no change is previewed here"] * 2
    ed.vim.command("Lacuna metrics purge")
    assert until(lambda: ed.messages("lacuna/metrics"))[0]["params"] == {"purge": True}


def test_pause_and_resume(nvim):
    ed = nvim()
    ed.vim.command("Lacuna pause")
    until(lambda: ed.lua("return require('lacuna').statusline()") == "lacuna ⏸", "the pause")
    open_line(ed, "def multi")
    ed.wait_answered(9)
    assert ed.ghost_text() is None
    ed.keys("<Esc>")
    ed.vim.command("Lacuna resume")
    until(lambda: ed.lua("return require('lacuna').statusline()") == "lacuna", "the end of it")
    ed.keys("a")
    ed.see(MULTI[9:])
    ed.keys("<Tab>")
    ed.see_text("import os\n\n" + MULTI)


def test_snooze_and_disable(nvim):
    ed = nvim()
    ed.vim.command("Lacuna snooze")
    assert ed.lua("return require('lacuna').statusline()") == "lacuna zz"
    open_line(ed, "def multi")
    ed.settle()
    assert ed.requests() == 0
    ed.keys("<Esc>")
    ed.vim.command("Lacuna resume")
    ed.vim.command("Lacuna disable")
    ed.keys("a")
    until(lambda: ed.vim.eval("mode()") == "i")
    ed.settle()
    assert ed.requests() == 0
    ed.keys("<Esc>")
    ed.vim.command("Lacuna enable")
    ed.keys("a")
    ed.see(MULTI[9:])
    # by a key of insert mode, and no other key after it
    for off, on in (("snooze", "resume"), ("disable", "enable"), ("pause", "resume")):
        ed.keys(f"<Cmd>Lacuna {off}<CR>")
        ed.see_none()
        ed.keys(f"<Cmd>Lacuna {on}<CR>")
        ed.see(MULTI[9:])
    assert ed.text == "import os\n\ndef multi"


def test_what_is_shown_follows_a_later_setup(nvim):
    ed = nvim()
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.lua("require('lacuna').setup({ ghost = { enabled = false } })")
    ed.see_none()
    ed.type("(")
    ed.settle()
    assert ed.ghost_text() is None
    ed.lua("require('lacuna').setup({})")
    ed.see(MULTI[10:])


def test_disabled_while_a_request_is_on_its_way(nvim):
    ed = nvim(env={"FAKE_SLOW_MS": "60000"})
    ed.keys("Goslow = c")
    until(ed.requests, "the request")
    ed.lua("vim.cmd('Lacuna disable')")
    until(lambda: any(row["event"] == "cancelled" for row in ed.messages()), "a cancellation")
    assert ed.text == "import os\n\nslow = c"


def test_the_status_line_tells_the_latency(nvim):
    ed = nvim(env={"FAKE_SLOW_MS": "120"})
    ed.keys("Goslow = ")
    ed.see("compute(later)")
    line = ed.lua("return require('lacuna').statusline()")
    assert line.startswith("lacuna ")
    assert line.endswith(" ms")
    assert int(line.split()[1]) >= 120
    assert ed.text == "import os\n\nslow = "


def test_health_of_a_running_server(nvim):
    ed = nvim()
    ed.vim.command("checkhealth lacuna")
    report = "\n".join(ed.vim.current.buffer[:])
    assert "running, attached to 1 buffer(s)" in report
    assert "offers inline completion" in report
    assert "ERROR" not in report


def test_closing_the_editor_leaves_no_process(nvim):
    ed = nvim()
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    pid = ed.server_pids()[0]
    assert psutil.pid_exists(pid)
    ed.close()
    until(lambda: not psutil.pid_exists(pid), "the end of the server")


def test_a_killed_editor_leaves_no_process(nvim):
    ed = nvim()
    pid, own = ed.server_pids()[0], ed.vim.call("getpid")
    os.kill(own, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pid), "the end of the server")


def startup_ms(folder, *arguments):
    """What the editor itself measures: the whole start, and each file that it read of this plugin."""
    log = folder / "startup.log"
    log.unlink(missing_ok=True)
    environment = {**os.environ, "LACUNA_PLUGIN": str(PLUGIN), "XDG_STATE_HOME": str(folder)}
    environment["NVIM_LOG_FILE"] = str(folder / "nvim.log")
    command = [str(NVIM), "--headless", "--clean", "--startuptime", str(log), *arguments, "+qa"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    lines = log.read_text().strip().splitlines()
    # the columns are: clock, time of all that it read, time of the file itself
    own = [float(line.split()[2].rstrip(":")) for line in lines if "editors/neovim" in line]
    return float(lines[-1].split()[0]), own


def test_an_editor_start_costs_less_than_five_milliseconds(nvim_binary, tmp_path):
    """The machine may be busy: the best of many starts, in turns with and without, is the cost."""
    bare = loaded = own = 1e9
    for count in range(40):
        bare = min(bare, startup_ms(tmp_path)[0])
        total, files = startup_ms(tmp_path, "--cmd", "let &rtp = $LACUNA_PLUGIN .. ',' .. &rtp")
        assert len(files) == 1, "one file is read, the rest waits"
        loaded, own = min(loaded, total), min(own, files[0])
        if count >= 7 and own < 5 and loaded - bare < 5:
            break
    assert own < 5
    assert loaded - bare < 5


def test_help_is_generated_from_the_tables(nvim, tmp_path):
    script = PLUGIN / "scripts/help.lua"
    subprocess.run([str(NVIM), "-l", str(script), str(tmp_path / "lacuna.txt")], check=True, capture_output=True)
    for name in ("lacuna.txt", "tags"):
        assert (tmp_path / name).read_text() == (PLUGIN / "doc" / name).read_text(), f"run nvim -l {script}"
    ed = nvim()
    for topic in (":Lacuna", "lacuna-config-ghost.debounce_ms", "lacuna-settings-proposal.extent"):
        ed.vim.command(f"help {topic}")
        assert ed.vim.eval("expand('%:t')") == "lacuna.txt"


def test_vim_pack_installs_the_repository_as_it_is(nvim, tmp_path):
    """A git repository with the same two places, cloned by the editor's own package manager."""
    source = tmp_path / "lacuna"
    for part in ("plugin", "editors/neovim"):
        shutil.copytree(ROOT / part, source / part)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], cwd=source, check=True)
    # --clean keeps the user's packages out of the way; this one is wanted
    init = "vim.opt.packpath:prepend(vim.fn.stdpath('data') .. '/site')\n"
    ed = nvim(plugin=False, init=init + f"vim.pack.add({{ 'file://{source}' }}, {{ confirm = false }})\n")
    where = ed.lua("return debug.getinfo(require('lacuna').setup, 'S').source")
    assert "site/pack/core/opt/lacuna/editors/neovim" in where
    open_line(ed, "def multi")
    ed.see(MULTI[9:])
    ed.keys("<Tab>")
    ed.see_text("import os\n\n" + MULTI)


def test_a_real_terminal_shows_it(nvim, tmp_path):
    """The same in a terminal: what the user's eyes get, from tmux's screen."""
    tmux = shutil.which("tmux")
    if not tmux:
        from conftest import missing

        missing("no tmux")
    ed = nvim()
    log, file = tmp_path / "tmux.log", tmp_path / "t.py"
    file.write_text("import os\n\n")
    with Terminal(tmux, ed, file, tmp_path, {"FAKE_LOG": str(log)}) as terminal:
        until(lambda: "import os" in terminal.screen(), "the screen")
        until(lambda: log.exists() and "didOpen" in log.read_text(), "the server")
        terminal.keys("Go")
        terminal.type("def multi")
        until(lambda: terminal.screen()[2:5] == MULTI.split("\n"), "the text on the screen")
        terminal.keys("Tab", "Escape")
        time.sleep(0.1)
        terminal.keys(":wq", "Enter")
        until(lambda: file.read_text() == "import os\n\n" + MULTI + "\n", "the saved file")
