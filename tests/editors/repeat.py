"""Runs the editors' tests again and again, and stops at the first run that is not green.

    python tests/editors/repeat.py [-n 20] [--journeys] [--json FILE] [--markdown] [PATH ...]

Flaky is broken: this shows that they are not. --journeys runs those that a release must show (the marker `journey`), in
both editors, with the real server and the embedded model where there is one to start. A skipped test counts as red
here: what was not run was not shown; --allow-skips is for machines that lack an editor.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).parent))
from figures import add_options, conditions, finish
from nvim_driver import ROOT

TAIL = 20_000
"""Characters of a red run's output that are printed."""


def run(number, marker, paths):
    """One run: its row of the table, and the output."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-m", marker]
        command += ["-p", "no:cacheprovider", f"--junit-xml={report}", *paths]
        begun = time.monotonic()
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=ROOT, text=True, errors="replace", check=False, **both)
        seconds = round(time.monotonic() - begun, 1)
        counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
        # none is written when pytest could not start
        if report.exists():
            for suite in ElementTree.parse(report).getroot().iter("testsuite"):
                for name in counts:
                    counts[name] += int(suite.get(name, 0))
    failed = counts["failures"] + counts["errors"]
    row = {
        "run": number,
        "passed": counts["tests"] - failed - counts["skipped"],
        "failed": failed,
        "skipped": counts["skipped"],
        "seconds": seconds,
        "exit": done.returncode,
    }
    return row, done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", default=["tests/editors"], help="tests to run (default: tests/editors)")
    parser.add_argument("-n", type=int, default=20, help="runs")
    parser.add_argument("--journeys", action="store_true", help="only the journeys that a release must show")
    parser.add_argument("--allow-skips", action="store_true", help="a run with skipped tests is green all the same")
    add_options(parser)
    options = parser.parse_args()
    marker = "journey" if options.journeys else "editor"
    found, rows, is_green = conditions(), [], True
    sys.stdout.write(f"{'run':>4} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}\n")
    for number in range(1, options.n + 1):
        row, output = run(number, marker, options.paths)
        rows.append(row)
        is_green = row["exit"] == 0 and row["passed"] > 0 and (options.allow_skips or not row["skipped"])
        sys.stdout.write(
            f"{number:4} {row['passed']:7} {row['failed']:7} {row['skipped']:8} {row['seconds']:8.1f}\n"
            + ("" if is_green else output[-TAIL:])
        )
        sys.stdout.flush()
        if not is_green:
            break
    seconds = [row["seconds"] for row in rows]
    sys.stdout.write(
        f"{len(rows)} of {options.n} runs, {'all green' if is_green else 'the last one red'}: "
        f"{sum(row['passed'] for row in rows)} tests passed, {min(seconds):.0f} to {max(seconds):.0f} s each\n"
    )
    measured = {"marker": marker, "wanted": options.n, "is_green": is_green, "rows": rows}
    finish(options, "journeys" if options.journeys else "runs", measured, found)
    return 0 if is_green else 1


if __name__ == "__main__":
    sys.exit(main())
