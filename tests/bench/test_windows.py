"""Several windows of one user: their memory, and the death of the one with the model."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from lacuna_ls.bench.cli import numbers, run
from lacuna_ls.bench.errors import BenchError
from lacuna_ls.bench.results import load
from lacuna_ls.bench.windows import LINE, REST
from lacuna_ls.engine.modelfile import EMBEDDED


def windows(folder: Path, tmp_path: Path, *words: str) -> dict:
    file = tmp_path / "r.json"
    assert run([str(folder), "--holes", "0", *words, "--json", str(file)]) == 0
    (row,) = load(file).extras["windows"]
    return row


@pytest.mark.skipif(not EMBEDDED.exists(), reason="this tree carries no embedded model")
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_others_are_small_and_survive_the_one_with_the_model(
    repository_folder, tmp_path, capsys, monkeypatch: pytest.MonkeyPatch
):
    # contended OpenMP threads cost ten times, and machines that test are shared
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    row = windows(repository_folder, tmp_path, "--windows", "2")
    assert (row["num_models"], row["num_models_after"]) == (1, 1)
    assert row["largest_other_mib"] < 250 < row["host_mib"] < row["total_mib"]
    assert row["num_requests"] > 1
    assert row["num_unanswered"] == row["num_errors"] == 0
    assert 0 < row["first_ms"] <= row["median_ms"] <= row["last_ms"]
    assert "Several windows of one user" in capsys.readouterr().out


def test_of_another_server_the_memory_is_told_and_nobody_is_killed(repository_folder, oracle, tmp_path):
    command = shlex.join(oracle(texts=[LINE.format(number) + "second" + REST for number in range(40)]))
    row = windows(repository_folder, tmp_path, "--server", f"oracle={command}", "--windows", "2")
    assert row["num_models"] is None
    assert row["host_mib"] is None
    assert 0 < row["largest_other_mib"] < row["total_mib"]
    assert "last_ms" not in row


@pytest.mark.parametrize("text", ["two", "0", "2,"])
def test_what_is_no_list_of_numbers_is_refused(text):
    with pytest.raises(BenchError):
        numbers(text)
