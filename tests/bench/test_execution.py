"""What runs unread code runs it within limits, and the data sets and unit tests give the verdicts they should."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import socket
import sys
import tarfile
import time
from pathlib import Path

import pytest
from lacuna_ls.bench.cli import run
from lacuna_ls.bench.datasets import Task, check, filled, is_dataset, read_tasks
from lacuna_ls.bench.errors import ResultsError, SnapshotError
from lacuna_ls.bench.execution import DEFAULT_TESTS, noticed_bodies, prepare, unpack
from lacuna_ls.bench.metrics import NOTHING
from lacuna_ls.bench.results import Record, load
from lacuna_ls.bench.sandbox import Limits, network_wall, num_tasks, run_limited
from lacuna_ls.bench.scale import long_file, make_workspace, middle_holes, parted
from lacuna_ls.bench.snapshot import read_snapshot

PYTHON = [sys.executable, "-I", "-c"]

HUMAN_EVAL = {
    "task_id": "SingleLineInfilling/Own/0/L1",
    "prompt": "def add(first, second):\n",
    "suffix": "    return result\n",
    "canonical_solution": "    result = first + second\n",
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5",
    "entry_point": "add",
}
SAFIM = {
    "task_id": "block_own_1",
    "lang": "python",
    "prompt": "In words.\nfirst, second = map(int, input().split())\n# TODO: Your code here\nprint(third)\n",
    "eval_prompt": "first, second = map(int, input().split())\n{{completion}}\nprint(third)\n",
    "ground_truth": "third = first + second",
    "unit_tests": [{"input": "2 3\n", "output": ["5", "5.0"]}, {"input": "1 1\n", "output": ["2"]}],
}
CPP = {
    "task_id": "block_own_2",
    "lang": "cpp",
    "prompt": "",
    "eval_prompt": "#include <iostream>\nint main() { int a, b; std::cin >> a >> b;\n  {{completion}}\n  return 0; }\n",
    "ground_truth": "std::cout << a + b;",
    "unit_tests": json.dumps([{"input": "2 3", "output": ["5"]}]),
}
API = {**SAFIM, "task_id": "api_own_3", "unit_tests": [], "ground_truth": "third = sum([first, second])"}


def tasks_file(tmp_path: Path, *rows: dict) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def answered(task: Task, proposal: str) -> Record:
    hole = task.hole
    place = (hole.id, "span", "python", hole.file.path, 0, 1, "", "", hole.references[0])
    return Record(*place, proposal, judgement=NOTHING)


# the sandbox


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        pytest.param("print('hello')", "passed", id="well"),
        pytest.param("raise SystemExit(3)", "failed", id="exit-code"),
        pytest.param("while True: pass", "timeout", id="endless-work"),
        pytest.param("import time; time.sleep(60)", "timeout", id="endless-sleep"),
        pytest.param("x = bytearray(10**10)", "memory", id="memory"),
        pytest.param("open('big', 'wb').write(b'x' * 10**7)", "failed", id="a-large-file"),
        pytest.param("while True: print('x' * 10**6)", "failed", id="endless-output"),
    ],
)
def test_programs_end_within_their_limits(tmp_path: Path, program: str, kind: str):
    begun = time.monotonic()
    # only what should run out of time has little of it: this machine may be busy
    seconds = 1.0 if kind == "timeout" else 20.0
    outcome = run_limited([*PYTHON, program], tmp_path, Limits(seconds=seconds, memory_mib=512, file_mib=4))
    assert outcome.kind == kind
    assert outcome.is_passed is (kind == "passed")
    assert time.monotonic() - begun < 30
    assert len(outcome.output) <= 1 << 20


def test_a_program_sees_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    outcome = run_limited([*PYTHON, "import os; print(os.environ, os.getcwd())"], tmp_path, Limits())
    assert "hunter2" not in outcome.output
    assert str(tmp_path) in outcome.output


def test_what_a_program_leaves_behind_is_ended(tmp_path: Path):
    child = "import time, pathlib; time.sleep(1.5); pathlib.Path('survived').touch()"
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    assert run_limited([*PYTHON, program], tmp_path, Limits()).is_passed
    time.sleep(2)
    assert not (tmp_path / "survived").exists()


def test_a_program_has_no_network(tmp_path: Path):
    if not network_wall():
        pytest.skip("this system gives no network namespaces to users")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert run_limited([*PYTHON, program], tmp_path, Limits()).kind == "failed"


def test_what_else_the_user_runs_takes_no_process_from_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert num_tasks() >= 1
    monkeypatch.setattr("lacuna_ls.bench.sandbox.num_tasks", lambda: 1000)
    program = "import resource; print(resource.getrlimit(resource.RLIMIT_NPROC)[0])"
    for wall, count in (((), 1050), (("env",), 50)):
        monkeypatch.setattr("lacuna_ls.bench.sandbox.network_wall", lambda wall=wall: wall)
        assert int(run_limited([*PYTHON, program], tmp_path, Limits(num_processes=50)).output) == count


def test_nothing_is_executed_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # every program would seem to pass there
    monkeypatch.setattr(sys, "platform", "win32")
    outcome = run_limited([*PYTHON, "open('executed', 'w')"], tmp_path, Limits())
    assert outcome.kind == "not-run"
    assert not (tmp_path / "executed").exists()


def test_input_arrives_and_a_missing_program_says_so(tmp_path: Path):
    assert run_limited([*PYTHON, "print(input()[::-1])"], tmp_path, Limits(), stdin="abc\n").output == "cba\n"
    assert not run_limited(["/no/such/program"], tmp_path, Limits()).is_passed


# data sets


def test_tasks_become_canonical_holes(tmp_path: Path):
    tasks, skipped = read_tasks(tasks_file(tmp_path, HUMAN_EVAL, SAFIM, CPP, API))
    assert skipped == {}
    assert [task.hole.references[0] for task in tasks] == [
        "result = first + second",
        "third = first + second",
        "std::cout << a + b;",
        "third = sum([first, second])",
    ]
    # the indentation stands before the cursor, the newline behind it
    assert tasks[0].hole.text == "def add(first, second):\n    \n    return result\n"
    assert "In words" not in tasks[1].hole.text
    assert len({task.hole.file.path.split("/")[0] for task in tasks}) == 4


def test_compressed_files_and_limits(tmp_path: Path):
    path = tmp_path / "tasks.jsonl.gz"
    rows = [{**HUMAN_EVAL, "task_id": f"t/{number}"} for number in range(10)]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert is_dataset(path)
    assert [task.name for task in read_tasks(path, 3)[0]] == ["t/0", "t/3", "t/6"]


def test_other_languages_are_counted(tmp_path: Path):
    tasks, skipped = read_tasks(tasks_file(tmp_path, SAFIM, {**SAFIM, "lang": "csharp"}))
    assert len(tasks) == 1
    assert skipped == {"language csharp": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "it is empty", id="empty"),
        pytest.param(b"{}\n", "line 1: not a task", id="another-format"),
        pytest.param(b"hello\n", "line 1: not a task", id="no-json"),
        pytest.param(b"[1]\n", "line 1: not a task", id="a-list"),
        pytest.param(b"\xff\n", "cannot be read", id="not-utf-8"),
    ],
)
def test_what_is_no_data_set_says_so(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(ResultsError, match=message):
        read_tasks(path)


@pytest.mark.parametrize(
    ("row", "proposal", "verdict"),
    [
        pytest.param(HUMAN_EVAL, "result = second + first", "passed", id="another-way-that-works"),
        pytest.param(HUMAN_EVAL, "result = first - second", "failed", id="wrong"),
        pytest.param(HUMAN_EVAL, "result = (", "failed", id="broken"),
        pytest.param(HUMAN_EVAL, "while True: result = 1", "timeout", id="endless"),
        pytest.param(HUMAN_EVAL, "", "declined", id="nothing"),
        pytest.param(HUMAN_EVAL, "result = first + second", "passed", id="the-solution"),
        pytest.param(SAFIM, "third = second + first", "passed", id="right-output"),
        pytest.param(SAFIM, "third = float(second + first)", "wrong-answer", id="not-every-output"),
        pytest.param(SAFIM, "third = 5", "wrong-answer", id="right-for-one-input"),
        pytest.param(API, "third = sum([ first, second ])", "passed", id="white-space-apart"),
        pytest.param(API, "third = first + second", "different", id="nothing-to-run"),
    ],
)
def test_verdicts(tmp_path: Path, row: dict, proposal: str, verdict: str):
    (task,), _ = read_tasks(tasks_file(tmp_path, row))
    assert check(task, answered(task, proposal), Limits(seconds=2.0 if verdict == "timeout" else 20.0)) == verdict


@pytest.mark.parametrize(
    ("proposal", "verdict"),
    [
        pytest.param("std::cout << b + a;", "passed", id="right"),
        pytest.param("std::cout << a;", "wrong-answer", id="wrong"),
        pytest.param("std::cout << c;", "does-not-compile", id="broken"),
    ],
)
def test_verdicts_on_cpp(tmp_path: Path, proposal: str, verdict: str):
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    (task,), _ = read_tasks(tasks_file(tmp_path, CPP))
    assert check(task, answered(task, proposal), Limits(seconds=20.0)) == verdict


def test_a_proposal_that_replaces_text_is_put_where_it_says(tmp_path: Path):
    (task,), _ = read_tasks(tasks_file(tmp_path, {**HUMAN_EVAL, "suffix": ")\n    return result\n"}))
    record = answered(task, "result = 1")
    assert filled(task.hole, record).endswith("result = 1\n)\n    return result\n")
    whole = Record(**{**{name: getattr(record, name) for name in record.__slots__}, "replaced": (0, 2)})
    assert filled(task.hole, whole).endswith("result = 1\n    return result\n")


def test_pass_at_1_over_the_command_line(tmp_path: Path, oracle, capsys: pytest.CaptureFixture[str]):
    path = tasks_file(tmp_path, HUMAN_EVAL, SAFIM)
    tasks, _ = read_tasks(path)
    command = shlex.join(oracle(texts=[tasks[0].hole.file.text]))
    file = tmp_path / "out.json"
    words = ["--server", f"oracle={command}", "--key-ms", "1", "--baselines", "empty", "--json", str(file)]
    assert run([str(path), *words]) == 0
    rows = {row["subject"]: row for row in load(file).extras["execution"]}
    assert rows["oracle"]["pass_at_1"] == 0.5
    assert rows["oracle"]["outcomes"] == {"passed": 1, "declined": 1}
    assert rows["empty"]["pass_at_1"] == 0.0
    assert "Execution" in capsys.readouterr().out


# the snapshot's own tests

TESTED = '''from pkg.users import hypotenuse


def test_hypotenuse():
    assert hypotenuse(3, 4) == 5
'''


# pytest loads every plugin of the environment, seconds for each run; the test that needs it takes it
CALL_TESTS = [sys.executable, "-c", "from tests.test_shapes import test_hypotenuse as t; t()"]


@pytest.fixture
def tested_folder(repository_folder: Path) -> Path:
    (repository_folder / "tests" / "test_shapes.py").write_text(TESTED, encoding="utf-8")
    return repository_folder


def test_only_bodies_that_tests_notice_count(tested_folder: Path, tmp_path: Path):
    snapshot = read_snapshot(tested_folder)
    (tmp_path / "scratch").mkdir()
    bench = prepare(snapshot, tmp_path / "scratch", CALL_TESTS)
    holes, tried = noticed_bodies(bench, snapshot, 3, seed=0)
    assert [hole.references[0].split("\n")[0] for hole in holes] == ["squares = first**2 + second**2"]
    assert tried > 1
    # the copy is as it was, and the snapshot was never touched
    assert bench.run().is_passed
    assert (tested_folder / "tests" / "test_shapes.py").read_text(encoding="utf-8") == TESTED


def test_execution_over_the_command_line(tested_folder: Path, tmp_path: Path, oracle):
    file = tmp_path / "out.json"
    command = shlex.join(oracle())
    words = ["--server", f"oracle={command}", "--key-ms", "1", "--baselines", "copy", "--json", str(file)]
    assert run([str(tested_folder), *words, "--holes", "0", "--execute", "1", "--tests", shlex.join(CALL_TESTS)]) == 0
    rows = {row["subject"]: row for row in load(file).extras["execution"]}
    assert rows["oracle"]["pass_rate"] == 1.0
    assert rows["copy"]["num_bodies"] == 1


def test_tests_that_fail_anyway_prove_nothing(repository_folder: Path, tmp_path: Path):
    # with the default command, pytest, which also finds the package below the root
    tests = repository_folder / "tests" / "test_shapes.py"
    tests.write_text("import pkg.users\n\n\ndef test_it():\n    assert pkg.users.mean([1]) == 2\n", encoding="utf-8")
    with pytest.raises(SnapshotError, match=r"(?s)do not pass here.*1 failed"):
        prepare(read_snapshot(repository_folder), tmp_path)


def test_another_test_command_can_be_named(repository_folder: Path, tmp_path: Path):
    bench = prepare(read_snapshot(repository_folder), tmp_path, [sys.executable, "-c", "import pkg.users"])
    assert bench.command[-1] == "import pkg.users"
    assert DEFAULT_TESTS[2] == "pytest"


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="needs Python 3.11.4 or newer")
def test_archives_are_unpacked(repository_folder: Path, tmp_path: Path):
    archive = Path(shutil.make_archive(str(tmp_path / "shapes-1.2"), "gztar", repository_folder.parent, "shapes-1.2"))
    wheel = Path(shutil.make_archive(str(tmp_path / "w"), "zip", repository_folder)).rename(tmp_path / "shapes-1.2.whl")
    for number, path in enumerate((repository_folder, archive, wheel)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert (unpack(read_snapshot(path), folder) / "pkg" / "users.py").is_file()


def test_no_archive_is_unpacked_unsafely(repository_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # as before Python 3.11.4
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive = Path(shutil.make_archive(str(tmp_path / "shapes-1.2"), "gztar", repository_folder.parent, "shapes-1.2"))
    with pytest.raises(SnapshotError, match="name the folder"):
        unpack(read_snapshot(archive), tmp_path)


# files for the scale


def test_long_files_and_large_workspaces_are_as_large_as_asked(repository_folder: Path, tmp_path: Path):
    snapshot = read_snapshot(repository_folder)
    for size in (100, 5000):
        file = long_file(snapshot, size)
        assert file.num_lines == size
        assert file.language == "python"
        holes = middle_holes(file, snapshot, 5)
        assert len(holes) == 5
        assert all(0.2 < hole.spans[0][0] / len(file.text) < 0.8 for hole in holes)
    asked, others = parted(snapshot)
    assert sorted(file.path for file in (*asked.files, *others.files)) == [file.path for file in snapshot.files]
    assert asked.files
    assert others.files
    with pytest.raises(SnapshotError, match="of several"):
        parted(asked)
    make_workspace(tmp_path / "workspace", snapshot, 450)
    assert len(list((tmp_path / "workspace").rglob("*.*"))) == 450
    assert len(list((tmp_path / "workspace").iterdir())) == 3
