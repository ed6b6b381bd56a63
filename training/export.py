"""From a training run to the one file that ships: packed tensors, tokenizer, calibration and model card in its header.

Also writes a run as a transformers folder, and puts a new calibration or card into a file that is packed already: both
change more often than the weights. Knows nothing of training itself.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ..engine.checkpoint import load_checkpoint, load_config, save_folder, save_packed
from ..engine.config import ModelConfig
from ..engine.errors import CheckpointError, ConfigError, ModelError, ModelNotFoundError
from ..engine.model import DiffusionGemma
from ..engine.modelfile import CALIBRATION_KEY, CARD_KEY, TOKENIZER_KEY, loads, read_metadata
from ..infill.calibration import Calibration
from .command import guarded

MAX_BYTES = 16 * 2**20
"""The wheel's promise: the embedded checkpoint is at most 16 MiB."""


def load_run(run: Path) -> DiffusionGemma:
    """The averaged weights of a run (the current ones before averaging began), in fp32. Raises: ModelNotFoundError."""
    state = run / "state.safetensors"
    if not state.exists():
        advice = f"train first: lacuna train --corpus DIR --out {run}"
        raise ModelNotFoundError(f"{state} does not exist; {advice}")
    model = DiffusionGemma(ModelConfig.load(run / "config.json"))
    try:
        tensors = load_file(state)
        prefix = "ema." if any(k.startswith("ema.") for k in tensors) else "model."
        model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    except (SafetensorError, OSError, RuntimeError) as error:
        # torch lists every tensor, one a line
        why = str(error).split("\n", 1)[0]
        raise CheckpointError(f"{state} is not the state of a training run ({why}); copy it again") from None
    return model.eval().requires_grad_(False)


def export(run: Path, tokenizer: Path, out: Path, card: dict[str, object], calibration: str = "") -> int:
    """Write the packed file and read it back. Returns its size in bytes. Raises: ModelError above MAX_BYTES."""
    model = load_run(run)
    metadata = {TOKENIZER_KEY: _read(tokenizer), CARD_KEY: json.dumps(card)}
    if calibration:
        metadata[CALIBRATION_KEY] = calibration
    return _finish(out, lambda part: save_packed(model, part, metadata))


def repack(source: Path, out: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor] | None = None) -> int:
    """Write a packed file anew, every tensor of it as it is; out may be source. Returns the size in bytes.

    metadata: replaces these keys, the others stay. tensors: go in beside those of source, or in place of one of the
    same name. Raises: ModelError and its kinds for a source that is no packed file, or a result that is no model or
    above MAX_BYTES.
    """
    load_config(source)
    header = read_metadata(source) | dict(metadata)
    kept = load_file(source) | {name: tensor.contiguous() for name, tensor in (tensors or {}).items()}
    return _finish(out, lambda part: save_file(kept, part, metadata=header), kept)


def _finish(out: Path, write: Callable[[Path], None], expected: Mapping[str, Tensor] | None = None) -> int:
    """Write beside out, check, then replace it: a file that does not load never stands there.

    expected: tensors that have to come back to the bit.
    """
    if out.is_dir():
        raise ModelError(f"{out} is a folder; name a file that ends in .safetensors")
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        try:
            write(part)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{out} cannot be written ({error}); check its folder and the room on its disk") from None
        size = part.stat().st_size
        if size > MAX_BYTES:
            advice = "train a smaller one, or write it as a folder: --out DIR"
            raise ModelError(f"{out} would take {size} bytes, over the limit of {MAX_BYTES}; {advice}")
        load_checkpoint(part, weights="fp32")
        written = load_file(part) if expected is not None else {}
        for name, tensor in (expected or {}).items():
            # bytes, because a NaN is not equal to itself
            if not torch.equal(tensor.flatten().view(torch.uint8), written[name].flatten().view(torch.uint8)):
                raise CheckpointError(f"{part}: tensor {name} came back changed; is the disk sound?")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return size


def main(argv: list[str] | None = None) -> int:
    about = "Pack a training run into one file, or write it as a transformers folder, or renew a packed file's header."
    parser = argparse.ArgumentParser(prog="lacuna export", description=about)
    parser.add_argument("run", type=Path, nargs="?", help="folder of a training run")
    parser.add_argument("--from-packed", type=Path, metavar="FILE", help="a packed model instead of a run")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json of the corpus; needed with a run")
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors file, or a folder for transformers")
    parser.add_argument("--card", type=Path, help="JSON with what the model card says: corpus, hours, figures")
    parser.add_argument("--calibration", type=Path, help="JSON that `lacuna evaluate --calibrate` wrote")
    args = parser.parse_args(argv)
    is_packed_file = args.out.suffix == ".safetensors"
    if (args.run is None) == (args.from_packed is None):
        parser.error("give the folder of a run, or --from-packed with a packed model")
    if args.from_packed is not None:
        if args.tokenizer or not is_packed_file or not (args.card or args.calibration):
            parser.error("--from-packed takes a new --calibration, --card or both, and a .safetensors file as --out")
    elif args.tokenizer is None:
        parser.error("a run is packed with its tokenizer: --tokenizer CORPUS/tokenizer.json")
    if args.from_packed is None and not is_packed_file:
        save_folder(load_run(args.run), args.out, _read(args.tokenizer))
        return 0
    card = _read_card(args.card) if args.card else {}
    calibration = _read_calibration(args.calibration) if args.calibration else ""
    if args.from_packed is None:
        export(args.run, args.tokenizer, args.out, card, calibration)
        return 0
    metadata = {CARD_KEY: json.dumps(card)} if args.card else {}
    repack(args.from_packed, args.out, metadata | ({CALIBRATION_KEY: calibration} if calibration else {}))
    return 0


def _read(path: Path) -> str:
    """A text file that the command line names. Raises: ModelNotFoundError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file ({error}); check the path") from None


def _read_card(path: Path) -> dict[str, object]:
    """Raises: ModelNotFoundError, ConfigError for a file that is no JSON object."""
    try:
        card: object = loads(_read(path))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); check the path") from None
    if not isinstance(card, dict):
        raise ConfigError(f"{path} holds no JSON object, and a card is one; check the path")
    return cast(dict[str, object], card)


def _read_calibration(path: Path) -> str:
    """Raises: ModelNotFoundError, ConfigError for a file that is no calibration: serving would refuse the model."""
    text = _read(path)
    try:
        Calibration.from_json(loads(text))
    except ValueError as error:
        advice = "write it with `lacuna evaluate --calibrate`"
        raise ConfigError(f"{path} is no calibration ({error}); {advice}") from None
    return text


if __name__ == "__main__":
    raise SystemExit(guarded(main))
