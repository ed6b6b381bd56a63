"""Neovim with the real server and the embedded model: what a user gets after installing both."""

import os
import re
import shutil
import signal
import time

import psutil
import pytest
from conftest import missing
from nvim_driver import Terminal, until
from real_server import BODY, BODY_ROWS, EASY, ENVIRONMENT, HOLES, LACUNA, SETTINGS, last_key
from test_nvim_edits import PREVIEW

pytestmark = [pytest.mark.editor, pytest.mark.slow]


@pytest.fixture
def real(nvim):
    """Neovim with the real server, its model loaded."""

    def start(**options):
        settings = {**SETTINGS, **options.pop("settings", {})}
        options.setdefault("text", "\n")
        editor = nvim(
            cmd=[str(LACUNA), "serve"],
            config={"settings": settings},
            # indentation is the test's here
            init="vim.cmd('filetype indent off')\nvim.o.autoindent = false\n" + options.pop("init", ""),
            env=ENVIRONMENT,
            **options,
        )
        until(
            lambda: (editor.lua("return require('lacuna.server').status") or {}).get("kind") == "normal", "a model", 90
        )
        return editor

    return start


def set_text(editor, text):
    editor.keys("<Esc>")
    editor.lua("vim.api.nvim_buf_set_lines(0, 0, -1, false, vim.split(..., '\\n'))", text)
    editor.lua("vim.api.nvim_win_set_cursor(0, { vim.api.nvim_buf_line_count(0), 0 })")


def proposed(editor, fits=bool):
    """Type easy code until something that fits is proposed. The text before it, and the proposal."""
    for text in EASY:
        set_text(editor, text[:-1])
        editor.keys("A")
        editor.type(last_key(text))
        end = time.monotonic() + 12
        while time.monotonic() < end:
            if ghost := editor.ghost_text():
                if fits(ghost):
                    return editor.text, ghost
                break
            time.sleep(0.02)
    raise AssertionError(f"nothing that fits was proposed for any of {len(EASY)} easy texts")


@pytest.mark.journey
def test_a_proposal_of_the_model_is_accepted_and_undone(real):
    ed = real()
    before, ghost = proposed(ed)
    assert ghost.strip()
    ed.keys("<Tab>")
    ed.see_text(before + ghost)
    ed.keys("<Esc>", "u")
    ed.see_text(before)
    status = ed.lua("return require('lacuna').statusline()")
    assert status.startswith("lacuna ")
    assert status.endswith(" ms")


@pytest.mark.journey
def test_pieces_of_the_model_s_proposal(real):
    ed = real()
    before, ghost = proposed(ed)
    taken = 0
    while taken < len(ghost):
        ed.keys("<M-w>")
        until(lambda taken=taken: len(ed.text) > len(before) + taken, "the next word")
        taken = len(ed.text) - len(before)
        assert ed.text == before + ghost[:taken]
        if taken < len(ghost):
            assert ed.ghost_text() == ghost[taken:]
    assert ed.text == before + ghost


@pytest.mark.journey
def test_lines_of_the_model_s_proposal(real):
    ed = real()
    before, ghost = proposed(ed)
    first, *others = ghost.split("\n")
    steps = [step for step in [first, *("\n" + other for other in others)] if step]
    for n in range(len(steps)):
        ed.keys("<M-l>")
        ed.see_text(before + "".join(steps[: n + 1]))
        assert ed.ghost_text() == ("".join(steps[n + 1 :]) or None)


@pytest.mark.journey
def test_alternatives_of_the_model_are_cycled(real):
    ed = real(settings={"proposal": {**SETTINGS["proposal"], "alternatives": 3}})
    before, ghost = proposed(ed, lambda ghost: re.search(r" \(1/\d\)$", ghost))
    count = int(ghost[-2])
    seen = [ghost]
    for n in range(2, count + 1):
        ed.keys("<M-]>")
        until(lambda n=n: (ed.ghost_text() or "").endswith(f" ({n}/{count})"), "the next alternative")
        seen.append(ed.ghost_text())
    bare = [text.rpartition(" (")[0] for text in seen]
    assert len(set(bare)) == count
    ed.keys("<M-]>")
    ed.see(seen[0])
    ed.keys("<M-[>")
    ed.see(seen[-1])
    ed.keys("<Tab>")
    ed.see_text(before + bare[-1])


@pytest.mark.journey
def test_typing_along_and_dismissing(real):
    ed = real()
    before, ghost = proposed(ed)
    for count, char in enumerate(ghost[:-1], start=1):
        ed.type(char)
        assert ed.ghost_text() == ghost[count:]
    ed.keys("<C-]>")
    ed.see_none()
    assert ed.text == before + ghost[:-1]


def previewed(editor, command):
    """The first file with holes for which the model has an answer: its text, and what the preview shows."""
    for text in HOLES:
        set_text(editor, text.rstrip("\n"))
        row = text.split("\n").index(next(line for line in text.split("\n") if line.strip() == "..."))
        editor.lua("vim.api.nvim_win_set_cursor(0, { ..., 8 })", row + 1)
        editor.vim.command("messages clear")
        editor.vim.command(command)
        until(
            lambda: (
                editor.lua("return require('lacuna.preview').is_open()")
                or "Lacuna: fill" in editor.lua("return vim.fn.execute('messages')")
            ),
            "an answer",
            60,
        )
        if editor.lua("return require('lacuna.preview').is_open()"):
            return editor.text, editor.lua(PREVIEW)
    raise AssertionError(f"no hole was filled in any of {len(HOLES)} texts")


@pytest.mark.journey
@pytest.mark.parametrize("command", ["Lacuna fill", "Lacuna fillall"])
def test_holes_are_filled_by_the_model(real, command):
    ed = real()
    before, (struck, added) = previewed(ed, command)
    assert set(map(str.strip, struck)) == {"..."}
    assert any(line.strip() for line in added)
    assert ed.text == before
    ed.keys("<CR>")
    until(lambda: ed.text != before, "the edit")
    after = ed.text
    for line in added:
        assert line in after.split("\n")
    assert after.count("...") == before.count("...") - len(struck)
    compile(after, "a.py", "exec")
    ed.keys("u")
    ed.see_text(before)


@pytest.mark.journey
def test_what_the_model_would_fill_in_is_refused(real):
    ed = real()
    before, (struck, _) = previewed(ed, "Lacuna fillall")
    for _ in struck:
        ed.keys("<S-Tab>")
    until(lambda: ed.lua("return not require('lacuna.preview').is_open()"), "the end of the preview")
    assert ed.lua(PREVIEW) == [[], []]
    assert ed.text == before


@pytest.mark.journey
def test_a_selection_is_rewritten_by_the_model(real):
    ed = real()
    set_text(ed, BODY.rstrip("\n"))
    for row in BODY_ROWS:
        ed.vim.command("messages clear")
        ed.vim.command(f"{row + 1}Lacuna rewrite")
        until(
            lambda: (
                ed.lua("return require('lacuna.preview').is_open()")
                or "Lacuna: rewrite" in ed.lua("return vim.fn.execute('messages')")
            ),
            "an answer",
            60,
        )
        if ed.lua("return require('lacuna.preview').is_open()"):
            break
    before, (_, added) = ed.text, ed.lua(PREVIEW)
    assert added, "the model rewrote nothing"
    ed.keys("<CR>")
    until(lambda: ed.text != before, "the edit")
    for line in added:
        assert line in ed.text.split("\n")
    ed.keys("u")
    ed.see_text(before)


def test_a_rename_is_carried_on(real):
    """The user's own word in other places: known without a model, so the bytes are known too."""
    ed = real(text="def area(width, height):\n    size = width * height\n    print(size)\n    return size\n")
    ed.keys("2G", "w", "c", "w")
    ed.type("total")
    ed.keys("<Esc>")
    ed.see_text("def area(width, height):\n    total = width * height\n    print(size)\n    return size")
    ed.keys("<M-e>")
    until(lambda: ed.lua("return require('lacuna.preview').is_open()"), "the next edit", 90)
    ed.keys("<CR>")
    ed.see_text("def area(width, height):\n    total = width * height\n    print(total)\n    return total")


@pytest.mark.journey
def test_a_killed_server_comes_back_with_its_model(real):
    ed = real()
    pid = ed.lua("return vim.lsp.get_clients({ name = 'lacuna' })[1].rpc.pid") or server_pid(ed)
    os.kill(pid, signal.SIGKILL)
    until(lambda: server_pid(ed) not in (None, pid), "a new server", 90)
    before, ghost = proposed(ed)
    ed.keys("<Tab>")
    ed.see_text(before + ghost)
    child = server_pid(ed)
    ed.close()
    until(lambda: not psutil.pid_exists(child), "the end of the server")


def server_pid(editor):
    """The one child of the editor, or None."""
    children = psutil.Process(editor.vim.call("getpid")).children()
    return children[0].pid if children else None


@pytest.mark.journey
def test_a_setting_that_the_server_refuses_is_said(real):
    ed = real(settings={"proposal": {"extent": "galaxy", "deadlineMs": 30000}})
    until(lambda: "lacuna.proposal.extent" in ed.lua("return vim.fn.execute('messages')"), "the message")
    before, ghost = proposed(ed)
    ed.keys("<Tab>")
    ed.see_text(before + ghost)


@pytest.mark.journey
def test_a_real_terminal_shows_the_model_s_proposal(real, tmp_path):
    tmux = shutil.which("tmux")
    if not tmux:
        missing("no tmux")
    # said in the status line when the model is there
    line = "vim.o.statusline = \"%{%luaeval('(require([[lacuna.server]]).status or {}).kind or [[]]')%}\"\n"
    ed = real(init=f"{line}vim.o.laststatus = 2\n")
    before, ghost = proposed(ed)
    file = tmp_path / "t.py"
    file.write_text(before[:-1])
    with Terminal(tmux, ed, file, tmp_path) as terminal:
        until(lambda: before.split("\n")[0][:-1] in terminal.screen()[0], "the screen")
        until(lambda: terminal.screen()[-2] == "normal", "a model", 90)
        terminal.keys("GA")
        terminal.type(before[-1])
        whole = [line.rstrip() for line in (before + ghost).split("\n")]
        until(lambda: terminal.screen()[: len(whole)] == whole, "the text on the screen", 90)
        terminal.keys("Tab", "Escape")
        time.sleep(0.1)
        terminal.keys(":wq", "Enter")
        until(lambda: file.read_text() == before + ghost + "\n", "the saved file")


CORE = """
vim.lsp.config('lacuna', {
  cmd = { vim.env.LACUNA, 'serve' }, filetypes = { 'python' }, settings = vim.json.decode(vim.env.LACUNA_SETTINGS),
})
vim.lsp.enable('lacuna')
vim.lsp.inline_completion.enable()
vim.keymap.set('i', '<Tab>', function()
  if not vim.lsp.inline_completion.get() then return '<Tab>' end
end, { expr = true })
vim.cmd('filetype indent off')
vim.o.autoindent = false
"""


def test_the_core_client_and_the_real_server(nvim):
    import json

    env = {**ENVIRONMENT, "LACUNA": str(LACUNA), "LACUNA_SETTINGS": json.dumps({"lacuna": SETTINGS})}
    ed = nvim(plugin=False, init=CORE, env=env, text="\n", wait=False)
    until(
        lambda: ed.lua("return #vim.api.nvim_get_autocmds({ event = 'InsertEnter', buffer = 0 }) > 0"), "attaching", 60
    )
    name = "nvim.lsp.inline_completion"
    for text in EASY:
        set_text(ed, text[:-1])
        ed.keys("A")
        ed.type(last_key(text))
        end = time.monotonic() + 12
        while time.monotonic() < end and not (ed.ghost(name) or [0, 0, ""])[2].strip():
            time.sleep(0.02)
        if ghost := (ed.ghost(name) or [0, 0, ""])[2]:
            break
    assert ghost.strip()
    before = ed.text
    ed.keys("<Tab>")
    ed.see_text(before + ghost)
