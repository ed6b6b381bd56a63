"""Starts a real Neovim with the plugin and drives it: keys in, buffer bytes and extmarks out."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pynvim

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "editors/neovim"
NVIM = Path(os.environ.get("LACUNA_NVIM", ROOT / ".editors/nvim/usr/bin/nvim"))
FAILED = ROOT / ".editors/failed"
"""Where the traces of failed tests are kept; git ignores it."""
FAKE = [sys.executable, "-S", "-E", str(ROOT / "tests/support/fake_lsp_server.py")]

INIT = """
vim.o.swapfile = false
vim.o.shadafile = 'NONE'
vim.o.more = false
-- looking for a Python provider takes a second, and nothing here wants one
vim.g.loaded_python3_provider = 0
vim.o.shortmess = vim.o.shortmess .. 'I'
vim.cmd('filetype plugin indent on')
"""
WITH_PLUGIN = "vim.opt.runtimepath:prepend(vim.env.LACUNA_PLUGIN)\n"

GHOST = """
local name = ... or 'lacuna.ghost'
local ns = vim.api.nvim_get_namespaces()[name]
local mark = ns and vim.api.nvim_buf_get_extmarks(0, ns, 0, -1, { details = true })[1]
if not mark then return nil end
local rows = {}
for _, line in ipairs({ mark[4].virt_text or {}, unpack(mark[4].virt_lines or {}) }) do
  rows[#rows + 1] = table.concat(vim.tbl_map(function(chunk) return chunk[1] end, line))
end
return { mark[2], mark[3], table.concat(rows, '\\n') }
"""


def until(ask, what="it", seconds=40.0):
    """The first true value of ask(), polled; an AssertionError that says what was waited for.

    Patience costs nothing when all is well, and a machine with a dozen other jobs needs it.
    """
    end = time.monotonic() + seconds
    value = None
    while time.monotonic() < end:
        value = ask()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {seconds} s; last seen: {value!r}")


def ends(files, lines=60):
    """The last lines of each file, under its name, for a person who looks for a fault."""
    parts = []
    for file in files:
        text = Path(file).read_text(errors="replace") if Path(file).exists() else "(no such file)"
        parts.append(f"\n== {file}\n" + "\n".join(line[:1000] for line in text.split("\n")[-lines:]))
    return "\n".join(parts)


class Neovim:
    """One editor process. Its server's log (of the fake server) is read from `messages`."""

    def __init__(
        self, folder, *, config=None, cmd=FAKE, file="a.py", text="import os\n\n", init="", plugin=True, env=()
    ):
        self.folder = Path(folder)
        self.log = self.folder / "fake.log"
        self.rows, self.read_to = [], 0
        self.file = self.folder / file
        self.file.write_bytes(text.encode())
        config = dict(config or {})
        if cmd is not None:
            config.setdefault("cmd", list(cmd))
        script = INIT + f"vim.g.lacuna = vim.json.decode([==[{json.dumps(config)}]==])\n"
        self.init = self.folder / "init.lua"
        self.init.write_text(script + (WITH_PLUGIN if plugin else "") + init)
        environment = {
            **os.environ,
            **{f"XDG_{kind}_HOME": str(self.folder / kind.lower()) for kind in ("STATE", "DATA", "CACHE", "CONFIG")},
            "FAKE_LOG": str(self.log),
            "LACUNA_PLUGIN": str(PLUGIN),
            "NVIM_LOG_FILE": str(self.folder / "nvim.log"),
            **dict(env),
        }
        environment.pop("VIRTUAL_ENV", None)
        self.environment = environment
        self.is_closed = False
        argv = [str(NVIM), "--clean", "-u", str(self.init), "--embed", "--headless", str(self.file)]
        saved = dict(os.environ)
        os.environ.clear()
        os.environ.update(environment)
        try:
            self.vim = pynvim.attach("child", argv=argv)
        finally:
            os.environ.clear()
            os.environ.update(saved)

    def lua(self, code, *args):
        return self.vim.exec_lua(code, *args)

    def keys(self, *keys):
        for key in keys:
            self.vim.input(key)

    def type(self, text):
        """One key at a time, each handled before the next: what a user does, and what fires every autocommand."""
        for char in text:
            self.vim.input({"<": "<lt>", "\n": "<CR>", "\t": "<Tab>"}.get(char, char))
            self.vim.eval("1")

    def wait_ready(self):
        until(
            lambda: self.lua(
                "return #vim.api.nvim_get_autocmds({ event = 'TextChangedI', buffer = 0 }) > 0 "
                "and #vim.lsp.get_clients({ name = 'lacuna', bufnr = 0 }) > 0"
            ),
            "attaching the server",
            90,
        )
        return self

    def ghost(self, namespace="lacuna.ghost"):
        return self.lua(GHOST, namespace)

    def ghost_text(self):
        found = self.ghost()
        return found[2] if found else None

    def see(self, text, seconds=40.0):
        until(lambda: self.ghost_text() == text, f"ghost text {text!r} (shown: {self.ghost_text()!r})", seconds)

    def see_none(self, seconds=40.0):
        until(lambda: self.ghost_text() is None, "no ghost text", seconds)

    @property
    def text(self):
        return "\n".join(self.vim.current.buffer[:])

    def see_text(self, text, seconds=40.0):
        try:
            until(lambda: self.text == text, "the text", seconds)
        except AssertionError:
            assert self.text == text
            raise

    def messages(self, method=None):
        if self.log.exists():
            with self.log.open("rb") as file:
                file.seek(self.read_to)
                # a line without its end is still being written
                whole, end, _ = file.read().rpartition(b"\n")
            self.read_to += len(whole + end)
            self.rows += [json.loads(line) for line in whole.splitlines()]
        if method is None:
            return list(self.rows)
        return [row for row in self.rows if row["event"] == "message" and row.get("method") == method]

    def requests(self):
        return len(self.messages("textDocument/inlineCompletion"))

    def settle(self):
        """Until all that the editor has sent so far stands in the log: a later message stands there."""
        count = len(self.messages("lacuna/metrics"))
        self.lua("require('lacuna.server').request('lacuna/metrics', vim.empty_dict())")
        until(lambda: len(self.messages("lacuna/metrics")) > count, "a message sent after all others")

    def wait_answered(self, character):
        """Until the server has answered for the place after so many characters of the line."""

        def answered():
            sent = self.messages("textDocument/inlineCompletion")
            asked = sent and sent[-1]["params"]["position"]["character"] == character
            return asked and any(row["event"] == "answer" and row["id"] == sent[-1]["id"] for row in self.messages())

        until(answered, f"the answer for character {character}")

    def server_pids(self):
        return [row["pid"] for row in self.messages() if row["event"] == "start"]

    def keep_evidence(self, name, folder=FAILED):
        """The buffer, the messages, and the ends of the logs."""
        folder.mkdir(parents=True, exist_ok=True)
        told = ["the editor was gone"]
        with contextlib.suppress(OSError, EOFError, pynvim.NvimError):
            told = [f"ghost text: {self.ghost()}", f"messages: {self.vim.command_output('messages')}", self.text]
        stem = re.sub(r"\W+", "_", name).strip("_")[-150:]
        logs = [self.log, self.folder / "nvim.log", self.folder / "state/nvim/lsp.log"]
        (folder / f"{stem}.txt").write_text("\n".join(told) + "\n" + ends(logs))

    def close(self):
        if self.is_closed:
            return
        self.is_closed = True
        with contextlib.suppress(OSError, EOFError):
            self.vim.command("qa!")
        self.vim.close()


class Terminal:
    """Neovim in a terminal of its own, as a person runs it, configured as an editor that was started before."""

    def __init__(self, tmux, editor, file, folder, env=()):
        self.environment = {**editor.environment, "LANG": "C.UTF-8", "TERM": "xterm-256color", **dict(env)}
        self.command = [tmux, "-S", str(folder / "tmux.sock"), "-f", "/dev/null"]
        start = ["new-session", "-d", "-x", "100", "-y", "20"]
        self.run(*start, str(NVIM), "--clean", "-u", str(editor.init), str(file))

    def run(self, *arguments, check=True):
        command = [*self.command, *arguments]
        return subprocess.run(command, env=self.environment, check=check, capture_output=True, text=True).stdout

    def keys(self, *keys):
        self.run("send-keys", *keys)

    def type(self, text):
        for char in text:
            self.run("send-keys", "-l", char)

    def screen(self):
        return [line.rstrip() for line in self.run("capture-pane", "-p").splitlines()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.run("kill-server", check=False)
