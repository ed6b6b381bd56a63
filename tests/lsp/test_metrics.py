"""Local counts: what is counted, that several processes add up, and that nothing else is kept."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lacuna_ls.lsp.cli import main
from lacuna_ls.lsp.metrics import BUCKET_RATIO, Metrics, num_kept

URI = "file:///workspace/a.py"


def test_a_session_is_counted(start, tmp_path):
    server = start(env={"XDG_STATE_HOME": str(tmp_path)})
    server.open(URI, "MANY\n")
    (item,) = server.inline(URI, 0, 4)
    server.notify("lacuna/didShow", {"item": item})
    server.notify("lacuna/didShow", {"item": item})
    server.notify("textDocument/didPartiallyAcceptCompletion", {"item": item, "acceptedLength": 2})
    server.notify("lacuna/didPartiallyAccept", {"id": item["command"]["arguments"][0], "acceptedLength": 3})
    server.request("workspace/executeCommand", item["command"])
    server.change(URI, 2, {"text": "y\n"})
    (item,) = server.inline(URI, 0, 1)
    server.notify("textDocument/didShowCompletion", {"item": item})
    server.notify("lacuna/didDismiss", {"item": item})
    counted = server.request("lacuna/metrics", {})
    assert counted["numRequests"] == 2
    # the first when it was answered, because the client had not said yet that it reports; and not again
    assert counted["numShown"] == 2
    assert counted["numAccepted"] == 1
    assert counted["numPartlyAccepted"] == 1
    assert counted["numCharsAccepted"] == 5
    assert counted["numDismissed"] == 1
    assert counted["latencyP50Ms"] > 0
    kept = json.loads((tmp_path / "lacuna" / "metrics.json").read_text())
    assert all(isinstance(value, int) for name, value in kept.items() if name != "since")
    purged = server.request("lacuna/metrics", {"purge": True})
    assert purged["numRequests"] == 2
    assert server.request("lacuna/metrics", {})["numRequests"] == 0


def test_counting_can_be_switched_off(start, tmp_path):
    server = start(env={"XDG_STATE_HOME": str(tmp_path)}, options={"privacy": {"metrics": False}})
    server.open(URI, "x = \n")
    server.inline(URI, 0, 4)
    assert server.request("lacuna/metrics", {})["numRequests"] == 0
    assert server.close() == 0
    assert not (tmp_path / "lacuna").exists()


def test_processes_add_up(tmp_path):
    file = tmp_path / "metrics.json"

    def work():
        for _ in range(20):
            metrics = Metrics(file)
            metrics.count("num_shown")
            metrics.latency(10.0)
            metrics.flush()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = Metrics(file).result()
    assert result.num_shown == 80
    assert 10 / BUCKET_RATIO <= result.latency_p95_ms <= 10 * BUCKET_RATIO
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_lock_that_a_dead_process_left_is_broken(tmp_path):
    (tmp_path / "metrics.lock").touch()
    metrics = Metrics(tmp_path / "metrics.json")
    metrics.count("num_shown")
    assert metrics.result().num_shown == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        "[1]",
        "[" * 100_000,
        '{"num_shown": "many", "ms": 3, "msx": 4}',
        '{"num_shown": -4, "ms--5": 1, "ms\u00b2": 1, "ms99999999": 1}',
    ],
    ids=["empty", "text", "list", "nested too deeply", "no numbers", "numbers that are none"],
)
def test_a_damaged_file_begins_anew(tmp_path, content):
    file = tmp_path / "metrics.json"
    file.write_text(content)
    metrics = Metrics(file)
    metrics.count("num_shown")
    assert metrics.result().num_shown == 1


def test_a_folder_that_cannot_be_written_costs_the_counts_only(tmp_path):
    (tmp_path / "file").write_text("")
    metrics = Metrics(tmp_path / "file" / "metrics.json")
    metrics.count("num_shown")
    metrics.flush()
    assert metrics.result().num_shown == 0


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def full(self, data, **_):
        self.write_bytes(data[:3].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    metrics = Metrics(tmp_path / "metrics.json")
    metrics.count("num_shown")
    metrics.flush()
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_deleted_is_not_said_to_be(tmp_path, monkeypatch, capsys):
    file = tmp_path / "metrics.json"
    file.mkdir()
    monkeypatch.setattr("lacuna_ls.lsp.metrics.default_file", lambda: file)
    assert main(["metrics", "--purge"]) == 1
    assert capsys.readouterr().out.endswith("not deleted\n")
    assert file.is_dir()


def test_names_of_counts_are_checked():
    with pytest.raises(ValueError, match="no count"):
        Metrics(None).count("num_surprises")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("before return value after", 12),
        ("before return valve after", 10),
        ("something else altogether", 0),
        ("", 0),
    ],
    ids=["untouched", "edited", "gone", "empty document"],
)
def test_characters_kept(text, kept):
    assert abs(num_kept(text, "return value", 7) - kept) <= 1


def test_the_command_shows_and_purges(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    metrics = Metrics(tmp_path / "lacuna" / "metrics.json")
    metrics.count("num_accepted", 3)
    metrics.flush()
    command = [sys.executable, "-P", "-m", "lacuna_ls.lsp.cli", "metrics"]
    shown = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["num_accepted"] == 3
    shown = subprocess.run([*command, "--purge"], capture_output=True, text=True, check=True)
    assert "deleted" in shown.stdout
    assert not (tmp_path / "lacuna" / "metrics.json").exists()
    assert Path(tmp_path).exists()


@pytest.mark.parametrize("does_report", [True, False], ids=["reports", "says nothing"])
def test_what_was_computed_ahead_counts_as_shown(start, tmp_path, journal, does_report):
    server = start(env={"XDG_STATE_HOME": str(tmp_path)})

    def see(character):
        (item,) = server.inline(URI, 0, character)
        if does_report:
            server.notify("lacuna/didShow", {"item": item})
        return item

    server.open(URI, "x = \n")
    first = see(4)
    server.wait_for(lambda: sum(each["what"] == "fill" for each in journal()) == 2, what="the fill ahead")
    for version, (character, text) in enumerate([(4, "filled"), (10, "fi")], 2):
        at = {"line": 0, "character": character}
        server.change(URI, version, {"range": {"start": at, "end": at}, "text": text})
        # from memory: what followed, and then the rest of that
        see(character + len(text))
        if version == 2:
            server.request("workspace/executeCommand", first["command"])
    assert sum(each["what"] == "fill" and each["line"] == "x = filled" for each in journal()) == 1
    counted = server.request("lacuna/metrics", {})
    assert (counted["numShown"], counted["numAccepted"]) == (2, 1)
