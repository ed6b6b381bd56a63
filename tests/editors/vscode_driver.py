"""Starts a real VS Code (code-server) in a real browser and drives it: keys in, spans and saved bytes out."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

from nvim_driver import FAILED, FAKE, ROOT, ends, until
from playwright.sync_api import Error as PageError
from playwright.sync_api import sync_playwright

CODE = Path(os.environ.get("LACUNA_CODE_SERVER", ROOT / ".editors/code-server/code-server"))
VSIX = Path(os.environ.get("LACUNA_VSIX", ROOT / "editors/vscode/lacuna.vsix"))
CHROMIUM = os.environ.get("LACUNA_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

SETTINGS = {
    "workbench.startupEditor": "none",
    "telemetry.telemetryLevel": "off",
    "update.mode": "none",
    "extensions.autoCheckUpdates": False,
    "extensions.autoUpdate": False,
    "extensions.ignoreRecommendations": True,
    "chat.disableAIFeatures": True,
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "editor.lightbulb.enabled": "off",
    "git.enabled": False,
    "files.hotExit": "off",
    "editor.minimap.enabled": False,
    "editor.accessibilitySupport": "off",
    "editor.quickSuggestions": {"other": "off"},
    "editor.suggestOnTriggerCharacters": False,
    "editor.autoClosingBrackets": "never",
    "editor.autoClosingQuotes": "never",
    "workbench.activityBar.location": "hidden",
    "workbench.colorTheme": "Default Light Modern",
    "editor.cursorBlinking": "solid",
    "security.workspace.trust.banner": "never",
}
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
# spans of ghost text, put together by where they stand on the screen
GHOST = r"""() => {
  const names = ['.ghost-text-decoration', '.ghost-text-decoration-preview', '.ghost-text'];
  const spans = [...document.querySelectorAll(names.map((name) => '.monaco-editor ' + name).join(','))]
    .filter((span) => !span.querySelector('[class*=ghost-text]'));
  const rows = new Map();
  for (const span of spans) {
    const box = span.getBoundingClientRect();
    if (!box.height) continue;
    const y = Math.round(box.top / 4);
    rows.set(y, [...(rows.get(y) ?? []), [box.left, span.textContent.replaceAll('\u00a0', ' ')]]);
  }
  return [...rows].sort((a, b) => a[0] - b[0])
    .map(([, parts]) => parts.sort((a, b) => a[0] - b[0]).map((part) => part[1]).join('')).join('\n');
}"""


def launcher(folder, command):
    """A program that runs command and logs beside the workspace that it is started in."""
    path = Path(folder) / "bin/lacuna"
    path.parent.mkdir(parents=True, exist_ok=True)
    quoted = " ".join(f"'{part}'" for part in command)
    path.write_text(f'#!/bin/sh\nexport FAKE_LOG="${{PWD}}.log"\nexec {quoted} "$@"\n')
    path.chmod(0o755)
    return path


class CodeServer:
    """The server side of VS Code: one process for many windows, each with its own folder."""

    def __init__(self, base, *, command=FAKE, settings=None, trust=True, extensions=()):
        self.base = Path(base)
        self.path = launcher(self.base, command)
        self.user = self.base / "user"
        # a window of code-server is a remote one: settings of machine scope come from the machine's own file
        self.settings_files = [self.user / "User/settings.json", self.user / "Machine/settings.json"]
        for file in self.settings_files:
            file.parent.mkdir(parents=True)
        self.settings = {
            **SETTINGS,
            "security.workspace.trust.enabled": not trust,
            "lacuna.server.path": str(self.path),
            **(settings or {}),
        }
        self.write_settings()
        self.environment = {
            **os.environ,
            "HOME": str(self.base),
            "XDG_CONFIG_HOME": str(self.base / "config"),
            "XDG_DATA_HOME": str(self.base / "data"),
            "EXTENSIONS_GALLERY": '{"serviceUrl":""}',
        }
        self.environment.pop("VIRTUAL_ENV", None)
        self.common = [str(CODE), "--user-data-dir", str(self.user), "--extensions-dir", str(self.base / "extensions")]
        wanted = [part for file in (VSIX, *extensions) for part in ("--install-extension", str(file))]
        subprocess.run([*self.common, *wanted], env=self.environment, check=True, capture_output=True)
        self.options = ["--auth", "none", "--disable-telemetry", "--disable-update-check"]
        self.options += ["--disable-workspace-trust"] if trust else []
        for _ in range(3):
            self.start()
            until(lambda: self.process.poll() is not None or self.is_up(), "code-server's answer", 60)
            # somebody else may take the port between its choice and its use
            if self.process.poll() is None:
                return
        raise AssertionError((self.base / "code-server.log").read_text()[-2000:])

    def start(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        with (self.base / "code-server.log").open("w") as log:
            self.process = subprocess.Popen(
                [*self.common, "--bind-addr", f"127.0.0.1:{self.port}", *self.options],
                # where a server without a workspace is started, and where its log then lies
                cwd=self.base,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_up(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5):
                return True
        except OSError:
            return False

    def logs(self):
        """code-server's own log, and of the last windows the extension's output and the log of its host."""
        found = [file for name in ("Lacuna.log", "remoteexthost.log") for file in (self.user / "logs").rglob(name)]
        return [self.base / "code-server.log", *sorted(found, key=lambda file: file.stat().st_mtime)[-4:]]

    def write_settings(self, **change):
        """The user's settings; a value None removes one."""
        self.settings = {key: value for key, value in {**self.settings, **change}.items() if value is not None}
        own = {key: value for key, value in self.settings.items() if key.startswith("lacuna.")}
        for file, settings in zip(self.settings_files, (self.settings, own), strict=True):
            text = json.dumps(settings, indent=1)
            # a file that says this already is no change to tell every window
            if not file.exists() or file.read_text() != text:
                file.write_text(text)

    def close(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)


class Browser:
    """One Chromium."""

    def __init__(self):
        self.playwright = sync_playwright().start()
        self.chromium = self.playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

    def close(self):
        self.chromium.close()
        self.playwright.stop()


class Window:
    """One window of VS Code with one folder and, mostly, one open file."""

    def __init__(
        self, code, browser, folder, *, file="a.py", text="import os\n\n", more=(), size=(1000, 560), workspace=None
    ):
        self.code = code
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder.with_name(self.folder.name + ".log")
        for name, content in dict(more).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.page = browser.chromium.new_page(viewport={"width": size[0], "height": size[1]})
        self.page.set_default_timeout(90000)
        query = {"workspace": str(workspace)} if workspace else {"folder": str(self.folder)}
        self.file = self.folder / file if file else None
        if self.file:
            self.file.write_bytes(text.encode())
            uri = f"vscode-remote://127.0.0.1:{code.port}{self.file}"
            query["payload"] = json.dumps([["openFile", uri]])
        try:
            self.page.goto(f"http://127.0.0.1:{code.port}/?{urllib.parse.urlencode(query)}")
            self.see_page()
            if workspace:
                self.see_folders([one["path"] for one in json.loads(Path(workspace).read_text())["folders"]])
        except Exception:
            # nobody else holds this window yet
            self.keep_evidence(str(self.folder))
            self.close()
            raise

    def see_page(self):
        self.page.wait_for_selector(".monaco-editor .view-lines" if self.file else ".monaco-workbench", timeout=240000)

    def see_folders(self, names, tries=6):
        """Wait for the folders of a workspace file, in a page that is loaded again when they do not come.

        VS Code in a browser may read the workspace file before the remote file system is there; it then says "No Folder
        Opened" for good, and no extension hears of a folder (about one start in four here; a browser that has seen the
        workspace before has it cached). That window is not what a test of several folders is about.
        """
        explorer = self.page.locator(".part.sidebar")
        for _ in range(tries):
            with contextlib.suppress(AssertionError):
                until(lambda: set(names) <= set(explorer.inner_text().split("\n")), "the folders", 10)
                return
            assert "No Folder Opened" in explorer.inner_text()
            self.page.reload()
            self.see_page()
        raise AssertionError(f"VS Code opened the workspace without its folders {tries} times")

    def wait_ready(self):
        # the status comes after the registration of the provider, and over the same channel
        until(lambda: self.messages("textDocument/didOpen"), "opening the document", 150)
        until(lambda: "fake" in self.status_label(), "a ready status", 60)
        return self

    def editor(self):
        """The editor that holds the file: its tab may be active while the former file is still shown."""
        of_file = f'[data-uri$="/{self.file.name}"]' if self.file and self.file.suffix != ".ipynb" else ""
        return f".monaco-editor{of_file} .view-lines"

    def focus(self):
        self.page.click(self.editor())
        return self

    def open(self, name, text, is_logged=True):
        """Another file in this window, which becomes the one that is typed into and saved; None keeps what it holds."""
        self.file = self.folder / name
        if text is not None:
            self.file.write_bytes(text.encode())
        self.keys("Escape", "Escape", "Control+p")
        self.page.wait_for_selector(".quick-input-widget input", state="visible")
        # the whole path: found by looking at the disk, not by a search
        self.page.keyboard.insert_text(str(self.file))
        row = self.page.locator(".quick-input-list .monaco-list-row").first
        until(lambda: row.count() and (row.get_attribute("aria-label") or "").startswith(name), f"{name} in the list")
        self.keys("Enter")
        self.page.wait_for_selector(f'.tab.active[data-resource-name="{name}"]')
        if not name.endswith(".ipynb"):
            self.page.wait_for_selector(self.editor(), state="visible")
        if not is_logged:
            return self
        # the cells of a notebook are documents too, with a fragment behind the name
        opened = f"/{name}"
        until(
            lambda: any(
                row["params"]["textDocument"]["uri"].partition("#")[0].endswith(opened)
                for row in self.messages("textDocument/didOpen")
            ),
            "opening the document",
        )
        return self

    def keys(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def type(self, text, delay=15):
        self.page.keyboard.type(text, delay=delay)

    def at_end(self, text=""):
        self.focus()
        self.keys("Control+End")
        if text:
            self.type(text)

    def ghost(self):
        return self.page.evaluate(GHOST)

    def see(self, text, seconds=40.0):
        until(lambda: self.ghost() == text, f"ghost text {text!r} (shown: {self.ghost()!r})", seconds)

    def see_none(self, seconds=40.0):
        until(lambda: self.ghost() == "", "no ghost text", seconds)

    def save(self):
        self.keys("Control+s")

    def see_file(self, text, seconds=40.0):
        """Save until the file on disk has exactly these bytes."""
        want = text.encode()

        def same():
            self.save()
            time.sleep(0.1)
            return self.file.read_bytes() == want

        try:
            until(same, "the bytes", seconds)
        except AssertionError:
            assert self.file.read_bytes() == want, self.file.read_bytes()
            raise

    def command(self, title):
        """Run a command from the palette."""
        self.keys("F1")
        self.page.wait_for_selector(".quick-input-widget input", state="visible")
        self.page.keyboard.type(title)
        row = self.page.locator(".quick-input-list .monaco-list-row").first
        until(
            lambda: row.count() and title.lower() in (row.get_attribute("aria-label") or "").lower(),
            f"the command {title!r}",
        )
        self.keys("Enter")

    def instruct(self, text):
        """Type into the box that asks how to rewrite the selection, once that one has the focus: a list of commands
        that is just closing looks the same, and what is typed then goes into the file."""
        box = self.page.locator(".quick-input-widget", has_text="Rewrite the selection")
        box.locator("input:focus").wait_for()
        self.type(text)

    def status_text(self):
        found = self.page.query_selector("[id='lacuna.lacuna.lacuna.status']")
        return found.inner_text() if found else ""

    def status_html(self):
        found = self.page.query_selector("[id='lacuna.lacuna.lacuna.status']")
        return found.inner_html() if found else ""

    def status_label(self):
        found = self.page.query_selector("[id='lacuna.lacuna.lacuna.status'] [aria-label]") or self.page.query_selector(
            "[id='lacuna.lacuna.lacuna.status']"
        )
        return (found.get_attribute("aria-label") or "") if found else ""

    def toasts(self):
        return " ".join(one.inner_text() for one in self.page.query_selector_all(".notification-toast"))

    def messages(self, method=None):
        if not self.log.exists():
            return []
        # a line without its end is still being written
        rows = [json.loads(line) for line in self.log.read_text().split("\n")[:-1]]
        return [row for row in rows if method is None or (row["event"] == "message" and row.get("method") == method)]

    def requests(self):
        return len(self.messages("textDocument/inlineCompletion"))

    def server_pids(self):
        return [row["pid"] for row in self.messages() if row["event"] == "start"]

    def keep_evidence(self, name, folder=FAILED):
        """A picture of the window, and beside it what it shows in words and the ends of all logs."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"\W+", "_", name).strip("_")[-150:]
        told = ["the page was closed"]
        with contextlib.suppress(PageError):
            self.page.screenshot(path=folder / f"{stem}.png")
            told = [f"status: {self.status_label()}", f"messages: {self.toasts()}", f"ghost text: {self.ghost()!r}"]
        (folder / f"{stem}.txt").write_text("\n".join(told) + "\n" + ends([self.log, *self.code.logs()]))

    def close(self):
        if not self.page.is_closed():
            self.page.close()


def python_launcher():
    """The interpreter that runs these tests, for programs that a test writes."""
    return sys.executable
