"""The GPU benchmark, run end to end on the CPU with a small config: one command, numbers, tables, a plot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from lacuna_ls.engine import measure
from lacuna_ls.engine.cuda_graph import StepGraph
from lacuna_ls.engine.formats import Scheme, parts
from lacuna_ls.engine.measure import (
    CANVASES,
    DELTAS,
    REFERENCE,
    REFERENCE_ONLY,
    Measurement,
    allowed_s,
    random_parts,
)
from lacuna_ls.engine.packed_model import PackedModel
from lacuna_ls.engine.pipeline import Pipeline

SCRIPT = Path(__file__).parents[2] / "bench" / "engine_gpu.py"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
"""Two threads on cores that others use too are many times slower than one."""


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
    assert allowed_s(only=REFERENCE_ONLY) < 420
    # the size that a keystroke's fill has, in both ways, before anything else of transformers
    assert REFERENCE[:2] == ((64, False), (64, True))
    # what is stopped half-way keeps what it has, and says what is left out
    config = tiny.tiny_config()
    kept: list[dict[str, Any]] = []
    run = Measurement(config, torch.device("cpu"), 0.0, 1, (20,), lambda found: kept.append({**found}))
    run.machine()
    run.ours(Scheme())
    assert len(run.found["left_out"]) == len(CANVASES) + len(DELTAS) + 1
    assert kept[-1]["machine"] == run.found["machine"]


def test_a_second_stream_that_fails_costs_no_other_number(monkeypatch: pytest.MonkeyPatch):
    prepare = Pipeline.prepare

    def prepare_or_fail(pipeline: Pipeline, *shape: Any) -> Any:
        if pipeline.options.is_forked:
            raise RuntimeError("CUDA error: unjoined work\nand more of it")
        return prepare(pipeline, *shape)

    monkeypatch.setattr(Pipeline, "prepare", prepare_or_fail)
    # what is replayed on a CPU is the body
    monkeypatch.setattr(StepGraph, "is_captured", True)
    monkeypatch.setattr(measure, "CANVASES", (8, 16))
    run = Measurement(tiny.tiny_config(), torch.device("cpu"), 1e6, 1, (20,), lambda found: None)
    run.machine()
    run.ours(Scheme())
    assert [(step["rows"], step["forked_ms"]) for step in run.found["steps"]] == [(8, None), (16, None)]
    assert all(step["graph_ms"] > 0 for step in run.found["steps"])
    assert run.found["left_out"] == [
        f"dense beside experts, {rows} rows: CUDA error: unjoined work" for rows in (8, 16)
    ]


def test_transformers_that_fail_without_a_word_cost_no_other_number(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Measurement, "_reference_model", fail)
    run = Measurement(tiny.tiny_config(), torch.device("cpu"), 500, 1, (0,), lambda _: None)
    run.reference({}, torch.float32)
    assert run.found["left_out"] == ["transformers: RuntimeError"]


def test_the_benchmark_in_one_command(tmp_path: Path):
    config = tiny.tiny_config(num_experts=8, top_k=2)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    command = [
        sys.executable, str(SCRIPT), "--out", str(tmp_path / "out"), "--config", str(tmp_path / "config.json"),
        "--device", "cpu", "--repeats", "1", "--contexts", "20",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=ONE_THREAD, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    found = json.loads((tmp_path / "out" / "engine_gpu.json").read_text())
    assert [(step["rows"], step["context"]) for step in found["steps"]] == [
        (r, c) for c in (20,) for r in (8, 16, 32, 64, 128, 256)
    ]
    assert all(step["eager_ms"] > 0 and 2 <= step["experts"] <= 8 for step in found["steps"])
    assert found["steps"][-1]["bytes"] > found["steps"][0]["bytes"]
    assert [row["rows"] for row in found["reference"]] == [64, 256, 32, 8]
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


def test_transformers_alone_and_the_report_of_both(tmp_path: Path):
    config = tiny.tiny_config(num_experts=8, top_k=2)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    command = [
        sys.executable, str(SCRIPT), "--out", str(tmp_path / "theirs"), "--config", str(tmp_path / "config.json"),
        "--device", "cpu", "--repeats", "1", "--contexts", "20", "--reference-only",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=ONE_THREAD, check=False)
    assert run.returncode == 0, run.stderr
    theirs = tmp_path / "theirs" / "engine_gpu.json"
    found = json.loads(theirs.read_text())
    assert found["steps"] == []
    assert found["machine"]["copy_gb_s"] > 0
    assert [row["rows"] for row in found["reference"]] == [64, 256, 32, 8]
    assert "| 64 | 20 | eager |" in (tmp_path / "theirs" / "engine_gpu.md").read_text()
    assert not (tmp_path / "theirs" / "engine_gpu.png").exists()
    step = {"rows": 64, "context": 20, "eager_ms": 9.0, "graph_ms": 2.0, "experts": 4.0, "bytes": 1e6, "fraction": 0.5}
    ours = {**found, "steps": [step], "reference": [], "left_out": ["transformers", "delta prefill of 8 rows"]}
    (tmp_path / "ours.json").write_text(json.dumps(ours))
    both = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "both"), "--from"]
    both += [str(tmp_path / "ours.json"), str(theirs)]
    assert subprocess.run(both, capture_output=True, check=False).returncode == 0
    report = (tmp_path / "both" / "engine_gpu.md").read_text()
    assert f"| 64 | 20 | eager | {found['reference'][0]['ms']:.2f} | 2.00 |" in report
    assert "- delta prefill of 8 rows\n" in report
    assert "- transformers\n" not in report
