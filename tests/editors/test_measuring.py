"""The programs that measure the editors: a tee that changes no byte, tables with a place, a red run that ends all."""

import json
import subprocess
import sys

import figures
import pytest
import repeat
from measure_latency import TEE, exchanges, server_part
from nvim_driver import ROOT


def frame(message):
    body = json.dumps(message).encode()
    return b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_the_tee_changes_nothing_and_notes_requests_and_answers(tmp_path):
    """The server is `cat`: what it is asked comes back, and so does what stands for its answers."""
    log = tmp_path / "wire.log"
    method = "textDocument/inlineCompletion"
    messages = [
        {"id": 1, "method": "initialize", "params": {"text": "\U0001f600" * 40_000}},
        {"id": 7, "method": method, "params": {}},
        {"id": 7, "result": {"items": [{"insertText": "x"}]}},
        {"id": "a", "method": method, "params": {}},
        {"id": "a", "result": []},
        {"id": 9, "method": method, "params": {}},
    ]
    sent = b"".join(map(frame, messages))
    done = subprocess.run([*TEE, str(log), "sh", "-c", "cat; exit 3"], input=sent, capture_output=True, check=False)
    assert done.stderr == b""
    assert done.stdout == sent
    assert done.returncode == 3
    found = exchanges(log)
    assert [has_text for _, _, has_text in found] == [True, False, False]
    (asked, answered, _), (_, nothing, _), (_, never, _) = found
    assert asked <= answered
    assert nothing is not None
    assert never is None
    # the one with text, if it fell between the key and the sight of it
    assert server_part(log, asked - 1, answered + 1) == (asked, answered)
    assert server_part(log, asked + 1, answered + 2, 0) is None
    assert server_part(log, asked - 2, answered - 1, 0) is None


def test_every_table_has_its_place():
    document = (ROOT / "docs/EDITORS.md").read_text()
    part = figures.summary([1.0, 2.0, 3.0])
    assert part == {"median_ms": 2.0, "p95_ms": 3.0, "n": 3}
    latency = {"rows": [{"editor": "Neovim", "server": "real", "asked": 4, **dict.fromkeys(figures.PARTS, part)}]}
    startup = {"rows": [{"what": "a start", "figure": "1 ms"}]}
    journeys = {"rows": [{"run": 1, "passed": 24, "failed": 0, "skipped": 0, "seconds": 9.5}]}
    values = [
        figures.write(None, kind, measured, figures.conditions())
        for kind, measured in (("latency", latency), ("startup", startup), ("journeys", journeys))
    ]
    filled = figures.with_tables(document, values)
    for line in ("| Neovim | real | 2.0 / 3.0 |", "| a start | 1 ms |", "| 1 | 24 | 0 | 0 | 9.5 |"):
        assert filled.count(line) == 1
    # and again: it replaces what it wrote
    assert figures.with_tables(filled, values) == filled


@pytest.mark.parametrize(
    ("body", "row"),
    [
        # what has to be shown
        ("assert True", {"passed": 1, "failed": 0, "skipped": 0, "exit": 0}),
        # its output is printed
        ("assert 1 + 1 == 3", {"passed": 0, "failed": 1, "skipped": 0, "exit": 1}),
        # nothing was shown
        ("pytest.skip('no editor')", {"passed": 0, "failed": 0, "skipped": 1, "exit": 0}),
    ],
)
def test_a_run_is_counted_and_the_first_red_one_ends_it(tmp_path, monkeypatch, capsys, body, row):
    file = tmp_path / "test_it.py"
    file.write_text(f"import pytest\n\n@pytest.mark.journey\ndef test_it():\n    {body}\n")
    told = tmp_path / "runs.json"
    arguments = ["repeat.py", "-n", "2", "--journeys", "--json", str(told), str(file)]
    monkeypatch.setattr(sys, "argv", arguments)
    is_green = row["passed"] == 1
    assert repeat.main() == (0 if is_green else 1)
    value = json.loads(told.read_text())
    assert value["is_green"] == is_green
    assert [{name: one[name] for name in row} for one in value["rows"]] == [row] * (2 if is_green else 1)
    assert ("1 + 1 == 3" in capsys.readouterr().out) == (row["failed"] == 1)
