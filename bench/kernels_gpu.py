"""Everything that the kernels owe a GPU, in one command and under nine minutes on an H200:

    python bench/kernels_gpu.py                 tests on the device, the engine's graphs too; compute-sanitizer; speed
    python bench/kernels_gpu.py --only vocab    speed of some cases, after the tests of their operation

Runs in a checkout without installing anything (typings/ holds the namespace). Every part is a process of its own with
its own time limit, so that a part that hangs or crashes leaves the others. No speed is shown of an operation whose
tests did not all pass. Exit status 1 when any part failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent

OPERATIONS = ("experts", "vocab", "attention", "linear", "norms", "router")
"""Each has a module in kernels/ and a file of tests. Named here too: this process imports neither torch nor rooms."""

TOOLS = ("memcheck", "racecheck")
LIMITS_S = {"tests": 170.0, "engine": 50.0, "sanitizer": 40.0, "speed": 235.0}
"""Seconds after which a part is stopped; all of them together, with both tools, are under nine minutes."""

SPEED = """
import sys, torch
from lacuna_ls.kernels import benchmark, roofline
only, is_tiny, proven = sys.argv[1], sys.argv[2] == "tiny", sys.argv[3].split(",")
device = torch.device("cpu" if is_tiny else "cuda")
sizes = benchmark.Sizes()
if is_tiny:
    sys.path.insert(0, "tests/support")
    import triton_interpreter
    sizes = benchmark.Sizes(
        hidden=64, expert_size=32, num_experts=4, top_k=2, vocab=300, heads=4, kv=((2, 32, None),), cached=40,
        dense=(48, 64), rows=(1, 5),
    )
name = "the interpreter, whose times mean nothing" if is_tiny else torch.cuda.get_device_name(device)
print(f"{name}; torch {torch.__version__}; median of 30 graph replays; bytes that must move, against a copy of 1 GiB")
failed = 0
for row in benchmark.run(device, sizes, only, compile_s=0.0 if is_tiny else 100.0, proven=proven):
    failed += not row.is_right
    print(row.line(), flush=True)
print()
print("\\n".join(roofline.step_table()))
sys.exit(failed > 0)
"""

SANITIZED = """
import torch
from lacuna_ls.kernels import attention, dispatch as ops, experts, packing
device = "cuda"
x, ids = torch.randn(3, 64, device=device).bfloat16(), torch.tensor([[0, 2], [1, 0], [2, 1]], device=device)
share, w = torch.rand(3, 2, device=device), torch.ones(64, device=device).bfloat16()
packed = experts.pack_experts(torch.randn(3, 2 * 37, 64, device=device), torch.randn(3, 64, 37, device=device))
ops.experts(x, ids, share, packed)
for format in ("int4", "int8", "fp8", "bf16"):
    ops.linear(x, packing.pack_weights(torch.randn(33, 64, device=device), format))
ops.vocab_stats(x, torch.randn(131, 64, device=device).bfloat16(), is_banned=torch.zeros(131, device=device).bool())
ops.rms_norm(x, w, 1e-6)
ops.attention_glue(x, x[None], w, w, w, w, 1e-6)
dense, slots = torch.randn(2, 3, 64, device=device), torch.randn(3, 2, 64, device=device).bfloat16()
ops.mlp_glue(x, dense, slots, share, w, w, w, w[:1], w, 1e-6)
ops.gated_gelu(torch.randn(2, 3, 64, device=device), torch.bfloat16)
ops.router(x, torch.randn(5, 64, device=device).bfloat16(), torch.ones(5, device=device), 2)
ops.soft_embedding(ids, share, torch.randn(9, 64, device=device).bfloat16(), 8.0)
rope = (torch.ones(3, 16, device=device), torch.zeros(3, 16, device=device))
qkv = torch.randn(2, 3, 4, 16, device=device)
q, k, v = ops.qkv_norm_rotate(qkv, 2, 1, w[:16], w[:16], rope, 1e-6)
cache = torch.randn(1, 37, 16, device=device).bfloat16()
ops.canvas_attention(q, k, v, cache, cache, attention.row_ranges(30, 1, [2], 9, device))
torch.cuda.synchronize()
"""


def part(title: str, command: list[str], seconds: float) -> bool:
    """Runs one part with what is left of its time. True when it went well."""
    say(f"== {title}")
    start = time.monotonic()
    paths = [str(ROOT / "typings"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path), "PYTHONUNBUFFERED": "1"}
    try:
        status = subprocess.run(command, cwd=ROOT, env=environment, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        status = 124
    say(f"== {title}: {'ok' if status == 0 else f'FAILED ({status})'} in {time.monotonic() - start:.0f} s")
    return status == 0


def proven(report: Path) -> list[str]:
    """The operations whose tests all passed, by pytest's report; none where there is none, or half of one."""
    try:
        # written a moment ago by our own pytest
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return []
    found: list[str] = []
    for operation in OPERATIONS:
        own = [case for case in cases if f"test_{operation}" in case.get("classname", "").split(".")]
        is_red = any(case.find(what) is not None for case in own for what in ("failure", "error"))
        if not is_red and any(case.find("skipped") is None for case in own):
            found.append(operation)
    return found


def concerned(only: str) -> list[str]:
    """The operations that cases with such a name may belong to."""
    found = [operation for operation in OPERATIONS if operation.startswith(only) or only.startswith(operation)]
    return found or list(OPERATIONS)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="measure only the cases whose name contains this")
    parser.add_argument("--tiny", action="store_true", help="no GPU: prove the command in triton's interpreter")
    chosen = parser.parse_args()
    python = sys.executable
    parts: list[bool] = []
    green = list(OPERATIONS)
    if chosen.tiny:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        # most of the time is compiling, which goes well in parallel
        workers = ["-n", "8"] if importlib.util.find_spec("xdist") else []
        files = (
            [f"tests/kernels/test_{name}.py" for name in concerned(chosen.only)] if chosen.only else ["tests/kernels"]
        )
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "tests.xml"
            # pytest-benchmark warns beside xdist, and a warning is an error here; without it the option means nothing
            command = [python, "-m", "pytest", *files, "-q", "-p", "no:benchmark", f"--junitxml={report}", *workers]
            parts.append(part("tests on the device", command, LIMITS_S["tests"]))
            green = proven(report)
    if not chosen.tiny and not chosen.only:
        # captured steps beside eager ones, and the dense MLP beside the experts
        command = [python, "-m", "pytest", "tests/engine/test_pipeline.py", "-q", "-m", "gpu", "-p", "no:benchmark"]
        parts.append(part("the engine's graphs on the device", command, LIMITS_S["engine"]))
        sanitizer = shutil.which("compute-sanitizer")
        if sanitizer is None:
            say("== compute-sanitizer is not on the PATH here; skipped")
        else:
            for tool in TOOLS:
                command = [sanitizer, f"--tool={tool}", "--error-exitcode=9", python, "-c", SANITIZED]
                parts.append(part(f"compute-sanitizer {tool}", command, LIMITS_S["sanitizer"]))
    size = "tiny" if chosen.tiny else "full"
    parts.append(part("speed", [python, "-c", SPEED, chosen.only, size, ",".join(green)], LIMITS_S["speed"]))
    return 0 if all(parts) else 1


if __name__ == "__main__":
    sys.exit(main())
