"""Three ways to run this folder, decided by where it runs.

TRITON_INTERPRET=1   the numbers of every Triton kernel against its truth, on a CPU: bf16 mended, bounds and races
checked. a CUDA device        the same tests, on the device.
neither              packing, dispatch, tables and the offline gate; and one test that starts the first way as a process
                     of its own, because one process cannot both interpret and compile.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_DEVICE = torch.cuda.is_available() and not IS_INTERPRETED

NUMBERS = [
    f"test_{name}.py"
    for name in ("attention", "experts", "linear", "norms", "router", "vocab", "tune_jobs", "interpreter_checks")
]

collect_ignore: list[str] = []
if IS_INTERPRETED:
    here = Path(__file__).parent
    collect_ignore += [path.name for path in here.glob("test_*.py") if path.name not in NUMBERS]
    # before any kernel runs
    os.environ["INTERP_CHECK"] = "bounds,race"
    importlib.import_module("triton_interpreter")
elif HAS_DEVICE:
    # the offline gate puts a pretended driver in the place of the real one
    collect_ignore += ["test_interpreter_checks.py", "test_offline_gate.py", "test_two_processes.py"]
else:
    collect_ignore += NUMBERS


@pytest.fixture
def device() -> str:
    """Where the operands of a kernel test live."""
    return "cuda" if HAS_DEVICE else "cpu"


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch):
    """Whatever torch.empty returns holds NaN (or a huge integer) until somebody writes it."""
    empty, empty_like = torch.empty, torch.empty_like

    def spoil(out: torch.Tensor) -> torch.Tensor:
        if out.dtype.is_floating_point and out.dtype.itemsize > 1:
            return out.fill_(torch.nan)
        return out.fill_(torch.iinfo(out.dtype).max) if out.dtype in (torch.int32, torch.int64) else out

    monkeypatch.setattr(torch, "empty", lambda *a, **k: spoil(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: spoil(empty_like(*a, **k)))
