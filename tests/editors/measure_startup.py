"""What an editor pays for Lacuna before it is of use, and what is left when it is closed.

    python tests/editors/measure_startup.py [vsix] [nvim] [vscode] [-n 10] [--windows 5] [--json FILE] [--markdown]

vsix: size and contents of the package. nvim: `--startuptime` with and without the plugin, in turns. vscode: the time
that VS Code's own table of running extensions tells for a window with no file that Lacuna serves, and whether a server
was started. Both editors: how long the real server, with the settings that a user has at first, outlives its editor.
"""

import argparse
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from figures import add_options, conditions, finish
from nvim_driver import FAKE, ROOT, Neovim, until
from real_server import LACUNA

EXTENSION = ROOT / "editors/vscode"
LONGEST_WAIT_S = 60


def kib(size):
    return f"{size / 1024:.1f} KiB"


def measure_vsix(_):
    """Size and contents; the largest files first."""
    path = EXTENSION / "lacuna.vsix"
    if not path.exists():
        raise SystemExit("there is no .vsix: make vsix")
    with zipfile.ZipFile(path) as archive:
        files = sorted(archive.infolist(), key=lambda info: -info.file_size)
    yield row(".vsix", kib(path.stat().st_size), path.stat().st_size)
    yield row("files in it", str(len(files)), len(files))
    large = [info for info in files if info.file_size >= 1024]
    for info in large:
        name = info.filename.removeprefix("extension/")
        yield row(f"`{name}`", f"{kib(info.file_size)}, packed {kib(info.compress_size)}", info.file_size)
    names = ", ".join(f"`{info.filename.removeprefix('extension/')}`" for info in files[len(large) :])
    rest = sum(info.file_size for info in files[len(large) :])
    yield row(names, f"{kib(rest)} together", rest)


def row(what, figure, value):
    return {"what": what, "figure": figure, "value": value}


def spread(values, unit="ms"):
    """Median and range."""
    return f"{statistics.median(values):.2f} {unit} ({min(values):.2f} to {max(values):.2f}, n = {len(values)})"


def gone_after(close, processes):
    """Seconds from a call of close until all of them have ended. Raises: SystemExit when one stays."""
    begun = time.monotonic()
    close()
    _, left = psutil.wait_procs(processes, timeout=LONGEST_WAIT_S)
    if left:
        raise SystemExit(f"still there after {LONGEST_WAIT_S} s: {[one.cmdline() for one in left]}")
    return time.monotonic() - begun


def starts(folder, count, what, *arguments):
    """Neovim with the plugin and without, in turns."""
    from test_nvim_server import startup_ms

    plugin = ("--cmd", "let &rtp = $LACUNA_PLUGIN .. ',' .. &rtp")
    # the first ones read the disk
    startup_ms(folder, *arguments)
    startup_ms(folder, *plugin, *arguments)
    bare, loaded, own = [], [], []
    for _ in range(count):
        bare.append(startup_ms(folder, *arguments)[0])
        total, files = startup_ms(folder, *plugin, *arguments)
        loaded.append(total)
        own.append(sum(files))
    cost = statistics.median(loaded) - statistics.median(bare)
    yield row(f"Neovim's start {what}, no plugin", spread(bare), bare)
    yield row(f"Neovim's start {what}, with the plugin", spread(loaded), loaded)
    yield row(f"cost of the plugin {what}", f"{cost:.2f} ms", cost)
    yield row(f"of that, reading its files {what}", spread(own), own)


def measure_nvim(options):
    """The start, with and without; and the end."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        yield from starts(base, options.n, "without a file")
        (base / "a.py").write_text("import os\n")
        # the editor's own search for a Python provider takes a second, and would hide everything
        server = f"let g:lacuna = {{'cmd': {FAKE}}} | let g:loaded_python3_provider = 0"
        yield from starts(base, options.n, "with a Python file", "--cmd", server, str(base / "a.py"))
    with tempfile.TemporaryDirectory() as folder:
        editor = Neovim(folder, file="notes.txt", text="x\n", cmd=[str(LACUNA), "serve"])
        until(lambda: editor.vim.vvars["vim_did_enter"], "the end of the start")
        # longer than a server takes to be there
        time.sleep(2)
        count = len(psutil.Process(editor.vim.call("getpid")).children(recursive=True))
        editor.close()
        yield row("processes beside Neovim, with a text file open", str(count), count)
    with tempfile.TemporaryDirectory() as folder:
        # a socket of its own: no other window's server may hold the model
        env = {"XDG_RUNTIME_DIR": folder}
        editor = Neovim(folder, cmd=[str(LACUNA), "serve"], env=env).wait_ready()
        kind = "return (require('lacuna.server').status or {}).kind"
        until(lambda: editor.lua(kind) == "normal", "a model", 90)
        own_process = psutil.Process(editor.vim.call("getpid"))
        family = [own_process, *own_process.children(recursive=True)]
        if len(family) < 2:
            raise SystemExit("the server of Neovim was not found")
        took = gone_after(editor.close, family)
        yield row(f"Neovim and its server ({len(family)} processes), gone after `:qa!` within", f"{took:.2f} s", took)
        yield row("processes left behind by Neovim", "0", 0)


def measure_vscode(options):
    """Activation with no file that Lacuna serves; and the end of a window and of all."""
    from test_vscode_server import activation_ms, running_extension
    from vscode_driver import Browser, CodeServer, Window

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        command = ["/usr/bin/env", f"XDG_RUNTIME_DIR={folder}", str(LACUNA)]
        code = CodeServer(base / "code", command=command)
        browser = Browser()
        try:
            tall = (1000, 1800)
            w = Window(code, browser, base / "text", file="notes.txt", text="x\n", size=tall)
            is_loaded = running_extension(w) is not None
            told = "yes" if is_loaded else "no"
            yield row("VS Code loads the extension in a window with a text file", told, is_loaded)
            w.close()
            times, started = [], 0
            for n in range(options.windows):
                w = Window(code, browser, base / f"lua{n}", file="notes.txt", text="x\n", size=tall).focus()
                # the extensions of the editor itself start with the window, all at once
                time.sleep(3)
                w.open("a.lua", "x = 1\n", is_logged=False)
                times.append(activation_ms(running_extension(w)))
                started += len(servers(code))
                w.close()
            yield row("activation, by VS Code's own table, no file of ours open", spread(times), times)
            yield row("servers started in these windows", str(started), started)
            w = Window(code, browser, base / "last", text="import os\n")
            until(lambda: "embedded" in w.status_label(), "the model", 120)
            running = servers(code)
            if not running:
                raise SystemExit("the server of the last window was not found")
            took = gone_after(w.close, running)
            yield row("the server of a closed window, gone within", f"{took:.2f} s", took)
            # another one, so that there is a server to end
            w = Window(code, browser, base / "open", text="import os\n")
            until(lambda: "embedded" in w.status_label(), "the model", 120)
            main_process = psutil.Process(code.process.pid)
            family = [main_process, *main_process.children(recursive=True)]
        except BaseException:
            browser.close()
            code.close()
            raise
        took = gone_after(lambda: (browser.close(), code.close()), family)
        what = f"VS Code and its server ({len(family)} processes), gone after the browser and the stop within"
        yield row(what, f"{took:.2f} s", took)
        yield row("processes left behind by VS Code", "0", 0)


def servers(code):
    """The processes of Lacuna below this VS Code."""
    found = []
    for process in psutil.Process(code.process.pid).children(recursive=True):
        try:
            if str(LACUNA) in process.cmdline() and "serve" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def main():
    parts = {"vsix": measure_vsix, "nvim": measure_nvim, "vscode": measure_vscode}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="vsix, nvim, vscode, or all (the default)")
    parser.add_argument("-n", type=int, default=10, help="starts of Neovim, each way")
    parser.add_argument("--windows", type=int, default=5, help="windows of VS Code")
    add_options(parser)
    options = parser.parse_args()
    found, rows = conditions(), []
    for name in options.parts or parts:
        for one in parts[name](options):
            rows.append(one)
            sys.stdout.write(f"{one['what']}: {one['figure']}\n")
            sys.stdout.flush()
    finish(options, "startup", {"rows": rows}, found)


if __name__ == "__main__":
    main()
