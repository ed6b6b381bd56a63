"""From a key to ghost text on the screen, measured from outside, in both editors; and the server's part of it.

    python tests/editors/measure_latency.py [nvim] [vscode] [-n 40] [--server fake|real]

Neovim: from nvim_input to the redraw event that carries the text (a user interface attached over the wire, as a
terminal's is). VS Code: from the keydown event in the page to the first ghost text span in the document. The server's
part is from the request on its stdin to the answer on its stdout: measured by the fake server itself, or told by the
real one (lastLatencyMs). The fake server answers at once, so that with it the figure is the editor's own part.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from nvim_driver import FAKE, Neovim, until
from real_server import EASY, ENVIRONMENT, LACUNA, SETTINGS, last_key

FULL = "def multi(a, b):\n    x = a\n    return x + b"
KEYS = "de"


def summary(values):
    """Median, 95th percentile and count, in milliseconds."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"median_ms": round(statistics.median(ordered), 1), "p95_ms": round(p95, 1), "n": len(ordered)}


def fake_times(log, since):
    """Receipt to answer of each request that the fake server has logged."""
    rows = [json.loads(line) for line in Path(log).read_text().splitlines()[since:]]
    method = "textDocument/inlineCompletion"
    asked = {row["id"]: row["t"] for row in rows if row.get("method") == method and row["event"] == "message"}
    return [
        (row["t"] - asked[row["id"]]) * 1000
        for row in rows
        if row.get("method") == method and row["event"] == "answer" and row["id"] in asked
    ]


def beginnings(server, count):
    """What stands before the last key, the key, and whether any answer will do."""
    if server == "fake":
        return [(KEYS, "f")] * count
    texts = [(text[:-1], last_key(text)) for text in EASY]
    return [texts[n % len(texts)] for n in range(count)]


def measure_nvim(server, count):
    with tempfile.TemporaryDirectory() as folder:
        command = FAKE if server == "fake" else [str(LACUNA), "serve"]
        config = {"settings": SETTINGS if server == "real" else {}}
        env = ENVIRONMENT if server == "real" else {}
        init = "vim.cmd('filetype indent off')\nvim.o.autoindent = false\nvim.o.laststatus = 0\n"
        editor = Neovim(folder, cmd=command, config=config, env=env, text="\n", init=init).wait_ready()
        status = "return (require('lacuna.server').status or {})"
        until(lambda: (editor.lua(status) or {}).get("kind") == "normal", "a model", 90)
        channel = editor.vim.channel_id
        editor.vim.ui_attach(100, 30, rgb=True, ext_linegrid=True)
        times, parts = [], []
        since = len(editor.messages())
        for n, (text, keys) in enumerate(beginnings(server, count)):
            # a comment that differs keeps the server's memory of recent answers out of it
            before = f"# {n}\n{text}{keys[:-1]}"
            editor.keys("<Esc>")
            editor.lua("vim.api.nvim_buf_set_lines(0, 0, -1, false, vim.split(..., '\\n'))", before)
            # nothing may be asked for, and so remembered, before the key that counts
            editor.lua("vim.b.lacuna_disabled = true")
            editor.keys("G", "A")
            time.sleep(0.25)
            editor.lua("vim.b.lacuna_disabled = nil")
            # a message of our own ends the wait when there is nothing to see
            editor.lua("local id, n = ... vim.defer_fn(function() vim.rpcnotify(id, 'late', n) end, 4000)", channel, n)
            start = time.perf_counter()
            editor.vim.input(keys[-1])
            seen = wait_for_ghost(editor, n)
            if seen is not None:
                times.append((seen - start) * 1000)
                if server == "real":
                    parts.append(editor.lua("return require('lacuna.ghost').last_ms"))
        if server == "fake":
            parts = fake_times(editor.log, since)
        editor.close()
    return {"editor": "Neovim", "server": server, "key_to_text": summary(times), "server_part": summary(parts)}


def wait_for_ghost(editor, number):
    """When the first redraw arrived after which ghost text stands in the buffer; None when none came in time."""
    while message := editor.vim.next_message():
        if message[1] == "late" and message[2] == [number]:
            break
        if message[1] == "redraw" and any(event[0] == "flush" for event in message[2]):
            seen = time.perf_counter()
            if editor.ghost_text():
                return seen
    return None


WATCH = """() => {
  window.lacunaKey = 0; window.lacunaSeen = 0;
  const find = () => document.querySelector('.monaco-editor .ghost-text-decoration, .monaco-editor .ghost-text');
  window.addEventListener('keydown', () => { window.lacunaKey = performance.now(); window.lacunaSeen = 0; }, true);
  new MutationObserver(() => {
    if (!window.lacunaSeen && window.lacunaKey && find()) window.lacunaSeen = performance.now();
  }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
}"""


def measure_vscode(server, count):
    from vscode_driver import Browser, CodeServer, Window

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        settings = {"editor.autoIndent": "none"}
        command = FAKE
        if server == "real":
            command = ["/usr/bin/env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), str(LACUNA)]
            settings |= {"lacuna.engine.kind": "local", "lacuna.trigger.backoffDismissals": 0}
            settings |= {"lacuna.proposal.deadlineMs": 30000, "lacuna.proposal.minConfidence": 0}
        code = CodeServer(base / "code", command=command, settings=settings)
        browser = Browser()
        try:
            w = Window(code, browser, base / "ws", text="")
            name = "fake" if server == "fake" else "embedded"
            until(lambda: name in w.status_label(), "the model", 120)
            w.page.evaluate(WATCH)
            since = len(w.messages()) if server == "fake" else 0
            w.focus()
            times, parts = [], []
            for n, (text, keys) in enumerate(beginnings(server, count)):
                w.keys("Control+a", "Delete")
                w.page.keyboard.insert_text(f"# {n}\n{text}{keys[:-1]}")
                time.sleep(0.6)
                w.keys("Escape")
                time.sleep(0.1)
                w.type(keys[-1])
                end = time.monotonic() + 5
                while time.monotonic() < end and not w.page.evaluate("window.lacunaSeen"):
                    time.sleep(0.05)
                took = w.page.evaluate("window.lacunaSeen ? window.lacunaSeen - window.lacunaKey : 0")
                if took:
                    times.append(took)
                    if server == "real" and (told := [p for p in w.status_label().split(" · ") if p.endswith(" ms")]):
                        parts.append(float(told[0].removesuffix(" ms")))
            if server == "fake":
                parts = fake_times(w.log, since)
        finally:
            browser.close()
            code.close()
    return {"editor": "VS Code", "server": server, "key_to_text": summary(times), "server_part": summary(parts)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("editors", nargs="*", default=["nvim", "vscode"])
    parser.add_argument("-n", type=int, default=40, help="keys per editor")
    parser.add_argument("--server", choices=("fake", "real"), default="fake")
    options = parser.parse_args()
    for name in options.editors or ["nvim", "vscode"]:
        measure = {"nvim": measure_nvim, "vscode": measure_vscode}[name]
        sys.stdout.write(json.dumps({**measure(options.server, options.n), "load": os.getloadavg()[0]}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
