"""The engine leaves a core to the editor, unless the user has said how many threads it may take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from lacuna_ls.engine import threads
from lacuna_ls.engine.threads import MAX_THREADS, leave_a_core, parts_of_a_prompt


@pytest.fixture(autouse=True)
def _threads_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("num_cores", "wanted"),
    [
        (1, 1),  # there is none to leave
        (2, 1),  # the usual small machine
        (4, 3),  # one is left
        (64, MAX_THREADS),  # more do not help
    ],
)
def test_one_core_is_left(monkeypatch: pytest.MonkeyPatch, num_cores: int, wanted: int) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(num_cores)))
    assert leave_a_core() == wanted


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({"cpu.max": "200000 100000\n"}, 1),  # two cores' time
        ({"cpu.max": "50000 100000\n"}, 1),  # half a core's
        ({"cpu.max": "max 100000\n"}, MAX_THREADS),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, MAX_THREADS),
        ({"cpu.max": "nonsense\n"}, MAX_THREADS),
        ({}, MAX_THREADS),  # no container, or another system
    ],
)
def test_a_container_sees_more_cores_than_it_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: dict[str, str], wanted: int
) -> None:
    for name, text in told.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert leave_a_core() == wanted


def test_the_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert leave_a_core() == 2


@pytest.mark.parametrize(
    ("num_cores", "num_threads", "asked", "parts"),
    [
        (2, 1, "", 2),  # both cores, each with its own part
        (1, 1, "", 1),  # there is only one
        (8, 4, "", 1),  # products are shared already
        (2, 1, "1", 1),  # the user wants one thread
    ],
)
def test_a_prompt_takes_a_second_core(
    monkeypatch: pytest.MonkeyPatch, num_cores: int, num_threads: int, asked: str, parts: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(num_cores)))
    torch.set_num_threads(num_threads)
    assert parts_of_a_prompt() == parts
