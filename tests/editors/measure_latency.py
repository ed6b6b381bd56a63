"""From a key to ghost text on the screen, measured from outside, in both editors; and where that time goes.

    python tests/editors/measure_latency.py [nvim] [vscode] [-n 40] [--server fake|real|both] [--json FILE] [--markdown]

Neovim: from nvim_input to the redraw event that carries the text (a user interface attached over the wire, as a
terminal's is). VS Code: from the keydown event in the page to the first ghost text span in the document. The server's
part is from the request on its stdin to the answer on its stdout, key by key, noted by tee.py, which stands between the
two and makes the whole up to a millisecond or two longer. What is left is the editor's own part: before the request,
and after the answer. The fake server answers at once.

Why not `lacuna serve --record`: it notes a request when the event loop comes to it. Beside a model that reads the text
on the same two cores that was 1.4 ms late in the median and 12 ms at worst, all of it laid at the editor's door.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from figures import PARTS, add_options, cell, conditions, finish, summary
from nvim_driver import FAKE, ROOT, Neovim, until
from real_server import EASY, ENVIRONMENT, LACUNA, SETTINGS, last_key

KEYS = "de"
TEE = [sys.executable, "-S", "-E", str(ROOT / "tests/editors/tee.py")]


def exchanges(log):
    """The requests for ghost text so far, in order: when each was asked and answered, in seconds, and whether with any
    text. The answer is None while there is none."""
    if not log.exists():
        return []
    # a line without its end is still being written
    rows = [json.loads(line) for line in log.read_text().split("\n")[:-1]]
    answers = {ident: (when, has_text) for when, way, ident, has_text in rows if way == "out"}
    return [(when, *answers.get(ident, (None, False))) for when, way, ident, _ in rows if way == "in"]


def still_quiet(log, known):
    """Nothing may be asked for, and so remembered, before the key that counts."""
    if len(exchanges(log)) != known:
        raise SystemExit("the editor has asked before the key: what comes next is no answer to that key")


def server_part(log, key, seen, patience_s=1.0):
    """When the request whose answer brought the text was asked and answered: the first one with text after the key.
    None when the editor asked for nothing, because it had the text already."""

    def between():
        return [row[:2] for row in exchanges(log) if row[2] and row[0] >= key and row[1] <= seen]

    end = time.monotonic() + patience_s
    # an answer is noted after it was passed on, and a quick editor shows it before that
    while not (found := between()) and time.monotonic() < end:
        time.sleep(0.01)
    return found[0] if found else None


def report(editor, server, asked, found):
    """found: for each key that brought text, the times of key and text and those of the request, in seconds."""
    times = [(key, *part, seen) for key, seen, part in found if part]
    return {
        "editor": editor,
        "server": server,
        "key_to_text": summary([(seen - key) * 1000 for key, seen, _ in found]),
        "before_request": summary([(begun - key) * 1000 for key, begun, _, _ in times]),
        "server_part": summary([(done - begun) * 1000 for _, begun, done, _ in times]),
        "after_answer": summary([(seen - done) * 1000 for _, _, done, seen in times]),
        "editor_part": summary([(begun - key + seen - done) * 1000 for key, begun, done, seen in times]),
        "asked": asked,
        # each key: before the request, the server's part, after the answer
        "keys_ms": [
            [round((b - a) * 1000, 2) for a, b in ((key, begun), (begun, done), (done, seen))]
            for key, begun, done, seen in times
        ],
    }


def beginnings(server, count):
    """What stands before the last key, the key, and whether any answer will do."""
    if server == "fake":
        return [(KEYS, "f")] * count
    texts = [(text[:-1], last_key(text)) for text in EASY]
    return [texts[n % len(texts)] for n in range(count)]


def measure_nvim(server, count):
    with tempfile.TemporaryDirectory() as folder:
        wire = Path(folder) / "wire.log"
        command = [*TEE, str(wire), *(FAKE if server == "fake" else [str(LACUNA), "serve"])]
        config = {"settings": SETTINGS if server == "real" else {}}
        env = ENVIRONMENT if server == "real" else {}
        init = "vim.cmd('filetype indent off')\nvim.o.autoindent = false\nvim.o.laststatus = 0\n"
        editor = Neovim(folder, cmd=command, config=config, env=env, text="\n", init=init).wait_ready()
        status = "return (require('lacuna.server').status or {})"
        until(lambda: (editor.lua(status) or {}).get("kind") == "normal", "a model", 90)
        channel = editor.vim.channel_id
        editor.vim.ui_attach(100, 30, rgb=True, ext_linegrid=True)
        found = []
        for n, (text, keys) in enumerate(beginnings(server, count)):
            # a comment that differs keeps the server's memory of recent answers out of it
            before = f"# {n}\n{text}{keys[:-1]}"
            known = len(exchanges(wire))
            editor.keys("<Esc>")
            editor.lua("vim.api.nvim_buf_set_lines(0, 0, -1, false, vim.split(..., '\\n'))", before)
            editor.lua("vim.b.lacuna_disabled = true")
            # the server fills ahead, too: the last change is elsewhere, and makes another text of it
            editor.lua("vim.api.nvim_buf_set_text(0, 0, 0, 0, 0, { '#' })")
            editor.keys("G", "A")
            time.sleep(0.25)
            editor.lua("vim.b.lacuna_disabled = nil")
            still_quiet(wire, known)
            # a message of our own ends the wait when there is nothing to see
            editor.lua("local id, n = ... vim.defer_fn(function() vim.rpcnotify(id, 'late', n) end, 4000)", channel, n)
            # the clock of the tee
            start = time.monotonic()
            editor.vim.input(keys[-1])
            seen = wait_for_ghost(editor, n)
            if seen is not None:
                found.append((start, seen, server_part(wire, start, seen)))
        editor.close()
    return report("Neovim", server, count, found)


def wait_for_ghost(editor, number):
    """When the first redraw arrived after which ghost text stands in the buffer; None when none came in time."""
    while message := editor.vim.next_message():
        if message[1] == "late" and message[2] == [number]:
            break
        if message[1] == "redraw" and any(event[0] == "flush" for event in message[2]):
            seen = time.monotonic()
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


# the extension's own pause: nothing is asked for, so neither side can remember an answer to the text before the key
KEYBINDINGS = [{"key": "f8", "command": "lacuna.snooze"}, {"key": "f9", "command": "lacuna.resume"}]


def clock_of(page):
    """What to add to the page's time to get this process's, in seconds, from the quickest of many tries."""
    tries = []
    for _ in range(50):
        before = time.monotonic()
        there = page.evaluate("performance.now()")
        after = time.monotonic()
        tries.append((after - before, (before + after) / 2 - there / 1000))
    return min(tries)[1]


def measure_vscode(server, count):
    from vscode_driver import Browser, CodeServer, Window

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        wire = base / "wire.log"
        settings = {"editor.autoIndent": "none"}
        command = FAKE
        if server == "real":
            command = ["/usr/bin/env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), str(LACUNA)]
            settings |= {"lacuna.engine.kind": "local", "lacuna.trigger.backoffDismissals": 0}
            settings |= {"lacuna.proposal.deadlineMs": 30000, "lacuna.proposal.minConfidence": 0}
        code = CodeServer(base / "code", command=[*TEE, str(wire), *command], settings=settings)
        (code.user / "User/keybindings.json").write_text(json.dumps(KEYBINDINGS))
        browser = Browser()
        try:
            w = Window(code, browser, base / "ws", text="")
            name = "fake" if server == "fake" else "embedded"
            until(lambda: name in w.status_label(), "the model", 120)
            w.page.evaluate(WATCH)
            w.focus()
            found = []
            for n, (text, keys) in enumerate(beginnings(server, count)):
                known = len(exchanges(wire))
                w.keys("F8")
                until(lambda: "snoozed" in w.status_label(), "the snooze")
                w.keys("Control+a", "Delete")
                w.page.keyboard.insert_text(f"# {n}\n{text}{keys[:-1]}")
                # the server fills ahead, too: the last change is elsewhere, and makes another text of it
                w.keys("Control+Home")
                w.type("#")
                w.keys("Control+End")
                time.sleep(0.3)
                w.keys("Escape", "F9")
                until(lambda: "snoozed" not in w.status_label(), "the end of it")
                time.sleep(0.3)
                still_quiet(wire, known)
                offset = clock_of(w.page)
                w.type(keys[-1])
                end = time.monotonic() + 5
                while time.monotonic() < end and not w.page.evaluate("window.lacunaSeen"):
                    time.sleep(0.05)
                key, seen = (at / 1000 + offset for at in w.page.evaluate("[window.lacunaKey, window.lacunaSeen]"))
                if w.page.evaluate("window.lacunaSeen"):
                    found.append((key, seen, server_part(wire, key, seen)))
        finally:
            browser.close()
            code.close()
    return report("VS Code", server, count, found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("editors", nargs="*", help="nvim, vscode, or both (the default)")
    parser.add_argument("-n", type=int, default=40, help="keys per editor and server")
    parser.add_argument("--server", choices=("fake", "real", "both"), default="both")
    add_options(parser)
    options = parser.parse_args()
    servers = ("fake", "real") if options.server == "both" else (options.server,)
    found, rows = conditions(), []
    for name in options.editors or ["nvim", "vscode"]:
        measure = {"nvim": measure_nvim, "vscode": measure_vscode}[name]
        for server in servers:
            row = measure(server, options.n)
            rows.append(row)
            told = "; ".join(f"{PARTS[part]} {cell(row[part])}" for part in PARTS)
            sys.stdout.write(f"{row['editor']}, {server} server, {options.n} keys, median / p95 ms: {told}\n")
            sys.stdout.flush()
    finish(options, "latency", {"rows": rows}, found)


if __name__ == "__main__":
    main()
