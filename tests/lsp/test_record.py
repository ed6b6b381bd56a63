"""Recording a session and playing it back: shapes instead of texts unless asked, and every request answered again."""

from __future__ import annotations

import stat
import subprocess
import sys

import pytest
from lacuna_ls.engine.errors import LacunaError
from lacuna_ls.lsp.record import Recorder, read_session, recorded_latencies, replay, report, shape_of
from lsp_client import FAKE_SERVER

URI = "file:///workspace/secret_project/a.py"


@pytest.fixture
def recorded(start, tmp_path):
    """recorded(contents) -> the file of a short session."""

    def make(contents=False):
        file = tmp_path / "session"
        env = {"LACUNA_FAKE_RECORD": str(file), **({"LACUNA_FAKE_CONTENTS": "1"} if contents else {})}
        server = start("vscode", env=env, settings={"trigger": {"speculate": False}})
        server.open(URI, "password = 'hunter2'\nECHO \n")
        server.inline(URI, 1, 5)
        server.change(URI, 2, {"text": "password = 'hunter3'\nECHO x\n"})
        server.inline(URI, 1, 6)
        assert server.close() == 0
        return file

    return make


def test_without_contents_only_shapes_are_kept(recorded):
    file = recorded()
    data = file.read_bytes()
    assert b"hunter" not in data
    assert b"secret_project" not in data
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    session = list(read_session(file))
    opened = next(each.message for each in session if each.message.get("method") == "textDocument/didOpen")
    assert opened["params"]["textDocument"]["text"] == "xxxxxxxx = 'xxxxxxx'\nxxxx \n"
    assert opened["params"]["textDocument"]["languageId"] == "python"
    assert opened["params"]["textDocument"]["uri"].endswith(".py")


def test_with_contents_everything_is_kept(recorded):
    assert b"hunter2" in recorded(contents=True).read_bytes()


@pytest.mark.parametrize("contents", [True, False], ids=["texts", "shapes"])
def test_replay_answers_every_request(recorded, contents):
    session = list(read_session(recorded(contents)))
    assert [each.when_s for each in session] == sorted(each.when_s for each in session)
    assert len(recorded_latencies(session)["textDocument/inlineCompletion"]) == 2
    result = replay(session, FAKE_SERVER, speed=10)
    assert result.num_unanswered == 0
    assert result.num_errors == 0
    assert len(result.replayed_ms["textDocument/inlineCompletion"]) == 2
    assert "textDocument/inlineCompletion" in report(result)


def test_a_recording_that_breaks_off_is_read_so_far(recorded, tmp_path):
    data = recorded().read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(data[:-20])
    assert len(list(read_session(cut))) == len(list(read_session(tmp_path / "session"))) - 1


@pytest.mark.parametrize(
    "data", [b"", b"\x00\x00\x00\x01\x05", b"hello world, this is text"], ids=["empty", "number", "text"]
)
def test_what_is_no_recording_is_said(tmp_path, data):
    file = tmp_path / "no"
    file.write_bytes(data)
    with pytest.raises(LacunaError, match=r"recording|damaged"):
        list(read_session(file))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lacuna_ls.lsp.cli", "replay", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("lacuna: ")
    assert "Traceback" not in done.stderr


def test_a_file_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LacunaError, match="cannot be written"):
        Recorder(tmp_path / "file" / "x", with_contents=False)


def test_shapes():
    value = {
        "method": "x/y",
        "params": {"text": "Straße 7\n\t→", "uri": "file:///a/b.go", "version": 3, "list": ["ab"]},
    }
    shape = shape_of(value)
    assert shape["method"] == "x/y"
    assert shape["params"]["text"] == "xxxxxx x\n\t→"
    assert shape["params"]["uri"] != "file:///a/b.go"
    assert shape["params"]["version"] == 3
    assert shape["params"]["list"] == ["xx"]
