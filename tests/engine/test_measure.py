"""The GPU benchmark, run end to end on the CPU with a small config: one command, numbers, tables, a plot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from lacuna_ls.engine.formats import Scheme, parts
from lacuna_ls.engine.measure import CANVASES, DELTAS, Measurement, allowed_s, random_parts
from lacuna_ls.engine.packed_model import PackedModel

SCRIPT = Path(__file__).parents[2] / "bench" / "engine_gpu.py"


@pytest.mark.parametrize(
    "scheme",
    [
        pytest.param(Scheme(), id="the default"),
        pytest.param(Scheme("int4", 32, "fp8"), id="fp8"),
        pytest.param(Scheme("bf16", 0, "bf16", 0), id="bf16"),
    ],
)
def test_random_parts_are_what_a_loader_makes(tmp_path: Path, scheme: Scheme):
    config = tiny.tiny_config(hidden_size=96, expert_size=40)
    found = random_parts(config, scheme, torch.device("cpu"))
    model = PackedModel(config, found)
    assert model.num_bytes == sum(part.num_bytes(scheme.dtype) for part in parts(config, scheme))
    weights = model.dequantised().state_dict()
    assert float(weights["layers.0.experts.down_proj"].std()) == pytest.approx(0.02, rel=0.2)
    assert float(weights["layers.0.self_attn.q_proj.weight"].std()) == pytest.approx(0.02, rel=0.2)


def test_a_run_on_a_gpu_ends_within_nine_minutes(tmp_path: Path):
    assert allowed_s() < 540
    # what is stopped half-way keeps what it has, and says what is left out
    config = tiny.tiny_config()
    kept: list[dict[str, Any]] = []
    run = Measurement(config, torch.device("cpu"), 0.0, 1, (20,), lambda found: kept.append({**found}))
    run.machine()
    run.ours(Scheme())
    assert len(run.found["left_out"]) == len(CANVASES) + len(DELTAS) + 1
    assert kept[-1]["machine"] == run.found["machine"]


def test_the_benchmark_in_one_command(tmp_path: Path):
    config = tiny.tiny_config(num_experts=8, top_k=2)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    command = [
        sys.executable, str(SCRIPT), "--out", str(tmp_path / "out"), "--config", str(tmp_path / "config.json"),
        "--device", "cpu", "--repeats", "1", "--contexts", "20",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    found = json.loads((tmp_path / "out" / "engine_gpu.json").read_text())
    assert [(step["rows"], step["context"]) for step in found["steps"]] == [
        (r, c) for c in (20,) for r in (8, 16, 32, 64, 128, 256)
    ]
    assert all(step["eager_ms"] > 0 and 2 <= step["experts"] <= 8 for step in found["steps"])
    assert found["steps"][-1]["bytes"] > found["steps"][0]["bytes"]
    assert [row["rows"] for row in found["reference"]] == [256, 32, 64, 8]
    assert not found["left_out"]
    report = (tmp_path / "out" / "engine_gpu.md").read_text()
    assert "| 256 | 20 |" in report
    assert "ms; 2 * " in report
    assert (tmp_path / "out" / "engine_gpu.png").read_bytes().startswith(b"\x89PNG")
    # the report can be made again from the numbers alone
    again = [
        sys.executable,
        str(SCRIPT),
        "--out",
        str(tmp_path / "again"),
        "--from",
        str(tmp_path / "out" / "engine_gpu.json"),
    ]
    assert subprocess.run(again, capture_output=True, check=False).returncode == 0
    assert (tmp_path / "again" / "engine_gpu.md").read_text() == report
