"""The command line: messages for people, exit codes, and the embedded model at work in a terminal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lacuna_ls.engine.errors import LacunaError
from lacuna_ls.engine.modelfile import EMBEDDED
from lacuna_ls.infill.request import InfillResult, Proposal
from lacuna_ls.lsp.cli import PASSED_ON, main
from lacuna_ls.lsp.fill import parse_place, write_text

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


SHELL = f"{sys.executable} -P -m lacuna_ls.lsp.cli"


def shell(command, **more):
    """A shell's command line; {lacuna} stands for the command. With buffers, as users have them."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    env.pop("PYTHONUNBUFFERED", None)
    command = command.replace("{lacuna}", SHELL)
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=env, stdin=subprocess.DEVNULL
    )


on_posix = pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")


@on_posix
@pytest.mark.parametrize("arguments", ["--version", "--help", "metrics", "options"])
def test_a_reader_that_left_before_the_first_line_is_no_failure(arguments, tmp_path):
    # short answers fit into the buffer, and would be written by the interpreter as it ends
    done = shell(f"({{lacuna}} {arguments}; echo $? >&2) | true", XDG_STATE_HOME=str(tmp_path))
    assert done.stderr == "0\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", ["--version", "metrics", "options"])
def test_a_full_disk_under_stdout_is_one_line(arguments, tmp_path):
    done = shell(f"{{lacuna}} {arguments} > /dev/full", XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("lacuna: No space left on device")
    assert done.stderr.count("\n") == 1


@on_posix
@pytest.mark.parametrize("redirected", ["--version >&-", "options >&-", "metrics >&- 2>&- <&-"])
def test_closed_streams_lead_nowhere(redirected, tmp_path):
    done = shell(f"{{lacuna}} {redirected}", XDG_STATE_HOME=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@on_posix
def test_a_server_whose_stdin_is_closed_ends():
    done = shell("{lacuna} serve <&-")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_plain_encoding_gets_plain_marks(tmp_path):
    done = shell("{lacuna} doctor", PYTHONIOENCODING="ascii", XDG_STATE_HOME=str(tmp_path))
    assert done.stderr == ""
    assert "+ python " in done.stdout
    told = shell("{lacuna} doctor --json", PYTHONIOENCODING="ascii", XDG_STATE_HOME=str(tmp_path))
    assert json.loads(told.stdout)[1]["name"] == "python"


@on_posix
def test_a_folder_that_is_gone_is_said(tmp_path):
    done = shell(f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone && {{lacuna}} verify x")
    assert done.returncode == 1
    assert done.stderr == "lacuna: The folder that you are in does not exist any more. Change to another (cd ~).\n"


@pytest.mark.parametrize(
    "arguments",
    [["fill", "{file}", "--at", "1:1", "--model"], ["quantize"], ["verify"]],
    ids=["fill", "quantize", "verify"],
)
@pytest.mark.parametrize("name", ["~nosuchuser/model", "runs/my--model", "a" * 300])
def test_a_model_path_that_leads_nowhere_is_one_line(arguments, name, tmp_path, capsys):
    file = tmp_path / "a.py"
    file.write_text("x = 1\n")
    more = [str(tmp_path / "to")] if arguments == ["quantize"] else []
    assert main([*(each.replace("{file}", str(file)) for each in arguments), name, *more]) == 1
    told = capsys.readouterr().err
    assert told.startswith("lacuna: ")
    assert told.count("\n") == 1


def test_a_place_of_thousands_of_digits_is_not_there():
    with pytest.raises(LacunaError, match="does not exist"):
        parse_place("9" * 5000 + ":1", "x = 1\n")


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host", "model"])
def test_an_address_that_is_none_is_asked_wrongly(address, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--engine", address])
    assert ended.value.code == 2
    assert "is not an address" in capsys.readouterr().err


def test_record_contents_wants_a_file(capsys):
    assert main(["serve", "--record-contents"]) == 1
    assert "--record FILE" in capsys.readouterr().err


@on_posix
@needs_model
def test_a_file_that_cannot_be_written_whole_stays_as_it_is(tmp_path):
    file = tmp_path / "a.py"
    text = "x = 1\n" * 3000 + "def add(a, b):\n    return a + \n"
    file.write_text(text)
    # as a disk that is full: no file may have more than 8 KiB
    done = shell(f"ulimit -f 8; {{lacuna}} fill {file} --at 3002:16 --write")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.py"]


def test_what_was_written_keeps_its_permissions_and_links(tmp_path):
    file, link = tmp_path / "a.py", tmp_path / "link.py"
    file.write_bytes(b"x = \r\n")
    file.chmod(0o750)
    link.symlink_to(file)
    write_text(link, "x = \r\n", "x = 1\r\n")
    assert file.read_bytes() == b"x = 1\r\n"
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o750
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.py", "link.py"]


def test_a_file_in_a_folder_of_others_is_written_all_the_same(tmp_path, monkeypatch):
    file = tmp_path / "a.py"
    file.write_text("x = \n")
    # root may write everywhere, whatever the permissions say
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("something was put beside it"))
    write_text(file, "x = \n", "x = 1\n")
    assert file.read_text() == "x = 1\n"


def test_what_is_written_is_closed(tmp_path, monkeypatch, capsys):
    class Canned:
        def fill(self, request):
            return InfillResult((Proposal("(x) => {", request.start, request.start + 1, 0.5, closing="})"),))

        def close(self):
            pass

    monkeypatch.setattr("lacuna_ls.lsp.loading.load_infiller", lambda *_: Canned())
    file = tmp_path / "a.js"
    file.write_text("f()\ng()\n")
    assert main(["fill", str(file), "--at", "1:3", "--write"]) == 0
    # nobody goes on writing there
    assert file.read_text() == "f((x) => {})\ng()\n"


@needs_model
def test_a_byte_order_mark_stays_in_front(tmp_path):
    file = tmp_path / "a.py"
    file.write_bytes(b"\xef\xbb\xbfx = \ny = 1\n")
    assert run("fill", file, "--at", "1:5", "--write").returncode == 0
    assert file.read_bytes().startswith(b"\xef\xbb\xbfx = ")
    assert file.read_bytes().count(b"\xef\xbb\xbf") == 1
    assert not file.read_bytes().startswith(b"\xef\xbb\xbfx = \n")


def test_a_file_that_was_changed_meanwhile_is_not_overwritten(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("x = 2\n")
    with pytest.raises(LacunaError, match="changed meanwhile"):
        write_text(file, "x = 1\n", "x = 3\n")
    assert file.read_text() == "x = 2\n"


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signals_unwind_and_are_told(number, code, word, monkeypatch, capsys):
    unwound = []

    def work(arguments):
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            unwound.append(arguments)

    monkeypatch.setitem(PASSED_ON, "tune", ("", work))
    try:
        ended = main(["tune", "x"])
    except SystemExit as error:
        ended = error.code
    assert ended == code
    assert unwound == [["x"]]
    assert capsys.readouterr().err == f"lacuna: {word}\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_start_waits_for_nothing_large():
    code = "import sys; from lacuna_ls.lsp.cli import main; main(['--version']); print([m for m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert not {"'torch'", "'numpy'", "'rich'"} & set(done.stdout.strip("[]\n").split(", "))
