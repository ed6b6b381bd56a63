"""From a training run to the one file that ships: packed tensors, tokenizer, calibration and model card in its header.

Also writes a run as a transformers folder. Knows nothing of training itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

from ..engine.checkpoint import load_checkpoint, save_folder, save_packed
from ..engine.config import ModelConfig
from ..engine.errors import ModelNotFoundError
from ..engine.model import DiffusionGemma
from ..engine.modelfile import CALIBRATION_KEY, CARD_KEY, TOKENIZER_KEY

MAX_BYTES = 16 * 2**20
"""The wheel's promise: the embedded checkpoint is at most 16 MiB."""


def load_run(run: Path) -> DiffusionGemma:
    """The averaged weights of a run (the current ones before averaging began), in fp32. Raises: ModelNotFoundError."""
    state = run / "state.safetensors"
    if not state.exists():
        raise ModelNotFoundError(f"{state} does not exist; train first: lacuna train --out {run}")
    model = DiffusionGemma(ModelConfig.load(run / "config.json"))
    tensors = load_file(state)
    prefix = "ema." if any(k.startswith("ema.") for k in tensors) else "model."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return model.eval().requires_grad_(False)


def export(run: Path, tokenizer: Path, out: Path, card: dict[str, object], calibration: str = "") -> int:
    """Write the packed file and read it back. Returns its size in bytes. Raises: ValueError above MAX_BYTES."""
    model = load_run(run)
    metadata = {TOKENIZER_KEY: tokenizer.read_text(encoding="utf-8"), CARD_KEY: json.dumps(card)}
    if calibration:
        metadata[CALIBRATION_KEY] = calibration
    part = out.with_suffix(".part")
    save_packed(model, part, metadata)
    size = part.stat().st_size
    if size > MAX_BYTES:
        part.unlink()
        raise ValueError(f"the packed model takes {size} bytes, over the limit of {MAX_BYTES}; train a smaller size")
    load_checkpoint(part, weights="fp32")
    part.replace(out)
    return size


def main(argv: list[str] | None = None) -> int:
    about = "Pack a training run into one file, or write it as a transformers folder."
    parser = argparse.ArgumentParser(prog="lacuna export", description=about)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors file, or a folder for transformers")
    parser.add_argument("--card", type=Path, help="JSON with what the model card says: corpus, hours, figures")
    parser.add_argument("--calibration", type=Path, help="JSON that the calibration command wrote")
    args = parser.parse_args(argv)
    if args.out.suffix != ".safetensors":
        save_folder(load_run(args.run), args.out, args.tokenizer.read_text(encoding="utf-8"))
        return 0
    card: dict[str, object] = json.loads(args.card.read_text(encoding="utf-8")) if args.card else {}
    calibration = args.calibration.read_text(encoding="utf-8") if args.calibration else ""
    export(args.run, args.tokenizer, args.out, card, calibration)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
