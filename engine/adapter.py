"""Low-rank adapters: what `lacuna adapt` leaves beside a model, and how it gets into the weights when one is loaded.

Merged before they are quantised, so serving costs what it cost, and the model's own file is never touched. Knows
neither where the files lie (adapter_file.py), nor how adapters are trained (training/adapt.py), nor any text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ..kernels.packing import PackedMatrix, pack_weights, unpack
from .adapter_file import HEADER_KEY, KEY, VERSION, read_header, refuse
from .config import ModelConfig
from .errors import CheckpointError, LacunaError, ModelError
from .formats import Part
from .model import DiffusionGemma
from .modelfile import written_at_once

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adapter:
    """weight + scale * up @ down, for each parameter that factors names (our names of DiffusionGemma's parameters).

    factors: up [N, r] and down [r, K] of a parameter [N, K]. base: `fingerprint` of the model it belongs to.
    about: what a person wants to know of it, as text.
    """

    base: str
    factors: Mapping[str, tuple[Tensor, Tensor]]
    scale: float = 1.0
    about: Mapping[str, str] = field(default_factory=dict[str, str])

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """The weight [N, K] with its low-rank sum, computed in fp32, in weight's dtype; weight itself without one."""
        if name not in self.factors:
            return weight
        up, down = (factor.to(weight.device, torch.float32) for factor in self.factors[name])
        return (weight.float() + self.scale * (up @ down)).to(weight.dtype)


def save_adapter(adapter: Adapter, path: Path) -> None:
    """Raises: LacunaError."""
    tensors: dict[str, Tensor] = {}
    for name, (up, down) in adapter.factors.items():
        tensors[f"{name}|up"] = up.detach().to("cpu", torch.float16).contiguous()
        tensors[f"{name}|down"] = down.detach().to("cpu", torch.float16).contiguous()
    header = {"base": adapter.base, "scale": adapter.scale, "about": dict(adapter.about)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with written_at_once(path) as waiting:
            save_file(tensors, waiting, metadata={KEY: VERSION, HEADER_KEY: json.dumps(header)})
            waiting.chmod(0o600)
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise LacunaError(f"the adapter cannot be stored in {path} ({why}); make room or make it writable") from error


def read_adapter(path: Path) -> Adapter:
    """Raises: CheckpointError for a file that is none, is cut off, or holds what is not finite; ModelNotFoundError."""
    header = read_header(path)
    try:
        # safetensors ships no types for its handle
        with cast(Any, safe_open(path, framework="pt")) as handle:
            tensors = {str(key): cast(Tensor, handle.get_tensor(key)).float() for key in handle.keys()}  # noqa: SIM118
        names = {key.rpartition("|")[0] for key in tensors}
        factors = {name: (tensors[f"{name}|up"], tensors[f"{name}|down"]) for name in sorted(names)}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); run `lacuna adapt` again, or remove it") from None
    for name, factor in tensors.items():
        if not bool(torch.isfinite(factor).all()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; run `lacuna adapt` again, or remove it")
    return Adapter(header.base, factors, header.scale, header.about)


def load_adapter(path: Path, config: ModelConfig) -> Adapter | None:
    """An adapter that fits a model; one that does not, or is damaged, is a warning in the log, and None."""
    try:
        adapter = read_adapter(path)
        check_shapes(adapter, config)
    except ModelError as error:
        refuse(path, str(error))
        return None
    logger.info("The model is adapted by %s.", path)
    return adapter


def check_shapes(adapter: Adapter, config: ModelConfig) -> None:
    """Raises: CheckpointError where a factor does not fit the parameter that it names."""
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in DiffusionGemma(config).named_parameters()}
    for name, (up, down) in adapter.factors.items():
        rank_fits = up.dim() == down.dim() == 2 and up.shape[1] == down.shape[0]
        if not rank_fits or shapes.get(name) != (up.shape[0], down.shape[1]):
            raise CheckpointError(
                f"{name} is {shapes.get(name)} in the model and {tuple(up.shape)} times {tuple(down.shape)} here; "
                "run `lacuna adapt` again"
            )


def merge_parts(
    pieces: Iterable[tuple[Part, PackedMatrix | Tensor]], adapter: Adapter
) -> Iterator[tuple[Part, PackedMatrix | Tensor]]:
    """The stream of a packed model with the adapter in it: what it changes is dequantised, added to, quantised again.

    Raises: ValueError where the adapter changes stacked experts, which no adapter for a packed model does.
    """
    for part, weight in pieces:
        if not adapter.factors.keys() & set(part.sources):
            yield part, weight
        elif isinstance(weight, Tensor):
            yield part, adapter.merged(part.name, weight)
        elif part.kind != "matrix":
            raise ValueError(f"an adapter cannot change {part.name}, a stack of packed experts")
        else:
            rows = torch.split(unpack(weight, 0), [shape[0] for shape in part.shapes])
            joined = torch.cat([adapter.merged(name, piece) for name, piece in zip(part.sources, rows, strict=True)])
            # fp32 where that is how unrounded weights are held: the truth of tests
            dtype = weight.data.dtype if weight.format == "bf16" else torch.float32
            yield part, pack_weights(joined.to(dtype), weight.format, weight.group_size)
