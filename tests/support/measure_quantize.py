"""How much memory `lacuna quantize` and loading take on layers of the released model's size, beside what they promise.

    python tests/support/measure_quantize.py [--layers 2] [--folder DIR]

Writes a folder with the exact config but few layers, random bf16 weights and a shard per layer (4.8 GB of disk for
two), quantises it in a process of its own, loads the result in another, and prints one JSON line for each: the peak of
the resident memory over that of a process that has only imported torch, and the promise (final size + largest shard).
Exit code 1 when a promise is broken. Linux; takes minutes. tests/engine/test_formats.py holds the same for a small
model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from lacuna_ls.engine.checkpoint import their_name
from lacuna_ls.engine.config import ModelConfig
from lacuna_ls.engine.model import DiffusionGemma
from safetensors.torch import save_file

RELEASED = Path(__file__).parents[2] / "bench" / "diffusiongemma_26b.json"

QUANTIZE = """
from lacuna_ls.engine.packed import quantize
quantize(source, target)
print(json.dumps({"what": "quantize", "peak_bytes": peak() - before}))
"""

LOAD = """
from lacuna_ls.engine.packed import load_packed
model = load_packed({folder})
print(json.dumps({{"what": "{what}", "peak_bytes": peak() - before, "final_bytes": model.num_bytes}}))
"""

BEGIN = """
import json, re, sys
from pathlib import Path
import torch
source, target = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
torch.zeros(1 << 16) @ torch.zeros(1 << 16)
# not getrusage's: a child begins with its parent's peak there
def peak(): return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
"""


def write_source(folder: Path, num_layers: int) -> int:
    """The released config cut to its last num_layers layers. Returns the bytes of the largest shard."""
    raw = json.loads(RELEASED.read_text())
    text = raw["text_config"]
    text["num_hidden_layers"] = num_layers
    text["layer_types"] = text["layer_types"][-num_layers:]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw))
    with torch.device("meta"):
        names = {name: t.shape for name, t in DiffusionGemma(ModelConfig.from_dict(raw)).state_dict().items()}
    values = (torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
    shards: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        shards.setdefault(f"layer-{parts[1]}" if parts[0] == "layers" else "other", []).append(name)
    weight_map: dict[str, str] = {}
    largest = 0
    for shard, members in shards.items():
        file = folder / f"model-{shard}.safetensors"
        tensors = {
            their_name(n): values.repeat(-(-names[n].numel() // len(values)))[: names[n].numel()].view(names[n]).clone()
            for n in members
        }
        save_file(tensors, file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file.name)
        largest = max(largest, file.stat().st_size)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return largest


def measure(script: str, source: Path, target: Path) -> dict[str, float]:
    began = time.monotonic()
    command = [sys.executable, "-c", BEGIN + script, str(source), str(target)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return {**json.loads(run.stdout), "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        source, target = Path(name) / "source", Path(name) / "packed"
        largest = write_source(source, options.layers)
        whole = sum(file.stat().st_size for file in source.glob("*.safetensors"))
        runs = [
            measure(QUANTIZE, source, target),
            measure(LOAD.format(folder="source", what="load and quantise"), source, target),
            measure(LOAD.format(folder="target", what="load packed"), source, target),
        ]
    promised = runs[1]["final_bytes"] + largest
    for run in runs:
        print(json.dumps({**run, "promised_bytes": promised, "source_bytes": whole, "shard_bytes": largest}))
    return int(any(run["peak_bytes"] > promised for run in runs))


if __name__ == "__main__":
    sys.exit(main())
