"""Our packed folder: written by `lacuna quantize`, read part by part, every tensor checked by shape and checksum.

A folder holds config.json and the tokenizer as copied from the source, `weights-*.safetensors` with the tensors of
kernels/packing.py in the order of the forward, and `lacuna.json`, the manifest: format version, what it was made from,
and format, shape and sha256 of every tensor. The manifest is written last, so a folder without one is an interrupted
run.

Longer than most files here: what is written, read and checked (`check_packed`, for `lacuna verify`) is one format, and
the command stands beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ..kernels.packing import GROUP_SIZES, Format, PackedMatrix
from .adapter import Adapter, merge_parts
from .checkpoint import check_device
from .config import ModelConfig
from .errors import CheckpointError, ConfigError, DeviceError, ModelError, ModelNotFoundError
from .find import expanded, find_model, free_bytes
from .formats import Part, Progress, Scheme, parts, source_format, stream
from .manifest import Altered
from .modelfile import PACKED_MANIFEST as MANIFEST
from .modelfile import read_json, written_at_once
from .packed_model import PackedModel
from .shards import Shards, check_finite, fault_of_values, is_file_name

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
    "calibration.json",
    "chat_template.jinja",
    "LICENSE",
)

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
"""What plain tensors may be stored in, by the manifest's word."""


def is_packed(folder: Path) -> bool:
    return (folder / MANIFEST).exists()


def load_packed(
    source: Path,
    scheme: Scheme | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    adapter: Adapter | None = None,
) -> PackedModel:
    """A model of packed weights from our own folder, or from any folder that formats.py reads, quantised while loading.

    scheme: how to quantise; ignored for our own folder. adapter: merged into the weights; the folder stays as it is.
    Raises: ModelError and its kinds, DeviceError.
    """
    check_device(device)
    config = ModelConfig.load(source / "config.json")
    if is_packed(source):
        pieces = read_packed(source, config, device, progress)
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
    """Write `source` as a packed folder.

    progress: told of the source twice, while it is quantised and while its checksum is made.
    Raises: ModelError and its kinds, also when target holds something already, is too small or cannot be written;
    DeviceError.
    """
    if source.is_file():
        raise ModelError(f"{source} is a file; give the folder that holds config.json and the safetensors files")
    if is_packed(source):
        raise ModelError(f"{source} is packed already; use it as it is")
    check_device(device)
    config = ModelConfig.load(source / "config.json")
    scheme = scheme or default_scheme(source)
    with _writing(target):
        if target.exists() and not target.is_dir():
            raise ModelError(f"{target} is a file; choose a new folder")
        if target.exists() and any(target.iterdir()):
            raise ModelError(f"{target} is not empty; choose another folder, or delete it first")
        wanted, free = sum(part.num_bytes(scheme.dtype) for part in parts(config, scheme)), free_bytes(target)
        if wanted > free:
            raise ModelError(
                f"{wanted / 1e9:.1f} GB do not fit on the disk of {target} ({free / 1e9:.1f} GB free); make room, or "
                "choose a folder on a larger disk"
            )
        is_new = not target.exists()
        target.mkdir(parents=True, exist_ok=True)
    writer = _Writer(target, file_bytes)
    try:
        _quantize_into(writer, source, config, scheme, device, progress)
    except BaseException:
        # also Ctrl-C: nobody could use what is there, and the next run would refuse a folder that is not empty
        with suppress(OSError):
            for name in (*writer.files, "config.json", *COPIED, MANIFEST):
                (target / name).unlink(missing_ok=True)
            if is_new:
                target.rmdir()
        raise


def _quantize_into(
    writer: _Writer,
    source: Path,
    config: ModelConfig,
    scheme: Scheme,
    device: torch.device | str,
    progress: Progress | None,
) -> None:
    """Write all of the folder, the manifest last. Raises: as `quantize`."""
    target = writer.folder
    try:
        for part, weight in stream(source, config, scheme, device, progress):
            writer.add(part, weight)
    except torch.OutOfMemoryError:
        raise DeviceError(
            "the GPU ran out of memory; run it again with --device cpu, or close what else uses the GPU"
        ) from None
    writer.flush()
    fingerprint = Shards(source).fingerprint(progress)
    raw = read_json(source / "config.json")
    # the weights are ours now, and no longer what that section describes
    raw.pop("quantization_config", None)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "source": {"name": source.resolve().name, "sha256": fingerprint},
        "scheme": {
            "experts": scheme.experts, "experts_group": scheme.experts_group, "dense": scheme.dense,
            "dense_group": scheme.dense_group, "dtype": _dtype_name(scheme.dtype),
        },
        "parts": writer.entries,
    }  # fmt: skip
    with _writing(target):
        (target / "config.json").write_text(json.dumps(raw, indent=2), encoding="utf-8")
        for name in COPIED:
            if (source / name).exists():
                shutil.copyfile(source / name, target / name)
        with written_at_once(target / MANIFEST) as waiting:
            waiting.write_text(json.dumps(manifest, indent=1), encoding="utf-8")


@contextmanager
def _writing(target: Path) -> Generator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{target} cannot be written ({error}); make room on its disk and check its permissions, and run it again"
        ) from None


def read_packed(
    source: Path,
    config: ModelConfig,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Iterator[tuple[Part, PackedMatrix | Tensor]]:
    """Every part of a packed folder, on the device, in the order of its files, its checksums compared (about 10 s for
    15 GB). Raises: CheckpointError, ConfigError.
    """
    for shards, part, entry in _stored_parts(source, config, progress):
        yield part, _read_part(shards, part, entry, torch.device(device))


def check_packed(source: Path, progress: Progress | None = None) -> tuple[list[Altered], int]:
    """Compare every tensor of a packed folder with its manifest (checksum, shape, dtype) and its config, and look for
    NaN and infinity, in the scales too.

    Returns what is wrong, tensor by tensor, and how many were read. Raises: CheckpointError for a tensor or file that
    is missing, extra or cut off; ConfigError.
    """
    altered: list[Altered] = []
    num_tensors = 0
    for shards, part, entry in _stored_parts(source, ModelConfig.load(source / "config.json"), progress):
        if fault := _fault_of_part(part, entry):
            altered.append(Altered(part.name, str(source / MANIFEST), "manifest", fault))
        for role, about in entry["tensors"].items():
            name = _stored_name(part.name, role)
            tensor = shards.read(name)
            # a word holds two scales in bf16
            values = tensor.view(torch.bfloat16) if role == "scale" and tensor.dtype == torch.int32 else tensor
            if fault := _fault_of_tensor(tensor, about) or fault_of_values(values):
                altered.append(Altered(name, str(shards.stored[name].file), "manifest", fault))
            num_tensors += 1
    return altered, num_tensors


def _stored_parts(
    source: Path, config: ModelConfig, progress: Progress | None
) -> Iterator[tuple[Shards, Part, dict[str, Any]]]:
    """Every part with its entry of the manifest, in the order of the files, each of which is open meanwhile.

    Raises: CheckpointError for a tensor or file that manifest, config and folder do not all have.
    """
    manifest = read_manifest(source)
    entries = cast(dict[str, Any], manifest["parts"])
    wanted = {part.name: part for part in parts(config, scheme_of(manifest))}
    for name in wanted:
        if name not in entries:
            raise CheckpointError(f"{source / MANIFEST}: tensor {name} is missing; quantise the model again")
    places = {
        _stored_name(name, role): source / str(about["file"])
        for name, entry in entries.items()
        for role, about in entry["tensors"].items()
    }
    files = sorted(set(places.values()))
    for file in files:
        if not file.exists():
            raise CheckpointError(f"{file} is missing, though {MANIFEST} names it; copy the whole folder again")
    for file in sorted(source.glob("*.safetensors")):
        if file not in files:
            raise CheckpointError(f"{file} does not belong to this model ({MANIFEST} does not name it); delete it")
    shards = Shards(source, files)
    for name, file in places.items():
        if name not in shards.stored or shards.stored[name].file != file:
            raise CheckpointError(f"{file}: tensor {name} is missing; copy the folder again")
    for name, stored in shards.stored.items():
        if name not in places:
            raise CheckpointError(
                f"{stored.file}: tensor {name} does not belong to this model ({MANIFEST} does not name it); copy the "
                "folder again"
            )
    done_bytes = 0
    for file in files:
        with shards.opened(file):
            for name, entry in entries.items():
                if next(iter(entry["tensors"].values()))["file"] != file.name:
                    continue
                part = wanted.get(name)
                if part is None:
                    raise CheckpointError(
                        f"{file}: tensor {name} does not belong to this config; quantise the model again"
                    )
                yield shards, part, entry
                done_bytes += sum(shards.stored[_stored_name(name, role)].num_bytes for role in entry["tensors"])
                if progress is not None:
                    progress(done_bytes, shards.num_bytes, name)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises: ModelNotFoundError, CheckpointError for a manifest that is not one, ConfigError for a later version."""
    path = folder / MANIFEST
    try:
        manifest = cast(dict[str, Any], read_json(path))
        form, version = manifest["format"], int(manifest["version"])
        if (form, version) == (FORMAT, VERSION):
            _ = manifest["source"], scheme_of(manifest)
            for name, entry in manifest["parts"].items():
                _check_entry(name, entry)
    except FileNotFoundError:
        raise ModelNotFoundError(
            f"{path} does not exist: {folder} is not packed, or `lacuna quantize` was interrupted; run it again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a manifest of a packed model ({type(error).__name__}: {error}); quantise the model again"
        ) from None
    if form != FORMAT or version != VERSION:
        raise ConfigError(
            f"{path} is {form!r} version {version}, this Lacuna reads {FORMAT!r} version {VERSION}; quantise the "
            "model again"
        )
    return manifest


def scheme_of(manifest: dict[str, Any]) -> Scheme:
    """The scheme that a folder was packed by. Raises: KeyError, TypeError, ValueError for what is no scheme, and so not
    for what `read_manifest` returned.
    """
    raw = cast(dict[str, Any], manifest["scheme"])
    values: dict[str, Any] = {**raw, "dtype": DTYPES[raw["dtype"]]}
    scheme = Scheme(**values)
    for form, group_size in ((scheme.experts, scheme.experts_group), (scheme.dense, scheme.dense_group)):
        if form not in get_args(Format) or group_size not in (0, *GROUP_SIZES):
            raise ValueError(f"scheme has format {form!r} in groups of {group_size!r}")
    return scheme


def _check_entry(name: str, entry: dict[str, Any]) -> None:
    """Raises: KeyError, TypeError, ValueError, AttributeError for a manifest's entry that cannot be read."""
    tensors = cast(dict[str, Any], entry["tensors"])
    if sorted(tensors) not in (["plain"], ["data"], ["data", "scale"]):
        raise ValueError(f"{name} has tensors {sorted(tensors)}")
    for about in tensors.values():
        if not is_file_name(about["file"]):
            raise ValueError(f"{name} is in {about['file']!r}, which is not a file of the folder")
        if not all(isinstance(size, int) for size in about["shape"]):
            raise ValueError(f"{name} has shape {about['shape']!r}")
        _ = about["dtype"], about["sha256"]
    if "plain" in tensors:
        return
    for key in ("group_size", "block_k", "num_rows", "num_cols"):
        if not isinstance(entry[key], int):
            raise ValueError(f"{name} has {key} {entry[key]!r}")
    form, group_size = entry["format"], entry["group_size"]
    if form not in get_args(Format) or group_size not in ((0,) if form in ("fp8", "bf16") else (0, *GROUP_SIZES)):
        raise ValueError(f"{name} has format {form!r} in groups of {group_size}")


def _read_part(shards: Shards, part: Part, entry: dict[str, Any], device: torch.device) -> PackedMatrix | Tensor:
    if fault := _fault_of_part(part, entry):
        raise CheckpointError(f"{shards.source / MANIFEST}: tensor {part.name} {fault}")
    tensors: dict[str, Tensor] = {}
    for role, about in entry["tensors"].items():
        name = _stored_name(part.name, role)
        tensor = shards.read(name)
        if fault := _fault_of_tensor(tensor, about):
            raise CheckpointError(f"{shards.stored[name].file}: tensor {name} {fault}")
        # cloned, so that the file's memory map can go
        tensors[role] = tensor.clone() if device.type == "cpu" else tensor.to(device)
    if part.kind == "plain":
        check_finite(tensors["plain"], part.name, shards.stored[part.name].file)
        return tensors["plain"]
    return PackedMatrix(
        tensors["data"], tensors.get("scale"), entry["format"], entry["num_rows"], entry["num_cols"],
        entry["group_size"], entry["block_k"],
    )  # fmt: skip


def _fault_of_tensor(tensor: Tensor, about: dict[str, Any]) -> str:
    """How a stored tensor differs from what the manifest says of it, and what to do; "" where it does not."""
    if list(tensor.shape) != about["shape"] or _dtype_name(tensor.dtype) != about["dtype"]:
        got = f"{_dtype_name(tensor.dtype)} {list(tensor.shape)}"
        return f"is {got}, the manifest says {about['dtype']} {about['shape']}; copy the folder again"
    if _checksum(tensor) != about["sha256"]:
        return "does not match its checksum; copy the folder again"
    return ""


def _fault_of_part(part: Part, entry: dict[str, Any]) -> str:
    """How a manifest's entry differs from the config or contradicts itself, and what to do; "" where it does not."""
    found = {role: (about["dtype"], about["shape"]) for role, about in entry["tensors"].items()}
    if part.kind == "plain" or "plain" in found:
        shape = found.get("plain", ("", []))[1]
        if part.kind == "plain" and shape == list(part.shapes[0]):
            return ""
        return f"has shape {shape}, the config asks for {list(part.shapes[0])}; quantise the model again"
    form, group_size = entry["format"], entry["group_size"]
    stored = replace(part, format=form, group_size=group_size)
    got, wanted = [entry["num_rows"], entry["num_cols"]], [stored.num_rows, stored.num_cols]
    if got != wanted:
        return f"is a matrix {got}, the config asks for {wanted}; quantise the model again"
    dtypes = {"int4": ("int32",), "int8": ("int8",), "fp8": ("float8_e4m3fn",), "bf16": tuple(DTYPES)}[form]
    data, scale = map(list, stored.packed_shapes)
    if (
        entry["block_k"] == stored.block_k
        and found["data"] in [(dtype, data) for dtype in dtypes]
        and found.get("scale") == (("int32" if group_size else "float32", scale) if scale else None)
    ):
        return ""
    return f"is said to be {form} in groups of {group_size}, which its shapes are not; quantise the model again"


@dataclass(slots=True)
class _Writer:
    """Collects parts into files of about file_bytes and notes what it wrote. Tensors are freed as soon as they are
    written.
    """

    folder: Path
    file_bytes: int
    entries: dict[str, Any] = field(default_factory=dict[str, Any])
    waiting: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    files: list[str] = field(default_factory=list[str])
    """What was written, or was about to be."""

    @property
    def file(self) -> str:
        return f"weights-{len(self.files) + 1:05}.safetensors"

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
            path = self.folder / self.file
            self.files.append(path.name)
            with _writing(self.folder):
                save_file(self.waiting, path, metadata={"format": "pt"})
            self.waiting.clear()


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
    source = find_model(str(options.source))
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    scheme = replace(default_scheme(source), experts=options.experts, dense=options.dense)
    if options.group:
        scheme = replace(scheme, experts_group=options.group)
    target = expanded(options.target)
    quantize(source, target, scheme, device, ProgressLine("quantising"))
    size = sum(file.stat().st_size for file in target.iterdir())
    sys.stderr.write(f"lacuna: {target} is ready, {size / 1e9:.1f} GB. Use it with --model {target}\n")
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
