"""Recording a session and playing it back: shapes instead of texts unless asked, and every request answered again."""

from __future__ import annotations

import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from lacuna_ls.engine.errors import LacunaError
from lacuna_ls.engine.frames import pack
from lacuna_ls.lsp.record import (
    FORMAT,
    Recorder,
    read_session,
    recorded_latencies,
    replay,
    report,
    shape_of,
)
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


def test_a_frame_without_its_time_is_left_out(tmp_path):
    file = tmp_path / "session"
    whole = {"s": 1.0, "way": "in", "message": {"method": "x"}}
    frames = [{"format": FORMAT}, {**whole, "s": None}, {"message": {}}, whole]
    file.write_bytes(b"".join(map(pack, frames)))
    assert [each.when_s for each in read_session(file)] == [1.0]


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
    assert shape["params"]["text"] == "xxxxöx x\n\t→"
    assert shape["params"]["uri"] != "file:///a/b.go"
    assert shape["params"]["version"] == 3
    assert shape["params"]["list"] == ["xx"]


def test_paths_that_are_keys_are_hashed_as_everywhere():
    shape = shape_of({"changes": {URI: []}, "uri": URI, "C:\\secret\\a.py": 1, "/secret/b": 2, "[python]": 3})
    assert "secret" not in str(shape)
    assert shape["uri"] in shape["changes"]
    assert shape["[python]"] == 3


@pytest.mark.parametrize("text", ["naïve", "日本語 text", "\U0001d54f = 1", "ψ_1", "x\U0001f600y"])
def test_a_shape_is_as_wide_as_its_text(text):
    # else the positions of a recording mean other places in a replay
    shape = shape_of(text)
    assert shape != text
    for now, then in zip(shape, text, strict=True):
        for encoding in ("utf-8", "utf-16-le", "utf-32-le"):
            assert len(now.encode(encoding)) == len(then.encode(encoding))


def test_what_cannot_be_packed_is_left_out(tmp_path):
    recorder = Recorder(tmp_path / "session", with_contents=True)
    recorder("in", {"method": "a", "params": "\ud800"}, 0.0)
    recorder("in", {"method": "b"}, 0.0)
    recorder.close()
    assert [each.message for each in read_session(tmp_path / "session")] == [{"method": "b"}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_ends_the_recording_and_nothing_else(caplog):
    recorder = Recorder(Path("/dev/full"), with_contents=True)
    for _ in range(3):
        recorder("in", {"method": "a"}, 0.0)
    recorder.close()
    (told,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "the recording" in told.getMessage().lower()
