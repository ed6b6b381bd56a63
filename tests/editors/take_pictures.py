"""The pictures in docs/, taken from the real editors with the real server and the embedded model. Run by hand.

    python tests/editors/take_pictures.py [vscode] [nvim]

What the model proposes is what is shown; nothing is retouched. A picture is at most 100 KB.
"""

import html
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from nvim_driver import INIT, NVIM, PLUGIN, ROOT, WITH_PLUGIN, until
from real_server import ENVIRONMENT, LACUNA
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text
from vscode_driver import Browser, CodeServer, Window

DOCS = ROOT / "docs"
MAX_BYTES = 100_000
SOURCE = '''class Stack:
    """The last one in is the first one out."""

    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        return self.items.pop()

    def __len__(self):
        '''
TYPED = "return "
RENAME = "def area(width, height):\n    size = width * height\n    print(size)\n    return size\n"
THEME = TerminalTheme(
    (224, 226, 234),
    (40, 44, 52),
    [
        (40, 44, 52),
        (190, 60, 60),
        (60, 130, 60),
        (160, 110, 20),
        (50, 90, 170),
        (140, 60, 140),
        (20, 120, 130),
        (110, 110, 110),
    ],
)


def check(path):
    size = path.stat().st_size
    assert size <= MAX_BYTES, f"{path} has {size} bytes"
    sys.stdout.write(f"{path.relative_to(ROOT)} {size} bytes\n")


def vscode(folder):
    command = ["/usr/bin/env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), str(LACUNA)]
    settings = {
        "lacuna.engine.kind": "local",
        "lacuna.proposal.deadlineMs": 30000,
        "editor.inlineSuggest.showToolbar": "never",
        "breadcrumbs.enabled": False,
        "workbench.layoutControl.enabled": False,
    }
    code = CodeServer(folder / "code", command=command, settings=settings)
    browser = Browser()
    try:
        w = Window(code, browser, folder / "demo", file="stack.py", text=SOURCE, size=(860, 440))
        until(lambda: "embedded" in w.status_label(), "the model", 120)
        w.focus()
        w.keys("Control+b", "Control+End")
        w.type(TYPED)
        until(lambda: w.ghost().strip(), "a proposal", 30)
        time.sleep(1)
        w.page.screenshot(path=str(DOCS / "vscode-ghost.png"))
        w.page.click("[id='lacuna.lacuna.lacuna.status']")
        w.page.wait_for_selector(".quick-input-list .monaco-list-row", state="visible")
        time.sleep(0.5)
        w.page.screenshot(path=str(DOCS / "vscode-menu.png"))
        w.keys("Escape")
        w.open("area.py", RENAME, is_logged=False)
        w.focus()
        w.keys("Control+Home", "ArrowDown", "Home", "Control+Shift+ArrowRight")
        w.type("total")
        w.keys("Escape", "Control+Alt+n")
        w.page.wait_for_selector(".monaco-diff-editor", state="visible")
        time.sleep(1.5)
        w.page.screenshot(path=str(DOCS / "vscode-edit.png"))
    finally:
        browser.close()
        code.close()
    for name in ("ghost", "menu", "edit"):
        check(DOCS / f"vscode-{name}.png")


def nvim(folder):
    """A terminal: tmux's screen with its colours, drawn as it is by the browser."""
    tmux = shutil.which("tmux")
    own = {"LACUNA_PLUGIN": str(PLUGIN), "TERM": "tmux-256color", "LANG": "C.UTF-8"}
    environment = {**os.environ, **ENVIRONMENT, **own}
    environment |= {f"XDG_{kind}_HOME": str(folder / kind) for kind in ("STATE", "DATA", "CACHE", "CONFIG")}
    config = f"vim.g.lacuna = {{ cmd = {{ '{LACUNA}', 'serve' }}, settings = {{ engine = {{ kind = 'local' }} }} }}\n"
    look = "vim.o.background = 'light'\nvim.o.termguicolors = true\nvim.o.number = true\nvim.o.laststatus = 2\n"
    look += "vim.o.statusline = \" %t %m%=%{%v:lua.require'lacuna'.statusline()%} \"\n"
    (folder / "init.lua").write_text(INIT + config + WITH_PLUGIN + look)
    (folder / "stack.py").write_text(SOURCE + "\n")
    (folder / "area.py").write_text(RENAME)
    socket = str(folder / "tmux.sock")

    def run(*arguments):
        command = [tmux, "-S", socket, "-f", "/dev/null", *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, cwd=folder).stdout

    def screen():
        return run("capture-pane", "-p")

    browser = Browser()

    def picture(name):
        console = Console(record=True, width=78, file=io.StringIO(), color_system="truecolor")
        console.print(Text.from_ansi(run("capture-pane", "-e", "-p").rstrip("\n")), no_wrap=True, overflow="crop")
        body = console.export_html(theme=THEME, inline_styles=True, code_format="{code}")
        page = browser.chromium.new_page(viewport={"width": 700, "height": 340})
        font = "font:14px/19px 'DejaVu Sans Mono';white-space:pre"
        style = f"margin:0;padding:10px 14px;{font};background:#e0e2ea;color:#282c34"
        page.set_content(f"<body style=\"{html.escape(style)}\"><code style='font:inherit'>{body}</code></body>")
        page.screenshot(path=str(DOCS / f"neovim-{name}.png"))
        page.close()
        check(DOCS / f"neovim-{name}.png")

    run("new-session", "-d", "-x", "78", "-y", "17", f"{NVIM} --clean -u {folder}/init.lua stack.py area.py")
    run("set", "-g", "status", "off")
    run("set", "-ga", "terminal-overrides", ",*:Tc")
    try:
        until(lambda: "class Stack" in screen(), "the screen")
        time.sleep(15)
        run("send-keys", "G", "S")
        run("send-keys", "-l", TYPED)
        until(lambda: " ms" in screen(), "a proposal", 30)
        time.sleep(1)
        picture("ghost")
        run("send-keys", "Escape")
        run("send-keys", "-l", ":silent! next!")
        run("send-keys", "Enter")
        until(lambda: "def area" in screen(), "the other file")
        time.sleep(1)
        run("send-keys", "-l", "2Gwcwtotal")
        run("send-keys", "Escape")
        time.sleep(1)
        run("send-keys", "M-e")
        until(lambda: screen().count("total") > 2, "a preview", 20)
        time.sleep(0.5)
        picture("edit")
    finally:
        subprocess.run([tmux, "-S", socket, "kill-server"], capture_output=True, check=False)
        browser.close()


def main():
    DOCS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or ["vscode", "nvim"]:
        with tempfile.TemporaryDirectory() as folder:
            {"vscode": vscode, "nvim": nvim}[name](Path(folder))


if __name__ == "__main__":
    main()
