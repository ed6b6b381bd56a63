"""The engine's benchmark on one GPU, in one command and without an installation: `python bench/engine_gpu.py --out
DIR`.

Runs engine/measure.py in a process of its own (it imports the engine; this file does not) and makes of its numbers
engine_gpu.json, engine_gpu.md (tables, and the projection to an RTX 4090 with its arithmetic) and engine_gpu.png (a
roofline). Made for an H200 in under nine minutes; `--from FILE.json` makes the report again from kept numbers.
`--reference-only` measures transformers alone, where one call is too short for both; `--from OURS.json THEIRS.json`
puts the two together.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOMS = ("engine", "kernels")

RTX_4090 = {"bandwidth_gb_s": 1008.0, "bf16_tflops": 165.2}
"""NVIDIA's numbers for the card: memory bandwidth, and dense bf16 with fp32 accumulation."""

H200_BANDWIDTH_GB_S = 4800.0


def measure(out: Path, config: Path, device: str, seconds: float, extra: list[str]) -> int:
    """Run the measurement. Returns its exit code; what it had found is in `out` in any case."""
    with tempfile.TemporaryDirectory() as folder:
        # the rooms under their import name, whether or not the project is installed here
        package = Path(folder) / "lacuna_ls"
        package.mkdir()
        for room in ROOMS:
            (package / room).symlink_to(HERE.parent / room)
        path = os.pathsep.join(part for part in (folder, os.environ.get("PYTHONPATH", "")) if part)
        command = [sys.executable, "-m", "lacuna_ls.engine.measure", "--config", str(config), "--out", str(out)]
        command += ["--device", device, "--seconds", str(seconds), *extra]
        try:
            # half a minute more than it was told, for what is under way when its time is up
            run = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": path}, cwd=HERE.parent, timeout=seconds + 30, check=False
            )
        except subprocess.TimeoutExpired:
            return 124
    return run.returncode


def project(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Every measured step on an RTX 4090: the same bytes at the same share of what a copy reaches there.

    time = max(bytes / (fraction * copy share * 1008 GB/s), 2 * active parameters * rows / 165.2 TFLOP/s). The copy
    share is the measured copy over the nominal bandwidth of the card that was measured; 0.92 where that card is not an
    H200.
    """
    machine = found["machine"]
    is_h200 = "H200" in machine["device"]
    share = machine["copy_gb_s"] / H200_BANDWIDTH_GB_S if is_h200 else 0.92
    rows: list[dict[str, Any]] = []
    for step in found["steps"]:
        speed = min(1.0, step["fraction"]) * share * RTX_4090["bandwidth_gb_s"]
        memory_ms = step["bytes"] / speed / 1e6
        compute_ms = 2 * found["active_parameters"] * step["rows"] / RTX_4090["bf16_tflops"] / 1e9
        arithmetic = (
            f"{step['bytes'] / 1e9:.2f} GB / ({min(1.0, step['fraction']):.2f} * {share:.2f} * 1008 GB/s) = "
            f"{memory_ms:.1f} ms; "
            f"2 * {found['active_parameters'] / 1e9:.2f}e9 * {step['rows']} / 165.2e12 = {compute_ms:.1f} ms"
        )
        rows.append(
            {
                "rows": step["rows"],
                "context": step["context"],
                "ms": max(memory_ms, compute_ms),
                "arithmetic": arithmetic,
            }
        )
    return rows


def markdown(found: dict[str, Any]) -> str:
    """The report. Every number says on what it was measured."""
    machine = found["machine"]
    head = [
        f"# The engine on {machine['device']}",
        "",
        f"torch {machine['torch']}; a copy reaches {machine['copy_gb_s']:.0f} GB/s (read and written). Random weights "
        "at the exact config, "
        "experts int4 g64, attention and dense int8, embedding bf16; one canvas; median of repeated steps, each "
        "waited for. Rows go to experts drawn uniformly at random, because under random weights they would all choose "
        "the same few: a trained model touches fewer than here.",
        "",
    ]
    lines = [
        "| rows | context | step ms | dense beside experts ms | eager ms | experts touched | GB moved | of a copy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for step in found["steps"]:
        graph, forked = step["graph_ms"], step.get("forked_ms")
        lines.append(
            f"| {step['rows']} | {step['context']} | {'not captured' if graph is None else f'{graph:.2f}'} | "
            f"{'' if forked is None else f'{forked:.2f}'} | "
            f"{step['eager_ms']:.2f} | "
            f"{step['experts']:.0f} of {found['num_experts']} | {step['bytes'] / 1e9:.2f} | "
            f"{100 * step['fraction']:.0f} % |"
        )
    full = [step for step in found["steps"] if step["rows"] == 256]
    if full:
        best = min(step["graph_ms"] or step["eager_ms"] for step in full)
        tokens = found["published_tokens_per_forward"]
        lines += [
            "",
            f"At the published {tokens} tokens a forward, 256 rows in {best:.2f} ms are {tokens / best * 1e3:.0f} "
            "tokens/s.",
        ]
    if "prefill" in found:
        lines.append(f"Prefill: {found['prefill']['tokens_s']:.0f} tokens/s in chunks of {found['prefill']['chunk']}.")
    for delta in found.get("delta", []):
        lines.append(
            f"A fill's first step, 64 rows with {delta['rows']} prompt rows in the same forward, its preparation "
            f"included: {delta['ms']:.2f} ms."
        )
    # what is stopped before the weights are given back says nothing of memory
    if "bytes_after_unload" in found:
        lines.append(
            f"Device memory: {found['peak_bytes'] / 1e9:.2f} GB at the peak (planned "
            f"{found['planned_bytes'] / 1e9:.2f} with the CUDA context), "
            f"{found.get('taken_bytes', 0) / 1e9:.2f} GB of the device in use with all graphs captured, "
            f"{found['bytes_after_unload'] / 1e9:.2f} GB held after unloading."
        )
    lines = [*head, *(lines if found["steps"] else ["Our own steps were not part of this run."])]
    lines += _reference_lines(found)
    if found["steps"]:
        lines += ["", "## Projection to an RTX 4090", "", "| rows | context | ms | arithmetic |", "|---|---|---|---|"]
        lines += [f"| {r['rows']} | {r['context']} | {r['ms']:.1f} | {r['arithmetic']} |" for r in project(found)]
    if found["left_out"]:
        lines += ["", "## Left out", "", *(f"- {what}" for what in found["left_out"])]
    return "\n".join(lines) + "\n"


def _reference_lines(found: dict[str, Any]) -> list[str]:
    if not found.get("reference"):
        return ["", "transformers itself: not measured."]
    lines = [
        "",
        "## Beside transformers, bf16",
        "",
        "| rows | context | transformers | ms | ours ms | times |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["reference"]:
        same = [s for s in found["steps"] if (s["rows"], s["context"]) == (row["rows"], row["context"])]
        ours = same[0]["graph_ms"] or same[0]["eager_ms"] if same else None
        kind = "compiled" if row["is_compiled"] else "eager"
        beside = "| | |" if ours is None else f"| {ours:.2f} | {row['ms'] / ours:.1f} |"
        lines.append(f"| {row['rows']} | {row['context']} | {kind} | {row['ms']:.2f} {beside}")
    return lines


def draw(found: dict[str, Any], path: Path) -> bool:
    """The roofline: FLOP per second over FLOP per byte, of our steps. False where matplotlib is not installed."""
    if not found["steps"]:
        return True
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    bandwidth = found["machine"]["copy_gb_s"]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    intensity: list[float] = []
    for context in sorted({step["context"] for step in found["steps"]}):
        steps = [step for step in found["steps"] if step["context"] == context]
        flops = [2 * found["active_parameters"] * step["rows"] for step in steps]
        x = [f / step["bytes"] for f, step in zip(flops, steps, strict=True)]
        y = [f / (step["graph_ms"] or step["eager_ms"]) / 1e9 for f, step in zip(flops, steps, strict=True)]
        intensity += x
        axes.plot(x, y, "o-", label=f"{context} tokens of context")
        for step, at_x, at_y in zip(steps, x, y, strict=True):
            if context == 0:
                axes.annotate(str(step["rows"]), (at_x, at_y), textcoords="offset points", xytext=(4, -10), fontsize=8)
    ends = [min(intensity) / 2, max(intensity) * 2]
    axes.plot(ends, [x * bandwidth / 1e3 for x in ends], "k--", label=f"copy bandwidth, {bandwidth:.0f} GB/s")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="FLOP per byte",
        ylabel="TFLOP/s",
        title=f"Denoise step by rows, {found['machine']['device']}",
    )
    axes.legend(fontsize=8)
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench/engine_gpu.py", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("engine_gpu"), metavar="DIR")
    parser.add_argument("--config", type=Path, default=HERE / "diffusiongemma_26b.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument(
        "--from", dest="kept", type=Path, nargs="+", default=[], metavar="FILE.json",
        help="only make the report again; of a second file it takes what was measured of transformers",
    )  # fmt: skip
    options, extra = parser.parse_known_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    numbers = options.kept[0] if options.kept else options.out / "engine_gpu.json"
    code = 0
    if not options.kept:
        # a run that finds nothing must not report what an earlier one found
        numbers.unlink(missing_ok=True)
        code = measure(numbers.resolve(), options.config.resolve(), options.device, options.seconds, extra)
    if not numbers.exists():
        sys.stderr.write("nothing was measured; what went wrong is said above\n")
        return code or 1
    found: dict[str, Any] = json.loads(numbers.read_text(encoding="utf-8"))
    for path in options.kept[1:]:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        ours_left_out = [what for what in found["left_out"] if not what.startswith("transformers")]
        found |= {"reference": theirs["reference"], "left_out": ours_left_out + theirs["left_out"]}
    (options.out / "engine_gpu.md").write_text(markdown(found), encoding="utf-8")
    if not draw(found, options.out / "engine_gpu.png"):
        sys.stderr.write("matplotlib is not installed: no plot. Make it elsewhere with --from engine_gpu.json\n")
    sys.stderr.write(markdown(found))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
