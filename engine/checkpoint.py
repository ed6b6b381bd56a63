"""Reading and writing checkpoints: transformers' own folder layout, and the packed single file that ships in the wheel.

Every tensor is checked by name, shape and finiteness; an error names the tensor and the file. Knows no memory plan
and no quantised formats of others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from .config import ModelConfig
from .errors import CheckpointError, ConfigError, DeviceError
from .int8 import QuickLayer, convert, dequantise, quantise
from .lookup import TABLE
from .model import DiffusionGemma
from .modelfile import CONFIG_KEY, EMBEDDED, FORMAT_KEY, FORMAT_VERSION, loads, read_metadata
from .shards import Shards, check_finite, read_index

__all__ = ["EMBEDDED", "load_checkpoint", "load_config", "save_folder", "save_packed"]

Adapt = Callable[[str, Tensor], Tensor]
"""(name, weight) -> the weight to use instead; see adapter.py."""

FLOATS = ("BF16", "F16", "F32", "F64")
"""What an unquantised weight may be stored as: integers and eight-bit floats mean nothing without their scales."""

SKIPPED = ("model.encoder.vision_tower.", "model.encoder.embed_vision.", TABLE)
"""The vision tower, which text work never reads, and what is no weight (lookup.py)."""

ENCODER = "model.encoder.language_model."
TIED = ("lm_head.weight", ENCODER)
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
        raw = loads(metadata[CONFIG_KEY])
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
    check_device(device)
    config = load_config(source)
    # shapes without memory first, so that a wrong file costs nothing
    with torch.device("meta"):
        model = DiffusionGemma(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    kind = weights if weights != "auto" else ("int8" if device == "cpu" else "bf16")
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    tensors: dict[str, Tensor] = {}
    for name, file, tensor in read_tensors(source, expected):
        if tensor.shape != expected[name]:
            wanted = f"the config asks for {list(expected[name])}"
            raise CheckpointError(f"{file}: tensor {name} has shape {list(tensor.shape)}, {wanted}")
        check_finite(tensor, name, file, dtype)
        tensors[name] = (adapt(name, tensor) if adapt else tensor).to(device=device, dtype=dtype)
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise missing_error(source, missing)
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(False)
    return convert(model) if kind == "int8" else model


def check_device(device: torch.device | str) -> None:
    """Raises: DeviceError for a device that is not here."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise DeviceError(f"there is no device {device!r}; choose cpu or cuda") from None
    if kind not in ("cpu", "cuda"):
        raise DeviceError(f"the device {device!r} cannot be used here; choose cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device was found; set the device to cpu, or check the driver with nvidia-smi")


def read_tensors(source: Path, expected: Container[str]) -> Iterator[tuple[str, Path, Tensor]]:
    """(our name, file, tensor) of every text tensor, one at a time; packed int8 tensors come dequantised to fp32.

    expected: our names of all weights. Raises: CheckpointError for a tensor that is not among them, is no float without
    its scale, or is cut off.
    """
    shards = Shards(source)
    for file in shards.files:
        with shards.opened(file):
            for key in shards.names(file):
                weight = key.removesuffix("|scale")
                name = our_name(weight) or copied_name(weight)
                if name is None:
                    continue
                if name not in expected or weight not in shards.stored:
                    raise foreign_error(file, key)
                if our_name(key) != name:
                    # the scale of another, or a copy
                    continue
                if f"{key}|scale" in shards.stored:
                    yield name, file, dequantise(shards.read(key), shards.read(f"{key}|scale"))
                    continue
                check_float(file, key, shards.stored[key].dtype)
                yield name, file, shards.read(key)


def check_float(file: Path, key: str, dtype: str) -> None:
    """Raises: CheckpointError for a stored dtype that an unquantised weight cannot have."""
    if dtype not in FLOATS:
        raise CheckpointError(
            f"{file}: tensor {key} has dtype {dtype}, and an unquantised weight is {', '.join(FLOATS[:-1])} or "
            f"{FLOATS[-1]}; choose a release of the model that is unquantised, INT4 or NVFP4 (compressed-tensors)"
        )


def foreign_error(file: Path, key: str) -> CheckpointError:
    """For a stored tensor that no weight of the config is made of."""
    return CheckpointError(f"{file}: tensor {key} does not belong to this config; are config and weights of one model?")


def missing_error(source: Path, names: list[str]) -> CheckpointError:
    """For weights, by our names, that no file holds: with the file and the stored name of the first."""
    first, more = names[0], f" and {len(names) - 1} more" if len(names) > 1 else ""
    if source.is_file():
        return CheckpointError(f"{source}: tensor {first}{more} missing; copy the file again")
    index = read_index(source)
    if index is None:
        file = source / "model.safetensors"
        return CheckpointError(f"{file}: tensor {their_name(first)}{more} missing; copy the file again")
    for key, file_name in index.items():
        if (our_name(key) or "").removesuffix("_packed") == first:
            return CheckpointError(
                f"{source / file_name}: tensor {key}{more} missing, though the index says that it is there; copy the "
                "file again"
            )
    return CheckpointError(f"{source}: tensor {their_name(first)}{more} missing; copy the whole model again")


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
    return quantise(tensor, (0, 2) if name.endswith("experts.down_proj") else (-1,))


def _must_be_float(model: DiffusionGemma) -> None:
    # its tensors have other names and layouts, and no reader
    if any(isinstance(module, QuickLayer) for module in model.modules()):
        raise ValueError("this model runs in int8; load it with weights='fp32' to save it")


def our_name(key: str) -> str | None:
    """None for tensors that a text engine skips or reads elsewhere. Packed files use our names already."""
    if key.startswith(SKIPPED):
        return None
    if key.startswith(f"{ENCODER}layers.") and key.endswith(".layer_scalar"):
        return key.removeprefix(ENCODER).replace("layer_scalar", "encoder_layer_scalar")
    if key.startswith(TIED):
        return None
    return key.removeprefix("model.decoder.")


def copied_name(key: str) -> str | None:
    """Our name of the decoder's weight that a stored tensor is a tied copy of; None for what is no copy."""
    if our_name(key) is not None or key.startswith(SKIPPED):
        return None
    return key.removeprefix(ENCODER).replace("lm_head.", "embed_tokens.")


def their_name(name: str) -> str:
    if name.endswith("encoder_layer_scalar"):
        return ENCODER + name.replace("encoder_layer_scalar", "layer_scalar")
    return "model.decoder." + name
