"""Reading and writing checkpoints: transformers' own folder layout, and the packed single file that ships in the wheel.

Every tensor is checked by name, shape and finiteness; an error names the tensor and the file. Knows no memory plan
and no quantised formats of others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from .config import ModelConfig
from .errors import CheckpointError, ConfigError, DeviceError, ModelNotFoundError
from .int8 import QuickLayer, convert, dequantise
from .model import DiffusionGemma
from .modelfile import CONFIG_KEY, EMBEDDED, FORMAT_KEY, FORMAT_VERSION, read_metadata

__all__ = ["EMBEDDED", "load_checkpoint", "load_config", "save_folder", "save_packed"]

Adapt = Callable[[str, Tensor], Tensor]
"""(name, weight) -> the weight to use instead; see adapter.py."""

SKIPPED = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")
"""The vision tower: text work never reads it."""

TIED = ("lm_head.weight", "model.encoder.language_model.")
"""Copies of the decoder's weights that some writers store; the encoder's layer scalars are the exception."""


def load_config(source: Path) -> ModelConfig:
    """Of a folder or a packed file. Raises: ModelNotFoundError, ConfigError, CheckpointError."""
    if source.is_dir():
        return ModelConfig.load(source / "config.json")
    metadata = read_metadata(source)
    if metadata.get(FORMAT_KEY) != FORMAT_VERSION or CONFIG_KEY not in metadata:
        raise ConfigError(
            f"{source} is not a packed Lacuna model of format {FORMAT_VERSION}; "
            "point to the folder that holds config.json instead"
        )
    try:
        raw = json.loads(metadata[CONFIG_KEY])
    except ValueError as error:
        raise ConfigError(f"{source}: the config in its header is not valid JSON ({error}); copy it again") from None
    return ModelConfig.from_dict(raw, source=str(source))


def load_checkpoint(
    source: Path, device: str = "cpu", weights: str = "auto", adapt: Adapt | None = None
) -> DiffusionGemma:
    """Read, check and place a model. weights: "auto", "fp32", "bf16" or "int8".

    "auto" is int8 on a CPU and bf16 elsewhere. adapt: what becomes of each weight, by our name, before it is rounded.
    Raises: ModelError and its kinds, DeviceError.
    """
    if weights not in ("auto", "fp32", "bf16", "int8"):
        raise ValueError(f"unknown weights {weights!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError("no CUDA device was found; set the device to cpu, or check the driver with nvidia-smi")
    config = load_config(source)
    # shapes without memory first, so that a wrong file costs nothing
    with torch.device("meta"):
        model = DiffusionGemma(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    kind = weights if weights != "auto" else ("int8" if device == "cpu" else "bf16")
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    tensors: dict[str, Tensor] = {}
    for name, file, tensor in read_tensors(source):
        if name not in expected:
            question = "are config and weights of one model?"
            raise CheckpointError(f"{file}: tensor {name} does not belong to this config; {question}")
        if tensor.shape != expected[name]:
            wanted = f"the config asks for {list(expected[name])}"
            raise CheckpointError(f"{file}: tensor {name} has shape {list(tensor.shape)}, {wanted}")
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{file}: tensor {name} holds NaN or infinity; copy the file again")
        tensors[name] = (adapt(name, tensor) if adapt else tensor).to(device=device, dtype=dtype)
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{source}: tensor {missing[0]}{more} missing; copy the whole model again")
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(False)
    return convert(model) if kind == "int8" else model


def read_tensors(source: Path) -> Iterator[tuple[str, Path, Tensor]]:
    """(our name, file, tensor) of every text tensor, one at a time; packed int8 tensors come dequantised to fp32."""
    for file in _files(source):
        try:
            # safetensors ships no types for its handle
            with cast(Any, safe_open(file, framework="pt")) as handle:
                keys = cast(set[str], set(handle.keys()))
                for key in sorted(keys):
                    name = our_name(key)
                    if name is None or key.endswith("|scale"):
                        continue
                    tensor = cast(Tensor, handle.get_tensor(key))
                    if f"{key}|scale" in keys:
                        tensor = dequantise(tensor, handle.get_tensor(f"{key}|scale"))
                    yield name, file, tensor
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is truncated or not a safetensors file ({error}); copy it again") from None


def save_folder(model: DiffusionGemma, folder: Path, tokenizer_json: str | None = None) -> None:
    """Write config.json and model.safetensors as `save_pretrained` names them, so that transformers loads the folder.

    Raises: ValueError for a model that was converted to int8.
    """
    _must_be_float(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2), encoding="utf-8")
    tensors = {their_name(name): t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer_json is not None:
        (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")


def save_packed(model: DiffusionGemma, path: Path, metadata: dict[str, str]) -> None:
    """Write the single-file form: int8 matrices with fp32 row scales, everything else fp32.

    metadata: tokenizer, calibration and card under the keys of modelfile.py; format and config are added here.
    Raises: ValueError for a model that was converted to int8.
    """
    _must_be_float(model)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().float().cpu()
        if not is_packed(name, tensor):
            tensors[name] = tensor.contiguous()
            continue
        quantised, scale = pack(name, tensor)
        tensors[name] = quantised.contiguous()
        tensors[f"{name}|scale"] = scale.contiguous()
    header = {FORMAT_KEY: FORMAT_VERSION, CONFIG_KEY: json.dumps(model.config.to_dict()), **metadata}
    save_file(tensors, path, metadata=header)


def is_packed(name: str, tensor: Tensor) -> bool:
    """Whether the single-file form holds this parameter as int8: matrices, but not the router's."""
    return tensor.dim() >= 2 and "router" not in name


def pack(name: str, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 of the same shape, fp32 scale that it is multiplied with) of one parameter [..., N, K]."""
    # experts run as one product over all of them: one scale per output row, shared by the experts that add up in it
    over = (0, 2) if name.endswith("experts.down_proj") else (-1,)
    scale = tensor.abs().amax(over, keepdim=True).clamp_min(1e-12) / 127
    return (tensor / scale).round().clamp(-127, 127).to(torch.int8), scale


def _must_be_float(model: DiffusionGemma) -> None:
    # its tensors have other names and layouts, and no reader
    if any(isinstance(module, QuickLayer) for module in model.modules()):
        raise ValueError("this model runs in int8; load it with weights='fp32' to save it")


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    index = source / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            files = [source / name for name in names]
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise CheckpointError(f"{index} is not a valid index; copy it again") from None
        for file in files:
            if not file.exists():
                raise CheckpointError(f"{file} is missing, though {index.name} names it; copy the whole model again")
        return files
    single = source / "model.safetensors"
    if not single.exists():
        raise ModelNotFoundError(f"{source} holds no model.safetensors; point to a folder that save_pretrained wrote")
    return [single]


def our_name(key: str) -> str | None:
    """None for tensors that a text engine skips. Packed files use our names already."""
    if key.startswith(SKIPPED):
        return None
    if key.startswith("model.encoder.language_model.layers.") and key.endswith(".layer_scalar"):
        return key.removeprefix("model.encoder.language_model.").replace("layer_scalar", "encoder_layer_scalar")
    if key.startswith(TIED):
        return None
    return key.removeprefix("model.decoder.")


def their_name(name: str) -> str:
    if name.endswith("encoder_layer_scalar"):
        return "model.encoder.language_model." + name.replace("encoder_layer_scalar", "layer_scalar")
    return "model.decoder." + name
