"""Low-rank adapters: what `lacuna adapt` leaves beside a model, and how it gets into the weights when one is loaded.

An adapter is one small safetensors file in the user's state folder, one per workspace. Its header names the model it
was trained on by a hash; it is merged into the weights before they are quantised, so serving costs what it cost, and
the model's own file is never touched. Knows neither how adapters are trained (training/adapt.py) nor any text.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ..kernels.packing import PackedMatrix, pack_weights, unpack
from .checkpoint import load_config
from .config import ModelConfig
from .errors import CheckpointError, LacunaError, ModelError
from .formats import Part
from .model import DiffusionGemma
from .modelfile import read_metadata
from .shards import find_files

logger = logging.getLogger(__name__)

KEY, VERSION = "lacuna.adapter", "1"
SAMPLE_BYTES = 1 << 20
"""How much of a large model's files the hash reads, from each end of each."""


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

    @property
    def digest(self) -> str:
        """Which adapter this is: equal for equal factors."""
        found = hashlib.sha256(f"{self.base} {self.scale!r}".encode())
        for name in sorted(self.factors):
            found.update(name.encode())
            for factor in self.factors[name]:
                found.update(factor.contiguous().float().cpu().numpy().tobytes())
        return found.hexdigest()

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """The weight [N, K] with its low-rank sum, computed in fp32, in weight's dtype; weight itself without one."""
        if name not in self.factors:
            return weight
        up, down = (factor.to(weight.device, torch.float32) for factor in self.factors[name])
        return (weight.float() + self.scale * (up @ down)).to(weight.dtype)


def state_folder() -> Path:
    """Where adapters are kept. It need not exist."""
    # only here: training imports the engine on machines that have nothing but torch
    from platformdirs import user_state_path

    return user_state_path("lacuna", appauthor=False) / "adapters"


def adapter_file(workspace: Path | str) -> Path:
    """The file of a workspace's adapter; it need not exist. workspace: any spelling of the folder's path."""
    whole = os.path.normcase(Path(workspace).expanduser().resolve())
    return state_folder() / f"{hashlib.sha256(whole.encode('utf-8', 'surrogateescape')).hexdigest()[:20]}.safetensors"


def fingerprint(source: Path) -> str:
    """Which weights these are, in well under a second: sha256 of a model file, or of a packed folder's manifest, which
    has the checksum of every tensor; of other folders, of sizes and both ends of every file.

    Raises: ModelError and its kinds.
    """
    manifest = source / "lacuna.json"
    files = [manifest] if manifest.exists() else find_files(source)
    found = hashlib.sha256()
    try:
        for file in files:
            size = file.stat().st_size
            found.update(f"{size} ".encode())
            with file.open("rb") as stream:
                if source.is_file() or file is manifest:
                    found.update(hashlib.file_digest(stream, "sha256").digest())
                    continue
                found.update(stream.read(SAMPLE_BYTES))
                stream.seek(max(0, size - SAMPLE_BYTES))
                found.update(stream.read(SAMPLE_BYTES))
    except OSError as error:
        raise ModelError(f"{source} cannot be read ({error.strerror or error}); check its permissions") from error
    return found.hexdigest()


def save_adapter(adapter: Adapter, path: Path) -> None:
    """Write the file at once: a server that starts now reads the old adapter or the new one. Raises: LacunaError."""
    tensors: dict[str, Tensor] = {}
    for name, (up, down) in adapter.factors.items():
        tensors[f"{name}|up"] = up.detach().to("cpu", torch.float16).contiguous()
        tensors[f"{name}|down"] = down.detach().to("cpu", torch.float16).contiguous()
    header = {"base": adapter.base, "scale": adapter.scale, "about": dict(adapter.about)}
    waiting = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        save_file(tensors, waiting, metadata={KEY: VERSION, "lacuna.adapter.header": json.dumps(header)})
        waiting.chmod(0o600)
        waiting.replace(path)
    except OSError as error:
        why = error.strerror or error
        raise LacunaError(f"the adapter cannot be stored in {path} ({why}); make room or make it writable") from error


def read_adapter(path: Path) -> Adapter:
    """Raises: CheckpointError for a file that is none, is cut off, or holds what is not finite; ModelNotFoundError."""
    metadata = read_metadata(path)
    if metadata.get(KEY) != VERSION:
        raise CheckpointError(f"{path} is not an adapter of format {VERSION}; run `lacuna adapt` again")
    try:
        header = cast(dict[str, Any], json.loads(metadata["lacuna.adapter.header"]))
        base, scale, about = str(header["base"]), float(header["scale"]), dict[str, str](header["about"])
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
    return Adapter(base, factors, scale, about)


def check_adapter(adapter: Adapter, source: Path, config: ModelConfig | None = None) -> None:
    """Raises: CheckpointError where the adapter is not of the model at source, naming what differs."""
    if adapter.base != fingerprint(source):
        name = "the embedded model" if source.name == "embedded.safetensors" else source.name
        raise CheckpointError(f"it was made for other weights than those of {name}; run `lacuna adapt` again")
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in DiffusionGemma(config or load_config(source)).named_parameters()}
    for name, (up, down) in adapter.factors.items():
        rank_fits = up.dim() == down.dim() == 2 and up.shape[1] == down.shape[0]
        if not rank_fits or shapes.get(name) != (up.shape[0], down.shape[1]):
            raise CheckpointError(
                f"{name} is {shapes.get(name)} in the model and {tuple(up.shape)} times {tuple(down.shape)} here; "
                "run `lacuna adapt` again"
            )


def find_adapter(workspaces: Sequence[Path | str], source: Path) -> Adapter | None:
    """The adapter of the first workspace that has one, or of the nearest folder above it; None where there is none.

    One that is damaged, or was made for another model, is a warning in the log, and None: the model serves as it is.
    """
    for workspace in workspaces:
        folder = Path(workspace).expanduser().resolve()
        for place in (folder, *folder.parents):
            path = adapter_file(place)
            if not path.exists():
                continue
            try:
                adapter = read_adapter(path)
                check_adapter(adapter, source)
            except ModelError as error:
                logger.warning("The adapter of %s is not used: %s. The model serves without it.", place, error)
                return None
            logger.info("The model is adapted to %s (%s).", place, path)
            return adapter
    return None


def forget_adapter(workspace: Path | str) -> Path | None:
    """Remove a workspace's adapter. Returns the file that was removed, or None. Raises: LacunaError."""
    path = adapter_file(workspace)
    try:
        path.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LacunaError(f"{path} cannot be removed ({error.strerror or error}); remove it by hand") from error
    return path


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
