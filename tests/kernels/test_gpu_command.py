"""The one command for a GPU, proven without one: every case of the report runs, at sizes that the interpreter can
bear.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest


def test_it_ends_within_nine_minutes_whatever_hangs(repository: Path):
    limits = runpy.run_path(str(repository / "bench" / "kernels_gpu.py"), run_name="read")
    seconds = limits["LIMITS_S"]
    # twenty seconds for starting and stopping the parts
    assert seconds["tests"] + len(limits["TOOLS"]) * seconds["sanitizer"] + seconds["speed"] <= 9 * 60 - 20


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_benchmark_runs_end_to_end(repository: Path):
    pytest.importorskip("triton", reason="Triton has no build for this system; its kernels are never used here")
    command = [sys.executable, "bench/kernels_gpu.py", "--tiny"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    cases = ("experts int4", "vocabulary pass", "attention D=32", "linear int8", "linear fp8", "glue after", "router")
    for case in cases:
        assert case in done.stdout
    assert "WRONG" not in done.stdout
