"""Figures of the editors: their medians, the conditions they were measured under, and the tables made of them.

    python tests/editors/figures.py FILE.json ... [--into docs/EDITORS.md]

measure_latency.py, measure_startup.py and repeat.py write such files (`--json`). With --into, each table replaces what
stands between its two markers in that document; without, the tables are printed.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

import psutil
from lacuna_ls.bench.run import processor
from nvim_driver import NVIM, ROOT


def summary(values):
    """Median, 95th percentile and count, in milliseconds; None for the two when there is nothing."""
    ordered = sorted(values)
    if not ordered:
        return {"median_ms": None, "p95_ms": None, "n": 0}
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"median_ms": round(statistics.median(ordered), 1), "p95_ms": round(p95, 1), "n": len(ordered)}


def said(pattern, *command):
    """The first group of pattern in what a program prints, or "unknown"."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        if found := re.search(pattern, done.stdout):
            return found[1]
    return "unknown"


def conditions():
    """What has to stand beside a figure. The load is that of the minute before."""
    found = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": said("(.+)", "git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "neovim": said(r"NVIM v(\S+)", str(NVIM), "--version"),
        "load_before": round(os.getloadavg()[0], 1),
    }
    # the driver of VS Code wants playwright, and the figures of Neovim do not
    with contextlib.suppress(ImportError):
        from vscode_driver import CHROMIUM, CODE

        found["vscode"] = said(r"with Code (\S+)", str(CODE), "--version")
        found["chromium"] = said(r"Chromium (\S+)", str(CHROMIUM), "--version")
    return found


def in_words(found):
    """The conditions as one sentence of a document."""
    labels = {"neovim": "Neovim", "vscode": "VS Code"}
    editors = [f"{label} {found[name]}" for name, label in labels.items() if name in found]
    return (
        f"{found['date']}, commit {found['commit']}: {found['cores']} cores of an {found['processor']}, "
        f"{found['memory_gib']} GiB, {found['system']}, Python {found['python']}, {', '.join(editors)}"
        + (f" in Chromium {found['chromium']}" if "chromium" in found else "")
        + f". Load {found['load_before']} before, {found.get('load_after', '?')} after."
    )


def write(file, kind, measured, found):
    """A file of figures. kind: the name of its table."""
    value = {"kind": kind, "conditions": {**found, "load_after": round(os.getloadavg()[0], 1)}, **measured}
    if file:
        Path(file).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    return value


def cell(part):
    """Median and 95th percentile."""
    return "-" if part["median_ms"] is None else f"{part['median_ms']} / {part['p95_ms']}"


PARTS = {
    "key_to_text": "key to text",
    "before_request": "before the request",
    "server_part": "the server's part",
    "after_answer": "after the answer",
    "editor_part": "the editor's own part",
}


def latency_table(value):
    lines = [
        f"| editor | server | {' | '.join(PARTS.values())} | shown of asked |",
        f"|---|---|{'---:|' * len(PARTS)}---:|",
    ]
    for row in value["rows"]:
        parts = " | ".join(cell(row[name]) for name in PARTS)
        lines.append(f"| {row['editor']} | {row['server']} | {parts} | {row['key_to_text']['n']} of {row['asked']} |")
    return lines


def startup_table(value):
    lines = ["| what | figure |", "|---|---:|"]
    return lines + [f"| {row['what']} | {row['figure']} |" for row in value["rows"]]


def runs_table(value):
    lines = ["| run | passed | failed | skipped | seconds |", "|---:|---:|---:|---:|---:|"]
    names = ("run", "passed", "failed", "skipped", "seconds")
    return [*lines, *("| " + " | ".join(str(row[name]) for name in names) + " |" for row in value["rows"])]


TABLES = {"latency": latency_table, "startup": startup_table, "journeys": runs_table, "runs": runs_table}


def markdown(value):
    """The table of one file, and under it the conditions."""
    return "\n".join([*TABLES[value["kind"]](value), "", in_words(value["conditions"])]) + "\n"


def with_tables(document, values):
    """document with each table between its markers."""
    for value in values:
        kind = value["kind"]
        pattern = rf"(<!-- {kind}: [^\n]*-->\n).*?(<!-- end of {kind} -->\n)"
        found = re.search(pattern, document, re.DOTALL)
        if not found:
            raise SystemExit(f"the document has no place for {kind}: it has lost the markers")
        text = f"{found[1]}\n{markdown(value)}\n{found[2]}"
        document = document[: found.start()] + text + document[found.end() :]
    return document


def add_options(parser):
    """The two ways out that every measuring program has."""
    parser.add_argument("--json", metavar="FILE", help="write the figures and their conditions to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table as it stands in docs/EDITORS.md")


def finish(options, kind, measured, found):
    """Write and print what was asked for."""
    value = write(options.json, kind, measured, found)
    if options.markdown:
        sys.stdout.write("\n" + markdown(value))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, metavar="FILE", help="the document to bring up to date")
    options = parser.parse_args()
    values = [json.loads(file.read_text()) for file in options.files]
    if options.into:
        options.into.write_text(with_tables(options.into.read_text(), values))
    else:
        sys.stdout.write("\n".join(map(markdown, values)))


if __name__ == "__main__":
    main()
