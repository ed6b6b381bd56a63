"""The one command for a GPU, proven without one: every case of the report runs, at sizes that the interpreter can
bear.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from lacuna_ls.kernels import benchmark


def case(operation: str, what: str = "") -> str:
    return f'<testcase classname="tests.kernels.test_{operation}" name="test_it">{what}</testcase>'


GREEN = "".join(case(operation) for operation in benchmark.OPERATIONS)


@pytest.fixture
def command(repository: Path) -> dict[str, object]:
    """What stands in the command's file."""
    return runpy.run_path(str(repository / "bench" / "kernels_gpu.py"), run_name="read")


@pytest.mark.parametrize(
    ("report", "red"),
    [
        pytest.param(GREEN, set(), id="all green"),
        pytest.param(GREEN + case("vocab", "<failure/>"), {"vocab"}, id="one test failed"),
        pytest.param(GREEN + case("router", "<error/>"), {"router"}, id="one could not begin"),
        pytest.param(GREEN.replace(case("norms"), case("norms", "<skipped/>")), {"norms"}, id="none of a file ran"),
        pytest.param(GREEN.replace(case("linear"), ""), {"linear"}, id="a file that was not collected"),
        pytest.param(GREEN + case("tiles", "<failure/>"), set(), id="what is no operation's"),
        pytest.param(GREEN[:-4], set(benchmark.OPERATIONS), id="stopped while it wrote"),
        pytest.param(None, set(benchmark.OPERATIONS), id="stopped before"),
    ],
)
def test_an_operation_with_red_tests_is_not_measured(
    command, report: str | None, red: set[str], monkeypatch: pytest.MonkeyPatch
):
    measured: list[str] = []

    def part(title: str, words: list[str], seconds: float) -> bool:
        if title == "tests on the device":
            to = next(word.removeprefix("--junitxml=") for word in words if word.startswith("--junitxml="))
            if report is not None:
                Path(to).write_text(f"<testsuites><testsuite>{report}</testsuite></testsuites>")
            return not red
        if title == "speed":
            measured.extend(words[-1].split(","))
        return True

    # the functions that a file was read into look names up in their own dictionary
    names = command["main"].__globals__
    monkeypatch.setitem(names, "part", part)
    monkeypatch.setitem(names, "say", lambda line: None)
    monkeypatch.setattr(sys, "argv", ["kernels_gpu.py"])
    assert names["main"]() == (1 if red else 0)
    assert {name for name in measured if name} == set(benchmark.OPERATIONS) - red


@pytest.mark.parametrize(
    ("only", "files"),
    [
        pytest.param("vocab", ["vocab"], id="an operation"),
        pytest.param("experts int4 g64, 64", ["experts"], id="a case"),
        pytest.param("glue", list(benchmark.OPERATIONS), id="what no operation is called"),
    ],
)
def test_some_cases_are_measured_after_their_tests(command, only: str, files: list[str], monkeypatch):
    ran: dict[str, list[str]] = {}
    names = command["main"].__globals__
    monkeypatch.setitem(names, "part", lambda title, words, seconds: ran.setdefault(title, words) is words)
    monkeypatch.setattr(sys, "argv", ["kernels_gpu.py", "--only", only])
    names["main"]()
    assert [word for word in ran["tests on the device"] if "test_" in word] == [
        f"tests/kernels/test_{name}.py" for name in files
    ]
    assert list(ran) == ["tests on the device", "speed"]


def test_the_command_knows_every_operation(command):
    assert command["OPERATIONS"] == benchmark.OPERATIONS


def test_it_ends_within_nine_minutes_whatever_hangs(command):
    seconds = command["LIMITS_S"]
    # a part's own start counts; the sanitizer runs once for each tool
    assert sum(seconds.values()) + (len(command["TOOLS"]) - 1) * seconds["sanitizer"] < 9 * 60


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_benchmark_runs_end_to_end(repository: Path):
    pytest.importorskip("triton", reason="Triton has no build for this system; its kernels are never used here")
    words = [sys.executable, "bench/kernels_gpu.py", "--tiny"]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    cases = (
        "experts int4 g64", "experts int4 g32", "experts int4 g128", "experts int8 g64", "experts fp8", "experts bf16",
        "vocabulary pass", "attention D=32", "linear int8", "linear fp8", "rms_norm", "norms and rotation",
        "glue after attention", "gated gelu", "glue after the MLPs", "soft embedding", "router",
    )  # fmt: skip
    for case in cases:
        assert case in done.stdout
    assert "WRONG" not in done.stdout
