"""Our packed folder: written by `lacuna quantize`, read part by part, every tensor checked by shape and checksum.

A folder holds config.json and the tokenizer as copied from the source, `weights-*.safetensors` with the tensors of
kernels/packing.py in the order of the forward, and `lacuna.json`, the manifest: format version, what it was made from,
and format, shape and sha256 of every tensor. The manifest is written last, so a folder without one is an interrupted
run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ..kernels.packing import PackedMatrix
from .adapter import Adapter, merge_parts
from .config import ModelConfig
from .errors import CheckpointError, ConfigError, DeviceError, ModelError, ModelNotFoundError
from .formats import Part, Progress, Scheme, parts, source_format, stream
from .packed_model import PackedModel
from .shards import Shards, check_finite

MANIFEST = "lacuna.json"
FORMAT, VERSION = "lacuna-packed", 1

FILE_BYTES = 1 << 30
"""A file is written when its parts reach this size, so that quantising holds no more than that besides what it
reads.
"""

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "LICENSE",
)


def is_packed(folder: Path) -> bool:
    return (folder / MANIFEST).exists()


def load_packed(
    source: Path,
    scheme: Scheme | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    is_verified: bool = True,
    adapter: Adapter | None = None,
) -> PackedModel:
    """A model of packed weights from our own folder, or from any folder that formats.py reads, quantised while loading.

    scheme: how to quantise; ignored for our own folder. is_verified: compare checksums (about 10 s for 15 GB).
    adapter: merged into the weights; the folder stays as it is.
    Raises: ModelError and its kinds, DeviceError.
    """
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError("no CUDA device was found; set the device to cpu, or check the driver with nvidia-smi")
    config = ModelConfig.load(source / "config.json")
    if is_packed(source):
        pieces = read_packed(source, config, device, progress, is_verified)
    else:
        pieces = stream(source, config, scheme or default_scheme(source), device, progress)
    return PackedModel.from_parts(config, merge_parts(pieces, adapter) if adapter else pieces)


def default_scheme(source: Path) -> Scheme:
    """What fits 24 GB. NVFP4 is quantised again in groups of 32, which loses least of its finer groups."""
    return Scheme(experts_group=32) if source_format(source) == "nvfp4-pack-quantized" else Scheme()


def quantize(
    source: Path,
    target: Path,
    scheme: Scheme | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    file_bytes: int = FILE_BYTES,
) -> None:
    """Write `source` as a packed folder. Raises: ModelError and its kinds, or when target holds something already."""
    if target.exists() and any(target.iterdir()):
        raise ModelError(f"{target} is not empty; choose another folder, or delete it first")
    if is_packed(source):
        raise ModelError(f"{source} is packed already; use it as it is")
    config = ModelConfig.load(source / "config.json")
    scheme = scheme or default_scheme(source)
    target.mkdir(parents=True, exist_ok=True)
    writer = _Writer(target, file_bytes)
    for part, weight in stream(source, config, scheme, device, progress):
        writer.add(part, weight)
    writer.flush()
    raw = json.loads((source / "config.json").read_text(encoding="utf-8"))
    # the weights are ours now, and no longer what that section describes
    raw.pop("quantization_config", None)
    (target / "config.json").write_text(json.dumps(raw, indent=2), encoding="utf-8")
    for name in COPIED:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "source": {"name": source.resolve().name, "sha256": Shards(source).fingerprint()},
        "scheme": {
            "experts": scheme.experts, "experts_group": scheme.experts_group, "dense": scheme.dense,
            "dense_group": scheme.dense_group, "dtype": _dtype_name(scheme.dtype),
        },
        "parts": writer.entries,
    }  # fmt: skip
    waiting = target / f"{MANIFEST}.part"
    waiting.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    waiting.replace(target / MANIFEST)


def read_packed(
    source: Path,
    config: ModelConfig,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    is_verified: bool = True,
) -> Iterator[tuple[Part, PackedMatrix | Tensor]]:
    """Every part of a packed folder, on the device, in the order of its files. Raises: CheckpointError, ConfigError."""
    manifest = read_manifest(source)
    entries = cast(dict[str, Any], manifest["parts"])
    scheme = Scheme(**{**manifest["scheme"], "dtype": getattr(torch, manifest["scheme"]["dtype"])})
    wanted = {part.name: part for part in parts(config, scheme)}
    for name in wanted:
        if name not in entries:
            raise CheckpointError(f"{source / MANIFEST}: tensor {name} is missing; quantise the model again")
    names = sorted({str(t["file"]) for entry in entries.values() for t in entry["tensors"].values()})
    for name in names:
        if not (source / name).exists():
            raise CheckpointError(
                f"{source / name} is missing, though {MANIFEST} names it; copy the whole folder again"
            )
    shards = Shards(source, [source / name for name in names])
    done_bytes = 0
    for file in shards.files:
        with shards.opened(file):
            for name, entry in entries.items():
                if next(iter(entry["tensors"].values()))["file"] != file.name:
                    continue
                part = wanted.get(name)
                if part is None:
                    raise CheckpointError(
                        f"{file}: tensor {name} does not belong to this config; quantise the model again"
                    )
                yield part, _read_part(shards, part, entry, torch.device(device), is_verified)
                done_bytes += sum(shards.stored[_stored_name(name, role)].num_bytes for role in entry["tensors"])
                if progress is not None:
                    progress(done_bytes, shards.num_bytes, name)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises: ModelNotFoundError, CheckpointError for a manifest that is not one, ConfigError for a later version."""
    path = folder / MANIFEST
    try:
        manifest = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
        form, version = manifest["format"], int(manifest["version"])
        _ = manifest["scheme"], manifest["parts"], manifest["source"]
    except FileNotFoundError:
        raise ModelNotFoundError(
            f"{path} does not exist: {folder} is not packed, or `lacuna quantize` was interrupted; run it again"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a manifest of a packed model ({error}); quantise the model again"
        ) from None
    if form != FORMAT or version != VERSION:
        raise ConfigError(
            f"{path} is {form!r} version {version}, this Lacuna reads {FORMAT!r} version {VERSION}; quantise the "
            "model again"
        )
    return manifest


def _read_part(
    shards: Shards, part: Part, entry: dict[str, Any], device: torch.device, is_verified: bool
) -> PackedMatrix | Tensor:
    tensors: dict[str, Tensor] = {}
    for role, about in entry["tensors"].items():
        name = _stored_name(part.name, role)
        tensor = shards.read(name)
        file = shards.stored[name].file
        if list(tensor.shape) != about["shape"] or _dtype_name(tensor.dtype) != about["dtype"]:
            got = f"{_dtype_name(tensor.dtype)} {list(tensor.shape)}"
            raise CheckpointError(
                f"{file}: tensor {name} is {got}, the manifest says {about['dtype']} {about['shape']}; copy the "
                "folder again"
            )
        if is_verified and _checksum(tensor) != about["sha256"]:
            raise CheckpointError(f"{file}: tensor {name} does not match its checksum; copy the folder again")
        # cloned, so that the file's memory map can go
        tensors[role] = tensor.clone() if device.type == "cpu" else tensor.to(device)
    if part.kind == "plain":
        plain = tensors["plain"]
        if tuple(plain.shape) != part.shapes[0]:
            raise CheckpointError(
                f"{shards.source}: tensor {part.name} has shape {list(plain.shape)}, the config asks for "
                f"{list(part.shapes[0])}"
            )
        check_finite(plain, part.name, shards.source)
        return plain
    rows, cols = sum(shape[-2] for shape in part.shapes), part.shapes[0][-1]
    if part.kind == "gate_up":
        # each half padded to whole panels
        rows = 2 * (-(-(rows // 2) // 16) * 16)
    if (entry["num_rows"], entry["num_cols"]) != (rows, cols):
        got = f"[{entry['num_rows']}, {entry['num_cols']}]"
        raise CheckpointError(
            f"{shards.source}: tensor {part.name} is a matrix {got}, the config asks for {[rows, cols]}"
        )
    return PackedMatrix(
        tensors["data"], tensors.get("scale"), entry["format"], rows, cols, entry["group_size"], entry["block_k"]
    )  # fmt: skip


@dataclass(slots=True)
class _Writer:
    """Collects parts into files of about file_bytes and notes what it wrote. Tensors are freed as soon as they are
    written.
    """

    folder: Path
    file_bytes: int
    entries: dict[str, Any] = field(default_factory=dict[str, Any])
    waiting: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    num_files: int = 0

    @property
    def file(self) -> str:
        return f"weights-{self.num_files + 1:05}.safetensors"

    def add(self, part: Part, weight: PackedMatrix | Tensor) -> None:
        if isinstance(weight, Tensor):
            tensors, entry = {"plain": weight}, dict[str, Any]()
        else:
            tensors = {"data": weight.data} if weight.scale is None else {"data": weight.data, "scale": weight.scale}
            entry = {
                "format": weight.format, "group_size": weight.group_size, "block_k": weight.block_k,
                "num_rows": weight.num_rows, "num_cols": weight.num_cols,
            }  # fmt: skip
        num_new = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self.num_bytes + num_new > self.file_bytes:
            self.flush()
        about: dict[str, Any] = {}
        for role, tensor in tensors.items():
            tensor = tensor.cpu().contiguous()
            self.waiting[_stored_name(part.name, role)] = tensor
            about[role] = {
                "file": self.file, "dtype": _dtype_name(tensor.dtype), "shape": list(tensor.shape),
                "sha256": _checksum(tensor),
            }  # fmt: skip
        self.entries[part.name] = {**entry, "tensors": about}

    @property
    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.waiting.values())

    def flush(self) -> None:
        if self.waiting:
            save_file(self.waiting, self.folder / self.file, metadata={"format": "pt"})
            self.waiting.clear()
            self.num_files += 1


def _stored_name(part: str, role: str) -> str:
    return part if role == "plain" else f"{part}|{role}"


def _checksum(tensor: Tensor) -> str:
    """sha256 of the bytes, without a copy."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -- the command -------------------------------------------------------------------------------------------------------


def quantize_main(argv: list[str]) -> int:
    """`lacuna quantize SRC DST`: for lsp/cli.py. Messages go to stderr. Returns the exit code; LacunaErrors pass
    through.
    """
    parser = argparse.ArgumentParser(
        prog="lacuna quantize", description="Write a model in Lacuna's packed format (15 GB instead of 52)."
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="SRC",
        help="a folder that save_pretrained wrote, or a name in the Hugging Face cache",
    )
    parser.add_argument("target", type=Path, metavar="DST", help="a new folder")
    parser.add_argument("--experts", choices=("int4", "int8"), default="int4", help="default: int4 (int8 needs 27 GB)")
    parser.add_argument(
        "--group", type=int, choices=(32, 64, 128), default=0, help="columns a scale serves; default: 64"
    )
    parser.add_argument(
        "--dense",
        choices=("int8", "fp8", "int4", "bf16"),
        default="int8",
        help="attention and dense MLP; default: int8",
    )
    parser.add_argument("--device", default="auto", help="where to quantise: auto, cpu or cuda")
    options = parser.parse_args(argv)
    from .find import find_model

    source = find_model(str(options.source))
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    scheme = replace(default_scheme(source), experts=options.experts, dense=options.dense)
    if options.group:
        scheme = replace(scheme, experts_group=options.group)
    quantize(source, options.target, scheme, device, ProgressLine("quantising"))
    size = sum(file.stat().st_size for file in options.target.iterdir())
    sys.stderr.write(f"lacuna: {options.target} is ready, {size / 1e9:.1f} GB. Use it with --model {options.target}\n")
    return 0


@dataclass(slots=True)
class ProgressLine:
    """One line on stderr that is rewritten, at most ten times a second, and not at all where nobody looks."""

    what: str
    last: float = 0.0

    def __call__(self, done: int, total: int, name: str) -> None:
        now = time.monotonic()
        if not sys.stderr.isatty() or (done < total and now - self.last < 0.1):
            return
        self.last = now
        percent = 100 * done / max(1, total)
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r\x1b[K{self.what}: {percent:3.0f} % of {total / 1e9:.1f} GB, {name}{end}")
        sys.stderr.flush()
