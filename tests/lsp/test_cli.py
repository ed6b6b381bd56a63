"""The command line: messages for people, exit codes, and the embedded model at work in a terminal."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lacuna_ls.engine.errors import LacunaError
from lacuna_ls.engine.modelfile import EMBEDDED
from lacuna_ls.lsp.cli import PASSED_ON, main
from lacuna_ls.lsp.fill import parse_place

needs_model = pytest.mark.skipif(not EMBEDDED.exists(), reason="this tree carries no embedded model")


def run(*arguments, **more):
    """lacuna, as a user runs it. One thread: the machines that test are shared."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "lacuna_ls.lsp.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=240, **more)


def test_version_needs_nothing(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lacuna ")


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for name in ("serve", "fill", "doctor", "options", "metrics", "replay", *PASSED_ON):
        assert name in out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["fill"], ["fill", "x.py"], ["serve", "--log-level", "loud"]])
def test_asked_wrongly_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: lacuna" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data", "place", "words"),
    [
        ("missing.py", None, "1:1", "cannot be read"),
        ("latin.py", b"x = '\xe4'\n", "1:1", "not UTF-8"),
        ("a.py", b"x = 1\n", "9:1", "Line 9 does not exist"),
        ("a.py", b"x = 1\n", "1:9", "Column 9 does not exist"),
        ("a.py", b"x = 1\n", "here", "is not a place"),
    ],
    ids=["missing file", "not UTF-8", "line", "column", "not a place"],
)
def test_bad_input_is_said_in_one_line(tmp_path, name, data, place, words):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    done = run("fill", tmp_path / name, "--at", place)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.startswith("lacuna: ")
    assert done.stderr.count("\n") == 1


def test_a_model_that_is_not_there(tmp_path):
    (tmp_path / "a.py").write_text("x = \n")
    done = run("fill", tmp_path / "a.py", "--at", "1:5", "--model", tmp_path / "nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("lacuna: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("place", "offset"),
    [("1:1", 0), ("1:3", 2), ("2:1", 3), ("3:1", 7), ("4:1", 9), ("5:1", 11)],
    ids=["start", "end of line", "after LF", "after CR LF", "after CR", "empty last line"],
)
def test_places_count_from_1(place, offset):
    assert parse_place(place, "ab\nc\r\n\ne\rf\n".replace("\r\n\n", "d\r\n")) == offset


def test_places_outside():
    with pytest.raises(LacunaError, match="Line 0"):
        parse_place("0:1", "x")


@needs_model
def test_fill_with_the_embedded_model(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("import os\n\n\ndef exists(path):\n    return os.path.\n")
    done = run("fill", file, "--at", "5:20", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == (0 if result["proposals"] else 1)
    assert result["timings"]["num_forwards"] > 0
    assert file.read_text().endswith("os.path.\n")
    if result["proposals"]:
        assert run("fill", file, "--at", "5:20", "--write").returncode == 0
        best = result["proposals"][0]["text"]
        assert file.read_text() == f"import os\n\n\ndef exists(path):\n    return os.path.{best}\n"


@needs_model
def test_doctor_finds_the_model():
    done = run("doctor", "--json")
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert found["model"]["state"] == "ok"
    assert found["grammars"]["state"] == "ok"
    assert {"python", "torch", "gpu", "cpu", "cache", "state"} <= set(found)
    assert done.returncode == 0


def test_doctor_says_what_to_do_about_a_missing_model(tmp_path):
    done = run("doctor", "--json", "--model", tmp_path / "nothing")
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert found["model"]["state"] == "missing"
    assert found["model"]["advice"]
    assert done.returncode == 1


def test_doctor_says_that_a_server_does_not_answer():
    with socket.socket() as taken:
        # bound and not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        done = run("doctor", "--json", "--engine", f"http://127.0.0.1:{taken.getsockname()[1]}")
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert found["model"]["state"] == "missing"
    assert "127.0.0.1" in found["model"]["found"]
    assert found["model"]["advice"]
    assert done.returncode == 1


@pytest.fixture
def released(tmp_path):
    """A folder with the released model's config, and nothing else: the plan needs no more."""
    config = Path(__file__).parents[2] / "bench" / "diffusiongemma_26b.json"
    (tmp_path / "config.json").write_text(config.read_text())
    return tmp_path


def test_doctor_prints_the_memory_plan(released):
    done = run("doctor", "--json", "--model", released, "--kv-tokens", "4096")
    lines = [each["found"].split() for each in json.loads(done.stdout) if each["name"] == "plan"]
    assert ["experts", "12.15", "GB", "int4"] in lines
    assert ["KV", "cache", "0.92", "GB", "4096", "tokens,", "225", "MB", "per", "1000"] in lines
    assert any(line[0] == "total" for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kv-tokens", "512"], "'512' is not 2048 to 262144"),
        (["--kv-tokens", "many"], "'many' is not 2048 to 262144"),
        (["--vram-cap", "-1"], "'-1' is not 0 to 1024"),
    ],
    ids=["too few tokens", "no number", "less than nothing"],
)
def test_a_budget_that_the_option_would_not_take_is_asked_wrongly(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["fill", "a.py", "--at", "1:1", *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_fill_is_given_the_budgets(tmp_path, monkeypatch):
    from lacuna_ls.lsp import loading

    def load(options, *more):
        raise LacunaError(f"{options.engine.kv_tokens} tokens, {options.engine.vram_cap_gib} GiB")

    monkeypatch.setattr(loading, "load_infiller", load)
    (tmp_path / "a.py").write_text("x = \n")
    error = []
    monkeypatch.setattr(sys.stderr, "write", error.append)
    assert main(["fill", str(tmp_path / "a.py"), "--at", "1:5", "--kv-tokens", "4096", "--vram-cap", "17.5"]) == 1
    assert error == ["lacuna: 4096 tokens, 17.5 GiB\n"]


def test_doctor_refuses_a_model_that_does_not_fit(released):
    done = run("doctor", "--model", released, "--vram-cap", "16")
    assert done.returncode == 1
    assert "17.18 GB  the cap" in done.stdout
    assert "0.8 GB over the cap; set the KV budget to 4096 tokens" in done.stdout
    # it is not even looked for: nothing is loaded that does not fit
    assert "✓ model" not in done.stdout


def test_a_log_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("serve", "--log-file", tmp_path / "file" / "log", stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_failure():
    done = subprocess.run(
        f"{sys.executable} -P -m lacuna_ls.lsp.cli options --format vscode | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
